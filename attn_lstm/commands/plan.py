r"""Tells what a run will need, and its least time, on devices that need not be there.

    attn-lstm plan --config=coco:order_free --on=v5e:4x4 \
        --config.backbone.weights=resnet152-394f9c45.pth

Compiles the steps of the run for them, in processes of their own: minutes for a large backbone.
Slices of TPUs are given by their shape (v5e:4x4, v6e:2x2, v5p:2x2x2), GPUs by their number (h100:8,
h200:8, a100:8), and cpu is this machine. Exit codes: 0 done, 2 a mistake in flags or config.
"""

import sys
from collections.abc import Sequence

from absl import flags

from attn_lstm import cli
from attn_lstm.errors import DONE


def define_flags(argv: Sequence[str]) -> None:
    """Defines the flags; `argv` are the raw arguments."""
    cli.define_config_file(argv, "data set or config file, with ':row' behind it (required)")
    flags.DEFINE_string("on", None, "the devices: cpu, v5e:4x4, h100:8 (required)")
    flags.mark_flag_as_required("on")


def main() -> int:
    """Prints the plan; returns the exit code."""
    from attn_lstm.plan.planning import make_plan
    from attn_lstm.plan.report import render

    print(render(make_plan(flags.FLAGS.config, flags.FLAGS.on, say=_say)))
    return DONE


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
