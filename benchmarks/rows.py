r"""Three updates and an evaluation of every row on this machine's devices, beside its CPU.

    python -m benchmarks.rows [--rows=order_free,csra] [--images=16] [--seconds=N]

Small networks in float32, backbone included, on the same pixels and labels. A process that sees no
device but the CPU computes what is wanted. Ends with 1 where a row is not as there.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from attn_lstm import errors, parallel
from attn_lstm.data.split import Batch
from attn_lstm.methods import METHODS
from attn_lstm.models.knn import describe
from attn_lstm.rows import Row, create_row
from attn_lstm.runs.split_pass import map_eval_step
from benchmarks import measure, workload


def distinct_first() -> list[str]:
    """All rows; the first one with each head before those that share it."""
    heads: dict[object, str] = {}
    for name, method in METHODS.items():
        heads.setdefault(method.fields.get("head"), name)
    return list(dict.fromkeys([*heads.values(), *METHODS]))


_ROWS = flags.DEFINE_list("rows", distinct_first(), "by name")
_IMAGES = flags.DEFINE_integer("images", 16, "of the batch; more where the devices need it")
_SECONDS = flags.DEFINE_float("seconds", math.inf, "behind which no further row is begun")
_FIGURES = flags.DEFINE_string("figures", None, "folder: writes what is found, compares nothing")

# One device, and code that is compiled fast and runs a few times.
_CPU = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}

_SIDE, _UNITS, _STEPS, _UPDATES = 64, 32, 3, 3

# How far from the CPU's the mean losses may be, relatively, and the scores behind the updates. Adam
# makes every entry of the first update as large as the learning rate, however small the gradient
# and its error; later losses are looser for that.
_FIRST_LOSS, _LATER_LOSS, _SCORE = 1e-4, 1e-3, 1e-3
# And of how many pairs of image and label the decision may be another: some lie at τ.
_DECISIONS = 0.01


class Figures(NamedTuple):
    """What a row comes to."""

    losses: np.ndarray  # float32[U], before each update; none of a row that minimises nothing
    scores: np.ndarray  # float32[B,C], behind them
    labels: np.ndarray  # bool[B,C]


def _configure(method: str, images: int) -> ml_collections.ConfigDict:
    size = workload.Size(depth=18, image_size=_SIDE, batch=images, units=_UNITS, steps=_STEPS)
    sizes = {"set_head__hidden": _UNITS, "set_head__feedforward": _UNITS}
    fields = {} if method == "knn" else {"backbone__frozen": False}
    return workload.configure(
        size, method, backbone__name="small", dtype="float32", **sizes, **fields
    )


def _figures(method: str, batch: Batch) -> Figures:
    """Trains a row for a few updates, and predicts the labels of the same images."""
    images = len(batch.mask)
    config = _configure(method, images)
    row, losses = create_row(config, workload.LABELS, images=images), []
    if row.fit == "descent":
        training = workload.Training(config, batch)
        losses = [training() for _ in range(_UPDATES)]
        variables = training.state.variables
    else:
        variables = _memory(config, row, batch)
    mesh = parallel.make_mesh()
    # A path goes to its end; where scores decide, about half of the labels are above their prior.
    threshold = jnp.full(1, 0.0 if row.by_path else 1 / workload.LABELS)
    given = parallel.replicate((workload.rank(), threshold), mesh)
    prediction, *_ = map_eval_step(row, mesh)(variables, parallel.shard_batch(batch, mesh), *given)
    return Figures(
        np.asarray(losses, np.float32),
        np.asarray(prediction.scores[0]),
        np.asarray(prediction.labels[0]),
    )


def _memory(config: ml_collections.ConfigDict, row: Row, batch: Batch) -> dict:
    """Variables of the row that remembers the batch, and asks three neighbours."""
    variables = jax.jit(lambda: workload.initial_state(config))().variables
    features = workload.jit(lambda x: describe(row.features(variables, x)))(batch.inputs)
    memory = {
        "features": features,
        "labels": batch.labels > 0,
        "known": batch.mask,
        "count": jnp.int32(3),
    }
    return parallel.replicate({**variables, "memory": {"neighbours": memory}}, parallel.make_mesh())


def _all_figures(batch: Batch, seconds: float) -> dict[str, Figures]:
    """Of the rows that are begun within so many seconds; several are compiled at once."""
    end = time.monotonic() + seconds

    def find(method: str) -> Figures | None:
        return _figures(method, batch) if time.monotonic() < end else None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(_ROWS.value, pool.map(find, _ROWS.value), strict=True))
    return {method: figures for method, figures in found.items() if figures is not None}


def _compared(ours: Figures, cpu: Figures) -> tuple[list[str], bool]:
    """The line of a row, and whether it is as on the CPU."""
    losses = np.abs(ours.losses - cpu.losses) / np.abs(cpu.losses)
    score = np.abs(ours.scores - cpu.scores).max()
    decisions = (ours.labels != cpu.labels).mean()
    bounds = [_FIRST_LOSS] + [_LATER_LOSS] * (_UPDATES - 1)
    same = (losses <= bounds[: len(losses)]).all() and score <= _SCORE and decisions <= _DECISIONS
    shown = [f"{x:.4f}" for x in cpu.losses[[0, -1]]] if len(losses) else ["", ""]
    shown += [f"{x:.0e}" for x in (losses[0], losses.max())] if len(losses) else ["", ""]
    return [*shown, f"{score:.0e}", f"{100 * decisions:.2f} %", "yes" if same else "NO"], bool(same)


def main() -> int:
    """Prints the table; returns the exit code."""
    images = parallel.divisible(_IMAGES.value, jax.device_count())
    batch = workload.with_labels(workload.random_images(images, _SIDE))
    if _FIGURES.value is not None:
        for method, figures in _all_figures(batch, _SECONDS.value).items():
            np.savez(Path(_FIGURES.value) / f"{method}.npz", **figures._asdict())
        return errors.DONE
    print(measure.machine())
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.rows", f"--rows={','.join(_ROWS.value)}"]
        command += [f"--images={images}", f"--figures={folder}", f"--seconds={_SECONDS.value}"]
        with subprocess.Popen(command, env={**os.environ, **_CPU}) as twin:
            ours = _all_figures(batch, _SECONDS.value)
            if twin.wait():
                raise RuntimeError(f"the process on the CPU ended with {twin.returncode}")
        wanted = {path.stem: Figures(**np.load(path)) for path in Path(folder).glob("*.npz")}
    both = [method for method in _ROWS.value if method in ours and method in wanted]
    compared = {method: _compared(ours[method], wanted[method]) for method in both}
    columns = (
        "float32", "loss on the CPU", f"before update {_UPDATES}", "first is off by", "worst by",
        "a score by", "decisions differ", "as on the CPU",
    )  # fmt: skip
    measure.print_table(
        f"Rows on {jax.default_backend()}, {images} images of {_SIDE} pixels",
        columns,
        [(method, *line) for method, (line, _) in compared.items()],
    )
    if left_out := [method for method in _ROWS.value if method not in both]:
        print(f"No time was left for: {', '.join(left_out)}")
    return errors.DONE if all(same for _, same in compared.values()) else 1


if __name__ == "__main__":
    measure.run(main)
