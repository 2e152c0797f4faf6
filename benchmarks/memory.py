r"""Device memory of a training step by batch size and resolution, and the price of saving it.

    python -m benchmarks.memory [--size=small|medium|large] [--depth=N] [--rounds=N] \
        [--held_image_sizes=224,448] [--held_batches=8,32] [--image_size=PIXELS] [--batch=N] \
        [--dtype=float32]

The first table only compiles: it is what XLA says that the step will hold at once, state and batch
included. The second runs the step at the size's own batch and resolution.
"""

import dataclasses
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from attn_lstm import errors, parallel
from attn_lstm.data.split import Batch
from benchmarks import measure, workload

_IMAGE_SIZES = flags.DEFINE_list("held_image_sizes", ["224", "448"], "pixels, of the first table")
_BATCHES = flags.DEFINE_list("held_batches", ["8", "32"], "images, of the first table")

_VARIANTS = {
    "backbone learns": {},
    "backbone learns, remat": {"backbone__remat": True},
    "backbone learns, freeze_norm": {"backbone__freeze_norm": True},
    # Its images are encoded again in every step: kept features are another benchmark's.
    "backbone frozen": {"backbone__frozen": True, "cache__views": 0},
}


def _gigabytes(compiled: jax.stages.Compiled) -> float:
    """What a call holds on one device: its arguments, results and everything between."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (memory.argument_size_in_bytes + memory.temp_size_in_bytes + results) / 1e9


def _compile(size: workload.Size, fields: dict[str, Any]) -> jax.stages.Compiled:
    """The training step, without any array being made."""
    config = workload.configure(size, dtype=workload.DTYPE.value, **fields)
    batch = Batch(
        inputs=jax.ShapeDtypeStruct((size.batch, size.image_size, size.image_size, 3), jnp.uint8),
        labels=jax.ShapeDtypeStruct((size.batch, workload.LABELS), jnp.float32),
        mask=jax.ShapeDtypeStruct((size.batch,), bool),
        image_id=jax.ShapeDtypeStruct((size.batch,), jnp.int32),
    )
    state = jax.eval_shape(lambda: workload.initial_state(config))
    step = workload.train_step(config, parallel.make_mesh())
    # A CPU's machine code that nobody runs is not optimised: it holds the same arrays.
    on_cpu = jax.default_backend() == "cpu"
    unoptimised = {"xla_backend_optimization_level": 0} if on_cpu else None
    return step.lower(state, batch, workload.rank()).compile(compiler_options=unoptimised)


def main() -> int:
    """Prints the tables; returns the exit code."""
    size, dtype = workload.chosen_size(), workload.DTYPE.value
    print(f"{measure.machine()}\nResNet-{size.depth}, {dtype}")
    rows = []
    for side in map(int, _IMAGE_SIZES.value):
        for batch in map(int, _BATCHES.value):
            at = dataclasses.replace(size, image_size=side, batch=batch)
            held = [f"{_gigabytes(_compile(at, fields)):.2f}" for fields in _VARIANTS.values()]
            rows.append((f"{side} pixels, {batch} images", *held))
    if rows:
        measure.print_table("GB that a training step holds", ("", *_VARIANTS), rows)

    batch = workload.with_labels(workload.random_images(size.batch, size.image_size))

    def create(fields: dict[str, Any]) -> workload.Training:
        return workload.Training(workload.configure(size, dtype=dtype, **fields), batch)

    with ThreadPoolExecutor(min(len(_VARIANTS), os.cpu_count() or 1)) as pool:
        steps = dict(zip(_VARIANTS, pool.map(create, _VARIANTS.values()), strict=True))
    seconds = measure.alternate(steps, workload.ROUNDS.value)
    first = next(iter(seconds.values()))
    rows = []
    for name, times in seconds.items():
        held, milliseconds = _gigabytes(steps[name].compiled), 1e3 * statistics.median(times)
        ratio = measure.median_ratio(times, of=first)
        rows.append((name, f"{held:.2f}", f"{milliseconds:.0f}", f"{ratio:.2f}"))
    measure.print_table(
        f"{size.batch} images at {size.image_size} pixels",
        ("training step", "GB", "ms (median)", "time / first"),
        rows,
    )
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
