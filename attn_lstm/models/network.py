"""The whole network of a row: backbone, M_map, and the decoder where the row has one."""

from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from attn_lstm.label_pool import Choice, Unrolled
from attn_lstm.losses import best_constant, label_loss
from attn_lstm.models.cnn_rnn import CnnRnn
from attn_lstm.models.decoder import Decoder, SequenceDecoder
from attn_lstm.models.dropout import RowDropout
from attn_lstm.models.initializers import label_prior
from attn_lstm.models.knn import Neighbours, describe
from attn_lstm.models.mobilenet import MobileNetV2
from attn_lstm.models.preprocessing import IMAGENET, MOBILENET_V2, Preprocessing, normalise
from attn_lstm.models.resnet import ResNet
from attn_lstm.models.set_heads import LABEL_HEADS, create_set_head
from attn_lstm.models.small import SmallResNet
from attn_lstm.ordering import emits_end_token


@flax.struct.dataclass
class Outputs:
    """One pass of the network over a batch."""

    label_logits: jax.Array | None  # float32[B,C], of v_prob; None for a row without M_map
    unrolled: Unrolled | None  # the decoder's steps


class Network(nn.Module):
    """Images to regions, regions to labels (paper: M_map, M_att, M_pred).

    Attributes:
      backbone: module from normalised float[B,H,W,3] to float[B,H',W',D].
      decoder: None for rows that have M_map alone, a set head or neighbours.
      neighbours: the training images that stand in the place of M_map, for the row that has them.
      set_head: stands in the place of M_map, for the rows that have it (see `set_heads`).
      num_labels: C.
      link: maps M_map's logits to v_prob.
      preprocessing: what the backbone's weights expect of a pixel.
      frozen: the backbone keeps its parameters and its batch statistics.
      freeze_norm: it learns, but its batch norms keep the statistics they were loaded with.
      dropout: rate on the pooled feature.
      feature_dropout: rate on the channels of v_feat as the decoder or the set head sees it, the
        same channels in all regions and at all steps.
      dtype: compute type.
      axis_name: mapped axis over which the batch is split.
      prior: probability at which M_map's labels start, as in `initializers.label_prior`.
    """

    backbone: nn.Module
    decoder: SequenceDecoder | None
    num_labels: int
    preprocessing: Preprocessing
    frozen: bool
    neighbours: Neighbours | None = None
    set_head: nn.Module | None = None
    link: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
    freeze_norm: bool = False
    dropout: float = 0.0
    feature_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    prior: float | None = None

    def setup(self) -> None:
        self.map_labels = nn.Dense(
            self.num_labels, dtype=self.dtype, bias_init=label_prior(self.num_labels, self.prior)
        )
        self.drop = RowDropout(self.dropout, self.axis_name)
        self.drop_channels = RowDropout(self.feature_dropout, self.axis_name, shared=(1,))

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """v_feat: uint8[B,H,W,3] -> float[B,K,D], K = H'·W' regions in row-major order.

        Features float[B,K,D] that were encoded before pass as they are.
        """
        if images.ndim == 3:
            return images.astype(self.dtype)
        maps = self.backbone(
            normalise(images, self.preprocessing).astype(self.dtype),
            train=train and not (self.frozen or self.freeze_norm),
        )
        features = maps.reshape(maps.shape[0], -1, maps.shape[-1])
        return jax.lax.stop_gradient(features) if self.frozen else features

    def label_logits(self, features: jax.Array, train: bool = False) -> jax.Array | None:
        """Logits of v_prob: float[B,K,D] -> float32[B,C], or None for a row without M_map."""
        if self.neighbours is not None:
            return None
        if self.decoder is not None and not self.decoder.needs_map:
            return None
        return self._map(features, train)[0]

    def _map(self, features: jax.Array, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """M_map's logits, and where a set head in its place looks: float32[B,C,K]."""
        if self.set_head is not None:
            return self.set_head(self.drop_channels(features, train), train)
        pooled = self.drop(features.mean(axis=1), train)
        return self.map_labels(pooled).astype(jnp.float32), None

    def preliminary(self, features: jax.Array) -> jax.Array | None:
        """v_prob: float[B,K,D] -> float32[B,C], or None for a row that starts from none."""
        if self.neighbours is not None:
            return self.neighbours(describe(features))
        return self._link(self.label_logits(features))

    def look(self, features: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The whole prediction of a row without a decoder: float[B,K,D] -> float32[B,C].

        With it, where a set head looks for each label: float32[B,C,K].
        """
        if self.neighbours is not None:
            return self.preliminary(features), None
        logits, weights = self._map(features, train=False)
        return self.link(logits), weights

    def _link(self, logits: jax.Array | None) -> jax.Array | None:
        return None if logits is None else self.link(logits)

    def start(self, features: jax.Array, probabilities: jax.Array | None) -> tuple[Any, Any]:
        """The decoder's `start` on the parameters of the whole network."""
        return self.decoder.start(features, probabilities)

    def step(self, memory: Any, state: Any) -> tuple[Any, jax.Array, jax.Array | None]:
        """The decoder's `step` on the parameters of the whole network."""
        return self.decoder.step(memory, state)

    def unroll(
        self, features: jax.Array, probabilities: jax.Array | None, choose: Choice, steps: int
    ) -> Unrolled:
        """The decoder's `unroll` on the parameters of the whole network."""
        return self.decoder.unroll(features, probabilities, choose, steps)

    def __call__(
        self,
        images: jax.Array,
        choose: Choice,
        steps: int,
        train: bool = False,
    ) -> Outputs:
        """Everything that the losses need.

        Args:
          images: as in `encode`.
          choose: maps (logits, emitted bool[B,C]) to the label int32[B] that a step emits.
          steps: T.
          train: dropout and, unless frozen, batch statistics of this batch.
        """
        features = self.encode(images, train)
        logits = self.label_logits(features, train)
        if self.neighbours is not None and self.is_initializing():
            self.preliminary(features)  # no loss needs it, but it makes the memory
        if self.decoder is None:
            return Outputs(logits, None)
        features = self.drop_channels(features, train)
        unrolled = self.decoder.unroll(features, self._link(logits), choose, steps, train)
        return Outputs(logits, unrolled)


def looks(config: ml_collections.ConfigDict) -> bool:
    """Whether a row looks somewhere for each label, so that its predictions have attention maps."""
    if config.head == "attention_lstm":
        return config.decoder.use_attention
    return config.head in LABEL_HEADS and config.head != "linear"


def create_network(
    config: ml_collections.ConfigDict,
    num_labels: int,
    axis_name: str | None = None,
    frozen: bool = False,
    images: int = 0,
) -> Network:
    """The network of a validated, resolved config.

    Args:
      config: fields as in `configs/common.py`.
      num_labels: C.
      axis_name: the mapped axis, when it will run inside a mapped training step.
      frozen: the backbone does not learn in this stage of the training.
      images: of the training split; needed by `init` for a row with neighbours.
    """
    dtype = jnp.dtype(config.dtype)
    backbone, preprocessing = _create_backbone(config.backbone, dtype, axis_name)
    prior = _prior(config, num_labels)
    return Network(
        backbone=backbone,
        decoder=_create_decoder(config, num_labels, dtype, axis_name),
        num_labels=num_labels,
        preprocessing=preprocessing,
        frozen=frozen,
        neighbours=(
            Neighbours(num_labels, images, config.knn.neighbours) if config.head == "knn" else None
        ),
        set_head=create_set_head(config, num_labels, dtype, axis_name, prior),
        link=jax.nn.softmax if config.loss == "softmax" else jax.nn.sigmoid,
        freeze_norm=config.backbone.freeze_norm,
        dropout=config.decoder.dropout,
        feature_dropout=config.decoder.feature_dropout,
        dtype=dtype,
        axis_name=axis_name,
        prior=prior,
    )


def _prior(config: ml_collections.ConfigDict, num_labels: int) -> float | None:
    """Where the labels of M_map start under its loss; None for 1/C.

    A loss for which wrong labels count less is at rest at a higher probability, and falls to it
    along all weights at once: on 4,453 photographs the asymmetric one ended 1.5 points of mAP lower
    from 1/C.
    """
    if config.loss not in ("asymmetric", "focal"):
        return None
    return best_constant(label_loss(config.loss, config), 1 / num_labels)


def _create_decoder(
    config: ml_collections.ConfigDict, num_labels: int, dtype: jnp.dtype, axis_name: str | None
) -> SequenceDecoder | None:
    if config.head in (*LABEL_HEADS, "knn"):
        return None
    shared = {
        "num_labels": num_labels,
        "hidden": config.decoder.hidden,
        "dropout": config.decoder.dropout,
        "dtype": dtype,
        "axis_name": axis_name,
    }
    if config.head == "cnn_rnn":
        return CnnRnn(embedding=config.decoder.embedding, **shared)
    return Decoder(
        attention=config.decoder.attention,
        use_attention=config.decoder.use_attention,
        initial_state=config.decoder.initial_state,
        end_token=emits_end_token(config.order, config.decoder.target),
        **shared,
    )


def _create_backbone(
    config: ml_collections.ConfigDict, dtype: jnp.dtype, axis_name: str | None
) -> tuple[nn.Module, Preprocessing]:
    if config.name == "small":
        return SmallResNet(dtype=dtype, axis_name=axis_name), IMAGENET
    if config.name == "resnet":
        resnet = ResNet(depth=config.depth, dtype=dtype, axis_name=axis_name, remat=config.remat)
        return resnet, IMAGENET
    if config.name == "mobilenet_v2":
        return MobileNetV2(dtype=dtype), MOBILENET_V2
    raise ValueError(f"unknown backbone {config.name!r}")
