"""M_att: where to look next, given what the LSTM holds (paper: attention)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class Attention(nn.Module):
    """Additive attention: e_j = wᵀ tanh(W_v v_j + W_h h), α = softmax(e), z = Σ_j α_j v_j.

    Attributes:
      units: A, width of the score layer.
      dtype: compute type; scores and softmax are float32.
    """

    units: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.project_features = nn.Dense(self.units, dtype=self.dtype)  # W_v
        self.project_query = nn.Dense(self.units, use_bias=False, dtype=self.dtype)  # W_h
        self.score = nn.Dense(1, use_bias=False, dtype=self.dtype)  # w

    def keys(self, features: jax.Array) -> jax.Array:
        """W_v v_j, the same at every step: float[B,K,D] -> float[B,K,A]."""
        return self.project_features(features)

    # Computed again in the backward pass: kept for all T steps, its float[B,K,A] would be the
    # largest arrays of the head's training, and cost more to store than the tanh to repeat.
    @partial(nn.remat, prevent_cse=False)
    def _scores(self, keys: jax.Array, query: jax.Array) -> jax.Array:
        """e: float32[B,K]."""
        hidden = jnp.tanh(keys + self.project_query(query)[:, None])
        return self.score(hidden)[..., 0].astype(jnp.float32)

    def __call__(
        self, features: jax.Array, keys: jax.Array, query: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """One look.

        Args:
          features: float[B,K,D]; keys: float[B,K,A] from `keys`; query: float[B,H], h_{t-1}.

        Returns:
          the context z float[B,D], and the weights α float32[B,K], which sum to 1.
        """
        weights = jax.nn.softmax(self._scores(keys, query), axis=-1)
        context = jnp.einsum("bk,bkd->bd", weights.astype(self.dtype), features.astype(self.dtype))
        return context, weights
