"""Images that belong to no data set, made into the very pixels that the pipeline would give."""

from __future__ import annotations

import os
import threading

import numpy as np
from PIL import Image

from attn_lstm.data import image_file
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file

ImageLike = str | os.PathLike[str] | np.ndarray | Image.Image

# One picture that is given twice is one open file.
_PILLOW = threading.Lock()


def as_picture(image: ImageLike, name: str, max_pixels: int = image_file.MAX_PIXELS) -> Image.Image:
    """A file, an array or a Pillow image as a Pillow image of mode RGB.

    Args:
      image: a path; uint8[h,w,3] in RGB or uint8[h,w], grey; or a Pillow image, which is taken
        as its file would be: turned upright, and without transparency.
      name: what messages call it, unless it is a path.
      max_pixels: of a file; see `image_file.read`.

    Raises:
      UserError: naming an image that is none of these, or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_picture(image, max_pixels)
    if isinstance(image, Image.Image):
        try:
            with _PILLOW:
                return image_file.to_rgb(image)
        except Exception as error:  # on damaged files Pillow raises of every kind
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name}: {reason}") from None
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"{name} is a {type(image).__name__}: give a path, a NumPy array or a Pillow image"
        )
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not image.size or not (grey or image.shape[2:] == (3,)):
        raise UserError(
            f"{name} is {image.dtype}{list(image.shape)}: give uint8[h,w,3] in RGB, or uint8[h,w]"
        )
    return Image.fromarray(image).convert("RGB")


def read_picture(
    path: str | os.PathLike[str], max_pixels: int = image_file.MAX_PIXELS
) -> Image.Image:
    """A file as a Pillow image of mode RGB; `image_file.read` says which and how.

    Raises:
      UserError: the file cannot be read or decoded.
    """
    try:
        return image_file.read(read_file(path), max_pixels)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
