"""Heads that give all labels at once, in the place of M_map's linear layer on the mean region.

Each takes features float[B,K,D] and returns logits float32[B,C] and where it looked for each
label: float32[B,C,K], which sums to 1 over the regions; `looks` says that it does.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attn_lstm.models.initializers import label_prior
from attn_lstm.models.transformer import DecoderLayer, EncoderLayer, layer_norm, sine_places

# CSRA's softmax temperatures by the number of heads, as published; 99 stands for the maximum.
TEMPERATURES = {
    1: (1,),
    2: (1, 99),
    4: (1, 2, 4, 99),
    6: (1, 2, 3, 4, 5, 99),
    8: (1, 2, 3, 4, 5, 6, 7, 99),
}


class _QueryHead(nn.Module):
    """What heads of transformer layers have in common.

    Attributes:
      num_labels: C.
      hidden: d; heads: H, which divides d.
      feedforward: units of a layer's hidden layer.
      layers: of the decoder.
      dropout: rate in the layers.
      dtype: compute type.
      axis_name: mapped axis over which the batch is split.
      prior: probability at which labels start, as in `initializers.label_prior`.
    """

    num_labels: int
    hidden: int
    heads: int
    feedforward: int
    layers: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    prior: float | None = None

    looks: ClassVar[bool] = True

    def _layer(self, kind: type, **attributes: bool) -> nn.Module:
        return kind(
            self.hidden, self.heads, self.feedforward, self.dropout, self.dtype, self.axis_name,
            **attributes,
        )  # fmt: skip


class Query2Label(_QueryHead):
    """Query2Label (Liu et al. 2021, arXiv 2107.10834): a query a label in a transformer's decoder.

    As in the published code: the regions, projected to d channels, pass an encoder; the queries
    start from zeros, and a learned vector a label is added wherever they ask; encodings of the
    place are added wherever regions are asked; each label has a weight vector of its own for its
    query's result. The queries look at each other first, as in the paper (the commands published
    beside the code leave that out).

    Attributes:
      encoder_layers: in which regions look at each other.
    """

    encoder_layers: int = 1

    def setup(self) -> None:
        self.project = nn.Dense(self.hidden, dtype=self.dtype)
        self.encoder = [self._layer(EncoderLayer) for _ in range(self.encoder_layers)]
        self.decoder = [self._layer(DecoderLayer) for _ in range(self.layers)]
        self.norm = layer_norm(dtype=self.dtype)
        shape = (self.num_labels, self.hidden)
        self.labels = self.param("labels", nn.initializers.normal(1.0), shape)
        bound = 1 / math.sqrt(self.hidden)
        self.kernel = self.param(
            "kernel", lambda key: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        )
        self.bias = self.param("bias", label_prior(self.num_labels, self.prior), (self.num_labels,))

    def __call__(self, features: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """The weights are those of the last layer, averaged over its heads.

        Raises:
          ValueError: the regions form no square map, so that their places are not known.
        """
        batch, regions, _ = features.shape
        side = math.isqrt(regions)
        if side * side != regions:
            raise ValueError(f"{regions} regions are no square map: their places are not known")
        places = jnp.asarray(sine_places(side, self.hidden), self.dtype)
        labels = self.labels.astype(self.dtype)
        seen = self.project(features)
        for layer in self.encoder:
            seen = layer(seen, places, train)
        x = jnp.zeros((batch, self.num_labels, self.hidden), self.dtype)
        for layer in self.decoder:
            x, weights = layer(x, seen, labels, places, train)
        logits = jnp.einsum("bcd,cd->bc", self.norm(x), self.kernel.astype(self.dtype))
        return logits.astype(jnp.float32) + self.bias, weights


class MLDecoder(_QueryHead):
    """ML-Decoder (Ridnik et al., WACV 2023): G fixed queries, each for a group of labels.

    As in the published code: queries are random, are not learned and do not look at each other;
    group g's result gives the logits of ⌈C/G⌉ labels that follow each other, by a matrix of its
    own. They do not depend on the seed of a run, and NumPy draws the same ones in every version.

    Attributes:
      groups: G, at most; with as many labels or fewer each label has a query of its own.
    """

    groups: int = 100

    def setup(self) -> None:
        self.project = nn.Dense(self.hidden, dtype=self.dtype)
        self.decoder = [self._layer(DecoderLayer, meet=False) for _ in range(self.layers)]
        groups = min(self.groups, self.num_labels)
        shape = (groups, self.hidden, math.ceil(self.num_labels / groups))
        self.kernel = self.param(
            "kernel", nn.initializers.glorot_normal(in_axis=1, out_axis=0), shape
        )
        self.bias = self.param("bias", label_prior(self.num_labels, self.prior), (self.num_labels,))

    def __call__(self, features: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """The weights are those of the last layer, averaged over its heads, the same in a group."""
        batch = features.shape[0]
        groups, _, factor = self.kernel.shape
        queries = np.random.RandomState(0).normal(size=(groups, self.hidden))
        x = jnp.broadcast_to(jnp.asarray(queries, self.dtype), (batch, groups, self.hidden))
        seen = nn.relu(self.project(features))
        for layer in self.decoder:
            x, weights = layer(x, seen, train=train)
        logits = jnp.einsum("bgd,gdf->bgf", x, self.kernel.astype(self.dtype))
        logits = logits.reshape(batch, -1)[:, : self.num_labels].astype(jnp.float32)
        return logits + self.bias, jnp.repeat(weights, factor, axis=1)[:, : self.num_labels]


class ResidualAttention(nn.Module):
    """CSRA, class-specific residual attention (Zhu & Wu, ICCV 2021).

    Each head scores every region for every label, s_jc = v_j · w_c / |w_c|. The logit of a label
    is the sum over heads of mean_j s_jc + λ Σ_j a_jc s_jc, where a = softmax_j(T s) with the
    head's temperature T, or the maximum for T = 99. As published it has no bias.

    Attributes:
      num_labels: C.
      temperatures: T of each head.
      residual: λ, the weight of what attention gathers.
      dtype: compute type; scores and softmaxes are float32.
    """

    num_labels: int
    temperatures: tuple[int, ...]
    residual: float
    dtype: jnp.dtype = jnp.float32

    looks: ClassVar[bool] = True

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Draws nothing when `train`. The weights are averaged over the heads."""
        shape = (len(self.temperatures), features.shape[-1], self.num_labels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(in_axis=1, batch_axis=0), shape)
        kernel = kernel / jnp.linalg.norm(kernel, axis=1, keepdims=True)
        scores = jnp.einsum(
            "bkd,hdc->hbck", features.astype(self.dtype), kernel.astype(self.dtype)
        ).astype(jnp.float32)
        weights = jnp.stack([_attend(s, t) for s, t in zip(scores, self.temperatures, strict=True)])
        logits = scores.mean(axis=-1) + self.residual * (weights * scores).sum(axis=-1)
        return logits.sum(axis=0), weights.mean(axis=0)


def _attend(scores: jax.Array, temperature: int) -> jax.Array:
    """Weights over the last axis: all on the largest score for temperature 99."""
    if temperature == 99:
        return jax.nn.one_hot(scores.argmax(axis=-1), scores.shape[-1])
    return jax.nn.softmax(temperature * scores, axis=-1)
