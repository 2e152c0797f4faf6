"""Dropout whose masks do not depend on how many devices share the batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def row_keys(key: jax.Array, count: int, axis_name: str | None = None) -> jax.Array:
    """One random key an image, derived from its place in the global batch: key[count].

    Args:
      key: the same on all devices; count: images of this device.
      axis_name: mapped axis over which the batch is split, None outside of a mapped step.
    """
    rows = jnp.arange(count)
    if axis_name is not None:
        rows += jax.lax.axis_index(axis_name) * count
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


class RowDropout(nn.Module):
    """Inverted dropout with one random key an image, as `row_keys` gives it.

    `nn.Dropout` draws one mask for the device's part of the batch, so 1 and 4 devices train
    different networks from the same seed; this one gives the same masks on both.

    Attributes:
      rate: share of entries set to zero.
      axis_name: mapped axis over which the batch is split, None outside of a mapped step.
      shared: axes of x along which the mask is the same, none of them the first.
    """

    rate: float
    axis_name: str | None = None
    shared: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """float[B,...] -> float[B,...]; draws from the RNG stream 'dropout' when `train`."""
        if not train or self.rate == 0.0:
            return x
        keys = row_keys(self.make_rng("dropout"), x.shape[0], self.axis_name)
        shape = [1 if axis in self.shared else size for axis, size in enumerate(x.shape)][1:]
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, shape))(keys)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0).astype(x.dtype)
