"""What the entry points share: flags, exit codes and one clear line for a mistake."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from attn_lstm import workdir
from attn_lstm.errors import UserError

DONE, MISTAKE, STOPPED = 0, 2, 75


def run(main: Callable[[], int], define_flags: Callable[[Sequence[str]], None]) -> None:
    """Defines and parses the flags, calls `main`, and exits with its code.

    A `UserError`, and any mistake in the flags or the config file, ends with one line on stderr
    and exit code 2.

    Args:
      main: does the work; returns an exit code.
      define_flags: called with the raw arguments before they are parsed.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            define_flags(argv)
            rest = flags.FLAGS(argv)
            if "config" in flags.FLAGS:
                dict(flags.FLAGS.config)  # a file that did not load says so only when it is used
            return rest
        except UserError as error:
            _fail(str(error))
        except (flags.Error, OSError, ImportError, SyntaxError) as error:
            _fail(" ".join(str(error).split()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # What ml_collections raises for unknown fields and for values of another type.
            _fail(_unknown_field(argv, str(error)) or " ".join(str(error).split()))
        raise AssertionError("unreachable")

    def guarded(argv: Sequence[str]) -> int:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}: flags are written --name=value")
        try:
            return main()
        except UserError as error:
            _fail(str(error))
            raise AssertionError("unreachable") from None

    app.run(guarded, flags_parser=parse)


def define_workdir_config(argv: Sequence[str]) -> None:
    """Defines `--config` on the config of `--workdir`, so that `--config.FIELD=VALUE` changes it.

    Raises:
      UserError: no `--workdir`, or it holds no run.
    """
    given = [re.fullmatch(r"--?workdir(?:=(.*))?", arg) for arg in argv]
    values = [
        match[1] if match[1] is not None else (argv[i + 1] if i + 1 < len(argv) else "")
        for i, match in enumerate(given)
        if match
    ]
    if any(arg in ("--help", "-h", "--helpfull", "--helpshort") for arg in argv):
        return
    if not values or not values[-1]:
        raise UserError("--workdir is missing: give the work directory of a run")
    config = workdir.load_config(Path(values[-1]))
    config_flags.DEFINE_config_dict("config", config, "fields of the run's config to override")


def _unknown_field(argv: Sequence[str], message: str) -> str | None:
    """What to say when ml_collections does not find a field that `--config.FIELD` names."""
    message = message.replace("\\", "")
    for arg in argv:
        given = re.match(r"--?(config\.[\w.]+)", arg)
        wrong = [part for part in given[1].split(".") if f"'{part}'" in message] if given else []
        if wrong:
            near = re.search(r'Did you mean "(\w+)"', message)
            right = given[1].replace(wrong[0], near[1]) if near else ""
            advice = f"did you mean {right}?" if near else "see configs/common.py"
            return f"unknown config field {given[1]}; {advice}"
    return None


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(MISTAKE)
