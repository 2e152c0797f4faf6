"""What `attn-lstm export` does: a checkpoint in, a folder for other programs out."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.flax import save

from attn_lstm import parallel, remote, storage
from attn_lstm.data.resizing import CROP_RATIO
from attn_lstm.export import onnx_file
from attn_lstm.export.card import render_card
from attn_lstm.export.program import (
    MEANINGS,
    PLATFORMS,
    Program,
    image_spec,
    make_program,
    serialize,
)
from attn_lstm.measures.calibration import MARGIN, Calibration
from attn_lstm.measures.thresholds import Threshold
from attn_lstm.runs import tuned
from attn_lstm.runs.opened import Opened, find_threshold, open_checkpoint

PROGRAMS = {"stablehlo": "model.jax_export", "onnx": "model.onnx"}
DESCRIPTION, WEIGHTS, CARD = "model.json", "model.safetensors", "README.md"

# How an image becomes the square that goes in; `data.resizing.resize` does it.
_RESIZING = {
    "squash": "to S x S pixels, whatever its shape",
    "crop": f"its shorter side to round(S / {CROP_RATIO}) pixels, then the S x S pixels of its "
    "centre",
    "pad": "its longer side to S pixels, then centred between zeros on S x S pixels",
}
_FILTER = "bilinear with antialiasing, as by Pillow's Image.resize with Resampling.BILINEAR"
_CALIBRATION = (
    "sigmoid(slope * log(s / (1 - s)) + bias) of a label's score s, kept between "
    f"{MARGIN:g} and {1 - MARGIN:g}: the probability that it is true"
)
_PACKAGES = ("attn_lstm", "jax", "jaxlib", "flax")


def export_run(
    config: ml_collections.ConfigDict,
    directory: Path,
    step: str,
    output: Path,
    form: str = "stablehlo",
) -> None:
    """Writes program, description, weights and model card of a checkpoint.

    Args:
      config: of the run, with overrides.
      directory: the work directory.
      step: a number, 'best' or 'latest'.
      output: folder; made when missing. The files of an earlier export there are replaced.
      form: of the program, one of `PROGRAMS`. ONNX is computed in float32, whatever
        `config.dtype` is: runtimes lack convolutions of bfloat16.

    Raises:
      UserError: a mistake in config or directory, a checkpoint that is too large, a folder that
        cannot be written, or a package that is missing.
    """
    if form == "onnx":
        onnx_file.require()
        config = config.copy_and_resolve_references()
        config.dtype = "float32"
    opened = open_checkpoint(config, directory, step, parallel.make_mesh(jax.local_devices()[:1]))
    tau, origin = find_threshold(opened, directory)
    fitted = tuned.load_calibration(directory, opened.step, config.search)
    program = make_program(opened, tau.of(opened.table.names), fitted)
    description = describe(opened, program, tau, origin, fitted, form)
    card = render_card(opened, description, directory)
    size = config.data.image_size
    content = (
        serialize(program, size)
        if form == "stablehlo"
        else onnx_file.to_onnx(program, size, description)
    )
    storage.write_bytes(output / PROGRAMS[form], content)
    storage.write_bytes(output / WEIGHTS, weights(opened))
    storage.write_json(output / DESCRIPTION, description)
    storage.write_text(output / CARD, card)
    print(
        f"{config.method}, step {opened.step}, τ = {tau.value:.3f} ({origin}): {PROGRAMS[form]}, "
        f"{DESCRIPTION}, {WEIGHTS} and {CARD} written to {remote.shown(output)}",
        flush=True,
    )


def weights(opened: Opened) -> bytes:
    """Parameters and statistics as safetensors, by their path: 'params/decoder/lstm/hi/kernel'.

    Its metadata, which are texts, hold 'label_names' as a JSON list.
    """
    metadata = {
        "label_names": json.dumps(opened.table.names, ensure_ascii=False),
        "method": opened.config.method,
        "dataset": opened.table.dataset,
        "step": str(opened.step),
    }
    return save(flatten_dict(jax.device_get(opened.variables), sep="/"), metadata)


def describe(
    opened: Opened,
    program: Program,
    tau: Threshold,
    origin: str,
    fitted: Calibration | None = None,
    form: str = "stablehlo",
) -> dict[str, Any]:
    """What a user of the program must know, in JSON's types.

    Args:
      opened: the checkpoint.
      program: made of it.
      tau, origin: as `find_threshold` gives them.
      fitted: what makes probabilities of scores, if it is known.
      form: of the program, one of `PROGRAMS`.
    """
    config = opened.config
    given = image_spec(config.data.image_size)
    return {
        "method": config.method,
        "dataset": opened.table.dataset,
        "step": opened.step,
        "label_names": list(opened.table.names),
        "program": {"file": PROGRAMS[form], "format": form}
        | ({"platforms": list(PLATFORMS)} if form == "stablehlo" else {}),
        "input": {
            "image": {**_array(given), "meaning": "RGB, 0 to 255; b is any number of images"}
        },
        "resize": {
            "rule": config.data.resize,
            "size": config.data.image_size,
            "meaning": f"{_RESIZING[config.data.resize]}; {_FILTER}",
        },
        "outputs": {
            name: {**_array(output), "meaning": MEANINGS[name]}
            for name, output in jax.eval_shape(program, given).items()
        },
        "search": _search(opened, tau, origin),
        "calibration": fitted and {**dataclasses.asdict(fitted), "meaning": _CALIBRATION},
        "versions": {name: import_module(name).__version__ for name in _PACKAGES},
    }


def _array(spec: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Shape and type; a size that is open is a name."""
    shape = [size if isinstance(size, int) else str(size) for size in spec.shape]
    return {"shape": shape, "dtype": spec.dtype.name}


def _search(opened: Opened, tau: Threshold, origin: str) -> dict[str, Any]:
    """The settings by which the program chooses labels."""
    config = opened.config
    if config.search.top_k:
        return {"top_k": config.search.top_k}
    chosen: dict[str, Any] = {"threshold": tau.value, "threshold_origin": origin}
    if tau.by_label:  # in the order of label_names
        chosen["thresholds"] = np.asarray(tau.of(opened.table.names)).tolist()
    if not opened.row.sequential:
        return chosen
    if not opened.row.by_path:
        return chosen | {"scores": config.search.scores}
    return chosen | {
        "stop": config.search.stop,
        "beam_size": config.search.beam_size,
        "max_labels": config.decoder.max_labels,
        "end_token": opened.row.network.sequence_decoder.end_token,
    }
