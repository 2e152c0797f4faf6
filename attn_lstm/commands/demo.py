"""Serves a page to try a trained network: drop an image, see its labels step by step.

    attn-lstm demo --workdir=runs/digits
    attn-lstm demo --workdir=runs/digits --port=8000

The page shows each label with its probability and its attention map, in the order in which the
network named them. It is served to browsers on this machine alone, needs no network, and keeps no
image. Ctrl-C ends it. Exit codes: 2 a mistake in flags, config or files, 130 ended by Ctrl-C.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from attn_lstm import cli, errors


def define_flags(argv: Sequence[str]) -> None:
    """Defines the flags; `argv` are the raw arguments."""
    flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
    flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
    flags.DEFINE_integer(
        "port", 7860, "of the page; 0: one that is free", lower_bound=0, upper_bound=65535
    )
    cli.define_workdir_config(argv)


def main() -> int:
    """Serves until it is interrupted; returns the exit code."""
    from attn_lstm.serving.page import serve

    given = flags.FLAGS
    serve(given.config, Path(given.workdir), given.step, given.port)
    return errors.DONE
