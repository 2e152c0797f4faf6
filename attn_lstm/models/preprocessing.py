"""What a backbone's weights expect of an image, and the network's first line, which does it."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the images were made that a set of weights was evaluated on.

    Attributes:
      mean: of the channels R, G, B, on the scale where a pixel is 0 to 1.
      std: what the difference from the mean is divided by, on the same scale.
      size: pixels, side of the square that was cut from the centre.
      short_side: pixels, to which the image's shorter side was resized before the cut.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int = 224
    short_side: int = 256


# torchvision's ResNets; its second generation of weights was evaluated with a short side of 232.
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGENET_V2 = dataclasses.replace(IMAGENET, short_side=232)
# Keras' MobileNetV2: x / 127.5 - 1.
MOBILENET_V2 = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def normalise(images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """(x / 255 - mean) / std: uint8[...,H,W,3] -> float32[...,H,W,3].

    Raises:
      ValueError: the images are not uint8, such as ones that were scaled already.
    """
    if images.dtype != jnp.uint8:
        raise ValueError(f"images are {images.dtype}, expected uint8")
    mean = jnp.asarray(preprocessing.mean, jnp.float32).reshape((1,) * (images.ndim - 1) + (3,))
    std = jnp.asarray(preprocessing.std, jnp.float32).reshape(mean.shape)
    return (images.astype(jnp.float32) / 255.0 - mean) / std
