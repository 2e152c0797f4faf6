"""M_map's residual backbones (He et al. 2016), layer for layer as torchvision publishes them."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

# Blocks of the four stages, and how many times wider than its inner layers a block ends.
_VARIANTS = {
    18: ((2, 2, 2, 2), 1),
    34: ((3, 4, 6, 3), 1),
    50: ((3, 4, 6, 3), 4),
    101: ((3, 4, 23, 3), 4),
    152: ((3, 8, 36, 3), 4),
}
DEPTHS = tuple(_VARIANTS)

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def feature_dim(depth: int) -> int:
    """D, the channels of `ResNet(depth)`'s features. Raises `ValueError` on an unknown depth."""
    _check_depth(depth)
    return 512 * _VARIANTS[depth][1]


class Block(nn.Module):
    """A residual block, basic (expansion 1) or bottleneck: float[B,H,W,D'] -> float[B,H/s,W/s,D].

    Attributes:
      width: channels of the inner layers; D is `expansion` times as many.
      expansion: 1 or 4.
      stride: s. A bottleneck strides in its 3x3 layer, not in its first as the original paper
        does: torchvision's variant, known as v1.5.
      conv: makes a convolution.
      norm: makes a batch normalisation.
    """

    width: int
    expansion: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.width * self.expansion
        if self.expansion == 1:
            layers = ((3, self.width, self.stride), (3, out, 1))
        else:
            layers = ((1, self.width, 1), (3, self.width, self.stride), (1, out, 1))
        y = x
        for i, (size, features, stride) in enumerate(layers, start=1):
            y = self.conv(features, (size, size), stride, padding=size // 2, name=f"conv{i}")(y)
            y = self.norm(name=f"bn{i}")(y)
            if i < len(layers):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = self.conv(out, (1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Everything of torchvision's ResNet before its average pool.

    Modules carry torchvision's names with dots turned into underscores (`layer1_0`), so that its
    weights can be loaded (`attn_lstm.weights`). Parameters start as torchvision's do: He normal by
    fan-out, every scale 1, also that of a block's last normalisation. Running variances average
    the biased variance of a batch, torch's the unbiased one.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      dtype: compute type, also of the features; parameters and statistics are float32.
      axis_name: mapped axis over which the batch statistics of training are shared.
      remat: recompute each block's activations in the backward pass instead of keeping them.

    Raises:
      ValueError: on any other depth.
    """

    depth: int
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        _check_depth(self.depth)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Features: float[B,H,W,3], normalised, -> float[B,H/32,W/32,D], sides rounded up.

        Args:
          x: as `preprocessing.normalise` makes it.
          train: normalise with this batch's statistics and update the collection `batch_stats`.
        """
        if x.ndim != 4 or x.shape[-1] != 3:
            raise ValueError(f"images have shape {x.shape}, expected [B,H,W,3]")
        # Paddings are torch's: equal on both sides, where SAME would put more at the end.
        conv = partial(nn.Conv, use_bias=False, kernel_init=_he_normal, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        block = nn.remat(Block) if self.remat else Block
        stages, expansion = _VARIANTS[self.depth]

        x = conv(64, (7, 7), 2, padding=3, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(stages):
            for i in range(blocks):
                x = block(
                    width=64 * 2**stage,
                    expansion=expansion,
                    stride=2 if stage > 0 and i == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"layer{stage + 1}_{i}",
                )(x)
        return x


def _check_depth(depth: int) -> None:
    if depth not in _VARIANTS:
        raise ValueError(f"unknown ResNet depth {depth!r}: {', '.join(map(str, DEPTHS))}")
