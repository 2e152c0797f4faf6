"""M_att: where to look next, given what the LSTM holds (paper: attention)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class Attention(nn.Module):
    """Additive attention: e_j = wᵀ tanh(W_v v_j + W_h h), α = softmax(e).

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
        self, keys: jax.Array, query: jax.Array, evidence: jax.Array | None = None
    ) -> jax.Array:
        """One look.

        Args:
          keys: float[B,K,A] from `keys`; query: float[B,H], h_{t-1}.
          evidence: float32[B,C,K], what each region says for each label, which is added to e.

        Returns:
          α float32[B,N,K], which sum to 1 over the regions: the map of each label where there is
          evidence (N = C), else one for all (N = 1).
        """
        scores = self._scores(keys, query)[:, None]
        return jax.nn.softmax(scores if evidence is None else scores + evidence, axis=-1)


def context(weights: jax.Array, features: jax.Array) -> jax.Array:
    """z = Σ_j α_j v_j: float32[B,K] and float[B,K,D] -> float[B,D] of the features' type."""
    return jnp.einsum("bk,bkd->bd", weights.astype(features.dtype), features)


def of_label(weights: jax.Array, label: jax.Array) -> jax.Array:
    """The map of label int32[B], of maps float32[B,N,K] as `Attention` gives them: float32[B,K].

    Beside the labels there may be an end token, C, or none, -1; their map is of no use.
    """
    place = jnp.clip(label, 0, weights.shape[1] - 1)
    return jnp.take_along_axis(weights, place[:, None, None], axis=1)[:, 0]
