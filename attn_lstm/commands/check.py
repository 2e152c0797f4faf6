"""Tells what is in a user's own data set, and whether it can be used, before any training.

    attn-lstm check FOLDER [--separator=,]

Reads the label file, or whatever else says what is in the images, and decodes every image that it
names. Splits that are left open are drawn as the default config draws them. Exit codes: 0 usable,
2 not: a mistake in the path or a label file (one line on stderr), or, below the report, images that
are missing or do not decode, or a split without any label. The last line holds all that was found.
"""

import sys
from collections.abc import Sequence

from absl import flags

from attn_lstm.commands import next_command
from attn_lstm.errors import DONE, UserError


def define_flags(_: Sequence[str]) -> None:
    """Defines the flags."""
    flags.DEFINE_string("separator", "", "what joins labels, as data.separator")


def main(arguments: list[str]) -> int:
    """Checks the folder; returns the exit code."""
    from attn_lstm.data.check import check

    if len(arguments) != 1:
        raise UserError(f"one folder is checked at a time, {len(arguments)} are given")
    (folder,) = arguments
    code = check(folder, flags.FLAGS.separator)
    if code == DONE:
        place = f"--config.data.path={folder}"
        then = next_command("train", "runs/mine", "--config=laptop:order_free", place)
        print(then, file=sys.stderr)
    return code
