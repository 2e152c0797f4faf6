"""What the commands share: flags, exit codes and one clear line for a mistake.

What takes long to import, JAX above all, is imported when the flags are right.
"""

import contextlib
import itertools
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from attn_lstm import downloads, process, remote
from attn_lstm.errors import DONE, INTERRUPTED, MISTAKE, UserError, printable
from attn_lstm.plugins import load_plugins

# What ml_collections raises for a file that is no config, for unknown fields and other types.
_CONFIG_ERRORS = (AttributeError, KeyError, TypeError, ValueError)


# Beside the package in a checkout, in it where it is installed.
_HERE = Path(__file__).parent
_CONFIGS = next(filter(Path.is_dir, [_HERE / "configs", _HERE.parent / "configs"]), _HERE)

_TAKE_URLS = ("workdir", "config.data.path", "config.backbone.weights")
_OVERRIDE = "another value for a field of docs/config.md"
_HELP = ("--help", "-help", "-h", "-?", "--helpshort")


def run(
    main: Callable[..., int],
    define_flags: Callable[[Sequence[str]], None],
    argv: Sequence[str],
    text: str,
    *,
    positional: bool = False,
    distributed: bool = False,
    resumes: bool = False,
) -> NoReturn:
    """Defines and parses the flags, calls `main`, and exits with its code.

    A `UserError`, and any mistake in the flags or the config file, ends with one line on stderr
    and exit code 2.

    Args:
      main: does the work; returns an exit code.
      define_flags: called with the raw arguments before they are parsed.
      argv: how the command is called, and the raw arguments.
      text: its help, above the flags.
      positional: `main` takes the arguments that are no flags, list[str]; they may stand before
        and between flags. Otherwise there may be none.
      distributed: several processes may be one run; the flags for that are defined here.
      resumes: the same command goes on where SIGTERM or SIGINT has stopped it; `main` hears them.
    """
    flags.FLAGS.set_gnu_getopt(True)
    copies = contextlib.ExitStack()

    def parse(argv: list[str]) -> list[str]:
        try:
            if {*_HELP}.isdisjoint(argv):
                load_plugins()  # a config file may name a row of theirs
            if distributed:
                _define_process_flags()
            argv = with_config_files(argv)
            _refuse_urls(argv)
            argv = _with_copy(argv, copies, owned=resumes)
            define_flags(argv)
            if not {*_HELP}.isdisjoint(argv):
                print(_help(define_flags.__module__, text), flush=True)
                sys.exit(DONE)
            rest = flags.FLAGS(argv)
            if "config" in flags.FLAGS:
                dict(flags.FLAGS.config)  # a file that did not load says so only when it is used
            return rest
        except UserError as error:
            _fail(str(error))
        except (flags.Error, OSError, ImportError, SyntaxError, *_CONFIG_ERRORS) as error:
            _fail(_said(error))

    def guarded(argv: list[str]) -> NoReturn:
        if len(argv) > 1 and not positional:
            _fail(f"unexpected argument {argv[1]!r}: flags are written --name=value")
        try:
            if distributed and _connect(resumes):
                from attn_lstm import distributed as processes

                process.end(processes.run(main))
            from attn_lstm.compilation import keep_compiled

            keep_compiled()  # of several processes the user decides: they may share the folder
            with copies:
                code = main(argv[1:]) if positional else main()
            process.end(code)
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:  # the second one, where the first asks to save and stop
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)

    try:
        app.run(guarded, [*argv], flags_parser=parse)
    finally:
        copies.close()


def with_config_files(argv: Sequence[str]) -> list[str]:
    """The raw arguments with the file in the place of a data set's name.

    `--config=coco:order_free` is `--config=configs/coco.py:order_free`, wherever the package lies.

    Raises:
      UserError: there is no such data set, or no such file.
    """
    found = list(argv)
    for place, (arg, behind) in enumerate(zip(argv, [*argv[1:], ""], strict=True)):
        if match := re.fullmatch(r"(--?config)(?:=(.*))?", arg, re.DOTALL):
            if match[2] is not None:
                found[place] = f"{match[1]}={_config_file(match[2])}"
            elif behind and not behind.startswith("-"):
                found[place + 1] = _config_file(behind)
    return found


def _config_file(given: str) -> str:
    """As `with_config_files`, of one value."""
    name, colon, row = given.partition(":")
    if os.path.isfile(name) or not name:
        return given
    known = sorted(path.stem for path in _CONFIGS.glob("[!_]*.py"))
    if name in known:
        return f"{_CONFIGS / name}.py{colon}{row}"
    stem = Path(name).stem
    advice = f"; did you mean --config={stem}{colon}{row}?" if stem in known else ""
    what = "is no file" if name.endswith(".py") else "is neither a file nor a data set"
    raise UserError(
        f"--config={given}: {name} {what}; the data sets are {', '.join(known)}{advice}"
    )


