r"""Time an image by batch size, and what the search costs by T, C, K and beam: linear or not.

    python -m benchmarks.scaling [--size=small|medium|large] [--depth=N] [--image_size=PIXELS] \
        [--batches=1,8,64] [--rounds=N] [--dtype=float32]

The search runs all T steps, on random features.
"""

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from absl import flags

from attn_lstm import errors
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.resnet import feature_dim
from attn_lstm.plan.flops import matmul_flops
from attn_lstm.rows import create_row
from benchmarks import measure, workload

_BATCHES = flags.DEFINE_list("batches", ["1", "8", "64"], "images at once")

_BEAM = 3


def _search(
    size: workload.Size, batch: int, regions: int, labels: int, beam: int
) -> tuple[Callable[[], Any], float]:
    """Everything after the backbone, compiled; and its FLOPs."""
    dtype = workload.DTYPE.value
    config = workload.configure(size, dtype=dtype, search__beam_size=beam)
    row = create_row(config, labels)
    features = workload.random_features(batch, regions, feature_dim(size.depth), dtype)
    variables = jax.jit(
        lambda features: row.network.init(
            jax.random.key(0), features, emit_most_confident, 1, encoded=True
        )
    )(features)

    run = partial(row.decide, threshold=0.0)
    compiled = workload.jit(run).lower(variables, features).compile()
    return partial(compiled, variables, features), matmul_flops(
        run, variables, features, trips=size.steps
    )


def _encoder(size: workload.Size, batch: int, variables: dict) -> tuple[Callable[[], Any], float]:
    """The backbone, compiled; and its FLOPs."""
    network = workload.row_of(workload.configure(size, dtype=workload.DTYPE.value)).network
    images = workload.random_images(batch, size.image_size)
    run = partial(network.apply, method="encode")
    compiled = workload.jit(run).lower(variables, images).compile()
    return partial(compiled, variables, images), matmul_flops(run, variables, images)


def _print(title: str, unit: str, sides: dict[int, tuple[Callable[[], Any], float]]) -> None:
    """One table: time and FLOPs of each value, also divided by the value."""
    seconds = measure.alternate({n: run for n, (run, _) in sides.items()}, workload.ROUNDS.value)
    rows = []
    for value, times in seconds.items():
        milliseconds, gigaflop = 1e3 * statistics.median(times), sides[value][1] / 1e9
        work = f"{gigaflop:.2f}", f"{gigaflop / milliseconds * 1e3:.0f}"
        rows.append((value, f"{milliseconds:.2f}", f"{milliseconds / value:.3f}", *work))
    columns = (unit, "ms (median)", f"ms / {unit}", "GFLOP", "GFLOP/s")
    measure.print_table(title, columns, rows)


def main() -> int:
    """Prints the tables; returns the exit code."""
    size = workload.chosen_size()
    regions = (-(-size.image_size // 32)) ** 2
    usual = {"batch": size.batch, "regions": regions, "labels": workload.LABELS, "beam": _BEAM}
    batches = [int(batch) for batch in _BATCHES.value]
    print(f"{measure.machine()}\n{size}, {workload.DTYPE.value}, K = {regions}, beam of {_BEAM}")

    variables = workload.create_variables(workload.configure(size))
    encoders = {batch: _encoder(size, batch, variables) for batch in batches}
    _print(f"ResNet-{size.depth} at {size.image_size} pixels", "image", encoders)
    searches = {batch: _search(size, **{**usual, "batch": batch}) for batch in batches}
    _print("After the backbone", "image", searches)

    lengths = (1, 6, 18, 54)
    steps = {t: _search(dataclasses.replace(size, steps=t), **usual) for t in lengths}
    _print(f"After the backbone, {size.batch} images", "T", steps)
    for field, unit, values in (
        ("labels", "C", (20, 80, 320, 1280)),
        ("regions", "K", (49, 196, 784)),
        ("beam", "beam", (1, 3, 9)),
    ):
        sides = {value: _search(size, **{**usual, field: value}) for value in values}
        _print(f"After the backbone, {size.batch} images", unit, sides)
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
