"""The network and its search as one function of images, and that function as bytes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from attn_lstm.compilation import with_whole_products
from attn_lstm.errors import UserError
from attn_lstm.measures.calibration import MARGIN, Calibration
from attn_lstm.runs.opened import Opened

PLATFORMS = ("cpu", "cuda", "tpu")
# What each output is. b images, C labels, T of them at most, h x w regions.
MEANINGS = {
    "labels": "[b,T] the predicted labels in their order, as places in label_names; -1 behind them",
    "probabilities": "[b,T] of each predicted label: that it is true, where the scores are "
    "calibrated, else when it was predicted; 0 behind them",
    "label_scores": "[b,T] the raw score of each predicted label, of which its probability was "
    "made; 0 behind them",
    "steps": "[b,T] place of each predicted label, from 1; 0 behind them",
    "set": "[b,C] whether a label is predicted",
    "scores": "[b,C] for ranking all labels of an image",
    "attention": "[b,T,h,w] weights of the image's regions when each label was predicted; they "
    "sum to 1, and are 0 behind the last label",
}

# A serialized program is one buffer with 32-bit offsets. The rest is for all but the weights.
_MOST_BYTES = 2**31 - 2**26

Program = Callable[[jax.Array], dict[str, jax.Array]]


def make_program(
    opened: Opened, threshold: float | np.ndarray, fitted: Calibration | None = None
) -> Program:
    """`program(image uint8[b,S,S,3])`: those of `MEANINGS` that the row has, by name.

    It is what one device computes for its rows in `serving.model`, and holds the weights, τ, one
    number or float32[C], and what makes probabilities of scores, if that is known.

    Raises:
      UserError: they are too large for a program that holds them.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(opened.variables))
    if size > _MOST_BYTES:
        raise UserError(
            f"the checkpoint holds {size / 1e9:.1f} GB, and an exported program holds "
            f"{_MOST_BYTES / 1e9:.1f} GB at most: predict with predict.py or attn_lstm.load_model"
        )
    variables = jax.tree.map(jnp.asarray, jax.device_get(opened.variables))

    def program(image: jax.Array) -> dict[str, jax.Array]:
        found = opened.row.search(variables, image, threshold)
        emitted = found.sequence >= 0
        outputs = {
            "labels": found.sequence,
            "probabilities": found.probabilities,
            "steps": jnp.where(emitted, jnp.arange(1, emitted.shape[1] + 1, dtype=jnp.int32), 0),
            "set": found.labels,
            "scores": found.scores,
        }
        if fitted is not None:
            scores = jnp.take_along_axis(found.scores, jnp.maximum(found.sequence, 0), axis=1)
            p = jnp.clip(scores, MARGIN, 1 - MARGIN)
            line = fitted.slope * (jnp.log(p) - jnp.log1p(-p)) + fitted.bias
            outputs["probabilities"] = jnp.where(emitted, jax.nn.sigmoid(line), 0.0)
            outputs["label_scores"] = jnp.where(emitted, scores, 0.0)
        if found.attention is not None:
            images, steps, regions = found.attention.shape
            side = math.isqrt(regions)
            outputs["attention"] = found.attention.reshape(images, steps, side, side)
        return outputs

    return program


def image_spec(size: int) -> jax.ShapeDtypeStruct:
    """uint8[b,size,size,3] for any b."""
    (images,) = export.symbolic_shape("b")
    return jax.ShapeDtypeStruct((images, size, size, 3), jnp.uint8)


def serialize(program: Program, image_size: int) -> bytes:
    """What `jax.export.deserialize` takes: StableHLO for `PLATFORMS`, for any number of images."""
    to_export = export.export(jax.jit(with_whole_products(program)), platforms=PLATFORMS)
    with without_paths():
        return bytes(to_export(image_spec(image_size)).serialize())


@contextlib.contextmanager
def without_paths() -> Iterator[None]:
    """Keeps the places of source files on this machine out of what is lowered in the block."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
