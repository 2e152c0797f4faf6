"""From a picture of any size to the square that the network sees, by Pillow and without TensorFlow.

Bilinear with antialiasing, in whole numbers: that is how torchvision resizes the pictures on which
its weights are trained, and it gives the same pixels on every kind of processor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

CROP_RATIO = 0.875  # 224 / 256, the central part that image classifiers are tested on


def resize(image: Image.Image | np.ndarray, size: int, rule: str) -> np.ndarray:
    """A picture of any size -> uint8[size,size,3], RGB.

    Args:
      image: a Pillow image of mode RGB, or uint8[h,w,3].
      size: height and width of the result in pixels.
      rule: 'squash' changes the aspect ratio; 'crop' scales the shorter side to
        round(size / `CROP_RATIO`) pixels and keeps the centre; 'pad' scales the longer side to
        `size` and centres the image between zeros.

    Raises:
      KeyError: a rule that is not in `RESIZE_RULES`.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return RESIZE_RULES[rule](picture, size)


def _squash(image: Image.Image, size: int) -> np.ndarray:
    return _resampled(image, size, size)


def _crop(image: Image.Image, size: int) -> np.ndarray:
    shorter = round(size / CROP_RATIO)
    by = shorter / min(image.size)
    box: list[float] = []
    for length in image.size:
        scaled = max(shorter, round(length * by))
        begin = (scaled - size) // 2
        box += [begin * length / scaled, (begin + size) * length / scaled]
    left, right, top, bottom = box
    # What lies outside of the box is seen at its border only, and never scaled: as a whole, one
    # pixel by 60,000 would take 100 GB.
    return _resampled(image, size, size, (left, top, right, bottom))


def _pad(image: Image.Image, size: int) -> np.ndarray:
    by = size / max(image.size)
    width, height = (min(size, max(1, round(length * by))) for length in image.size)
    top, left = (size - height) // 2, (size - width) // 2
    padded = np.zeros((size, size, 3), np.uint8)
    padded[top : top + height, left : left + width] = _resampled(image, width, height)
    return padded


RESIZE_RULES: dict[str, Callable[[Image.Image, int], np.ndarray]] = {
    "squash": _squash,
    "crop": _crop,
    "pad": _pad,
}


def _resampled(
    image: Image.Image,
    width: int,
    height: int,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """uint8[height,width,3] of the box (left, top, right, bottom), by default of all."""
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box))
