"""ConvNeXt (Liu et al. 2022), the first version, as its authors publish it."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_normal = nn.initializers.truncated_normal(0.02)
_conv = partial(nn.Conv, padding="VALID", kernel_init=_normal)
_dense = partial(nn.Dense, kernel_init=_normal)
_layer_norm = partial(nn.LayerNorm, epsilon=1e-6)

_SIDE = 7  # of the depthwise kernels


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What tells one ConvNeXt from another.

    Attributes:
      widths: channels of each stage, of which the last is D.
      depths: blocks of each stage.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def width(self) -> int:
        """D, the channels of a region."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def patch(self) -> int:
        """Pixels from one region to the next: 4 in front, and every later stage halves the map."""
        return 4 * 2 ** (len(self.widths) - 1)


def _around(x: jax.Array) -> jax.Array:
    edge = _SIDE // 2
    return jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each channel's own 7x7 kernel, with zeros around: float[B,H,W,C] -> float[B,H,W,C].

    On CPUs XLA's convolution with `feature_group_count=C` takes many times as long as `shifted`,
    which takes minutes to compile for TPUs.

    Args:
      x: float[B,H,W,C].
      kernel: float32[7,7,1,C].
    """
    return lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`depthwise` as one convolution with a group a channel."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@jax.custom_vjp
def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`depthwise` as 49 shifted multiply-adds, which XLA fuses into one loop; sums are float32.

    Left to themselves, the gradients would be 49 loops to compile a block.
    """
    height, width = x.shape[1:3]
    padded, y = _around(x), jnp.float32(0)
    for i in range(_SIDE):
        for j in range(_SIDE):
            part = padded[:, i : i + height, j : j + width]
            y = y + part.astype(jnp.float32) * kernel[i, j][None, None]
    return y.astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return shifted(x, kernel), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    padded = _around(x)

    def of_place(place: jax.Array) -> jax.Array:
        start = (0, place // _SIDE, place % _SIDE, 0)
        part = lax.dynamic_slice(padded, start, x.shape)
        return (part.astype(jnp.float32) * slope.astype(jnp.float32)).sum((0, 1, 2))

    of_kernel = lax.map(of_place, jnp.arange(_SIDE**2)).reshape(kernel.shape)
    return shifted(slope, kernel[::-1, ::-1]), of_kernel


shifted.defvjp(_forward, _backward)


class Depthwise(nn.Module):
    """`depthwise` and a bias.

    Attributes:
      dtype: type of the result.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B,H,W,C] -> float[B,H,W,C]."""
        kernel = self.param("kernel", _normal, (_SIDE, _SIDE, 1, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return depthwise(x, kernel).astype(self.dtype) + bias.astype(self.dtype)


class Block(nn.Module):
    """Regions look around, then each goes through two linear layers by itself.

    Attributes:
      width: C, its channels.
      halves: it is the first of a stage behind the first one, and begins with a map of half the
        side and other channels.
      dtype: compute type; statistics are float32.
    """

    width: int
    halves: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B,H,W,C'] -> float[B,H,W,C], or float[B,H/2,W/2,C] if it halves."""
        if self.halves:
            x = _layer_norm(dtype=self.dtype, name="halve_norm")(x)
            x = _conv(self.width, (2, 2), 2, dtype=self.dtype, name="halve")(x)
        y = Depthwise(self.dtype, name="depthwise")(x)
        y = _layer_norm(dtype=self.dtype, name="norm")(y)
        y = _dense(4 * self.width, dtype=self.dtype, name="widen")(y)
        y = _dense(self.width, dtype=self.dtype, name="narrow")(nn.gelu(y, approximate=False))
        scale = self.param("scale", nn.initializers.constant(1e-6), (self.width,))
        return x + y * scale.astype(self.dtype)


class ConvNeXt(nn.Module):
    """A ConvNeXt up to its last normalisation, which is each region's here.

    Its classifier normalises the mean of the regions instead. Blocks are counted through all
    stages. Names of modules are ours; `attn_lstm.tensor_names` knows those of the published files.

    Attributes:
      architecture: as published.
      dtype: compute type, also of the features; parameters are float32.
      remat: recompute each block's activations in the backward pass instead of keeping them.
      resting_blocks: nothing up to this block's result gets a gradient; 0: all do.
    """

    architecture: Architecture
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    resting_blocks: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Features: float[B,H,W,3], normalised, -> float[B,H/32,W/32,D].

        `train` changes nothing.

        Raises:
          ValueError: the images are no such array, or their sides no multiples of 32.
        """
        a = self.architecture
        if x.ndim != 4 or x.shape[-1] != 3 or x.shape[1] % a.patch or x.shape[2] % a.patch:
            raise ValueError(
                f"images have shape {x.shape}, expected [B,H,W,3] with sides that are multiples of "
                f"{a.patch}"
            )
        x = _conv(a.widths[0], (4, 4), 4, dtype=self.dtype, name="stem")(x.astype(self.dtype))
        x = _layer_norm(dtype=self.dtype, name="stem_norm")(x)
        block, i = nn.remat(Block) if self.remat else Block, 0
        for stage, (width, depth) in enumerate(zip(a.widths, a.depths, strict=True)):
            for place in range(depth):
                halves = stage > 0 and place == 0
                x = block(width, halves, self.dtype, name=f"block_{i}")(x)
                i += 1
                if i == self.resting_blocks:
                    x = lax.stop_gradient(x)
        return _layer_norm(dtype=self.dtype, name="norm")(x)
