"""Trains one row of the tables in a work directory, or goes on with it.

    python train.py --config=configs/digits.py:order_free --workdir=runs/digits

Behind the colon stands the row of the tables; a name that is none lists them all. Every field of
the config can be overridden: --config.train.steps=500. Several processes train as one:
--coordinator_address=HOST:PORT --num_processes=N --process_id=I, or on a cluster that says all that
itself (SLURM, TPU pod, Open MPI) --distributed. tensorboard --logdir=WORKDIR shows curves, a few
validation images with their attention, and the table of the runs. Exit codes: 0 done, 2 a mistake
in flags, config or files, or numbers that are not finite, 69 another process was lost, 75 stopped
by a signal after saving (start again to go on).
"""

import signal
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the rest is imported

from absl import flags

from attn_lstm import cli, errors

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run; made when missing (required)", required=True
)


def _define_flags(argv: Sequence[str]) -> None:
    cli.define_config_file(argv, "config file, with ':row' behind it (required)")


def main() -> int:
    """Trains; returns the exit code."""
    from attn_lstm.parallel import make_mesh
    from attn_lstm.training.loop import train

    done = train(flags.FLAGS.config, Path(_WORKDIR.value), make_mesh())
    return errors.DONE if done else errors.STOPPED


if __name__ == "__main__":
    cli.run(main, _define_flags, distributed=True, resumes=True)
