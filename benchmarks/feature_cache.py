"""Images a second of head training: on cached features, and through the frozen backbone.

    python benchmarks/feature_cache.py --config=configs/coco.py:order_free \\
        --config.data.path=FOLDER --config.backbone.weights=FILE [--rounds=5] [--steps=10]

Both sides run the loop's own compiled step on the loop's own batches, reading included, in turn
in one process. The features are computed before the clock starts.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from attn_lstm import cli

_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed rounds of each side")
_STEPS = flags.DEFINE_integer("steps", 10, "steps a round")


def _define_flags(_: Sequence[str]) -> None:
    config_flags.DEFINE_config_file("config", None, "config file, with ':method' behind it")
    flags.mark_flag_as_required("config")


def _side(views: int, directory: Path) -> Iterator[float]:
    """Seconds of each round of steps, with or without the cache."""
    from attn_lstm.config import resolve, validate
    from attn_lstm.data import load_split
    from attn_lstm.parallel import make_mesh, prefetch
    from attn_lstm.training.loop import Run

    config = resolve(flags.FLAGS.config).copy_and_resolve_references().unlock()
    config.cache.views = views
    config.cache.path = config.cache.path or str(directory / "features")
    validate(config.lock(), jax.device_count())
    mesh = make_mesh()
    splits = {name: load_split(config.data, name) for name in ("train", "validation")}
    run = Run(config, directory / str(views), mesh, splits)
    batches = prefetch(run.inputs["train"].training(0), mesh)
    step = run.train_step(frozen=True)
    state = step(run.state, next(batches), run.rank)
    while True:
        jax.block_until_ready(state)
        start = time.perf_counter()
        for _ in range(_STEPS.value):
            state = step(state, next(batches), run.rank)
        jax.block_until_ready(state)
        yield time.perf_counter() - start


def main() -> int:
    """Prints the table; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {"cached features": _side(1, Path(folder)), "through": _side(0, Path(folder))}
        seconds = {name: [] for name in sides}
        for _ in range(_ROUNDS.value):
            for name, side in sides.items():
                seconds[name].append(next(side))
    images = _STEPS.value * flags.FLAGS.config.train.batch_size
    rates = {name: images / statistics.median(times) for name, times in seconds.items()}
    backbone = flags.FLAGS.config.backbone.name
    print(f"{platform.machine()}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    print("| head training | images/s (median) | ratio |\n| --- | ---: | ---: |")
    for name, rate in rates.items():
        label = f"through {backbone}" if name == "through" else name
        print(f"| {label} | {rate:.1f} | {rate / rates['through']:.1f} |")
    return cli.DONE


if __name__ == "__main__":
    cli.run(main, _define_flags)
