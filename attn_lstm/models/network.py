"""The whole network of a row: backbone, M_map, and the decoder where the row has one."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from attn_lstm.models.decoder import Choice, Decoder, DecoderState, Memory, Unrolled
from attn_lstm.models.dropout import RowDropout
from attn_lstm.models.mobilenet import MobileNetV2
from attn_lstm.models.preprocessing import IMAGENET, MOBILENET_V2, Preprocessing, normalise
from attn_lstm.models.resnet import ResNet
from attn_lstm.models.small import SmallResNet
from attn_lstm.ordering import emits_end_token


@flax.struct.dataclass
class Outputs:
    """One pass of the network over a batch."""

    label_logits: jax.Array  # float32[B,C], of v_prob
    unrolled: Unrolled | None  # the decoder's steps


class Network(nn.Module):
    """Images to regions, regions to labels (paper: M_map, M_att, M_pred).

    Attributes:
      backbone: module from normalised float[B,H,W,3] to float[B,H',W',D].
      decoder: None for rows that have M_map alone.
      num_labels: C.
      preprocessing: what the backbone's weights expect of a pixel.
      frozen: the backbone keeps its parameters and its batch statistics.
      freeze_norm: it learns, but its batch norms keep the statistics they were loaded with.
      dropout: rate on the pooled feature.
      dtype: compute type.
      axis_name: mapped axis over which the batch is split.
    """

    backbone: nn.Module
    decoder: Decoder | None
    num_labels: int
    preprocessing: Preprocessing
    frozen: bool
    freeze_norm: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        self.map_labels = nn.Dense(self.num_labels, dtype=self.dtype)
        self.drop = RowDropout(self.dropout, self.axis_name)

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

    def label_logits(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Logits of v_prob: float[B,K,D] -> float32[B,C]."""
        pooled = self.drop(features.mean(axis=1), train)
        return self.map_labels(pooled).astype(jnp.float32)

    def start(self, features: jax.Array, probabilities: jax.Array) -> tuple[Memory, DecoderState]:
        """`Decoder.start` on the parameters of the whole network."""
        return self.decoder.start(features, probabilities)

    def step(
        self, memory: Memory, state: DecoderState
    ) -> tuple[DecoderState, jax.Array, jax.Array]:
        """`Decoder.step` on the parameters of the whole network."""
        return self.decoder.step(memory, state)

    def unroll(
        self, features: jax.Array, probabilities: jax.Array, choose: Choice, steps: int
    ) -> Unrolled:
        """`Decoder.unroll` on the parameters of the whole network."""
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
        if self.decoder is None:
            return Outputs(logits, None)
        unrolled = self.decoder.unroll(features, jax.nn.sigmoid(logits), choose, steps, train)
        return Outputs(logits, unrolled)


def create_network(
    config: ml_collections.ConfigDict,
    num_labels: int,
    axis_name: str | None = None,
    frozen: bool = False,
) -> Network:
    """The network of a validated, resolved config.

    Args:
      config: fields as in `configs/common.py`.
      num_labels: C.
      axis_name: the mapped axis, when it will run inside a mapped training step.
      frozen: the backbone does not learn in this stage of the training.
    """
    dtype = jnp.dtype(config.dtype)
    backbone, preprocessing = _create_backbone(config.backbone, dtype, axis_name)
    decoder = None
    if config.head == "attention_lstm":
        decoder = Decoder(
            num_labels=num_labels,
            hidden=config.decoder.hidden,
            attention=config.decoder.attention,
            use_attention=config.decoder.use_attention,
            initial_state=config.decoder.initial_state,
            end_token=emits_end_token(config.order, config.decoder.target),
            dropout=config.decoder.dropout,
            dtype=dtype,
            axis_name=axis_name,
        )
    return Network(
        backbone=backbone,
        decoder=decoder,
        num_labels=num_labels,
        preprocessing=preprocessing,
        frozen=frozen,
        freeze_norm=config.backbone.freeze_norm,
        dropout=config.decoder.dropout,
        dtype=dtype,
        axis_name=axis_name,
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
