"""Trains one row of the tables in a work directory, or goes on with it.

    attn-lstm train --config=digits:order_free --workdir=runs/digits

Behind the colon stands the row of the tables; a name that is none lists them all. Every field of
the config can be overridden: --config.train.steps=500. Several processes train as one:
--coordinator_address=HOST:PORT --num_processes=N --process_id=I, or on a cluster that says all that
itself (SLURM, TPU pod, Open MPI) --distributed. tensorboard --logdir=WORKDIR shows curves, a few
validation images with their attention, and the table of the runs. Exit codes: 0 done, 2 a mistake
in flags, config or files, or numbers that are not finite, 69 another process was lost, 75 stopped
by a signal after saving (start again to go on).
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from attn_lstm import cli, errors, remote
from attn_lstm.commands import next_command


def define_flags(argv: Sequence[str]) -> None:
    """Defines the flags; `argv` are the raw arguments."""
    flags.DEFINE_string(
        "workdir", None, "folder of the run; made when missing (required)", required=True
    )
    cli.define_config_file(argv, "data set or config file, with ':row' behind it (required)")


def main() -> int:
    """Trains; returns the exit code."""
    config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
    cli.fetch_weights(config, workdir)
    from attn_lstm.parallel import is_first_host, make_mesh
    from attn_lstm.training.loop import train

    if not train(config, Path(workdir), make_mesh()):
        return errors.STOPPED
    if is_first_host():
        print(f"written to {remote.shown(workdir)}: checkpoints, metrics.jsonl, tensorboard")
        decided = config.search.top_k or config.search.threshold >= 0
        print(next_command("eval", workdir, *([] if decided else ["--tune"])))
    return errors.DONE
