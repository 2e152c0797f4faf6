"""Draws images with the map of each predicted label, of two runs beside each other.

    python -m benchmarks.side_by_side --workdirs=runs/one,runs/other --output=both.png [--images=8]

As the paper's Figure 3, the first run's on the left. The images lie evenly among those of the split
with several labels, whatever was predicted of them.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.sharding import Mesh
from PIL import Image

from attn_lstm.data import load_split
from attn_lstm.ordering import frequency_rank
from attn_lstm.parallel import make_mesh
from attn_lstm.reports import attention_figure
from attn_lstm.runs import split_pass
from attn_lstm.runs.inputs import Inputs
from attn_lstm.runs.opened import find_threshold, open_checkpoint
from attn_lstm.runs.pictures import Examples
from attn_lstm.runs.workdir import load_config

_WORKDIRS = flags.DEFINE_list("workdirs", None, "folders of two runs (required)", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "PNG file to write (required)", required=True)
_IMAGES = flags.DEFINE_integer("images", 8, "so many of them", lower_bound=1)
_SPLIT = flags.DEFINE_string("split", "test", "of whose images")


def main(_: list[str]) -> None:
    """Writes the picture."""
    if len(_WORKDIRS.value) != 2:
        raise app.UsageError(f"--workdirs={','.join(_WORKDIRS.value)}: give two folders")
    mesh = make_mesh(jax.devices()[:1])
    runs = [_figures(Path(path), mesh) for path in _WORKDIRS.value]
    names = [Path(path).name for path in _WORKDIRS.value]
    pairs = [figure for pair in zip(*runs, strict=True) for figure in pair]
    heading = f"Left: {names[0]}. Right: {names[1]}."
    Image.fromarray(attention_figure.sheet({heading: pairs}, "The same images")).save(_OUTPUT.value)
    print(f"written to {_OUTPUT.value}")


def _figures(directory: Path, mesh: Mesh) -> list[np.ndarray]:
    """The figure of each chosen image, at the run's own τ: uint8[H,W,3] each."""
    config = load_config(directory)
    opened = open_checkpoint(config, directory, "best", mesh)
    data = load_split(config.data, _SPLIT.value).with_labels(opened.table.names, "the checkpoint")
    several = np.flatnonzero(data.labels.sum(axis=1) > 1)
    even = np.linspace(0, len(several) - 1, min(_IMAGES.value, len(several)))
    inputs = Inputs(config, opened.row, data, opened.variables, directory, views=1, say=print)
    predictions, maps = split_pass.predict_with_maps(
        split_pass.map_eval_step(opened.row, mesh),
        opened.variables,
        inputs.evaluation(rows=several[even.round().astype(int)]),
        frequency_rank(jnp.asarray(opened.table.counts)),
        find_threshold(opened, directory).threshold.of(data.label_names),
        mesh,
    )
    examples = Examples(config, data, predictions, maps)
    drawn = examples.of(range(len(predictions.truth)))
    return [attention_figure.render(attention_figure.draw(example)) for example in drawn]


if __name__ == "__main__":
    app.run(main)
