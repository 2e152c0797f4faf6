"""MobileNetV2 (Sandler et al. 2018) at width 1.0, as Keras publishes it, batch norm folded away."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

FEATURES = 1280  # D, the channels of `Conv_1`

# For each group of blocks: how much wider its inner layers are, channels, blocks, first stride.
_GROUPS = (
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

_he_normal = nn.initializers.he_normal()


class DepthwiseConv(nn.Module):
    """A 3x3 kernel a channel and a bias: float[B,H,W,C] -> float[B,H/s,W/s,C].

    Nine shifted multiply-adds, which XLA fuses into one loop: on CPUs 4 to 25 times as fast as its
    convolution with `feature_group_count=C`. Sums are float32.

    Attributes:
      stride: s, 1 or 2.
      dtype: type of the result.
    """

    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _he_normal, (3, 3, 1, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        batch, height, width, channels = x.shape
        s = self.stride
        pads = jax.lax.padtype_to_pads((height, width), (3, 3), (s, s), "SAME")
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        rows, columns = -(-height // s), -(-width // s)
        y = jnp.broadcast_to(bias[None, None, None], (batch, rows, columns, channels))
        for i in range(3):
            for j in range(3):
                end = (batch, i + (rows - 1) * s + 1, j + (columns - 1) * s + 1, channels)
                shifted = jax.lax.slice(x, (0, i, j, 0), end, (1, s, s, 1))
                y = y + shifted.astype(jnp.float32) * kernel[i, j][None, None]
        return y.astype(self.dtype)


class MobileNetV2(nn.Module):
    """Everything of the network before its average pool, under Keras' layer names.

    There is no batch norm left: every convolution has a bias, and `train` changes nothing.
    Keras' paddings, (0, 1) at stride 2 on even sides and (1, 1) on odd ones, are XLA's SAME.

    Attributes:
      dtype: compute type, also of the features; parameters are float32. bfloat16 is coarse for
        this network, whose folded kernels span wide ranges: on the published weights the cosine
        of its features to float32's is 0.996.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Features: float[B,H,W,3], normalised, -> float[B,H/32,W/32,1280], sides rounded up."""
        if x.ndim != 4 or x.shape[-1] != 3:
            raise ValueError(f"images have shape {x.shape}, expected [B,H,W,3]")
        conv = partial(nn.Conv, kernel_init=_he_normal, dtype=self.dtype)
        depthwise = partial(DepthwiseConv, dtype=self.dtype)

        x = nn.relu6(conv(32, (3, 3), 2, padding="SAME", name="Conv1")(x))
        x = nn.relu6(depthwise(1, name="expanded_conv_depthwise")(x))
        x = conv(16, (1, 1), name="expanded_conv_project")(x)
        block = 1
        for expansion, channels, blocks, first_stride in _GROUPS:
            for i in range(blocks):
                stride = first_stride if i == 0 else 1
                y = conv(expansion * x.shape[-1], (1, 1), name=f"block_{block}_expand")(x)
                y = depthwise(stride, name=f"block_{block}_depthwise")(nn.relu6(y))
                y = conv(channels, (1, 1), name=f"block_{block}_project")(nn.relu6(y))
                x = x + y if x.shape == y.shape else y
                block += 1
        return nn.relu6(conv(FEATURES, (1, 1), name="Conv_1")(x))
