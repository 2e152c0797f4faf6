"""M_map's residual backbones (He et al. 2016), layer for layer as torchvision publishes them."""

import dataclasses
from functools import reduce

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

# Of the running statistics, in Flax's sense: torch calls it 0.1.
_MOMENTUM = 0.9
_EPSILON = 1e-5

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def feature_dim(depth: int) -> int:
    """D, the channels of `ResNet(depth)`'s features. Raises `ValueError` on an unknown depth."""
    _check_depth(depth)
    return 512 * _VARIANTS[depth][1]


class Conv(nn.Module):
    """A convolution without bias: float[B,H,W,D'] -> float[B,H/s,W/s,D], sides rounded up.

    Padding is torch's: equal on both sides, where SAME would put more at the end.

    Attributes:
      features: D.
      size: of the kernel, odd.
      stride: s.
      dtype: compute type, also of the result.
    """

    features: int
    size: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | float = 1.0) -> jax.Array:
        """The result times `scale`, float32[D]: the kernel is multiplied, which costs nothing."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = (self.param("kernel", _he_normal, shape) * scale).astype(self.dtype)
        if self.size == 1:
            # As the matrix product that it is: XLA's gradient of such a convolution by its kernel
            # takes 3 to 6 times as long on CPUs.
            x = x[:, :: self.stride, :: self.stride]
            return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=[(self.size // 2, self.size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class BatchNorm(nn.Module):
    """Batch normalisation as a factor and a shift for every channel: float32[D] each.

    Flax's own subtracts the mean first, and XLA then keeps the difference for the backward pass
    beside the input: half as much memory again for the activations of a ResNet-50.

    Attributes:
      features: D.
      axis_name: mapped axis over which the statistics of a batch are shared.
    """

    features: int
    axis_name: str | None

    def setup(self) -> None:
        shape = (self.features,)
        self.scale = self.param("scale", nn.initializers.ones, shape)
        self.bias = self.param("bias", nn.initializers.zeros, shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape)

    def of_batch(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """By the statistics of x, float[B,H,W,D], which are averaged into the running ones."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        moments = jnp.stack([x.mean(axis=(0, 1, 2)), jnp.square(x).mean(axis=(0, 1, 2))])
        if self.axis_name is not None and not self.is_initializing():
            moments = jax.lax.pmean(moments, self.axis_name)
        mean = moments[0]
        var = jnp.maximum(moments[1] - jnp.square(mean), 0.0)  # rounding may leave less than 0
        if not self.is_initializing():
            for running, of_batch in ((self.mean, mean), (self.var, var)):
                running.value = _MOMENTUM * running.value + (1.0 - _MOMENTUM) * of_batch
        return self._affine(mean, var)

    def running(self) -> tuple[jax.Array, jax.Array]:
        """By the running statistics."""
        return self._affine(self.mean.value, self.var.value)

    def _affine(self, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
        factor = self.scale * jax.lax.rsqrt(var + _EPSILON)
        return factor, self.bias - mean * factor


@dataclasses.dataclass(frozen=True)
class _ConvNorm:
    """Makes a convolution and its normalisation in the module that calls it.

    Running statistics are folded into the convolution: a backward pass then needs neither its
    result nor sums over it.
    """

    dtype: jnp.dtype
    axis_name: str | None
    train: bool

    def __call__(
        self, x: jax.Array, features: int, size: int, stride: int, conv: str, norm: str
    ) -> jax.Array:
        """float[B,H,W,D'] -> float[B,H/s,W/s,features]; `conv` and `norm` are the names."""
        convolve = Conv(features, size, stride, self.dtype, name=conv)
        normalise = BatchNorm(features, self.axis_name, name=norm)
        if self.train:
            y = convolve(x)
            factor, shift = normalise.of_batch(y)
            return (y * factor + shift).astype(self.dtype)
        factor, shift = normalise.running()
        return convolve(x, factor) + shift.astype(self.dtype)


def _max_pool(x: jax.Array) -> jax.Array:
    """The largest of 3x3 at stride 2: float[B,H,W,D] -> float[B,H/2,W/2,D], sides rounded up.

    Of three slices by rows, then of three by columns: on CPUs the gradient of XLA's
    `reduce_window` takes nearly three times as long, that of nine slices over twice.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        end = x.shape[axis] - (x.shape[axis] + 1) % 2
        slices = [jax.lax.slice_in_dim(padded, i, i + end, 2, axis) for i in range(3)]
        padded = reduce(jnp.maximum, slices)
    return padded


@jax.custom_jvp
def _kept_relu(x: jax.Array) -> jax.Array:
    """A rectifier whose result is kept, and not computed again for each of its users.

    Every sum of a stage holds the one before it. A compiler that fuses them into all that reads
    them adds up the whole chain each time: a fifth of a ResNet-152's step on CPUs.
    """
    return jax.lax.optimization_barrier(nn.relu(x))


@_kept_relu.defjvp
def _kept_relu_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    kept = _kept_relu(x)
    return kept, jnp.where(kept > 0, tangent, 0)


class Block(nn.Module):
    """A residual block, basic (expansion 1) or bottleneck: float[B,H,W,D'] -> float[B,H/s,W/s,D].

    Attributes:
      width: channels of the inner layers; D is `expansion` times as many.
      expansion: 1 or 4.
      stride: s. A bottleneck strides in its 3x3 layer, not in its first as the original paper
        does: torchvision's variant, known as v1.5.
      conv_norm: makes a convolution and its normalisation.
    """

    width: int
    expansion: int
    stride: int
    conv_norm: _ConvNorm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.width * self.expansion
        if self.expansion == 1:
            layers = [(3, self.width, self.stride), (3, out, 1)]
        else:
            layers = [(1, self.width, 1), (3, self.width, self.stride), (1, out, 1)]
        y = x
        for i, (size, features, stride) in enumerate(layers, start=1):
            y = self.conv_norm(y, features, size, stride, f"conv{i}", f"bn{i}")
            if i < len(layers):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = self.conv_norm(x, out, 1, self.stride, "downsample_conv", "downsample_bn")
        return _kept_relu(x + y)


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
        conv_norm = _ConvNorm(self.dtype, self.axis_name, train)
        block = nn.remat(Block) if self.remat else Block
        stages, expansion = _VARIANTS[self.depth]

        x = x.astype(self.dtype)
        x = _max_pool(nn.relu(conv_norm(x, 64, 7, 2, "conv1", "bn1")))
        for stage, blocks in enumerate(stages):
            for i in range(blocks):
                x = block(
                    width=64 * 2**stage,
                    expansion=expansion,
                    stride=2 if stage > 0 and i == 0 else 1,
                    conv_norm=conv_norm,
                    name=f"layer{stage + 1}_{i}",
                )(x)
        return x


def _check_depth(depth: int) -> None:
    if depth not in _VARIANTS:
        raise ValueError(f"unknown ResNet depth {depth!r}: {', '.join(map(str, DEPTHS))}")
