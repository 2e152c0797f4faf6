"""M_pred: the LSTM that emits one label a step, in the order of its own confidence."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from attn_lstm.label_pool import Choice, Unrolled, pool_log_softmax
from attn_lstm.models.attention import Attention
from attn_lstm.models.dropout import RowDropout
from attn_lstm.models.initializers import label_prior


class Memory(struct.PyTreeNode):
    """What every step of one image reads and none changes."""

    features: jax.Array  # float[B,K,D], v_feat
    keys: jax.Array | None  # float[B,K,A], the attention's projection of them
    mean: jax.Array  # float[B,D]


class DecoderState(struct.PyTreeNode):
    """What one step hands to the next."""

    cell: tuple[jax.Array, jax.Array]  # LSTM (c, h), float32[B,H] each
    probabilities: jax.Array  # float32[B,C], p_{t-1}; v_prob before the first step
    emitted: jax.Array  # bool[B,C], ŷ_{t-1}: the labels that have left the pool

    def emit(self, label: jax.Array) -> "DecoderState":
        """Takes label int32[B] out of the pool; -1 and C (the end token) take none."""
        taken = jax.nn.one_hot(label, self.emitted.shape[-1], dtype=bool)
        return self.replace(emitted=self.emitted | taken)


class SequenceDecoder(nn.Module):
    """One label a step: what training, the search and the network ask of every decoder.

    A subclass has `num_labels` (C), `end_token` and two methods:
    `start(features float[B,K,D], probabilities float32[B,C] | None) -> (memory, state)`, of which
    no step changes the memory, and `step(memory, state, train) -> (state, logits float32[B,C],
    attention float32[B,K] | None)`, with logits of C+1 entries where the sequence ends by itself.
    The state has `emitted bool[B,C]` and `emit(label int32[B]) -> state`.
    """

    # Whether `start` takes v_prob, so that the row has M_map.
    needs_map: ClassVar[bool] = True

    @property
    def looks(self) -> bool:
        """Whether a step says where it looked."""
        return False

    def unroll(
        self,
        features: jax.Array,
        probabilities: jax.Array | None,
        choose: Choice,
        steps: int,
        train: bool = False,
    ) -> Unrolled:
        """Scans `steps` steps; `choose(logits, emitted bool[B,C]) -> int32[B]` picks the label."""
        memory, state = self.start(features, probabilities)

        def body(
            decoder: "SequenceDecoder", state: Any, _: None
        ) -> tuple[Any, tuple[jax.Array, ...]]:
            before = state.emitted
            state, logits, weights = decoder.step(memory, state, train)
            label = choose(logits, before)
            return state.emit(label), (logits, before, label, weights)

        scan = nn.scan(
            body,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            length=steps,
            out_axes=1,
        )
        _, steps_of = scan(self, state, None)
        return Unrolled(*steps_of)


class Decoder(SequenceDecoder):
    """The LSTM, its attention and its output layer; one `step` serves training and search.

    Attributes:
      num_labels: C.
      hidden: LSTM units H.
      attention: units of the attention's score layer.
      use_attention: False puts the mean feature in the place of the context at every step.
      initial_state: 'mean' (a linear layer each for h_0 and c_0 on the mean feature) or 'zeros'.
      end_token: adds one class that ends a sequence; probabilities are then a softmax over the
        pool and that class, else a sigmoid a label.
      dropout: rate on the LSTM's output.
      dtype: compute type; state and probabilities are float32.
      axis_name: mapped axis over which the batch is split.
    """

    num_labels: int
    hidden: int
    attention: int
    use_attention: bool = True
    initial_state: str = "mean"
    end_token: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        if self.initial_state not in ("mean", "zeros"):
            raise ValueError(f"unknown initial_state {self.initial_state!r}: mean or zeros")
        if self.use_attention:
            self.attend = Attention(self.attention, self.dtype)
        if self.initial_state == "mean":
            self.initial_c = nn.Dense(self.hidden, dtype=self.dtype)
            self.initial_h = nn.Dense(self.hidden, dtype=self.dtype)
        self.lstm = nn.OptimizedLSTMCell(self.hidden, dtype=self.dtype)
        self.drop = RowDropout(self.dropout, self.axis_name)
        self.head = nn.Dense(
            self.num_labels + self.end_token,
            dtype=self.dtype,
            bias_init=(nn.initializers.zeros if self.end_token else label_prior(self.num_labels)),
        )

    @property
    def looks(self) -> bool:
        return self.use_attention

    def start(self, features: jax.Array, probabilities: jax.Array) -> tuple[Memory, DecoderState]:
        """Before the first step.

        Args:
          features: float[B,K,D], v_feat; probabilities: float32[B,C], v_prob.
        """
        mean = features.mean(axis=1)
        keys = self.attend.keys(features) if self.use_attention else None
        if self.initial_state == "mean":
            cell = (self.initial_c(mean), self.initial_h(mean))
        else:
            zeros = jnp.zeros((features.shape[0], self.hidden))
            cell = (zeros, zeros)
        cell = jax.tree.map(lambda x: x.astype(jnp.float32), cell)
        emitted = jnp.zeros(probabilities.shape, bool)
        return Memory(features, keys, mean), DecoderState(cell, probabilities, emitted)

    def step(
        self, memory: Memory, state: DecoderState, train: bool = False
    ) -> tuple[DecoderState, jax.Array, jax.Array | None]:
        """One step: looks, updates the LSTM, predicts; the caller chooses what to `emit`.

        Returns:
          the next state, logits float32[B,C] (C+1 with an end token, last), attention
          float32[B,K], or None where there is none to pay.
        """
        if memory.keys is not None:
            context, weights = self.attend(memory.features, memory.keys, state.cell[1])
        else:
            context, weights = memory.mean, None
        x = jnp.concatenate(
            [
                state.probabilities.astype(self.dtype),
                context.astype(self.dtype),
                state.emitted.astype(self.dtype),
            ],
            axis=-1,
        )
        cell, output = self.lstm(state.cell, x)
        cell = jax.tree.map(lambda s: s.astype(jnp.float32), cell)
        output = self.drop(output, train)
        logits = self.head(output).astype(jnp.float32)
        state = state.replace(cell=cell, probabilities=self._probabilities(logits, state.emitted))
        return state, logits, weights

    def _probabilities(self, logits: jax.Array, emitted: jax.Array) -> jax.Array:
        if self.end_token:
            return jnp.exp(pool_log_softmax(logits, emitted)[..., : self.num_labels])
        return jax.nn.sigmoid(logits)
