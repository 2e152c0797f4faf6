r"""Images a second of training heads on a frozen backbone's features, beside training it all.

    python -m benchmarks.head_step [--size=small|medium|large] [--depth=N] [--image_size=PIXELS] \
        [--batch=N] [--steps=T] [--features=64] [--rounds=N] [--dtype=float32]

Features are random, and on the device already; `feature_cache.py` measures with their reading.
"""

import dataclasses
import statistics

from absl import flags

from attn_lstm import errors
from attn_lstm.models.resnet import feature_dim
from benchmarks import measure, workload
from benchmarks.roofline import floor

_FEATURES = flags.DEFINE_integer("features", 64, "images a batch of features")

_METHODS = ("order_free", "order_free_no_attention", "frequent_first", "resnet_baseline")


def main() -> int:
    """Prints the table; returns the exit code."""
    size, dtype = workload.chosen_size(), workload.DTYPE.value
    images = workload.with_labels(workload.random_images(size.batch, size.image_size))
    regions = (-(-size.image_size // 32)) ** 2
    features = workload.with_labels(
        workload.random_features(_FEATURES.value, regions, feature_dim(size.depth))
    )
    through = f"order_free through ResNet-{size.depth}, which learns"
    steps = {through: workload.Training(workload.configure(size, dtype=dtype), images)}
    on_features = dataclasses.replace(size, batch=_FEATURES.value)
    for method in _METHODS:
        config = workload.configure(on_features, method, backbone__frozen=True, dtype=dtype)
        steps[method] = workload.Training(config, features)
    print(f"{measure.machine()}\n{size}, {dtype}, {_FEATURES.value} images of features")
    seconds = measure.alternate(steps, workload.ROUNDS.value)
    rows = []
    for name, times in seconds.items():
        count = size.batch if name == through else _FEATURES.value
        ratio = count / size.batch / measure.median_ratio(times, of=seconds[through])
        median = statistics.median(times)
        work = steps[name].flops() / count / 1e9
        rows.append(
            (name, f"{1e3 * median:.1f}", f"{count / median:.1f}", f"{ratio:.1f}", f"{work:.3f}")
        )
    columns = ("training step", "ms (median)", "images/s", "ratio", "GFLOP an image")
    measure.print_table("Head training on features", columns, rows)
    for method in _METHODS:
        step = steps[method]
        print(f"{method}:", floor(step.flops(), measure.cost(step.compiled)[1], dtype)[1])
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
