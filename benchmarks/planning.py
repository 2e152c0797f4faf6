r"""What `python -m attn_lstm.plan` says of this machine, beside what it takes.

    python -m benchmarks.planning [--size=small|medium|large] [--depth=N] [--image_size=PIXELS] \
        [--batch=N] [--rounds=N] [--dtype=float32]

The least time of each step, by its FLOPs and bytes as the plan counts them and by limits measured
now, and the time of the step itself; on an accelerator also by the limits that its maker names, as
the plan of a machine that is not there has them.
"""

import dataclasses
import math
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
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


# What --on calls a device, by a part of what JAX calls it; the longer ones first.
_KINDS = {
    "TPU v5 lite": "v5e:1x1", "TPU v5": "v5p:1x1x1", "TPU v6 lite": "v6e:1x1",
    "A100": "a100:1", "H100": "h100:1", "H200": "h200:1",
}  # fmt: skip


def _targets(dtype: str) -> dict[str, Target]:
    """This machine's devices by what was measured now, and by what their maker says."""
    kind = jax.devices()[0].device_kind
    known = next((name for part, name in _KINDS.items() if part in kind), "cpu")
    peak, bandwidth = measure_limits(dtype)
    target = dataclasses.replace(parse_target(known), count=jax.device_count())
    device = dataclasses.replace(target.device, peak={dtype: peak}, bandwidth=bandwidth)
    targets = {"measured limits": dataclasses.replace(target, device=device)}
    return targets if target.device.peak is None else {**targets, "its maker's": target}


def _in_use() -> str:
    """The most that this process ever held of the first device, where it counts."""
    stats = jax.devices()[0].memory_stats() or {}
    return f"{stats['peak_bytes_in_use'] / 1e9:.2f}" if "peak_bytes_in_use" in stats else "unknown"


def main() -> int:
    """Prints the tables; returns the exit code."""
    size, dtype = workload.chosen_size(), workload.DTYPE.value
    print(f"{measure.machine()}\nResNet-{size.depth}, {size.image_size} pixels, {dtype}")
    learning = workload.configure(size, dtype=dtype)
    resting = workload.configure(size, dtype=dtype, backbone__frozen=True, cache__views=1)
    images = workload.with_labels(workload.random_images(size.batch, size.image_size))
    regions = math.ceil(size.image_size / 32) ** 2
    width = 2048 if size.depth >= 50 else 512
    features = workload.with_labels(workload.random_features(size.batch, regions, width))
    stages: dict[str, tuple[str, Any, Callable[[], Callable[[], Any]]]] = {
        "training, the backbone learns": (
            "train", learning, lambda: workload.Training(learning, images)
        ),
        "training on kept features": (
            "train", resting, lambda: workload.Training(resting, features)
        ),
        "evaluation of images": ("evaluate", learning, lambda: _evaluation(learning, images)),
    }  # fmt: skip

    functions, peaks = {}, []
    with ThreadPoolExecutor(min(len(stages), os.cpu_count() or 1)) as pool:
        planned = {
            name: pool.submit(_plan, step, config, size.batch)
            for name, (step, config, _) in stages.items()
        }
        for name, (*_, create) in stages.items():
            functions[name] = create()
            jax.block_until_ready(functions[name]())
            peaks.append(_in_use())
        facts = {name: plan.result() for name, plan in planned.items()}
    # The first holds the most: what the others took is hidden by it.
    first = next(iter(facts))
    held = f"{first}: {facts[first].memory / 1e9:.2f} GB by the plan"
    print(f"{held}, {peaks[0]} GB in use at most, what compiling tries out included")

    targets = _targets(dtype)
    seconds = measure.alternate(functions, workload.ROUNDS.value)
    for whose, target in targets.items():
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
            f"{size.batch} images; {whose}: {device.peak[dtype] / 1e9:.0f} GFLOP/s, "
            f"{device.bandwidth / 1e9:.1f} GB/s",
            ("", "GFLOP", "GB", "ms, at least", "limited by", "ms (median)", "measured / least"),
            rows,
        )
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
