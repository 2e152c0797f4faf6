"""The deletion test of a checkpoint: `measures.looking.deletion` on features that lack regions."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from attn_lstm import parallel
from attn_lstm.decision import observe
from attn_lstm.measures import looking
from attn_lstm.measures.predictions import Predictions
from attn_lstm.parallel import REPLICATED, SPLIT
from attn_lstm.rows import Row
from attn_lstm.runs.inputs import Inputs

# What bounds its cost: an image takes one look of the network for each of its labels, for each draw
# of random regions, and one more.
IMAGES = 128
LABELS = 8


def deletion(
    row: Row,
    variables: dict[str, Any],
    inputs: Inputs,
    predictions: Predictions,
    maps: np.ndarray,
    mesh: Mesh,
) -> dict[str, float]:
    """`looking.deletion` on `IMAGES` images that lie evenly over a split, of each `LABELS` labels.

    A label's probability is its score, as the row ranks labels by. A region is taken away by
    `without`.

    Args:
      row: one that attends.
      variables: of its network.
      inputs: of the split.
      predictions: of the split.
      maps: float[N,S,K] of them, S the length of the longest sequence.
      mesh: of all devices.

    Returns:
      as `looking.deletion`, and how many 'images' were looked at: those with predicted labels, if
      there are no more than `IMAGES`.
    """
    steps = min(LABELS, maps.shape[1])
    sequence = predictions.judged_sequence[:, :steps]
    labelled = np.flatnonzero((sequence >= 0).any(axis=1))
    if not len(labelled):
        return {"images": 0, "labels": 0}
    even = np.linspace(0, len(labelled) - 1, min(IMAGES, len(labelled)))
    chosen = labelled[even.round().astype(int)]
    found = looking.deletion(
        _scorer(row, variables, inputs, predictions.image_id[chosen], mesh),
        sequence[chosen],
        maps[chosen, :steps],
        np.random.default_rng(0),
    )
    return {"images": len(chosen)} | found


def without(features: jax.Array, gone: jax.Array) -> jax.Array:
    """The features with the mean of the regions that stay in the place of those that are gone.

    It holds nothing of them, it is a feature of the same image, and so the mean of all regions,
    which M_map reads, is that of the regions that stay.

    Args:
      features: float[B,K,D].
      gone: bool[B,K]; not all of an image.
    """
    gone = gone[..., None]
    staying = features.astype(jnp.float32).mean(axis=1, keepdims=True, where=~gone)
    return jnp.where(gone, staying.astype(features.dtype), features)


def _scorer(
    row: Row, variables: dict[str, Any], inputs: Inputs, rows: np.ndarray, mesh: Mesh
) -> Callable[[np.ndarray], np.ndarray]:
    """Maps the regions that are gone, bool[M,K] of the `rows` int[M], to scores float32[M,C].

    Compiled once, and with the features kept on the devices: only the regions travel.
    """
    encode, score = _map_steps(row, mesh)
    place = {int(image): i for i, image in enumerate(rows)}
    kept = []
    for batch in inputs.evaluation("looking again", rows):
        here = np.array([place.get(int(image), -1) for image in batch.image_id])
        features = encode(variables, parallel.shard_batch(batch.inputs, mesh))
        everywhere = parallel.gather(parallel.shard_batch(here, mesh))
        kept.append((here, everywhere, features))

    def scores(gone: np.ndarray) -> np.ndarray:
        found = np.zeros((len(rows), row.network.num_labels), np.float32)
        for here, everywhere, features in kept:
            given = parallel.shard_batch(gone[here] & (here >= 0)[:, None], mesh)
            batch = parallel.gather(score(variables, features, given))
            found[everywhere[everywhere >= 0]] = batch[everywhere >= 0]
        return found

    return scores


@functools.lru_cache(maxsize=4)
def _map_steps(row: Row, mesh: Mesh) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """From inputs to features, and from these without some regions to scores, over the mesh."""

    def score(variables: dict[str, Any], features: jax.Array, gone: jax.Array) -> jax.Array:
        seen = observe(row.decision, row.network, variables, without(features, gone))
        return seen.scores

    return (
        parallel.map_over_devices(
            row.features, mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT
        ),
        parallel.map_over_devices(
            score, mesh, in_specs=(REPLICATED, SPLIT, SPLIT), out_specs=SPLIT
        ),
    )
