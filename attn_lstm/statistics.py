r"""Counts the labels of a data set: how many an image, how often each, which of them together.

    python -m attn_lstm.statistics --config=configs/coco.py:order_free \
        --config.data.path=COCO_FOLDER

Reads any data set that can be trained on, and none of its pixels; fields of the config can be
overridden. Exit codes: 0 done, 2 a mistake in flags, config or files.
"""

import signal
from collections.abc import Sequence

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the rest is imported

from absl import flags
from ml_collections import config_flags

from attn_lstm import cli
from attn_lstm.data import SPLITS
from attn_lstm.errors import DONE


def _define_flags(_: Sequence[str]) -> None:
    config_flags.DEFINE_config_file("config", None, "config file, as for train.py (required)")
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


if __name__ == "__main__":
    cli.run(main, _define_flags, result_on_stdout=True)
