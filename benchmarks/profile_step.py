r"""Where the time of a training step goes, by the kind of the compiled operations, and its length.

    python -m benchmarks.profile_step [--size=small|medium|large] [--depth=N] [--batch=N] \
        [--image_size=PIXELS] [--dtype=float32] [--trace=FOLDER]

One step runs under JAX's profiler. With --trace the profile is kept, for TensorBoard or Perfetto.
"""

import collections
import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags

from attn_lstm import errors
from attn_lstm.errors import UserError
from benchmarks import measure, workload

_TRACE = flags.DEFINE_string("trace", None, "folder to keep the profile in")

_ROWS = 15
# What runs other operations: their time is that of these.
_OUTER = {"while", "call", "conditional"}


def _operations(folder: Path) -> Iterator[tuple[str, float]]:
    """(kind, milliseconds) of each operation of a profile: `fusion.12` is of the kind `fusion`."""
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    if "hlo_op" in dict(event.stats):
                        yield re.sub(r"[.\d]+$", "", event.name), event.duration_ns / 1e6


def main() -> int:
    """Prints the table; returns the exit code."""
    size, dtype = workload.chosen_size(), workload.DTYPE.value
    batch = workload.with_labels(workload.random_images(size.batch, size.image_size))
    step = workload.Training(workload.configure(size, dtype=dtype), batch)
    step()
    with contextlib.ExitStack() as held:
        folder = _TRACE.value or held.enter_context(tempfile.TemporaryDirectory())
        with jax.profiler.trace(folder):
            step()
        spent, times = collections.Counter(), collections.Counter()
        for kind, milliseconds in _operations(Path(folder)):
            if kind not in _OUTER:
                spent[kind] += milliseconds
                times[kind] += 1
    if not spent:
        raise UserError("the profile names no operations: this JAX or this device does not tell")
    total = spent.total()
    rows = [
        (kind, times[kind], f"{milliseconds:.1f}", f"{milliseconds / total:.1%}")
        for kind, milliseconds in spent.most_common(_ROWS)
    ]
    print(f"{measure.machine()}\n{size}, {dtype}; {total:.0f} ms in all operations")
    print(f"The compiled HLO has {len(step.compiled.as_text()) / 1e6:.1f} MB of text")
    title = "A training step; operations on several threads count on each"
    measure.print_table(title, ("operation", "times", "ms", "share"), rows)
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
