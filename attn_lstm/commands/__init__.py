"""The commands, `attn-lstm NAME`: what each is for, and how it is started.

A command is a module of this folder: its docstring is its help, `define_flags` defines its flags,
and `main` does its work. Nothing is imported here that takes time, so that signals are heard from
the beginning.
"""

import difflib
import importlib
import shlex
import sys
from typing import NamedTuple, NoReturn

from attn_lstm import __version__, process
from attn_lstm.errors import DONE, MISTAKE, printable

_PROGRAM = "attn-lstm"


class Command(NamedTuple):
    """What is known of a command before its module is imported.

    Attributes:
      text: what it is for, in a line.
      script: starts it in a checkout.
      positional: it takes arguments that are no flags.
      distributed: several processes may be one run.
      resumes: the same command goes on where SIGTERM or SIGINT has stopped it.
      result_on_stdout: as `process.settle` takes it.
    """

    text: str
    script: str
    positional: bool = False
    distributed: bool = False
    resumes: bool = False
    result_on_stdout: bool = False


COMMANDS: dict[str, Command] = {
    "check": Command(
        "tells what is in a folder of your own images, and whether it can be used",
        "python -m attn_lstm.data.check",
        positional=True,
        result_on_stdout=True,
    ),
    "statistics": Command(
        "counts the labels of a data set",
        "python -m attn_lstm.statistics",
        result_on_stdout=True,
    ),
    "plan": Command(
        "tells what a run needs on devices that need not be there",
        "python -m attn_lstm.plan",
        result_on_stdout=True,
    ),
    "train": Command(
        "trains one row of the tables in a work directory, or goes on with it",
        "python train.py",
        distributed=True,
        resumes=True,
    ),
    "eval": Command(
        "tunes and evaluates a checkpoint, draws figures, writes a report",
        "python eval.py",
        distributed=True,
    ),
    "predict": Command(
        "predicts the labels of images, with pictures of the attention",
        "python predict.py",
        positional=True,
        result_on_stdout=True,
    ),
    "demo": Command(
        "serves a page on this machine, to drop images on",
        "python -m attn_lstm demo",
    ),
    "compare": Command(
        "trains and evaluates many rows over seeds, and writes their table",
        "python compare.py",
        distributed=True,
        resumes=True,
    ),
    "export": Command(
        "writes a trained network for other programs",
        "python -m attn_lstm.export",
    ),
}


def main() -> NoReturn:
    """`attn-lstm NAME …`: starts the command of that name."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(_overview())
        sys.exit(DONE)
    if name == "--version":
        print(f"{_PROGRAM} {__version__}")
        sys.exit(DONE)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else f"give one of: {', '.join(COMMANDS)}"
        print(f"error: there is no command {printable(name)!r}; {advice}", file=sys.stderr)
        sys.exit(MISTAKE)
    run(name, arguments)


def run(name: str, arguments: list[str] | None = None) -> NoReturn:
    """Starts a command, and ends the process with its exit code.

    Args:
      name: one of `COMMANDS`.
      arguments: what stands behind its name; None for the arguments of the process.
    """
    command = COMMANDS[name]
    process.settle(result_on_stdout=command.result_on_stdout, resumes=command.resumes)
    from attn_lstm import cli

    module = importlib.import_module(f"{__name__}.{name}")
    cli.run(
        module.main,
        module.define_flags,
        [called(name), *(sys.argv[1:] if arguments is None else arguments)],
        text=(module.__doc__ or "").replace(f"{_PROGRAM} {name}", called(name)),
        positional=command.positional,
        distributed=command.distributed,
        resumes=command.resumes,
    )


def called(name: str) -> str:
    """How a command is called by whoever has called this one."""
    if sys.argv[0].endswith("attn_lstm/__main__.py"):
        return f"python -m attn_lstm {name}"
    return f"{_PROGRAM} {name}" if sys.argv[0].endswith(_PROGRAM) else COMMANDS[name].script


def next_command(name: str, workdir: object, *arguments: str) -> str:
    """What usually comes next, as a line to copy."""
    from attn_lstm import remote

    place = remote.shown(f"--workdir={workdir}")
    return f"next: {called(name)} {shlex.join([place, *arguments])}"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"{_PROGRAM} {__version__}: ordered, explainable multi-label image predictions",
            "",
            f"    {_PROGRAM} COMMAND --help",
            "",
            *(f"{name:{width}}  {command.text}" for name, command in COMMANDS.items()),
        ]
    )
