"""Images a second that a model serves from files, beside its bare compiled search.

    python -m benchmarks.serving --workdir=RUN --images=FOLDER [--count=200] [--rounds=5]

The floor is the same function on as many images at once that are in memory already.
"""

import statistics
import time
from pathlib import Path

import numpy as np
from absl import app, flags

import attn_lstm
from attn_lstm import parallel
from attn_lstm.serving.model import usual_rows
from benchmarks import measure

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
_IMAGES = flags.DEFINE_string("images", None, "folder with JPEGs (required)", required=True)
_COUNT = flags.DEFINE_integer("count", 200, "images a round")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of each")


def main(_: list[str]) -> None:
    """Prints the table."""
    model = attn_lstm.load_model(_WORKDIR.value)
    paths = sorted(Path(_IMAGES.value).rglob("*.jpg"))[: _COUNT.value]
    mesh, size = parallel.make_mesh(), model.config.data.image_size
    rows = usual_rows(model.config, mesh)
    pixels = np.zeros((rows, size, size, 3), np.uint8)

    def serve() -> float:
        start = time.perf_counter()
        served = sum(1 for _ in model.predict_stream(paths))
        return served / (time.perf_counter() - start)

    def compute() -> float:
        batches = -(-len(paths) // rows)
        start = time.perf_counter()
        for found in parallel.one_ahead(model.search(pixels) for _ in range(batches)):
            found.scores.block_until_ready()
        return batches * rows / (time.perf_counter() - start)

    sides = {"the compiled search alone": compute, "served from files": serve}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for name in measure.turns(list(sides), _ROUNDS.value):
        rates[name].append(sides[name]())
    floor = rates["the compiled search alone"]
    print(measure.machine())
    table = [
        (name, f"{statistics.median(each):.1f}", f"{measure.median_ratio(each, of=floor):.3f}")
        for name, each in rates.items()
    ]
    title = f"{len(paths)} photographs at {size} pixels, {rows} at once, {model.config.method}"
    measure.print_table(title, ("", "images/s (median)", "ratio"), table)


if __name__ == "__main__":
    app.run(main)