def define_config_file(argv: Sequence[str], help_string: str, *, one_row: bool = True) -> None:
    """Defines `--config` as a config file, so that `--config.FIELD=VALUE` changes it.

    Args:
      argv: the raw arguments.
      help_string: of the flag.
      one_row: what it holds is trained as it is; else other rows of the file are, too.

    Raises:
      UserError: what is wrong with the fields that are changed, and then of one row with all.
    """
    _look_for_places(argv)
    config_flags.DEFINE_config_file("config", None, help_string)
    flags.mark_flag_as_required("config")
    if path := _last_value(argv, "config"):
        config = flags.FLAGS["config"].parser.parse(path)
        if isinstance(config, ml_collections.ConfigDict):  # else parsing says what is wrong
            if one_row:
                _check_overrides(config, argv, "give --config=FILE:ROW", devices=1)
            else:
                _check_overrides(config, argv, "give --methods=ROW", partial=True)


def define_workdir_config(argv: Sequence[str]) -> None:
    """Defines `--config` on the config of `--workdir`, so that `--config.FIELD=VALUE` changes it.

    Raises:
      UserError: no `--workdir`, or it holds no run; or as `define_config_file`.
    """
    if not {*_HELP, "--helpfull"}.isdisjoint(argv):
        return
    directory = _last_value(argv, "workdir")
    if not directory:
        raise UserError("--workdir is missing: give the work directory of a run")
    if not os.path.exists(os.path.join(directory, "config.json")):
        raise UserError(
            f"--workdir={directory} is no work directory of a run: it has no config.json"
        )
    _look_for_places(argv)
    from attn_lstm.runs import workdir

    config = workdir.load_config(Path(directory))
    _check_overrides(config, argv, "a run stays the row that it was trained as")
    config_flags.DEFINE_config_dict("config", config, "fields of the run's config to override")


def _refuse_urls(argv: Sequence[str]) -> None:
    """Raises `UserError` for a URL where a path on a disk is needed.

    It would be taken for a folder of the name `gs:`.
    """
    for before, arg in itertools.pairwise(argv):
        name, _, value = arg.partition("=") if arg.startswith("-") else (before, "", arg)
        if name.lstrip("-") not in _TAKE_URLS and remote.is_url(value):
            raise UserError(f"{arg} {remote.NEEDS_DISK}")


def _with_copy(argv: Sequence[str], copies: contextlib.ExitStack, *, owned: bool) -> list[str]:
    """The raw arguments with a copy in the place of a work directory in an object store.

    Args:
      argv: the raw arguments.
      copies: closed when the command has ended.
      owned: whether the command must have the directory for itself.

    Raises:
      UserError: as `remote.working_copy`.
    """
    url = _last_value(argv, "workdir")
    if url is None or not remote.is_url(url):
        return [*argv]
    if _is_one_of_several(argv):
        raise UserError(
            f"--workdir={url}: several processes need a --workdir on a disk that they share"
        )
    step = _last_value(argv, "step") or "best"
    copy = copies.enter_context(remote.working_copy(url, owned=owned, step=step))
    if owned:
        print(
            f"{url} is worked on in {copy}: what is written follows every {remote.FOLLOWS:.0f} "
            "seconds and at the end; a crash loses what has not",
            flush=True,
        )
    return [*argv, f"--workdir={copy}"]


def _is_one_of_several(argv: Sequence[str]) -> bool:
    return any(re.match("--?(distributed|coordinator_address)(=|$)", arg) for arg in argv)


def _look_for_places(argv: Sequence[str]) -> None:
    """Looks for files and folders that flags name, before anything is imported that takes long.

    One of several processes connects first: the others would wait for it, and not hear of it.

    Raises:
      UserError: one is not there.
    """
    if _is_one_of_several(argv):
        return
    names = ["backbone.weights"]
    digits = Path(_last_value(argv, "config") or "").name.startswith("digits")
    if not digits and _last_value(argv, "config.data.download") is None:  # else it may be made
        names.append("data.path")
    for name in names:
        place = _last_value(argv, f"config.{name}")
        of_weights = name == "backbone.weights"
        if not place or remote.is_url(place) or (of_weights and downloads.is_name(place)):
            continue
        if not os.path.exists(place):
            advice = f"; by name there are {downloads.names()}" if of_weights else ""
            raise UserError(f"--config.{name}={place}: there is no such file or folder{advice}")


