"""Seconds of a pass over a split for all τ of the grid, beside the pass for one.

    python -m benchmarks.tuning --workdir=RUN [--split=validation] [--rounds=5]

That is `eval.py --tune` beside `eval.py`, without their starts. Images are read, or a frozen
backbone's features of them, in both.
"""

import statistics
from functools import partial
from pathlib import Path

import jax.numpy as jnp
from absl import app, flags

from attn_lstm.data import load_split
from attn_lstm.measures import thresholds
from attn_lstm.ordering import frequency_rank
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import split_pass
from attn_lstm.runs.inputs import Inputs
from attn_lstm.runs.opened import open_checkpoint
from attn_lstm.runs.workdir import load_config
from benchmarks import measure

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
_SPLIT = flags.DEFINE_string("split", "validation", "of whose images")
_TAU = flags.DEFINE_float("threshold", 0.3, "the single τ")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "passes of each kind")


def main(_: list[str]) -> None:
    """Prints the table."""
    directory, mesh = Path(_WORKDIR.value), make_mesh()
    config = load_config(directory)
    opened = open_checkpoint(config, directory, "best", mesh)
    data = load_split(config.data, _SPLIT.value)
    inputs = Inputs(config, opened.row, data, opened.variables, directory, views=1, say=print)
    step = split_pass.map_eval_step(opened.row, mesh)
    rank = frequency_rank(jnp.asarray(opened.table.counts))

    def judge(taus: list[float]) -> None:
        batches = inputs.evaluation()
        split_pass.predict_split(step, opened.variables, batches, rank, taus, mesh)

    sides = {
        "one τ": partial(judge, [_TAU.value]),
        f"{len(thresholds.GRID)} τ": partial(judge, list(thresholds.GRID)),
    }
    seconds = measure.alternate(sides, _ROUNDS.value)
    rows = [
        (
            name,
            f"{statistics.median(times):.2f}",
            f"{measure.median_ratio(times, of=seconds['one τ']):.2f}",
        )
        for name, times in seconds.items()
    ]
    print(measure.machine())
    title = f"{len(data)} images of {data.dataset} {data.name}, {config.method}"
    measure.print_table(title, ("", "s (median)", "ratio"), rows)


if __name__ == "__main__":
    app.run(main)
