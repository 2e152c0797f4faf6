"""The training losses, per image, in nats (paper: training).

Cross-entropies are summed over labels and averaged over steps, so that the parts weigh the same
whatever the number of labels and steps.
"""

import jax
import jax.numpy as jnp
import optax

from attn_lstm.models.decoder import Unrolled, pool_log_softmax
from attn_lstm.ordering import emits_end_token, next_target
from attn_lstm.warp import expected_warp, warp

LABEL_LOSSES = ("bce", "softmax", "warp")


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of independent labels, summed over the last axis: float32[...,C] -> [...]."""
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), labels)
    return losses.sum(axis=-1)


def smooth(labels: jax.Array, smoothing: float) -> jax.Array:
    """Targets of independent labels moved towards 1/2: (1 - s) y + s / 2."""
    return (1.0 - smoothing) * labels + 0.5 * smoothing


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of one softmax over all labels against y/|y| (Gong et al. 2013).

    Args:
      logits: float[B,C]; labels: float32[B,C], 0 or 1.

    Returns:
      float32[B]; 0 for an image without labels, which has no such distribution.
    """
    wanted = labels / jnp.maximum(labels.sum(axis=-1, keepdims=True), 1.0)
    return -(wanted * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)).sum(axis=-1)


def label_loss(
    loss: str,
    logits: jax.Array,
    labels: jax.Array,
    smoothing: float = 0.0,
    keys: jax.Array | None = None,
) -> jax.Array:
    """The loss of M_map, float32[B].

    Args:
      loss: one of `LABEL_LOSSES`: 'bce', with `smoothing` as in `smooth`; 'softmax', as in
        `softmax_cross_entropy`; 'warp', as in `warp.warp`.
      logits: float[B,C]; labels: float32[B,C], 0 or 1.
      keys: key[B], what 'warp' draws from; None gives the mean over all draws.

    Raises:
      ValueError: `loss` is none of them.
    """
    if loss == "bce":
        return binary_cross_entropy(logits, smooth(labels, smoothing))
    if loss == "softmax":
        return softmax_cross_entropy(logits, labels)
    if loss == "warp":
        return expected_warp(logits, labels) if keys is None else warp(logits, labels, keys)
    raise ValueError(f"unknown loss {loss!r}; choose one of: {', '.join(LABEL_LOSSES)}")


def set_step_loss(
    target: str,
    step_logits: jax.Array,
    emitted: jax.Array,
    labels: jax.Array,
    smoothing: float = 0.0,
) -> jax.Array:
    """Binary cross-entropy of every step against a set, averaged over the steps.

    Args:
      target: 'all', the whole label set [R]; 'remaining', without what was emitted before.
      step_logits: float[B,T,C].
      emitted: bool[B,T,C], labels emitted before each step.
      labels: float32[B,C], 0 or 1.
      smoothing: as in `smooth`.

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
    return binary_cross_entropy(step_logits, smooth(wanted, smoothing)).mean(axis=-1)


def sequence_step_loss(
    order: str,
    step_logits: jax.Array,
    emitted: jax.Array,
    labels: jax.Array,
    rank: jax.Array,
    smoothing: float = 0.0,
) -> jax.Array:
    """Softmax cross-entropy against the next true label in `order`, then the end token.

    The softmax runs over the labels still in the pool and the end token. Steps behind the first
    whose target is the end token do not count; the loss is the mean over those that do.

    Args:
      order: as in `ordering.next_target`; 'confidence' gives the 'ranked' target.
      step_logits: float[B,T,C+1], the end token last.
      emitted: bool[B,T,C], labels emitted before each step.
      labels: float32[B,C], 0 or 1.
      rank: int[C].
      smoothing: weight of the uniform distribution over the pool and the end token in the target.

    Returns:
      float32[B].
    """
    remaining = (labels[:, None] > 0) & ~emitted
    target = jax.vmap(
        lambda logits, left: next_target(order, logits, left, rank), in_axes=1, out_axes=1
    )(step_logits, remaining)
    log_probs = pool_log_softmax(step_logits, emitted)
    losses = -jnp.take_along_axis(log_probs, target[..., None], axis=-1)[..., 0]
    if smoothing:
        in_pool = log_probs > -jnp.inf
        uniform = -jnp.where(in_pool, log_probs, 0.0).sum(axis=-1) / in_pool.sum(axis=-1)
        losses = (1.0 - smoothing) * losses + smoothing * uniform
    at_end = target == labels.shape[-1]
    counts = jnp.cumsum(at_end, axis=-1) - at_end == 0
    return jnp.where(counts, losses, 0.0).sum(axis=-1) / counts.sum(axis=-1)


def parts(
    label_logits: jax.Array | None,
    unrolled: Unrolled | None,
    labels: jax.Array,
    rank: jax.Array,
    *,
    loss: str,
    order: str,
    target: str,
    smoothing: float = 0.0,
    keys: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The parts of one row's loss, float32[B] each; their sum is what is minimised.

    'map' is M_map's own loss (weight 1), for rows that have M_map; 'step' the mean over the
    decoder's steps, for rows that have one: softmax against a sequence with an end token for the
    fixed orders and the 'ranked' target, else binary cross-entropy against a set.

    Args:
      label_logits: float32[B,C], or None without M_map.
      unrolled: the decoder's steps, or None.
      labels: float32[B,C]; rank: int[C] by training frequency.
      loss: of M_map, `config.loss`; keys: as in `label_loss`.
      order: `config.order`; target: `config.decoder.target`.
      smoothing: `config.label_smoothing`, the weight of a target that favours nothing.
    """
    losses = {}
    if label_logits is not None:
        losses["map"] = label_loss(loss, label_logits, labels, smoothing, keys)
    if unrolled is None:
        return losses
    if emits_end_token(order, target):
        losses["step"] = sequence_step_loss(
            order, unrolled.logits, unrolled.emitted, labels, rank, smoothing
        )
    else:
        losses["step"] = set_step_loss(target, unrolled.logits, unrolled.emitted, labels, smoothing)
    return losses
