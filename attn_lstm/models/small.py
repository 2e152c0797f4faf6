"""A small residual backbone for the embedded data set: minutes on a laptop, from scratch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class SmallResNet(nn.Module):
    """Pre-activation-free residual network of stride 8: float[B,H,W,3] -> float[B,H/8,W/8,D].

    Attributes:
      widths: channels of the three stages, each of which halves the resolution; D is the last.
      dtype: compute type; statistics are float32.
      axis_name: mapped axis over which batch statistics are shared.
    """

    widths: tuple[int, int, int] = (16, 64, 128)
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        x = nn.relu(norm(name="stem_norm")(conv(self.widths[0], (3, 3), 2, name="stem")(x)))
        for stage, width in enumerate(self.widths):
            stride = 1 if stage == 0 else 2
            name = f"stage{stage}"
            y = conv(width, (3, 3), stride, name=f"{name}_conv1")(x)
            y = nn.relu(norm(name=f"{name}_norm1")(y))
            y = norm(name=f"{name}_norm2")(conv(width, (3, 3), name=f"{name}_conv2")(y))
            if x.shape != y.shape:
                x = norm(name=f"{name}_norm0")(conv(width, (1, 1), stride, name=f"{name}_proj")(x))
            x = nn.relu(x + y)
        return x
