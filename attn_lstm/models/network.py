"""The whole network of a row: backbone, M_map, and the decoder where the row has one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from flax import struct

from attn_lstm.label_pool import Choice, Unrolled
from attn_lstm.models.convnext import ConvNeXt
from attn_lstm.models.decoder import SequenceDecoder
from attn_lstm.models.dropout import RowDropout
from attn_lstm.models.heads import Sizes, head_of, prior
from attn_lstm.models.initializers import label_prior
from attn_lstm.models.mobilenet import MobileNetV2
from attn_lstm.models.preprocessing import HALF, IMAGENET, Preprocessing, normalise
from attn_lstm.models.presets import PRESETS
from attn_lstm.models.resnet import ResNet
from attn_lstm.models.small import SmallResNet
from attn_lstm.models.vit import Architecture, ViT


class Outputs(struct.PyTreeNode):
    """One pass of the network over a batch."""

    label_logits: jax.Array | None  # float32[B,C], of v_prob; None for a row without M_map
    unrolled: Unrolled | None  # the decoder's steps


class Network(nn.Module):
    """Images to regions, regions to labels (paper: M_map, M_att, M_pred).

    Attributes:
      backbone: module from normalised float[B,H,W,3] to float[B,H',W',D].
      decoder: None for rows that have M_map or a set head alone.
      set_head: stands in the place of M_map, for the rows that have it (see `heads`).
      num_labels: C.
      link: maps the logits of M_map, or what the set head gives, to v_prob.
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
    num_labels: int
    preprocessing: Preprocessing
    frozen: bool
    decoder: SequenceDecoder | None = None
    set_head: nn.Module | None = None
    link: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
    freeze_norm: bool = False
    dropout: float = 0.0
    feature_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    prior: float | None = None

    if TYPE_CHECKING:

        def apply(self, *args: Any, **kwargs: Any) -> Any:
            """Linen's own is declared to give a pair at times, by an argument that is a value."""

    # A head may come with a name of its own for its variables.
    preserve_adopted_names: ClassVar[bool] = True

    def setup(self) -> None:
        self.map_labels = nn.Dense(
            self.num_labels, dtype=self.dtype, bias_init=label_prior(self.num_labels, self.prior)
        )
        self.drop = RowDropout(self.dropout, self.axis_name)
        self.drop_channels = RowDropout(self.feature_dropout, self.axis_name, shared=(1,))

    @property
    def sequence_decoder(self) -> SequenceDecoder:
        """The decoder, for what is done with rows that have one alone."""
        if self.decoder is None:
            raise ValueError("the network of this row has no decoder")
        return self.decoder

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """v_feat: uint8[B,H,W,3] -> float[B,K,D], K = H'·W' regions in row-major order."""
        maps = self.backbone(
            normalise(images, self.preprocessing).astype(self.dtype),
            train=train and not (self.frozen or self.freeze_norm),
        )
        features = maps.reshape(maps.shape[0], -1, maps.shape[-1])
        return jax.lax.stop_gradient(features) if self.frozen else features

    def label_logits(self, features: jax.Array, train: bool = False) -> jax.Array | None:
        """Logits of v_prob: float[B,K,D] -> float32[B,C], or None for a row without M_map."""
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
        return self._link(self.label_logits(features))

    def look(self, features: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The whole prediction of a row without a decoder: float[B,K,D] -> float32[B,C].

        With it, where a set head looks for each label: float32[B,C,K].
        """
        logits, weights = self._map(features, train=False)
        return self.link(logits), weights

    def class_activation(self, features: jax.Array) -> jax.Array | None:
        """The maps of M_map's linear layer (CAM, Zhou et al. 2016): float[B,K,D] -> float32[B,C,K].

        What each region adds to the label's logit, which is their mean. They cost nothing, and an
        attention that looks must point better. None for a row without that layer.
        """
        if self.set_head is not None or not (self.decoder is None or self.decoder.needs_map):
            return None
        return jnp.swapaxes(self.map_labels(features).astype(jnp.float32), 1, 2)

    def _link(self, logits: jax.Array | None) -> jax.Array | None:
        return None if logits is None else self.link(logits)

    def start(self, features: jax.Array, probabilities: jax.Array | None) -> tuple[Any, Any]:
        """The decoder's `start` on the parameters of the whole network."""
        return self.sequence_decoder.start(features, probabilities)

    def step(self, memory: Any, state: Any) -> tuple[Any, jax.Array, jax.Array | None]:
        """The decoder's `step` on the parameters of the whole network."""
        return self.sequence_decoder.step(memory, state)

    def unroll(
        self, features: jax.Array, probabilities: jax.Array | None, choose: Choice, steps: int
    ) -> Unrolled:
        """The decoder's `unroll` on the parameters of the whole network."""
        return self.sequence_decoder.unroll(features, probabilities, choose, steps)

    def __call__(
        self,
        inputs: jax.Array,
        choose: Choice,
        steps: int,
        train: bool = False,
        encoded: bool = False,
    ) -> Outputs:
        """Everything that the losses need.

        Args:
          inputs: images as in `encode`, or features float[B,K,D] of them.
          choose: maps (logits, emitted bool[B,C]) to the label int32[B] that a step emits.
          steps: T.
          train: dropout and, unless frozen, batch statistics of this batch.
          encoded: the inputs are features.
        """
        features = inputs.astype(self.dtype) if encoded else self.encode(inputs, train)
        logits = self.label_logits(features, train)
        if self.decoder is None:
            return Outputs(logits, None)
        features = self.drop_channels(features, train)
        unrolled = self.decoder.unroll(features, self._link(logits), choose, steps, train)
        return Outputs(logits, unrolled)


def create_network(
    config: ml_collections.ConfigDict,
    num_labels: int,
    *,
    axis_name: str | None = None,
    images: int = 0,
    partial: bool = False,
) -> Network:
    """The network of a validated, resolved config.

    Args:
      config: fields as in `attn_lstm/fields.py`.
      num_labels: C.
      axis_name: the mapped axis, where it will train inside a mapped step.
      images: of the training split; needed by `init` for a head that remembers them.
      partial: some labels of these are not known.
    """
    dtype = jnp.dtype(config.dtype)
    backbone, preprocessing = _create_backbone(config.backbone, dtype, axis_name)
    start = prior(config, num_labels)
    attributes = {
        "link": jax.nn.softmax if config.loss == "softmax" else jax.nn.sigmoid,
        **head_of(config).build(
            config, Sizes(num_labels, images, dtype, axis_name, start, partial)
        ),
    }
    return Network(
        backbone=backbone,
        num_labels=num_labels,
        preprocessing=preprocessing,
        frozen=config.backbone.frozen,
        freeze_norm=config.backbone.freeze_norm,
        dropout=config.decoder.dropout,
        feature_dropout=config.decoder.feature_dropout,
        dtype=dtype,
        axis_name=axis_name,
        prior=start,
        **attributes,
    )


def _create_backbone(
    config: ml_collections.ConfigDict, dtype: jnp.dtype, axis_name: str | None
) -> tuple[nn.Module, Preprocessing]:
    if config.name == "small":
        return SmallResNet(dtype=dtype, axis_name=axis_name), IMAGENET
    if config.name == "resnet":
        resnet = ResNet(depth=config.depth, dtype=dtype, axis_name=axis_name, remat=config.remat)
        return resnet, IMAGENET
    if config.name in ("vit", "convnext"):
        preset = PRESETS[config.preset]
        architecture = preset.architecture
        learning = {"remat": config.remat, "resting_blocks": config.resting_blocks}
        if isinstance(architecture, Architecture):
            return ViT(architecture, dtype, **learning), preset.preprocessing
        return ConvNeXt(architecture, dtype, **learning), preset.preprocessing
    if config.name == "mobilenet_v2":
        return MobileNetV2(dtype=dtype), HALF
    raise ValueError(f"unknown backbone {config.name!r}")
