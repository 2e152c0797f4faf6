"""Trains one row of the tables in a work directory, or goes on with it.

    python train.py --config=configs/digits.py:order_free --workdir=runs/digits

Every field of the config can be overridden: --config.train.steps=500. Exit codes: 0 done, 2 a
mistake in flags, config or files, 75 stopped by a signal after saving (start again to go on).
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from attn_lstm import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; made when missing")
flags.mark_flag_as_required("workdir")


def _define_flags(_: Sequence[str]) -> None:
    config_flags.DEFINE_config_file("config", None, "config file, with ':method' behind it")
    flags.mark_flag_as_required("config")


def main() -> int:
    """Trains; returns the exit code."""
    from attn_lstm.parallel import make_mesh
    from attn_lstm.training.loop import train

    done = train(flags.FLAGS.config, Path(_WORKDIR.value), make_mesh())
    return cli.DONE if done else cli.STOPPED


if __name__ == "__main__":
    cli.run(main, _define_flags)
