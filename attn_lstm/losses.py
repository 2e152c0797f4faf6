"""The training losses, per image, in nats (paper: training).

Cross-entropies are summed over labels and averaged over steps, so that the parts weigh the same
whatever the number of labels and steps.

Labels that are not known (`known`, bool[...,C], None where all are) teach nothing. Losses of
independent labels have no term for them, rankings no rival, and a softmax runs over the others: it
is that of the image without these labels. A true label is always a known one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from attn_lstm.alignment import ALIGNMENTS, aligned_targets
from attn_lstm.label_pool import Unrolled, pool_log_softmax
from attn_lstm.ordering import emits_end_token, next_target
from attn_lstm.warp import expected_warp, warp

SET_LOSSES = ("bce", "asymmetric", "focal")  # of independent labels, one probability each
LABEL_LOSSES = (*SET_LOSSES, "softmax", "warp")


class LabelLoss(Protocol):
    """Maps logits float[...,C], labels [...,C] and which are known to a loss float32[...]."""

    def __call__(
        self, logits: jax.Array, labels: jax.Array, *, known: jax.Array | None = None
    ) -> jax.Array:
        """The loss, without anything of labels that are not known."""
        ...


def known_labels(labels: jax.Array, known: jax.Array | None) -> jax.Array:
    """The labels float32[...,C] with 0 where they are not known, whatever stands there."""
    return labels if known is None else jnp.where(known, labels, 0.0)


def _total(losses: jax.Array, known: jax.Array | None) -> jax.Array:
    """The sum over the labels that are known: float32[...,C] -> [...]."""
    return (losses if known is None else jnp.where(known, losses, 0.0)).sum(axis=-1)


def binary_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float = 0.0,
    *,
    known: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy of independent labels, summed over the last axis: float32[...,C] -> [...].

    Args:
      logits: float[...,C]; labels: float32[...,C].
      smoothing: s moves the targets towards 1/2: (1 - s) y + s / 2.
      known: bool[...,C], or None.
    """
    wanted = (1.0 - smoothing) * labels + 0.5 * smoothing
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), wanted)
    return _total(losses, known)


def asymmetric_loss(
    logits: jax.Array,
    labels: jax.Array,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    *,
    known: jax.Array | None = None,
) -> jax.Array:
    """Asymmetric loss of independent labels (Ben-Baruch et al. 2021), summed over the last axis.

    For a true label -(1 - p)^gamma_pos log p, for a wrong one -q^gamma_neg log(1 - q) with
    q = max(p - clip, 0).

    Args:
      logits: float[...,C]; labels: float32[...,C], 0 or 1.
      gamma_neg, gamma_pos: how far easy wrong and easy true labels count less.
      clip: the probability up to which a wrong label costs nothing.
      known: bool[...,C], or None.

    Returns:
      float32[...]. Its gradient is that of the formula, as in the paper's analysis; the authors'
      training script keeps the factors before the logarithms out of the gradient.
    """
    logits = logits.astype(jnp.float32)
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    true = jnp.exp(gamma_pos * log_not_p) * log_p
    log_not_q = jnp.minimum(jnp.logaddexp(log_not_p, jnp.log(clip)), 0.0)
    q = -jnp.expm1(log_not_q)
    # Inside too, since a power below 1 has an infinite derivative at 0.
    wrong = jnp.where(q > 0, jnp.where(q > 0, q, 1.0) ** gamma_neg * log_not_q, 0.0)
    return -_total(labels * true + (1.0 - labels) * wrong, known)


