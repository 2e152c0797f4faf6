"""From regions to what a user gets: label sets, their order, scores and attention."""

from typing import Any

import flax
import jax
import jax.numpy as jnp

from attn_lstm.beam_search import StepScores, beam_search
from attn_lstm.models.decoder import Unrolled, label_log_probs
from attn_lstm.models.network import Network
from attn_lstm.ordering import next_target


@flax.struct.dataclass
class Prediction:
    """Predictions of B images. Rows without a decoder list labels by probability."""

    labels: jax.Array  # bool[B,C], the predicted set
    scores: jax.Array  # float32[B,C], for ranking the labels of an image (mAP, top-3)
    sequence: jax.Array  # int32[B,T], labels in the order of emission, -1 behind the last
    probabilities: jax.Array  # float32[B,T], of each label of the sequence
    # float32[B,T,K], where the network looked for it; None for rows that look nowhere
    attention: jax.Array | None


def emit_most_confident(logits: jax.Array, emitted: jax.Array) -> jax.Array:
    """l_t, the pool's label with the largest probability: what inference emits, int32[B]."""
    return next_target("confidence", logits, ~emitted, jnp.zeros(emitted.shape[-1]))


def predict(
    network: Network,
    variables: dict,
    features: jax.Array,
    threshold: jax.Array | float,
    *,
    max_labels: int,
    beam_size: int,
    stop: str,
    top_k: int = 0,
) -> Prediction:
    """Label sets of features float[B,K,D], by beam search where the network has a decoder.

    Args:
      network, variables: as trained.
      threshold: τ of the search; for rows without a decoder the cut of v_prob. May be traced.
      max_labels: T; beam_size: W; stop: as in `beam_search`.
      top_k: for rows without a decoder the number of labels of every image, whatever the
        threshold; 0 lets the threshold decide.
    """
    preliminary = network.apply(variables, features, method="preliminary")
    if network.decoder is None:
        return _most_probable(preliminary, threshold, top_k)

    memory, state = network.apply(variables, features, preliminary, method="start")

    def one_path(state: Any, label: jax.Array) -> tuple[Any, StepScores]:
        state = state.emit(label)
        emitted = state.emitted
        state, step_logits, weights = network.apply(variables, memory, state, method="step")
        log_probs = label_log_probs(step_logits, emitted, network.decoder.end_token)
        return state, StepScores(*log_probs, weights)

    beams = beam_search(
        # Mapped over the beam: its paths share the image's memory, which is never copied.
        jax.vmap(one_path, in_axes=1, out_axes=1),
        state,
        num_labels=network.num_labels,
        beam_size=beam_size,
        max_labels=max_labels,
        threshold=threshold,
        stop=stop,
    )
    unrolled = network.apply(
        variables, features, preliminary, emit_most_confident, max_labels, method="unroll"
    )
    return Prediction(
        labels=beams.best_set(network.num_labels),
        scores=label_scores(network, unrolled),
        sequence=beams.labels[:, 0],
        probabilities=jnp.where(beams.labels[:, 0] >= 0, jnp.exp(beams.log_probs[:, 0]), 0.0),
        attention=None if beams.trace is None else beams.trace[:, 0],
    )


def label_scores(network: Network, unrolled: Unrolled) -> jax.Array:
    """A score of each label from the steps of a greedy pass: float32[B,C].

    Without an end token the last step's p, which has seen the most (its mAP on COCO is above
    v_prob's); with one, the largest probability of any step times that of getting there.
    """
    log_probs, end = label_log_probs(unrolled.logits, unrolled.emitted, network.decoder.end_token)
    if end is None:
        return jax.nn.sigmoid(unrolled.logits[:, -1])
    going_on = jnp.cumprod(1.0 - jnp.exp(end), axis=1)
    reached = jnp.concatenate([jnp.ones_like(going_on[:, :1]), going_on[:, :-1]], axis=1)
    return (reached[..., None] * jnp.exp(log_probs)).max(axis=1)


def _most_probable(
    probabilities: jax.Array, threshold: jax.Array | float, top_k: int
) -> Prediction:
    """The `top_k` best labels, or with 0 all at or above the threshold, by probability."""
    sequence = jnp.argsort(-probabilities, axis=-1, stable=True).astype(jnp.int32)
    ordered = jnp.take_along_axis(probabilities, sequence, axis=-1)
    if top_k:
        chosen = jnp.broadcast_to(jnp.arange(ordered.shape[-1]) < top_k, ordered.shape)
    else:
        chosen = ordered >= threshold
    return Prediction(
        labels=jnp.take_along_axis(chosen, jnp.argsort(sequence, axis=-1), axis=-1),
        scores=probabilities,
        sequence=jnp.where(chosen, sequence, -1),
        probabilities=jnp.where(chosen, ordered, 0.0),
        attention=None,
    )
