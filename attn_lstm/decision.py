"""From regions to what a user gets: label sets, their order, scores and attention."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike

from attn_lstm.beam_search import Beams, StepScores, beam_search, beam_searches
from attn_lstm.label_pool import (
    Unrolled,
    emit_most_confident,
    label_log_probs,
    pool_log_softmax,
)
from attn_lstm.models.network import Network

SCORES = ("last_step", "map", "mean", "max")
DECISIONS = ("path", "scores")


@dataclasses.dataclass(frozen=True)
class Decision:
    """How a row decides on a label set: the fields of `config.search` but for τ, and T.

    Attributes:
      scores: what ranks the labels of a row with a decoder, one of `SCORES`.
      largest: p of a label is its largest of any step in all of these: the last step of such a
        row says nothing of labels that were emitted before it.
      decide: what such a row predicts, one of `DECISIONS`.
      top_k: labels of every image for a row without one, whatever τ; 0: as many as τ lets through.
      beam_size: paths kept; stop: what τ is compared with, one of `beam_search.STOPS`.
      max_labels: T.
      ends_early: the greedy pass ends when no score can change any more. For decoders with an end
        token whose greedy pass serves the scores alone.
    """

    scores: str
    largest: bool
    decide: str
    top_k: int
    beam_size: int
    stop: str
    max_labels: int
    ends_early: bool


class Prediction(struct.PyTreeNode):
    """Predictions of B images. Sets cut from scores list labels by score, and their T is C."""

    labels: jax.Array  # bool[B,C], the predicted set
    scores: jax.Array  # float32[B,C], for ranking the labels of an image (mAP, top-3)
    sequence: jax.Array  # int32[B,T], labels in the order of emission, -1 behind the last
    probabilities: jax.Array  # float32[B,T], of each label of the sequence
    # float32[B,T,K], where the network looked for it; None for rows that look nowhere
    attention: jax.Array | None


class Seen(struct.PyTreeNode):
    """What the network says of B images before τ is asked for."""

    scores: jax.Array  # float32[B,C], of each label, 0 to 1
    # float32[B,C,K], where the network looked for each label, if anywhere; None where paths decide
    maps: jax.Array | None
    start: tuple[Any, Any] | None = None  # the decoder's memory and its first state


def observe(
    decision: Decision, network: Network, variables: dict[str, Any], features: jax.Array
) -> Seen:
    """What all predictions for features float[B,K,D] share, whatever their τ."""
    if network.decoder is None:
        return Seen(*network.apply(variables, features, method="look"))
    preliminary = network.apply(variables, features, method="preliminary")
    start = network.apply(variables, features, preliminary, method="start")
    if decision.ends_early:
        greedy = _until_certain(decision.max_labels, network, variables, start)
    else:
        greedy = network.apply(
            variables,
            features,
            preliminary,
            emit_most_confident,
            decision.max_labels,
            method="unroll",
        )
    scores = _label_scores(decision, network, preliminary, greedy)
    maps = _maps(decision.scores, network, greedy) if decision.decide == "scores" else None
    return Seen(scores, maps, start)


def predict(
    decision: Decision,
    network: Network,
    variables: dict[str, Any],
    seen: Seen,
    threshold: ArrayLike,
) -> Prediction:
    """Label sets of B images.

    Args:
      decision: how.
      network, variables: as trained.
      seen: of the images, by `observe`.
      threshold: τ, of the search or, where scores decide, of each label; float32[] or float32[C].
    """
    if seen.start is None:
        return _cut(seen.scores, seen.maps, threshold, decision.top_k)
    if decision.decide == "scores":
        return _cut(seen.scores, seen.maps, threshold)
    beams = beam_search(
        _one_step(network, variables, seen.start),
        seen.start[1],
        num_labels=network.num_labels,
        beam_size=decision.beam_size,
        max_labels=decision.max_labels,
        threshold=threshold,
        stop=decision.stop,
        wanted=1,
    )
    attention = None if beams.trace is None else beams.trace[:, 0]
    return _of_best_path(network, beams, seen.scores, attention)


def predict_each(
    decision: Decision,
    network: Network,
    variables: dict[str, Any],
    seen: Seen,
    thresholds: jax.Array,
) -> Prediction:
    """`predict` for each of many τ, without attention: leaves [G,B,...].

    Args:
      thresholds: float32[G], or where scores decide [G,C].
      decision, network, variables, seen: as in `predict`.
    """
    if seen.start is None or decision.decide == "scores":
        blind = seen.replace(maps=None)
        return jax.lax.map(partial(predict, decision, network, variables, blind), thresholds)
    beams = beam_searches(
        _one_step(network, variables, seen.start),
        seen.start[1],
        thresholds,
        num_labels=network.num_labels,
        beam_size=decision.beam_size,
        max_labels=decision.max_labels,
        stop=decision.stop,
        wanted=1,
    )
    return jax.vmap(lambda each: _of_best_path(network, each, seen.scores, None))(beams)


def _one_step(
    network: Network, variables: dict[str, Any], start: tuple[Any, Any]
) -> Callable[[Any, jax.Array], tuple[Any, StepScores]]:
    """The decoder's step for the paths of a beam."""
    memory, _ = start

    def one_path(state: Any, label: jax.Array) -> tuple[Any, StepScores]:
        state = state.emit(label)
        emitted = state.emitted
        state, step_logits, weights = network.apply(variables, memory, state, method="step")
        log_probs = label_log_probs(step_logits, emitted, network.sequence_decoder.end_token)
        return state, StepScores(*log_probs, weights)

    # Mapped over the beam: its paths share the image's memory, which is never copied.
    return jax.vmap(one_path, in_axes=1, out_axes=1)


