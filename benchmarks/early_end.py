"""What follows the backbone of a trained run, with many steps at hand and with those it takes.

    python -m benchmarks.early_end --workdir=RUN [--max_labels=T] [--count=64] [--rounds=5]

On the features of the first images of the test split as one batch, with τ = 0.3. T is the number of
labels where it is not given; the steps that it takes are one more than the longest label set. The
sets must be the same.
"""

import dataclasses
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from attn_lstm.data import load_split
from attn_lstm.decision import Prediction, observe, predict
from attn_lstm.parallel import make_mesh
from attn_lstm.runs.inputs import Inputs
from attn_lstm.runs.opened import open_checkpoint
from attn_lstm.runs.workdir import load_config
from benchmarks import measure, workload

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
_T = flags.DEFINE_integer("max_labels", None, "T, instead of the number of labels")
_COUNT = flags.DEFINE_integer("count", 64, "images of the batch")

_TAU = 0.3


def main(_: list[str]) -> None:
    """Prints the table."""
    directory, mesh = Path(_WORKDIR.value), make_mesh()
    config = load_config(directory)
    opened = open_checkpoint(config, directory, "best", mesh)
    row, data = opened.row, load_split(config.data, "test")
    inputs = Inputs(config, row, data, opened.variables, directory, views=1, say=print)
    images = np.concatenate([np.asarray(batch.inputs) for batch in inputs.evaluation()])
    features = workload.jit(row.features)(opened.variables, images[: _COUNT.value])

    def decide(steps: int, beam: int, variables: dict[str, Any], features: jax.Array) -> Prediction:
        decision = dataclasses.replace(row.decision, max_labels=steps, beam_size=beam)
        seen = observe(decision, row.network, variables, features)
        return predict(decision, row.network, variables, seen, _TAU)

    def compiled(steps: int, beam: int, *parts: str) -> partial[Any]:
        def wanted(*arguments: Any) -> list[jax.Array]:
            return [getattr(decide(steps, beam, *arguments), part) for part in parts]

        return partial(workload.jit(wanted), opened.variables, features)

    many, beam = _T.value or len(data.label_names), row.decision.beam_size
    (every,) = compiled(many, beam, "sequence")()
    lengths = np.asarray(every >= 0).sum(axis=1)
    few = int(lengths.max()) + 1  # the step that ends the longest one
    (found,) = compiled(few, beam, "sequence")()
    np.testing.assert_array_equal(found, every[:, :few])

    kinds = {
        "sets and scores": (beam, "sequence", "scores"),
        "sets": (beam, "sequence"),
        "sets, beam of 1": (1, "sequence"),
        "scores": (beam, "scores"),
    }
    rows = []
    for kind, (width, *parts) in kinds.items():
        sides = {steps: compiled(steps, width, *parts) for steps in (many, few)}
        seconds = measure.alternate(sides, workload.ROUNDS.value)
        ratio = measure.median_ratio(seconds[many], of=seconds[few])
        shown = [f"{1e3 * statistics.median(seconds[steps]):.2f}" for steps in (many, few)]
        rows.append((kind, *shown, f"{ratio:.2f}"))
    print(measure.machine())
    title = (
        f"{config.method}, {len(lengths)} images with {lengths.mean():.1f} labels found, "
        f"{lengths.max()} at most"
    )
    measure.print_table(title, ("ms (median)", f"T = {many}", f"T = {few}", "ratio"), rows)


if __name__ == "__main__":
    app.run(main)
