"""Vision transformers (Dosovitskiy et al. 2021) as DINOv2, CLIP and SigLIP publish them."""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attn_lstm.models.transformer import MultiHeadAttention, dense

Activation = Callable[[jax.Array], jax.Array]


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * nn.sigmoid(1.702 * x)


def _swiglu(x: jax.Array) -> jax.Array:
    """Shazeer (2020): half of the units open the other half."""
    gate, value = jnp.split(x, 2, axis=-1)
    return nn.silu(gate) * value


ACTIVATIONS: dict[str, Activation] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": _quick_gelu,
    "swiglu": _swiglu,
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What tells one vision transformer from another.

    Attributes:
      width: D, the channels of a token; depth: blocks; heads: of each attention.
      feedforward: units behind a block's activation.
      patch: side of a patch in pixels.
      grid: side of the map of positions that the weights have, in patches.
      epsilon: of the normalisations.
      activation: a key of `ACTIVATIONS`.
      class_token: a token of the whole image stands before those of the patches.
      registers: tokens of nothing beside it (Darcet et al. 2024).
      layer_scale: what a block adds is scaled by channel (Touvron et al. 2021).
      norm_first: tokens are normalised before the first block, and the patches' projection has no
        bias: CLIP's.
      antialias: positions are interpolated as Pillow resizes images, else as `bicubic` says.
    """

    width: int
    depth: int
    heads: int
    feedforward: int
    patch: int
    grid: int
    epsilon: float = 1e-6
    activation: str = "gelu"
    class_token: bool = True
    registers: int = 0
    layer_scale: bool = False
    norm_first: bool = False
    antialias: bool = False


class Block(nn.Module):
    """Pre-norm: the tokens look at each other, then each goes through two linear layers by itself.

    Attributes:
      architecture: what it is part of.
      dtype: compute type; softmaxes and statistics are float32.
    """

    architecture: Architecture
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B,N,D] -> float[B,N,D]."""
        a = self.architecture
        normalise = partial(nn.LayerNorm, epsilon=a.epsilon, dtype=self.dtype)
        attention = MultiHeadAttention(a.width, a.heads, dtype=self.dtype, name="attention")
        x = x + self._scaled(attention.attend(normalise(name="norm1")(x)), "scale1")
        units = a.feedforward * (2 if a.activation == "swiglu" else 1)
        y = dense(units, dtype=self.dtype, name="widen")(normalise(name="norm2")(x))
        y = dense(a.width, dtype=self.dtype, name="narrow")(ACTIVATIONS[a.activation](y))
        return x + self._scaled(y, "scale2")

    def _scaled(self, y: jax.Array, name: str) -> jax.Array:
        if not self.architecture.layer_scale:
            return y
        # DINOv2's start.
        scale = self.param(name, nn.initializers.constant(1e-5), (y.shape[-1],))
        return y * scale.astype(self.dtype)


class ViT(nn.Module):
    """A vision transformer up to its final normalisation.

    Names of modules are ours; `attn_lstm.weights` knows those of the published files.

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
        """Features of the patches: float[B,H,W,3], normalised, -> float[B,H/P,W/P,D].

        The class token and the registers are left out. `train` changes nothing.

        Raises:
          ValueError: the images are no such array, or their sides no multiples of P.
        """
        a = self.architecture
        if x.ndim != 4 or x.shape[-1] != 3 or x.shape[1] % a.patch or x.shape[2] % a.patch:
            raise ValueError(
                f"images have shape {x.shape}, expected [B,H,W,3] with sides that are multiples of "
                f"{a.patch}"
            )
        rows, columns = x.shape[1] // a.patch, x.shape[2] // a.patch
        normal = nn.initializers.truncated_normal(0.02)
        positions = self.param("positions", normal, (a.grid**2, a.width))
        x = _patches(x.astype(self.dtype), a.patch)
        x = dense(a.width, use_bias=not a.norm_first, dtype=self.dtype, name="patches")(x)
        x = x + resampled(positions, rows, columns, a.antialias).astype(self.dtype)
        before = []
        if a.class_token:  # its place among the positions is part of it
            before.append(self.param("class_token", normal, (1, a.width)))
        if a.registers:
            before.append(self.param("registers", normal, (a.registers, a.width)))
        if before:
            same = jnp.concatenate(before).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(same, (x.shape[0], *same.shape)), x], axis=1)
        normalise = partial(nn.LayerNorm, epsilon=a.epsilon, dtype=self.dtype)
        if a.norm_first:
            x = normalise(name="norm_first")(x)
        block = nn.remat(Block) if self.remat else Block
        for i in range(a.depth):
            x = block(a, self.dtype, name=f"block_{i}")(x)
            if i + 1 == self.resting_blocks:
                x = jax.lax.stop_gradient(x)
        x = normalise(name="norm")(x[:, -rows * columns :])
        return x.reshape(-1, rows, columns, a.width)


def _patches(x: jax.Array, side: int) -> jax.Array:
    """float[B,H,W,3] -> float[B,H/P·W/P,P·P·3], patches and pixels in row-major order."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, side * side * channels)


def resampled(positions: jax.Array, rows: int, columns: int, antialias: bool) -> jax.Array:
    """Embeddings of the places of a square map, for one of another size.

    Args:
      positions: float32[S²,D].
      rows, columns: of the other map; nothing changes if both are S.
      antialias: as in `bicubic`.

    Returns:
      float32[rows·columns,D].
    """
    side = round(len(positions) ** 0.5)
    if rows == columns == side:
        return positions
    down, across = (bicubic(side, count, antialias) for count in (rows, columns))
    square = positions.reshape(side, side, -1)
    return jnp.einsum("ri,cj,ijd->rcd", down, across, square).reshape(rows * columns, -1)


def bicubic(old: int, new: int, antialias: bool) -> np.ndarray:
    """What each of `new` places on a line takes from `old` ones (Keys 1981): float32[new,old].

    As `torch.nn.functional.interpolate(mode="bicubic")`. With `antialias` the kernel is Pillow's:
    its parameter is -1/2, it widens where places become fewer, and what lies beyond the ends is
    left out. Without, its parameter is -3/4, and beyond the ends the last place is repeated.
    """
    step = old / new
    centres = (np.arange(new) + 0.5) * step - 0.5
    places = np.arange(-2, old + 2)
    stretch = max(step, 1.0) if antialias else 1.0
    a = -0.5 if antialias else -0.75
    x = np.abs(centres[:, None] - places) / stretch
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    if antialias:
        weights = weights[:, 2:-2]
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    folded = np.zeros((new, old))
    np.add.at(folded.T, places.clip(0, old - 1), weights.T)
    return folded.astype(np.float32)
