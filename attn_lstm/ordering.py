"""Which label comes next: the paper's confidence order, the fixed orders of its tables, chance."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from attn_lstm.alignment import ALIGNMENTS

ORDERS = ("confidence", "frequent_first", "rare_first", "random")
SET_TARGETS = ("all", "remaining")
TARGETS = (*SET_TARGETS, "ranked", *ALIGNMENTS)


def next_target(method: str, logits: jax.Array, remaining: jax.Array, rank: jax.Array) -> jax.Array:
    """The label of `remaining` that comes first in the order `method`.

    With `remaining` = the true labels not yet emitted this is the target of a training step; with
    `remaining` = the whole candidate pool and 'confidence' it is the emitted label l_t.

    Args:
      method: 'confidence' (largest logit), 'frequent_first' (smallest rank), 'rare_first'
        (largest rank), 'random' (smallest rank, as `random_rank` draws it).
      logits: float[B,C], this step's; entries beyond C (an end token) are ignored.
      remaining: bool[B,C].
      rank: int[C], place of each label by training frequency, 0 the most frequent; or int[B,C],
        a place of its own in each image.

    Returns:
      int32[B]; C, the index of the end token, where nothing remains. Ties go to the lower index.

    Raises:
      ValueError: `method` is none of `ORDERS`.
    """
    num_labels = remaining.shape[-1]
    if method == "confidence":
        priority = logits[..., :num_labels].astype(jnp.float32)
    elif method in ("frequent_first", "random"):
        priority = -rank.astype(jnp.float32)
    elif method == "rare_first":
        priority = rank.astype(jnp.float32)
    else:
        raise ValueError(f"unknown order {method!r}; choose one of: {', '.join(ORDERS)}")
    best = jnp.argmax(jnp.where(remaining, priority, -jnp.inf), axis=-1)
    return jnp.where(remaining.any(axis=-1), best, num_labels).astype(jnp.int32)


def frequency_rank(counts: ArrayLike) -> jax.Array:
    """Place of each label by training frequency: int32[C], 0 the most frequent.

    Args:
      counts: int[C], training images a label. Ties go to the lower index.
    """
    order = jnp.argsort(-jnp.asarray(counts), stable=True)
    return jnp.zeros_like(order).at[order].set(jnp.arange(len(order))).astype(jnp.int32)


def random_rank(keys: jax.Array, num_labels: int) -> jax.Array:
    """A random place for each label of each image: key[B] -> int32[B,C]."""
    return jax.vmap(lambda key: jax.random.permutation(key, num_labels))(keys)


def emits_end_token(order: str, target: str) -> bool:
    """Whether a row's sequences end with a token of their own instead of at the threshold."""
    return order != "confidence" or target not in SET_TARGETS


def last_step_ranks(order: str, target: str) -> bool:
    """Whether the last step's p ranks all labels: where every step learns the whole label set.

    Steps that learn the labels left, or one of them, learn to give none to what was emitted.
    """
    return order == "confidence" and target == "all"
