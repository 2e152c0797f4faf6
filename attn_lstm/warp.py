"""WARP, the weighted approximate ranking loss (Weston et al. 2011; Gong et al. 2013, for images).

For each true label, wrong labels are drawn with replacement until one violates the margin,
1 - s_true + s_wrong > 0, at most C - 1 times. After k draws the rank of the true label is taken
for ⌊(C - 1) / k⌋, and the violation counts L(rank) = Σ_{j=1..rank} 1/j times. No gradient flows
through the rank. Where labels are not known, those that are stand alone: C is their number.
"""

import jax
import jax.numpy as jnp
import numpy as np


def warp(
    logits: jax.Array, labels: jax.Array, keys: jax.Array, *, known: jax.Array | None = None
) -> jax.Array:
    """The loss by drawing, summed over the true labels of each image.

    Args:
      logits: float[B,C], the scores.
      labels: float32[B,C], 0 or 1.
      keys: key[B], one an image.
      known: bool[B,C], or None where all labels are; the true ones are.

    Returns:
      float32[B]; 0 for an image without a true or without a wrong label.
    """
    true = labels > 0
    return jax.vmap(_warp_of_one, in_axes=(0, 0, 0, 0, None if known is None else 0))(
        logits.astype(jnp.float32), true, _wrong(true, known), keys, _weights(true, known)
    )


def _warp_of_one(
    scores: jax.Array, true: jax.Array, wrong: jax.Array, key: jax.Array, weights: jax.Array
) -> jax.Array:
    """`warp` of one image: scores float32[C], true and wrong bool[C], weights of the draws."""
    wrong_first = jnp.argsort(~wrong)
    draws = jax.random.randint(key, (scores.shape[0], len(weights)), 0, jnp.maximum(wrong.sum(), 1))
    drawn = wrong_first[draws]  # [C,C-1], the wrong labels that each true label is held against
    violates = (1.0 - scores[:, None] + scores[drawn] > 0) & wrong[drawn]
    first = violates.argmax(axis=1)
    rival = jnp.take_along_axis(drawn, first[:, None], axis=1)[:, 0]
    losses = weights[first] * (1.0 - scores + scores[rival])
    return jnp.where(true & violates.any(axis=1), losses, 0.0).sum()


def expected_warp(
    logits: jax.Array, labels: jax.Array, *, known: jax.Array | None = None
) -> jax.Array:
    """The mean of `warp` over all draws, float32[B]: what evaluation reports, free of chance.

    With N wrong labels of which v violate, a given violator ends the draws after k of them with
    probability (1 - v/N)^(k-1) / N.

    Args:
      logits, labels, known: as in `warp`.
    """
    scores, true = logits.astype(jnp.float32), labels > 0
    is_wrong = _wrong(true, known)
    margins = 1.0 - scores[..., :, None] + scores[..., None, :]  # [B,true,wrong]
    violates = (margins > 0) & is_wrong[..., None, :]
    wrong = jnp.maximum(is_wrong.sum(axis=-1, keepdims=True), 1)
    missed = 1.0 - violates.sum(axis=-1) / wrong
    coefficients = jnp.moveaxis(_weights(true, known)[..., ::-1], -1, 0)
    weight = jnp.polyval(coefficients if known is None else coefficients[..., None], missed)
    losses = weight * jnp.where(violates, margins, 0.0).sum(axis=-1) / wrong
    return jnp.where(true, losses, 0.0).sum(axis=-1)


def _wrong(true: jax.Array, known: jax.Array | None) -> jax.Array:
    return ~true if known is None else ~true & known


def _weights(true: jax.Array, known: jax.Array | None) -> jax.Array:
    """L(⌊(C - 1) / k⌋) for k = 1 … C - 1 draws, and at least one: float32[max(C-1, 1)].

    Where some are not known it is [...,max(C-1, 1)], with the number of those that are in the place
    of C, and 0 for more draws than they permit.
    """
    most = true.shape[-1] - 1
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))]).astype(np.float32)
    draws = np.arange(1, max(most, 1) + 1)
    if known is None:
        return jnp.asarray(harmonic[most // draws])
    permitted = jnp.maximum(known.sum(axis=-1) - 1, 0)
    return jnp.asarray(harmonic)[permitted[..., None] // draws]
