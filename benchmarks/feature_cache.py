r"""Images a second of training: all of the network, through a frozen backbone, on cached features.

    python -m benchmarks.feature_cache --config=configs/coco.py:order_free \
        --config.data.path=FOLDER --config.backbone.weights=FILE [--rounds=5] [--steps=10]

All sides run the loop's own compiled step on the loop's own batches, reading included, in turn in
one process. The features are computed before the clock starts.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from attn_lstm import cli, errors
from attn_lstm.config import resolve, validate
from attn_lstm.data import load_split
from attn_lstm.parallel import make_mesh, prefetch
from attn_lstm.plan.flops import matmul_flops
from attn_lstm.runs.state import TrainState
from attn_lstm.training.loop import Run
from benchmarks import measure

_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed rounds of each side")
_STEPS = flags.DEFINE_integer("steps", 10, "steps a round")


def _define_flags(argv: Sequence[str]) -> None:
    cli.define_config_file(argv, "config file, with ':row' behind it (required)")


class _Steps:
    """A call makes a round of steps; `flops` are those of one."""

    def __init__(self, frozen: bool, views: int, directory: Path):
        """Computes the features for `views` > 0; else the images go through the backbone."""
        config = resolve(flags.FLAGS.config).copy_and_resolve_references().unlock()
        config.backbone.frozen = frozen
        config.cache.views = views
        config.cache.path = config.cache.path or str(directory / "features")
        mesh = make_mesh()
        validate(config.lock(), mesh.size)
        splits = {name: load_split(config.data, name) for name in ("train", "validation")}
        run = Run(config, directory / f"{frozen} {views}", mesh, splits)
        self._batches = prefetch(run.inputs["train"].training(0), mesh)
        descent = run.start(0)
        self._step, self._state, self._rank = descent.train_step(frozen), run.state, run.rank
        self.flops = matmul_flops(self._step, self._state, next(self._batches), self._rank)

    def __call__(self) -> TrainState:
        for _ in range(_STEPS.value):
            self._state = self._step(self._state, next(self._batches), self._rank)
        return self._state


def main() -> int:
    """Prints the table; returns the exit code."""
    name, batch = flags.FLAGS.config.backbone.name, flags.FLAGS.config.train.batch_size
    learning = f"through {name}, which learns"
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            learning: _Steps(False, 0, Path(folder)),
            f"through {name}, frozen": _Steps(True, 0, Path(folder)),
            "on cached features": _Steps(True, 1, Path(folder)),
        }
        seconds = measure.alternate(sides, _ROUNDS.value)
    rows = [
        (side, f"{_STEPS.value * batch / statistics.median(times):.1f}",
         f"{measure.median_ratio(seconds[learning], of=times):.1f}",
         f"{sides[side].flops / batch / 1e9:.3f}")
        for side, times in seconds.items()
    ]  # fmt: skip
    print(measure.machine())
    measure.print_table("Training", ("steps", "images/s (median)", "ratio", "GFLOP an image"), rows)
    return errors.DONE


if __name__ == "__main__":
    measure.run(main, _define_flags)
