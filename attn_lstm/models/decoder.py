"""M_pred: the LSTM that emits one label a step, in the order of its own confidence."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from attn_lstm.label_pool import Choice, Unrolled, emit_most_confident, pool_log_softmax
from attn_lstm.models.attention import Attention, context, of_label
from attn_lstm.models.dropout import RowDropout
from attn_lstm.models.initializers import label_prior

MAPS = ("step", "label")


class Memory(struct.PyTreeNode):
    """What every step of one image reads and none changes."""

    features: jax.Array  # float[B,K,D], v_feat
    keys: jax.Array | None  # float[B,K,A], the attention's projection of them
    evidence: jax.Array | None  # float32[B,C,K], of each region for each label; with maps by label
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
    attention float32[B,N,K] | None)`, with logits of C+1 entries where the sequence ends by itself,
    and with a map of each label (N = C) or one for all (N = 1).
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

        def body(decoder: "SequenceDecoder", state: Any, _: None) -> tuple[Any, Unrolled]:
            before = state.emitted
            state, logits, weights = decoder.step(memory, state, train)
            label = choose(logits, before)
            attention = None if weights is None else of_label(weights, label)
            return state.emit(label), Unrolled(logits, before, label, attention)

        scan = nn.scan(
            body,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            length=steps,
            out_axes=1,
        )
        return scan(self, state, None)[1]


class Decoder(SequenceDecoder):
    """The LSTM, its attention and its output layer; one `step` serves training and search.

    Attributes:
      num_labels: C.
      hidden: LSTM units H.
      attention: units of the attention's score layer.
      use_attention: False puts the mean feature in the place of the context at every step.
      maps: one of `MAPS`. 'step': one map a step, whichever label it emits. 'label': a map of each
        label, e_{t,j,l} = e_{t,j} + u_l·v_j, and the logit of a label reads its own, Σ_j α_{t,j,l}
        u_l·v_j beside the output layer's (as Zhu & Wu 2021 add it to a linear layer's). The context
        is that of the label looked for, which p_{t-1} has as the pool's most probable one.
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
    maps: str = "step"
    initial_state: str = "mean"
    end_token: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        if self.initial_state not in ("mean", "zeros"):
            raise ValueError(f"unknown initial_state {self.initial_state!r}: mean or zeros")
        if self.maps not in MAPS:
            raise ValueError(f"unknown maps {self.maps!r}: {' or '.join(MAPS)}")
        if self.use_attention:
            self.attend = Attention(self.attention, self.dtype)
            if self.maps == "label":
                # From zeros: at the start all labels share the map of the step.
                self.evidence = nn.Dense(  # u
                    self.num_labels,
                    use_bias=False,
                    dtype=self.dtype,
                    kernel_init=nn.initializers.zeros,
                )
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
        evidence = None
        if self.use_attention and self.maps == "label":
            evidence = jnp.swapaxes(self.evidence(features), 1, 2).astype(jnp.float32)
        if self.initial_state == "mean":
            cell = (self.initial_c(mean), self.initial_h(mean))
        else:
            zeros = jnp.zeros((features.shape[0], self.hidden))
            cell = (zeros, zeros)
        cell = jax.tree.map(lambda x: x.astype(jnp.float32), cell)
        emitted = jnp.zeros(probabilities.shape, bool)
        return Memory(features, keys, evidence, mean), DecoderState(cell, probabilities, emitted)

    def step(
        self, memory: Memory, state: DecoderState, train: bool = False
    ) -> tuple[DecoderState, jax.Array, jax.Array | None]:
        """One step: looks, updates the LSTM, predicts; the caller chooses what to `emit`.

        Returns:
          the next state, logits float32[B,C] (C+1 with an end token, last), attention
          float32[B,N,K] as `Attention` gives it, or None where there is none to pay.
        """
        if memory.keys is not None:
            weights = self.attend(memory.keys, state.cell[1], memory.evidence)
            sought = emit_most_confident(state.probabilities, state.emitted)
            z = context(of_label(weights, sought), memory.features.astype(self.dtype))
        else:
            weights, z = None, memory.mean
        x = jnp.concatenate(
            [
                state.probabilities.astype(self.dtype),
                z.astype(self.dtype),
                state.emitted.astype(self.dtype),
            ],
            axis=-1,
        )
        cell, output = self.lstm(state.cell, x)
        cell = jax.tree.map(lambda s: s.astype(jnp.float32), cell)
        output = self.drop(output, train)
        logits = self.head(output).astype(jnp.float32)
        if weights is not None and memory.evidence is not None:
            seen = (weights * memory.evidence).sum(axis=-1)
            if self.end_token:  # of which nothing is seen
                seen = jnp.concatenate([seen, jnp.zeros_like(logits[:, -1:])], axis=-1)
            logits = logits + seen
        state = state.replace(cell=cell, probabilities=self._probabilities(logits, state.emitted))
        return state, logits, weights

    def _probabilities(self, logits: jax.Array, emitted: jax.Array) -> jax.Array:
        if self.end_token:
            return jnp.exp(pool_log_softmax(logits, emitted)[..., : self.num_labels])
        return jax.nn.sigmoid(logits)
