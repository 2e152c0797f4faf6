r"""Counts the labels of a data set: how many an image, how often each, which of them together.

    attn-lstm statistics --config=coco:order_free \
        --config.data.path=COCO_FOLDER

Reads any data set that can be trained on, and none of its pixels; fields of the config can be
overridden. Exit codes: 0 done, 2 a mistake in flags, config or files.
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from attn_lstm.data import SPLITS
from attn_lstm.errors import DONE


def define_flags(_: Sequence[str]) -> None:
    """Defines the flags."""
    config_flags.DEFINE_config_file(
        "config", None, "data set or config file, as for `train` (required)"
    )
    flags.DEFINE_enum("split", None, SPLITS, "the only split to read; default: all three")
    flags.mark_flag_as_required("config")


def main() -> int:
    """Prints the statistics; returns the exit code."""
    from attn_lstm.data import load_split
    from attn_lstm.data.statistics import describe, label_statistics

    names = [flags.FLAGS.split] if flags.FLAGS.split else SPLITS
    statistics = [label_statistics(load_split(flags.FLAGS.config.data, n)) for n in names]
    print(describe(statistics))
    return DONE