def focal_loss(
    logits: jax.Array,
    labels: jax.Array,
    gamma: float = 2.0,
    alpha: float = 0.0,
    *,
    known: jax.Array | None = None,
) -> jax.Array:
    """Focal loss of independent labels (Lin et al. 2017), summed over the last axis.

    For a true label -(1 - p)^gamma log p, for a wrong one -p^gamma log(1 - p).

    Args:
      logits: float[...,C]; labels: float32[...,C], 0 or 1.
      gamma: how far easy labels count less.
      alpha: weight of true labels, 1 - alpha that of wrong ones; 0: both weigh 1.
      known: bool[...,C], or None.

    Returns:
      float32[...].
    """
    losses = optax.losses.sigmoid_focal_loss(
        logits.astype(jnp.float32), labels, alpha=alpha or None, gamma=gamma
    )
    return _total(losses, known)


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, known: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of one softmax over all labels against y/|y| (Gong et al. 2013).

    Args:
      logits: float[B,C]; labels: float32[B,C], 0 or 1.
      known: bool[B,C], or None.

    Returns:
      float32[B]; 0 for an image without labels, which has no such distribution.
    """
    wanted = labels / jnp.maximum(labels.sum(axis=-1, keepdims=True), 1.0)
    logits = logits.astype(jnp.float32)
    if known is None:
        return -(wanted * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)
    # An image of which nothing is known has no softmax, and no label to be held against.
    counts = known | ~known.any(axis=-1, keepdims=True)
    log_probs = jax.nn.log_softmax(jnp.where(counts, logits, -jnp.inf), axis=-1)
    return -(wanted * jnp.where(counts, log_probs, 0.0)).sum(axis=-1)


def label_loss(
    loss: str,
    options: Mapping[str, float] = MappingProxyType({}),
    keys: jax.Array | None = None,
) -> LabelLoss:
    """The function that a name stands for.

    Args:
      loss: one of `LABEL_LOSSES`; the last two take logits [B,C] only: 'softmax', as in
        `softmax_cross_entropy`; 'warp', as in `warp.warp`.
      options: further arguments of its function.
      keys: key[B], what 'warp' draws from; None gives the mean over all draws.

    Raises:
      ValueError: `loss` is none of them.
    """
    functions: dict[str, Callable[..., jax.Array]] = {
        "bce": binary_cross_entropy,
        "asymmetric": asymmetric_loss,
        "focal": focal_loss,
        "softmax": softmax_cross_entropy,
        "warp": expected_warp if keys is None else partial(warp, keys=keys),
    }
    if loss not in functions:
        raise ValueError(f"unknown loss {loss!r}; choose one of: {', '.join(LABEL_LOSSES)}")
    return partial(functions[loss], **options)


def best_constant(loss: LabelLoss, share: float) -> float:
    """The probability with the least expected loss for a label that is true in this share.

    To a hundredth on the scale of log odds, between -12 and 4.
    """
    with jax.ensure_compile_time_eval():
        logits = jnp.linspace(-12.0, 4.0, 1601)
        true, wrong = (loss(logits[:, None], jnp.full((1601, 1), y)) for y in (1.0, 0.0))
        best = logits[jnp.argmin(share * true + (1.0 - share) * wrong)]
        return float(jax.nn.sigmoid(best))


def set_step_loss(
    target: str,
    step_logits: jax.Array,
    emitted: jax.Array,
    labels: jax.Array,
    smoothing: float = 0.0,
    *,
    known: jax.Array | None = None,
) -> jax.Array:
    """Binary cross-entropy of every step against a set, averaged over the steps.

    Args:
      target: 'all', the whole label set [R]; 'remaining', without what was emitted before.
      step_logits: float[B,T,C].
      emitted: bool[B,T,C], labels emitted before each step.
      labels: float32[B,C], 0 or 1.
      smoothing: as in `binary_cross_entropy`.
      known: bool[B,C], or None.

    Returns:
      float32[B].

    Raises:
      ValueError: `target` is neither.
    """
    if target == "all":
        wanted = jnp.broadcast_to(labels[:, None], step_logits.shape)
    elif target == "remaining":
        wanted = jnp.where(emitted, 0.0, labels[:, None])
    else:
        raise ValueError(f"unknown target {target!r}; choose one of: all, remaining")
    if known is not None:
        known = known[:, None]
    return binary_cross_entropy(step_logits, wanted, smoothing, known=known).mean(axis=-1)


def sequence_targets(
    method: str, unrolled: Unrolled, labels: jax.Array, rank: jax.Array
) -> jax.Array:
    """The true label that each step is held against, then the end token.

    Args:
      method: as in `alignment.aligned_targets`, or as in `ordering.next_target`, where 'confidence'
        gives the 'ranked' target.
      unrolled: the decoder's steps, of one with an end token.
      labels: float32[B,C], 0 or 1.
      rank: int[C], or int[B,C] of each image.

    Returns:
      int32[B,T]; C is the end token.
    """
    logits, emitted = unrolled.logits, unrolled.emitted
    if method in ALIGNMENTS:
        log_probs = pool_log_softmax(logits, emitted)
        return aligned_targets(method, log_probs, unrolled.labels, labels)
    remaining = (labels[:, None] > 0) & ~emitted
    return jax.vmap(
        lambda step_logits, left: next_target(method, step_logits, left, rank),
        in_axes=1,
        out_axes=1,
    )(logits, remaining)


def sequence_step_loss(
    target: jax.Array, step_logits: jax.Array, emitted: jax.Array, smoothing: float = 0.0
) -> jax.Array:
    """Softmax cross-entropy of every step against one label, then the end token.

    The softmax runs over the labels still in the pool and the end token. Steps behind the first
    whose target is the end token do not count; the loss is the mean over those that do.

    Args:
      target: int32[B,T], as `sequence_targets` gives it.
      step_logits: float[B,T,C+1], the end token last.
      emitted: bool[B,T,C], labels emitted before each step.
      smoothing: weight of the uniform distribution over the pool and the end token in the target.

    Returns:
      float32[B].
    """
    log_probs = pool_log_softmax(step_logits, emitted)
    losses = -jnp.take_along_axis(log_probs, target[..., None], axis=-1)[..., 0]
    if smoothing:
        in_pool = log_probs > -jnp.inf
        uniform = -jnp.where(in_pool, log_probs, 0.0).sum(axis=-1) / in_pool.sum(axis=-1)
        losses = (1.0 - smoothing) * losses + smoothing * uniform
    at_end = target == emitted.shape[-1]
    counts = jnp.cumsum(at_end, axis=-1) - at_end == 0
    return jnp.where(counts, losses, 0.0).sum(axis=-1) / counts.sum(axis=-1)


def parts(
    label_logits: jax.Array | None,
    unrolled: Unrolled | None,
    labels: jax.Array,
    rank: jax.Array,
    *,
    map_loss: LabelLoss,
    order: str,
    target: str,
    smoothing: float = 0.0,
    known: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The parts of one row's loss, float32[B] each; their sum is what is minimised.

    'map' is M_map's own loss (weight 1), for rows that have M_map; 'step' the mean over the
    decoder's steps, for rows that have one: softmax against a sequence with an end token for the
    orders that are taught and the targets that are one label a step, else binary cross-entropy
    against a set.

    Args:
      label_logits: float32[B,C], or None without M_map.
      unrolled: the decoder's steps, or None.
      labels: float32[B,C]; rank: as in `sequence_targets`.
      map_loss: of M_map.
      order: `config.order`; target: `config.decoder.target`.
      smoothing: of the steps.
      known: bool[B,C], or None. A softmax of a step has no place for the other labels, as if they
        had left the pool.
    """
    losses = {}
    if label_logits is not None:
        losses["map"] = map_loss(label_logits, labels, known=known)
    if unrolled is None:
        return losses
    logits, emitted = unrolled.logits, unrolled.emitted
    if emits_end_token(order, target):
        if known is not None:
            emitted = emitted | ~known[:, None]
            unrolled = unrolled.replace(emitted=emitted)
        method = target if target in ALIGNMENTS else order
        targets = sequence_targets(method, unrolled, labels, rank)
        losses["step"] = sequence_step_loss(targets, logits, emitted, smoothing)
    else:
        losses["step"] = set_step_loss(target, logits, emitted, labels, smoothing, known=known)
    return losses
