"""Attention, and the layers of heads that look at the regions with several queries at once.

The layers are post-norm, as Vaswani et al. (2017) and DETR (Carion et al. 2020): every part adds to
its input, and the sum is normalised. Dropout is drawn by image (see `dropout.py`).
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attn_lstm.models.dropout import RowDropout

dense = partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())
layer_norm = partial(nn.LayerNorm, epsilon=1e-5)


def sine_places(side: int, width: int) -> np.ndarray:
    """Where the regions of a square map are, as DETR tells its attention.

    Half of the entries are sines and cosines of the row, at wavelengths that grow geometrically up
    to 10,000 times the map; half are those of the column.

    Args:
      side: regions in a row, and rows.
      width: of an encoding, a multiple of 4.

    Returns:
      float32[side², width], the regions in row-major order.
    """
    place = 2 * np.pi * np.arange(1, side + 1) / side
    angle = place[:, None] / 10_000 ** (np.arange(width // 4) / (width // 4))
    along = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(side, -1)
    rows, columns = np.repeat(along, side, axis=0), np.tile(along, (side, 1))
    return np.concatenate([rows, columns], axis=-1).astype(np.float32)


class MultiHeadAttention(nn.Module):
    """softmax(Q Kᵀ / √(d/H)) V in H heads of d/H channels, joined by a linear layer.

    Attributes:
      hidden: d; heads: H, which divides d.
      dropout: rate on the weights.
      dtype: compute type; the softmax is float32.
      axis_name: mapped axis over which the batch is split.
    """

    hidden: int
    heads: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        self.query, self.key, self.value, self.out = (
            dense(self.hidden, dtype=self.dtype) for _ in range(4)
        )
        self.drop = RowDropout(self.dropout, self.axis_name)

    def __call__(
        self, queries: jax.Array, keys: jax.Array, values: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Queries float[B,Q,d] look at keys and values float[B,K,d].

        Returns:
          float[B,Q,d], and the weights before dropout, averaged over the heads: float32[B,Q,K].
        """
        q, k, v = self._by_head(queries, keys, values)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q / math.sqrt(q.shape[-1]), k)
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
        kept = self.drop(weights, train).astype(self.dtype)
        seen = jnp.einsum("bhqk,bkhd->bqhd", kept, v)
        return self.out(seen.reshape(*seen.shape[:2], -1)), weights.mean(axis=1)

    def attend(self, x: jax.Array) -> jax.Array:
        """Tokens float[B,N,d] look at each other, without dropout: float[B,N,d].

        Nobody asks where they look, so that the weights need not be kept.
        """
        seen = jax.nn.dot_product_attention(*self._by_head(x, x, x))
        return self.out(seen.reshape(*seen.shape[:2], -1))

    def _by_head(
        self, queries: jax.Array, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Projected, float[B,·,H,d/H] each."""
        projected = self.query(queries), self.key(keys), self.value(values)
        return tuple(x.reshape(*x.shape[:2], self.heads, -1) for x in projected)


class _Residual(nn.Module):
    """LayerNorm(x + dropout(y))."""

    dropout: float
    dtype: jnp.dtype
    axis_name: str | None

    def setup(self) -> None:
        self.drop = RowDropout(self.dropout, self.axis_name)
        self.norm = layer_norm(dtype=self.dtype)

    def __call__(self, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        return self.norm(x + self.drop(y, train))


class _FeedForward(nn.Module):
    """Two linear layers and a rectifier between them, at every query by itself."""

    hidden: int
    feedforward: int
    dropout: float
    dtype: jnp.dtype
    axis_name: str | None

    def setup(self) -> None:
        self.widen = dense(self.feedforward, dtype=self.dtype)
        self.narrow = dense(self.hidden, dtype=self.dtype)
        self.drop = RowDropout(self.dropout, self.axis_name)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.narrow(self.drop(nn.relu(self.widen(x)), train))


class _Layer(nn.Module):
    """What the layers of an encoder and a decoder have in common.

    Attributes:
      hidden: d; heads: H, which divides d.
      feedforward: units of the layer between the two linear ones.
      dropout: rate on attention weights, hidden units and whatever is added.
      dtype: compute type; softmaxes and statistics are float32.
      axis_name: mapped axis over which the batch is split.
    """

    hidden: int
    heads: int
    feedforward: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def _attention(self) -> MultiHeadAttention:
        return MultiHeadAttention(self.hidden, self.heads, self.dropout, self.dtype, self.axis_name)

    def _residual(self) -> _Residual:
        return _Residual(self.dropout, self.dtype, self.axis_name)

    def _feed_forward(self) -> _FeedForward:
        return _FeedForward(self.hidden, self.feedforward, self.dropout, self.dtype, self.axis_name)


class EncoderLayer(_Layer):
    """Regions look at each other."""

    def setup(self) -> None:
        self.look, self.add_look = self._attention(), self._residual()
        self.feed, self.add_feed = self._feed_forward(), self._residual()

    def __call__(self, regions: jax.Array, places: jax.Array, train: bool = False) -> jax.Array:
        """Regions float[B,K,d] at places float[K,d] -> float[B,K,d]."""
        placed = regions + places
        x = self.add_look(regions, self.look(placed, placed, regions, train)[0], train)
        return self.add_feed(x, self.feed(x, train), train)


class DecoderLayer(_Layer):
    """Queries look at each other, then at the regions.

    Attributes:
      meet: False: queries do not look at each other, and each adds itself in the place of that.
    """

    meet: bool = True

    def setup(self) -> None:
        if self.meet:
            self.look_around = self._attention()
        self.look, self.feed = self._attention(), self._feed_forward()
        self.add_around, self.add_look, self.add_feed = (self._residual() for _ in range(3))

    def __call__(
        self,
        x: jax.Array,
        regions: jax.Array,
        labels: jax.Array | float = 0.0,
        places: jax.Array | float = 0.0,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """One layer.

        Args:
          x: float[B,Q,d], what the queries have gathered; regions: float[B,K,d].
          labels: float[Q,d], what tells the queries apart in every layer, beside x.
          places: float[K,d], what tells the regions apart, beside their content.

        Returns:
          float[B,Q,d], and where the queries looked: float32[B,Q,K].
        """
        query = x + labels
        around = self.look_around(query, query, x, train)[0] if self.meet else x
        x = self.add_around(x, around, train)
        seen, weights = self.look(x + labels, regions + places, regions, train)
        x = self.add_look(x, seen, train)
        return self.add_feed(x, self.feed(x, train), train), weights
