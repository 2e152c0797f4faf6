"""The pool of labels that a sequence may still emit: what models, losses and the search share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from attn_lstm.ordering import next_target

# Maps a step's logits and the labels emitted before it, bool[B,C], to the label int32[B] emitted.
Choice = Callable[[jax.Array, jax.Array], jax.Array]


class Unrolled(struct.PyTreeNode):
    """All steps of one pass over a batch."""

    logits: jax.Array  # float32[B,T,C], or C+1 with an end token, last
    emitted: jax.Array  # bool[B,T,C], labels that had left the pool before each step
    labels: jax.Array  # int32[B,T], label emitted by each step
    attention: jax.Array | None  # float32[B,T,K]; None for a decoder that looks nowhere


def pool_log_softmax(logits: jax.Array, emitted: jax.Array) -> jax.Array:
    """Log-softmax over the pool and the end token: float32[...,C+1], -inf for emitted labels."""
    end = jnp.zeros_like(emitted[..., :1])
    gone = jnp.concatenate([emitted, end], axis=-1)
    return jax.nn.log_softmax(jnp.where(gone, -jnp.inf, logits.astype(jnp.float32)), axis=-1)


def label_log_probs(
    logits: jax.Array, emitted: jax.Array, end_token: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Log-probabilities of the pool's labels and of ending, for the search.

    Args:
      logits: float32[...,C], or C+1 with an end token, last.
      emitted: bool[...,C].
      end_token: the last logit is a class of the softmax beside the labels.

    Returns:
      float32[...,C], -inf for emitted labels, and float32[...] or None where nothing ends by
      itself.
    """
    if end_token:
        both = pool_log_softmax(logits, emitted)
        return both[..., :-1], both[..., -1]
    return jnp.where(emitted, -jnp.inf, jax.nn.log_sigmoid(logits)), None


def emit_most_confident(logits: jax.Array, emitted: jax.Array) -> jax.Array:
    """l_t, the pool's label with the largest probability: what inference emits, int32[B]."""
    return next_target("confidence", logits, ~emitted, jnp.zeros(emitted.shape[-1]))