def fetch_weights(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Fetches weights that are named, before anything is imported that takes long.

    A run that goes on needs them no more.

    Raises:
      UserError: as `downloads.on_disk`.
    """
    if config.backbone.weights and not os.path.exists(os.path.join(workdir, "checkpoints")):
        downloads.on_disk(config.backbone.weights)


def _last_value(argv: Sequence[str], name: str) -> str | None:
    """Of --NAME=VALUE or --NAME VALUE."""
    value = None
    for arg, behind in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", arg, re.DOTALL):
            value = behind if match[1] is None else match[1]
    return value


def _check_overrides(
    config: ml_collections.ConfigDict,
    argv: Sequence[str],
    of_method: str,
    *,
    devices: int | None = None,
    partial: bool = False,
) -> None:
    """Raises `UserError` for all of --config.FIELD=VALUE at once; the library stops at the first.

    Args:
      config: to be overridden.
      argv: the raw arguments.
      of_method: what to do in the place of overriding the name of the row.
      devices: as in `config.validate`.
      partial: the config is not used as it is. Otherwise, where an override is wrong, its other
        mistakes are named as well.
    """
    from attn_lstm.config import find_mistakes
    from attn_lstm.fields import flatten, unknown_field

    changed = ml_collections.ConfigDict(config)
    mistakes = []
    for name, args in _overrides(argv):
        if name == "method":
            mistakes.append(f"config.method is the name of the row, not what makes it: {of_method}")
            continue
        if not any(field == name or field.startswith(f"{name}.") for field, _ in flatten(config)):
            mistakes.append(unknown_field(name))
            continue
        own = flags.FlagValues()
        try:
            config_flags.DEFINE_config_dict("config", changed, flag_values=own, sys_argv=args)
            own([argv[0], *args])
        except (flags.Error, *_CONFIG_ERRORS) as error:
            mistakes.append(" ".join(str(error).split()))
    if mistakes:
        if not partial:
            mistakes += find_mistakes(changed, devices)
        raise UserError("; ".join(mistakes))


def _overrides(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The fields that are given, each with its one or two arguments."""
    for arg, behind in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.match(r"--?(?:no)?config\.([^=]+)(=?)", arg):
            yield match[1], [arg] if match[2] or behind.startswith("--") else [arg, behind]


def _said(error: BaseException) -> str:
    """What a library says of a mistake, without the quotes that Python puts around some of it."""
    text, inner = str(error), error.__context__
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = str(error.args[0])
    elif inner is not None and len(inner.args) > 1:
        text = text.replace(str(inner), ": ".join(map(str, inner.args)))
    return " ".join(text.split())


def _help(module: str, text: str) -> str:
    """A command's text, then its flags in the order in which they are defined."""
    own, shared = (flags.FLAGS.get_flags_for_module(name) for name in (module, __name__))
    config = [flag for flag in shared if flag.name == "config"]
    groups = {
        "Flags": [*map(_described, [*own, *config]), ("--config.FIELD=VALUE", _OVERRIDE)],
        "Of several processes": [_described(flag) for flag in shared if flag not in config],
    }
    width = min(shutil.get_terminal_size().columns, 100)
    column = 4 + max(len(name) for group in groups.values() for name, _ in group)
    parts = [text.strip()]
    for title, group in groups.items():
        lines = (
            textwrap.fill(f"  {name:{column - 2}}{text}", width, subsequent_indent=" " * column)
            for name, text in group
        )
        parts += ["\n".join([f"{title}:", *lines])] if group else []
    return "\n\n".join([*parts, "--helpfull lists the flags of libraries too."])


def _described(flag: flags.Flag[Any]) -> tuple[str, str]:
    """A flag's name, and what it is for."""
    default = "" if flag.default in (None, False, 0, []) else f" (default: {flag.default})"
    return f"--{flag.name}", flag.help + default


def _define_process_flags() -> None:
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of the first, the same to all")
    flags.DEFINE_integer("num_processes", None, "how many they are", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "which of them this is, from 0", lower_bound=0)
    flags.DEFINE_bool(
        "distributed", False, "in the place of these three: the cluster's environment tells them"
    )


def _connect(resumes: bool) -> bool:
    """Connects this process with others where the flags ask for it; returns whether they do.

    Raises:
      UserError: a mistake in the flags, or no connection.
    """
    names = ("coordinator_address", "num_processes", "process_id")
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if flags.FLAGS["distributed"].value:
        if len(missing) < len(names):
            raise UserError(
                "--distributed asks the cluster: leave out --coordinator_address, --num_processes "
                "and --process_id, or give these alone"
            )
    elif len(missing) == len(names):
        return False
    elif missing:
        raise UserError(f"{' and '.join(missing)} missing: the three flags belong together")
    elif not re.fullmatch(r".+:\d{1,5}", given["coordinator_address"]):
        raise UserError(f"--coordinator_address={given['coordinator_address']}: give HOST:PORT")
    elif given["process_id"] >= given["num_processes"]:
        raise UserError(
            f"--process_id={given['process_id']} is not below --num_processes="
            f"{given['num_processes']}: count from 0"
        )
    from attn_lstm import distributed

    distributed.start(*given.values(), keeps_sigterm=resumes)
    return True


def _fail(message: str) -> NoReturn:
    print(f"error: {printable(remote.shown(message))}", file=sys.stderr, flush=True)
    process.say_no_more()
    sys.exit(MISTAKE)
