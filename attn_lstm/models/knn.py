"""Labels carried over from the training images with the most similar features (row KNN)."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

# Every image's neighbourhood holds the largest of these, of which k are asked for their labels.
CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 200)

_BLOCK_ROWS = 8192  # training images compared at once: bounds the memory of a search


def describe(features: jax.Array) -> jax.Array:
    """The mean region at unit length: float[B,K,D] -> float32[B,D]; zeros stay zeros."""
    pooled = features.astype(jnp.float32).mean(axis=1)
    squares = jnp.square(pooled).sum(axis=-1, keepdims=True)
    return pooled * jax.lax.rsqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny))


def nearest(
    queries: jax.Array,
    features: jax.Array,
    known: jax.Array,
    count: int,
    block_rows: int = _BLOCK_ROWS,
) -> tuple[jax.Array, jax.Array]:
    """The rows with the largest inner product, without approximation.

    Args:
      queries: float32[B,D].
      features: float32[N,D].
      known: bool[N], the rows that may be found.
      count: M, at most N.
      block_rows: compared at once.

    Returns:
      Similarities float32[B,M] in falling order, -inf behind the last known row, and rows
      int32[B,M]. Of equals the first row comes first.
    """
    total = features.shape[0]
    size = min(block_rows, total)

    def merge(
        best: tuple[jax.Array, jax.Array], first: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        # The last block overlaps the one before it, where N is no multiple of the size.
        start = jnp.minimum(first, total - size)
        rows = start + jnp.arange(size)
        block, permitted = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (features, known))
        # Accelerators would otherwise round the factors, and neighbours would change places.
        products = jnp.einsum("bd,nd->bn", queries, block, precision=jax.lax.Precision.HIGHEST)
        products = jnp.where(permitted & (rows >= first), products, -jnp.inf)
        joined = jnp.concatenate([best[0], products], axis=1)
        joined_rows = jnp.concatenate([best[1], jnp.broadcast_to(rows, products.shape)], axis=1)
        similarity, places = jax.lax.top_k(joined, count)
        return (similarity, jnp.take_along_axis(joined_rows, places, axis=1)), None

    shape = (queries.shape[0], count)
    nothing = (jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32))
    best, _ = jax.lax.scan(merge, nothing, jnp.arange(0, total, size))
    return best


class Neighbours(nn.Module):
    """A vote of the k nearest training images, kept in the collection 'memory'.

    'memory' holds `features` float32[N,D] as `describe` makes them, `labels` bool[N,C], `known`
    bool[N] (False for an image that could not be read) and `count` int32[], k; where `partial`,
    `judged` bool[N,C] too, the labels that are known.

    Attributes:
      num_labels: C.
      images: N; needed by `init` alone.
      count: k; 0 takes the one in the memory.
      partial: some labels of the images are not known.
    """

    num_labels: int
    images: int = 0
    count: int = 0
    partial: bool = False

    looks: ClassVar[bool] = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, None]:
        """Label probabilities of images by their features: float[B,K,D] -> float32[B,C].

        Each of the k neighbours has one vote for each of its labels. One vote more is shared by
        the whole neighbourhood, the largest of `CANDIDATES`, in proportion to exp(similarity). It
        decides between labels with equal votes and never over an unequal number. The result is
        the share of the k + 1 votes; where `partial`, of the votes of those of which the label is
        known, and 0 without any. It looks nowhere, and learns nothing when `train`.
        """
        queries = describe(images)
        shape = (self.images, queries.shape[-1])
        features = self.variable("memory", "features", jnp.zeros, shape, jnp.float32).value
        table = self.images, self.num_labels
        labels = self.variable("memory", "labels", jnp.zeros, table, bool).value
        judged = None
        if self.partial:
            judged = self.variable("memory", "judged", jnp.zeros, table, bool).value
        known = self.variable("memory", "known", jnp.zeros, (self.images,), bool).value
        kept_count = self.variable("memory", "count", jnp.zeros, (), jnp.int32).value
        if self.is_initializing():
            return jnp.zeros((queries.shape[0], self.num_labels), jnp.float32), None
        reach = min(max(*CANDIDATES, self.count), features.shape[0])
        similarity, rows = nearest(queries, features, known, reach)
        asked = (jnp.arange(reach) < (self.count or kept_count)) & (similarity > -jnp.inf)
        votes = asked + jax.nn.softmax(similarity, axis=-1)
        total = asked.sum(axis=-1, keepdims=True) + 1

        # A sum in the order of the neighbours, so that labels with the same voters stay equal.
        def counted(cells: jax.Array) -> jax.Array:
            return (votes[..., None] * cells[rows]).sum(axis=1)

        if judged is not None:
            total = counted(judged)
            return jnp.where(total > 0, counted(labels) / jnp.where(total > 0, total, 1), 0), None
        return counted(labels) / total, None
