"""Predictions of a whole split, over all devices and hosts, each image once."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from attn_lstm import parallel
from attn_lstm.data.split import Batch
from attn_lstm.models.network import Network, create_network
from attn_lstm.objective import image_losses
from attn_lstm.parallel import REPLICATED, SPLIT, SPLIT_SECOND
from attn_lstm.prediction import Prediction, predict
from attn_lstm.results import Predictions

DEFAULT_THRESHOLD = 0.5  # until one is tuned or given

EvalStep = Callable[..., tuple[Prediction, dict[str, jax.Array]]]


def threshold_or_default(threshold: float) -> float:
    """`config.search.threshold`, or the default where it leaves the choice open (below 0)."""
    return threshold if threshold >= 0 else DEFAULT_THRESHOLD


def make_eval_step(config: ml_collections.ConfigDict, network: Network) -> EvalStep:
    """`step(variables, batch, rank, thresholds float32[G])`, to be mapped over `AXIS`.

    Returns predictions with one more leading axis G, one search a threshold on the same features,
    and the parts of the loss, float32[B] each.
    """

    def step(
        variables: dict, batch: Any, rank: jax.Array, thresholds: jax.Array
    ) -> tuple[Prediction, dict[str, jax.Array]]:
        features = network.apply(variables, batch.image, method="encode")
        parts, _ = image_losses(config, network, variables, features, batch.labels, rank)
        search = partial(
            predict,
            network,
            variables,
            features,
            max_labels=config.decoder.max_labels,
            beam_size=config.search.beam_size,
            stop=config.search.stop,
            top_k=config.search.top_k,
        )
        return jax.lax.map(search, thresholds), parts

    return step


def map_eval_step(config: ml_collections.ConfigDict, num_labels: int, mesh: Mesh) -> EvalStep:
    """The evaluation step of a config, compiled over the mesh."""
    return parallel.map_over_devices(
        make_eval_step(config, create_network(config, num_labels)),
        mesh,
        in_specs=(REPLICATED, SPLIT, REPLICATED, REPLICATED),
        out_specs=(SPLIT_SECOND, SPLIT),
    )


def predict_split(
    eval_step: EvalStep,
    variables: dict,
    batches: Iterable[Batch],
    rank: jax.Array,
    thresholds: np.ndarray,
    mesh: Mesh,
) -> list[Predictions]:
    """Predictions for every threshold, each image of the split once, on every host.

    Args:
      eval_step: as `map_eval_step` makes it.
      batches: this host's, as `Inputs.evaluation` yields them.
      thresholds: float32[G].

    Raises:
      ValueError: the batches hold no image.
    """
    thresholds = np.asarray(thresholds, np.float32)
    kept = []
    for batch in parallel.prefetch(batches, mesh):
        prediction, losses = eval_step(variables, batch, rank, thresholds)
        if prediction.attention is None:
            peaks, regions = None, None
        else:
            peaks, regions = prediction.attention.argmax(-1), prediction.attention.shape[-1]
        prediction = prediction.replace(attention=peaks)
        truth = batch._replace(image=None)
        kept.append(parallel.gather((prediction, losses, truth)))
    if not kept:
        raise ValueError("no batches: there is nothing to evaluate")

    def rows(leaves: list[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(leaves, axis=axis)

    prediction = jax.tree.map(lambda *x: rows(x, 1), *(k[0] for k in kept))
    losses, batch = jax.tree.map(lambda *x: rows(x, 0), *(k[1:] for k in kept))
    counted = np.flatnonzero(batch.mask)
    # Hosts hold parts of each batch, so rows come back in the split's order by their id only.
    counted = counted[np.argsort(batch.image_id[counted], kind="stable")]
    return [
        Predictions(
            labels=prediction.labels[g, counted],
            scores=prediction.scores[g, counted],
            sequence=prediction.sequence[g, counted],
            probabilities=prediction.probabilities[g, counted],
            peaks=None if prediction.attention is None else prediction.attention[g, counted],
            losses={name: part[counted] for name, part in losses.items()},
            truth=batch.labels[counted] > 0,
            image_id=batch.image_id[counted],
            regions=regions,
        )
        for g in range(len(thresholds))
    ]
