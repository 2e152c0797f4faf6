"""CNN-RNN (Wang et al. 2016): images and labels in one space, an LSTM over the labels so far."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from attn_lstm.models.decoder import SequenceDecoder
from attn_lstm.models.dropout import RowDropout


class CnnRnnState(struct.PyTreeNode):
    """What one step hands to the next."""

    cell: tuple[jax.Array, jax.Array]  # LSTM (c, h), float32[B,H] each
    last: jax.Array  # int32[B], label emitted last; -1 before the first
    emitted: jax.Array  # bool[B,C], the labels that have left the pool

    def emit(self, label: jax.Array) -> "CnnRnnState":
        """Hands label int32[B] to the next step and takes it out of the pool.

        -1 (nothing yet) and C (the end token) leave the pool as it is.
        """
        taken = jax.nn.one_hot(label, self.emitted.shape[-1], dtype=bool)
        return self.replace(last=label, emitted=self.emitted | taken)


class CnnRnn(SequenceDecoder):
    """o_t = LSTM(U_l l_{t-1}), x_t = relu(U_o o_t + U_I I), s_t = U_lᵀ x_t, a softmax over s_t.

    U_l holds one vector a label and one for the end token, and serves as the LSTM's input and as
    the classifier. I is the mean feature. There is neither attention nor v_prob. Our choices where
    the paper leaves them open: the usual LSTM cell from a state of zeros, the zero vector in the
    place of l_0, and labels that were emitted leave the softmax, as in the other rows.

    Attributes:
      num_labels: C.
      hidden: LSTM units H.
      embedding: E, width of the joint space.
      dropout: rate on x_t.
      dtype: compute type; the state is float32.
      axis_name: mapped axis over which the batch is split.
    """

    num_labels: int
    hidden: int
    embedding: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    end_token: ClassVar[bool] = True
    needs_map: ClassVar[bool] = False

    def setup(self) -> None:
        self.embed = nn.Embed(self.num_labels + 1, self.embedding, dtype=self.dtype)  # U_l
        self.lstm = nn.OptimizedLSTMCell(self.hidden, dtype=self.dtype)
        self.project_output = nn.Dense(self.embedding, dtype=self.dtype)  # U_o
        self.project_image = nn.Dense(self.embedding, use_bias=False, dtype=self.dtype)  # U_I
        self.drop = RowDropout(self.dropout, self.axis_name)

    def start(
        self, features: jax.Array, probabilities: jax.Array | None = None
    ) -> tuple[jax.Array, CnnRnnState]:
        """Before the first step: U_I I float[B,E], which every step reads, and the state.

        Args:
          features: float[B,K,D], v_feat; probabilities: of no use here.
        """
        batch = features.shape[0]
        zeros = jnp.zeros((batch, self.hidden), jnp.float32)
        nothing = jnp.full((batch,), -1, jnp.int32)
        emitted = jnp.zeros((batch, self.num_labels), bool)
        image = self.project_image(features.mean(axis=1))
        return image, CnnRnnState((zeros, zeros), nothing, emitted)

    def step(
        self, image: jax.Array, state: CnnRnnState, train: bool = False
    ) -> tuple[CnnRnnState, jax.Array, None]:
        """One step; the caller chooses what to `emit`.

        Returns:
          the next state, logits float32[B,C+1] with the end token last, and no attention.
        """
        known = state.last[:, None] >= 0
        label = jnp.where(known, self.embed(jnp.maximum(state.last, 0)), 0.0)
        cell, output = self.lstm(state.cell, label)
        cell = jax.tree.map(lambda x: x.astype(jnp.float32), cell)
        joint = self.drop(nn.relu(self.project_output(output) + image), train)
        return state.replace(cell=cell), self.embed.attend(joint).astype(jnp.float32), None
