"""What a backbone's weights expect of an image, and the network's first line, which does it."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a set of weights expects of the pixels of an image.

    Attributes:
      mean: of the channels R, G, B, on the scale where a pixel is 0 to 1.
      std: what the difference from the mean is divided by, on the same scale.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# torchvision's ResNets.
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Keras' MobileNetV2, and SigLIP: x / 127.5 - 1.
HALF = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# OpenAI's CLIP.
CLIP = Preprocessing(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)


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
