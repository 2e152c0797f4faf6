"""Peak memory of the host behind each epoch of a real run: images, validations and checkpoints.

    python -m benchmarks.host_memory --config=configs/digits.py:order_free [--epochs=8]

A run whose memory does not grow has its peak in the first epochs, and keeps it.
"""

import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from attn_lstm import cli, errors
from attn_lstm.config import resolve, validate
from attn_lstm.data import load_split
from attn_lstm.parallel import make_mesh
from attn_lstm.training.loop import Run
from benchmarks import measure

_EPOCHS = flags.DEFINE_integer("epochs", 8, "epochs that are run")

# Linux tells kibibytes, macOS bytes.
_UNIT = 1 if sys.platform == "darwin" else 1024


def _define_flags(argv: Sequence[str]) -> None:
    cli.define_config_file(argv, "config file, with ':row' behind it (required)")


class _WatchedRun(Run):
    """Notes the peak after each validation, in MiB."""

    peaks: list[float]

    def validate(self, step: int) -> None:
        super().validate(step)
        self.peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 2**20)


def main() -> int:
    """Prints the table; returns the exit code."""
    config = resolve(flags.FLAGS.config).copy_and_resolve_references().unlock()
    mesh = make_mesh()
    splits = {name: load_split(config.data, name) for name in ("train", "validation")}
    epoch = len(splits["train"]) // config.train.batch_size
    config.train.steps = epoch * _EPOCHS.value
    config.train.eval_every = config.train.checkpoint_every = epoch
    validate(config.lock(), mesh.size)
    with tempfile.TemporaryDirectory() as folder:
        run = _WatchedRun(config, Path(folder), mesh, splits)
        run.peaks = []
        run.go()
        run.close()
    before, rows = run.peaks[0], []
    for number, peak in enumerate(run.peaks, 1):
        rows.append((f"epoch {number}", f"{peak:.0f}", f"{peak - before:+.0f}"))
        before = peak
    print(measure.machine())
    title = f"{config.method} on {splits['train'].dataset}, {epoch} steps an epoch"
    measure.print_table(title, ("behind", "peak, MiB", "to the one before"), rows)
    return errors.DONE


if __name__ == "__main__":
    measure.run(main, _define_flags)
