r"""What the training loop costs beside the compiled step, with the data ready.

    python -m benchmarks.loop_overhead [--size=small|medium|large] [--depth=N] [--batch=N] \
        [--image_size=PIXELS] [--rounds=N] [--calls=10] [--dtype=float32]

A real run, on a folder made for it, whose batches are one batch again and again. Stretches of the
loop, a log line in each, and of the step alone take turns.
"""

import contextlib
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from absl import flags
from PIL import Image

from attn_lstm import errors
from attn_lstm.data import load_split
from attn_lstm.data.split import Batch
from attn_lstm.parallel import make_mesh
from attn_lstm.runs.state import TrainState
from attn_lstm.training.descent import Descent
from attn_lstm.training.loop import Run
from benchmarks import measure, workload

_CALLS = flags.DEFINE_integer("calls", 10, "steps in a stretch")


class _Enough(Exception):
    """All rounds are measured: ends the run before it saves and validates."""


class _TimedDescent(Descent):
    """Ends each stretch of the loop's own steps with one of the step alone."""

    stretch: int
    rounds: int
    in_loop: list[float]
    alone: list[float]

    @functools.cache  # noqa: B019  as in the class above
    def train_step(self, frozen: bool) -> Callable[..., TrainState]:
        step = super().train_step(frozen)
        calls, started = 0, None

        def timed(state: TrainState, batch: Batch, rank: jax.Array) -> TrainState:
            nonlocal calls, started
            state = step(state, batch, rank)
            calls += 1
            if calls % self.stretch:
                return state
            jax.block_until_ready(state)
            turn = time.perf_counter()
            for _ in range(self.stretch):
                state = step(state, batch, rank)
            jax.block_until_ready(state)
            end = time.perf_counter()
            if started is not None:  # the first stretch compiles
                self.in_loop.append((turn - started) / self.stretch)
                self.alone.append((end - turn) / self.stretch)
            started = end
            if len(self.in_loop) == self.rounds:
                raise _Enough
            return state

        return timed


def _write_images(directory: Path, count: int) -> None:
    """A folder of small noisy images with one label each."""
    random = np.random.default_rng(0)
    lines = ["image,labels"]
    for index in range(count):
        name = f"{index}.jpg"
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(directory / name)
        lines.append(f"{name},label {index % workload.LABELS}")
    (directory / "labels.csv").write_text("\n".join(lines) + "\n")


def _time(directory: Path) -> tuple[list[float], list[float]]:
    """Seconds a step of each stretch: in the loop, and alone."""
    size = workload.chosen_size()
    images, workdir = directory / "images", directory / "run"
    images.mkdir()
    workdir.mkdir()
    _write_images(images, 2 * max(size.batch, workload.LABELS))
    never = 10**6
    config = workload.configure(
        size,
        dtype=workload.DTYPE.value,
        data__name="folder",
        data__path=str(images),
        train__log_every=_CALLS.value,
        train__steps=never,
        train__eval_every=never,
        train__checkpoint_every=never,
    )
    splits = {name: load_split(config.data, name) for name in ("train", "validation")}
    run = Run(config, workdir, make_mesh(), splits)
    run.fit = timed = _TimedDescent
    timed.stretch, timed.rounds = _CALLS.value, workload.ROUNDS.value
    timed.in_loop, timed.alone = [], []
    batch = next(run.inputs["train"].training(0))
    run.inputs["train"] = SimpleNamespace(training=lambda step: itertools.repeat(batch))
    with contextlib.suppress(_Enough):
        run.go()
    run.close()
    return timed.in_loop, timed.alone


def main() -> int:
    """Prints the table; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        in_loop, alone = _time(Path(folder))
    print(f"{measure.machine()}\n{workload.chosen_size()}, {workload.DTYPE.value}")
    rows = [
        (name, f"{1e3 * statistics.median(times):.2f}", f"{ratio:.4f}")
        for name, times, ratio in (
            ("the compiled step alone", alone, 1.0),
            ("the loop, a log line a stretch", in_loop, measure.median_ratio(in_loop, of=alone)),
        )
    ]
    title = f"Stretches of {_CALLS.value} steps"
    measure.print_table(title, ("a step", "ms (median)", "time / alone"), rows)
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
