"""True labels aligned to the steps of a predicted sequence (Yazici et al., CVPR 2020)."""

import jax
import jax.numpy as jnp
import optax

ALIGNMENTS = ("mla", "pla")

# In the place of an infinite cost, which the search for an assignment could not subtract from.
# While an assignment without it exists, it takes no part in one, nor in the sums that find it.
_FORBIDDEN = 1e9


def aligned_targets(
    method: str, log_probs: jax.Array, predicted: jax.Array, labels: jax.Array
) -> jax.Array:
    """The true label that each step is held against, then the end token.

    The n true labels are assigned to the first n steps. 'mla', minimal loss alignment: with the
    smallest total of -log p. 'pla', predicted label alignment: a true label that one of these steps
    predicts stays with that step, and the others are assigned to the steps left as in 'mla'. An
    image with more than T true labels is held against T of them: those that some step holds most
    probable, under 'pla' the predicted ones before any other.

    There is always an assignment of finite loss: a label leaves the pool behind the step that
    predicts it, so that it can stay there, and the others are in the pool at all of these steps.
    The authors' network has no pool, and may be held against a label that it has named before.

    Args:
      method: one of `ALIGNMENTS`.
      log_probs: float32[B,T,C+1], the end token last; -inf for labels that left the pool before.
      predicted: int32[B,T], the label that each step emitted, none twice.
      labels: float32[B,C], 0 or 1.

    Returns:
      int32[B,T]; C, the end token, from the n-th step (counted from 0) on.

    Raises:
      ValueError: `method` is none of `ALIGNMENTS`.
    """
    if method not in ALIGNMENTS:
        raise ValueError(f"unknown alignment {method!r}; choose one of: {', '.join(ALIGNMENTS)}")
    log_probs = jax.lax.stop_gradient(log_probs)[..., :-1]
    _, steps, num_labels = log_probs.shape
    true = labels > 0
    count = true.sum(axis=-1)
    step, place = jnp.arange(steps), jnp.arange(min(steps, num_labels))
    due = step < count[:, None]  # [B,T], steps that a true label falls to

    # Only these T labels matter: the T by T costs are assigned many times faster than T by C.
    priority = log_probs.max(axis=1)
    if method == "pla":
        named = jax.nn.one_hot(predicted, num_labels, dtype=bool)
        priority = jnp.where((named & due[..., None]).any(axis=1), jnp.inf, priority)
    _, chosen = jax.lax.top_k(jnp.where(true, priority, -jnp.inf), len(place))

    def of_chosen(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, chosen[:, None], axis=-1)

    needed = due[..., None] & (place < count[:, None])[:, None]
    costs = -of_chosen(log_probs)
    possible = needed & (costs < jnp.inf)
    if method == "pla":
        stays = of_chosen(named) & needed
        bound = stays.any(axis=1, keepdims=True) | stays.any(axis=2, keepdims=True)
        possible = jnp.where(bound, stays, possible)
    # What is over, steps and places alike, is paired off at no cost.
    over = ~due[..., None] & (step[:, None] == place)
    rows, columns = assign(jnp.where(over, 0.0, costs), possible | over)
    images = jnp.arange(len(chosen))[:, None]
    targets = jnp.full(due.shape, num_labels).at[images, rows].set(chosen[images, columns])
    return jnp.where(due, targets, num_labels).astype(jnp.int32)


def assign(costs: jax.Array, possible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pairs rows with columns, min(R, K) of them, at the smallest total cost.

    Args:
      costs: float32[B,R,K]; possible: bool[B,R,K], pairs that may be taken. There must be a full
        assignment of such pairs in each image.

    Returns:
      rows int32[B,min(R,K)] and the column of each.
    """
    costs = jnp.where(possible, costs, _FORBIDDEN)
    return jax.vmap(optax.assignment.hungarian_algorithm)(costs)