def _of_best_path(
    network: Network, beams: Beams, scores: jax.Array, attention: jax.Array | None
) -> Prediction:
    sequence = beams.labels[:, 0]
    return Prediction(
        labels=beams.best_set(network.num_labels),
        scores=scores,
        sequence=sequence,
        probabilities=jnp.where(sequence >= 0, jnp.exp(beams.log_probs[:, 0]), 0.0),
        attention=attention,
    )


def _until_certain(
    steps: int, network: Network, variables: dict[str, Any], start: tuple[Any, Any]
) -> Unrolled:
    """The greedy pass of a decoder with an end token, as far as `_step_probabilities` can tell it.

    No step gives a label more than the probability of getting there, which only falls. Where it is
    below what every label has had of an earlier step, the largest ones are known to the last bit;
    what stands for the steps that are left out, zeros, gives no larger one. There is no attention.
    """
    memory, state = start

    def step(state: Any) -> tuple[Any, Unrolled]:
        before = state.emitted
        state, logits, _ = network.apply(variables, memory, state, method="step")
        label = emit_most_confident(logits, before)
        return state.emit(label), Unrolled(logits, before, label, None)

    def uncertain(carry: tuple[Any, ...]) -> jax.Array:
        number, _, _, reached, largest = carry
        # `_step_probabilities` rounds its products in another order: by far less than a half, or
        # where they leave the range of floats than its smallest number.
        margin = 2 * reached + 4 * jnp.finfo(jnp.float32).tiny
        return (number < steps) & (margin >= largest.min(axis=-1)).any()

    def go_on(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        number, state, kept, reached, largest = carry
        state, found = step(state)
        kept = jax.tree.map(lambda all_steps, x: all_steps.at[:, number].set(x), kept, found)
        probabilities = jnp.exp(pool_log_softmax(found.logits, found.emitted))
        largest = jnp.maximum(largest, reached[:, None] * probabilities[:, :-1])
        return number + 1, state, kept, reached * (1.0 - probabilities[:, -1]), largest

    _, one = jax.eval_shape(step, state)
    kept = jax.tree.map(lambda x: jnp.zeros((x.shape[0], steps, *x.shape[1:]), x.dtype), one)
    batch = state.emitted.shape[0]
    nothing = jnp.int32(0), state, kept, jnp.ones(batch), jnp.zeros((batch, network.num_labels))
    return jax.lax.while_loop(uncertain, go_on, nothing)[2]


def _label_scores(
    decision: Decision, network: Network, preliminary: jax.Array | None, greedy: Unrolled
) -> jax.Array:
    """A score of each label, float32[B,C], 0 to 1.

    Args:
      decision: its scores are 'last_step', p of the greedy pass's last step, which has seen the
        most (its mAP on COCO is above v_prob's), or where that has no meaning as 'max'; 'map',
        v_prob; 'mean', of these two; 'max', the largest p of any step, as Dutta et al. (2020)
        merge them.
      network: with a decoder.
      preliminary: v_prob float32[B,C]; None for a row without it, whose scores are of its steps.
      greedy: T steps, each of which emits the most confident label.
    """
    probabilities = _step_probabilities(network, greedy)
    largest = decision.scores == "max" or decision.largest
    steps = probabilities.max(axis=1) if largest else probabilities[:, -1]
    if preliminary is None or decision.scores not in ("map", "mean"):
        return steps
    return preliminary if decision.scores == "map" else (steps + preliminary) / 2


def _step_probabilities(network: Network, unrolled: Unrolled) -> jax.Array:
    """Each label's at each step, with an end token times that of getting there: float32[B,T,C]."""
    logits, end_token = unrolled.logits, network.sequence_decoder.end_token
    log_probs, end = label_log_probs(logits, unrolled.emitted, end_token)
    if end is None:
        return jax.nn.sigmoid(logits)
    going_on = jnp.cumprod(1.0 - jnp.exp(end), axis=1)
    reached = jnp.concatenate([jnp.ones_like(going_on[:, :1]), going_on[:, :-1]], axis=1)
    return reached[..., None] * jnp.exp(log_probs)


def _cut(
    scores: jax.Array, maps: jax.Array | None, threshold: ArrayLike, top_k: int = 0
) -> Prediction:
    """The `top_k` best labels, or with 0 all at or above the threshold, by score.

    Args:
      scores: float32[B,C].
      maps: float32[B,C,K], where the network looked for each label, or None.
      threshold: float32[] or float32[C].
    """
    if top_k:
        place = jnp.argsort(jnp.argsort(-scores, axis=-1, stable=True), axis=-1)
        chosen = place < top_k
    else:
        chosen = scores >= threshold
    sequence = jnp.argsort(jnp.where(chosen, -scores, jnp.inf), axis=-1, stable=True)
    listed = jnp.take_along_axis(chosen, sequence, axis=-1)
    if maps is not None:
        maps = jnp.take_along_axis(maps, sequence[..., None], axis=1)
        maps = jnp.where(listed[..., None], maps, 0.0)
    return Prediction(
        labels=chosen,
        scores=scores,
        sequence=jnp.where(listed, sequence, -1).astype(jnp.int32),
        probabilities=jnp.where(listed, jnp.take_along_axis(scores, sequence, axis=-1), 0.0),
        attention=maps,
    )


def _maps(kind: str, network: Network, greedy: Unrolled) -> jax.Array | None:
    """Where the step looked that speaks for each label.

    Of the scores 'max' it is the step of the label's largest probability; of others the one that
    emitted the label, or the last where none did.

    Returns:
      float32[B,C,K]; None for a decoder that looks nowhere.
    """
    if greedy.attention is None:
        return None
    if kind == "max":
        step = _step_probabilities(network, greedy).argmax(axis=1)
    else:
        emits = jax.nn.one_hot(greedy.labels, network.num_labels, axis=1, dtype=bool)  # [B,C,T]
        step = jnp.where(emits.any(axis=-1), emits.argmax(axis=-1), emits.shape[-1] - 1)
    return jnp.take_along_axis(greedy.attention, step[..., None], axis=1)
