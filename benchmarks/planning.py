r"""What `python -m attn_lstm.plan` says of this machine, beside what it takes.

    python -m benchmarks.planning [--size=small|medium|large] [--depth=N] [--image_size=PIXELS] \
        [--batch=N] [--rounds=N] [--dtype=float32]

The least time of each step, by its FLOPs and bytes as the plan counts them and by limits measured
now, and the time of the step itself.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections

from attn_lstm import errors, parallel
from attn_lstm.data.split import Batch
from attn_lstm.plan.compiling import Facts, Request
from attn_lstm.plan.estimate import find_bounds
from attn_lstm.plan.limits import measure_limits
from attn_lstm.plan.program import compile_for
from attn_lstm.plan.targets import Target, parse_target
from attn_lstm.runs.split_pass import map_eval_step
from benchmarks import measure, workload


def _plan(step: str, config: ml_collections.ConfigDict, batch: int) -> Facts:
    """What a plan for this machine knows of a step."""
    request = Request(step, config.to_dict(), "cpu", workload.LABELS, 0, batch)
    return Facts(**compile_for(parallel.make_mesh(), request))


def _evaluation(config: ml_collections.ConfigDict, batch: Batch) -> Callable[[], Any]:
    """The evaluation of a batch."""
    mesh = parallel.make_mesh()
    step = map_eval_step(workload.row_of(config), mesh)
    variables = parallel.replicate(workload.create_variables(config), mesh)
    inputs = parallel.shard_batch(batch, mesh), parallel.replicate(workload.rank(), mesh)
    threshold = parallel.replicate(jnp.full(1, 0.5), mesh)
    return lambda: step(variables, *inputs, threshold)


def _this_machine(dtype: str) -> Target:
    peak, bandwidth = measure_limits(dtype)
    target = parse_target("cpu")
    device = dataclasses.replace(target.device, peak={dtype: peak}, bandwidth=bandwidth)
    return dataclasses.replace(target, device=device)


def main() -> int:
    """Prints the table; returns the exit code."""
    size, dtype = workload.chosen_size(), workload.DTYPE.value
    print(f"{measure.machine()}\nResNet-{size.depth}, {size.image_size} pixels, {dtype}")
    learning = workload.configure(size, dtype=dtype)
    resting = workload.configure(size, dtype=dtype, backbone__frozen=True, cache__views=1)
    images = workload.with_labels(workload.random_images(size.batch, size.image_size))
    regions = math.ceil(size.image_size / 32) ** 2
    width = 2048 if size.depth >= 50 else 512
    features = workload.with_labels(workload.random_features(size.batch, regions, width))
    facts = {
        "training, the backbone learns": _plan("train", learning, size.batch),
        "training on kept features": _plan("train", resting, size.batch),
        "evaluation of images": _plan("evaluate", learning, size.batch),
    }
    functions = dict(
        zip(
            facts,
            (
                workload.Training(learning, images),
                workload.Training(resting, features),
                _evaluation(learning, images),
            ),
            strict=True,
        )
    )
    target = _this_machine(dtype)
    seconds = measure.alternate(functions, workload.ROUNDS.value)
    rows = []
    for name, known in facts.items():
        least, taken = find_bounds(known, target, dtype), statistics.median(seconds[name])
        rows.append(
            (
                name,
                f"{known.flops / 1e9:.1f}",
                f"{known.bytes / 1e9:.2f}",
                f"{1e3 * least.seconds:.1f}",
                least.limit,
                f"{1e3 * taken:.1f}",
                f"{taken / least.seconds:.2f}",
            )
        )
    device = target.device
    measure.print_table(
        f"{size.batch} images; limits {device.peak[dtype] / 1e9:.0f} GFLOP/s, "
        f"{device.bandwidth / 1e9:.1f} GB/s",
        ("", "GFLOP", "GB", "ms, at least", "limited by", "ms (median)", "measured / least"),
        rows,
    )
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
