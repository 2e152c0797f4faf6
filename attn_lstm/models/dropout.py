"""Dropout whose masks do not depend on how many devices share the batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class RowDropout(nn.Module):
    """Inverted dropout with one random key an image, derived from its place in the global batch.

    `nn.Dropout` draws one mask for the device's part of the batch, so 1 and 4 devices train
    different networks from the same seed; this one gives the same masks on both.

    Attributes:
      rate: share of entries set to zero.
      axis_name: mapped axis over which the batch is split, None outside of a mapped step.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """float[B,...] -> float[B,...]; draws from the RNG stream 'dropout' when `train`."""
        if not train or self.rate == 0.0:
            return x
        key = self.make_rng("dropout")
        rows = jnp.arange(x.shape[0])
        if self.axis_name is not None:
            rows += jax.lax.axis_index(self.axis_name) * x.shape[0]

        def keep(row: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, row), 1.0 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(keep)(rows), x / (1.0 - self.rate), 0.0).astype(x.dtype)
