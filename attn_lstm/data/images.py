"""Images that belong to no data set, made into the very pixels that the pipeline would give."""

from __future__ import annotations

import os
import threading

import numpy as np
from PIL import Image

from attn_lstm.data import image_file
from attn_lstm.data.files import SUFFIXES, images_in
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file

ImageLike = str | os.PathLike[str] | bytes | np.ndarray | Image.Image

# One picture that is given twice is one open file.
_PILLOW = threading.Lock()


def as_picture(image: ImageLike, name: str, max_pixels: int = image_file.MAX_PIXELS) -> Image.Image:
    """A file, its content, an array or a Pillow image as a Pillow image of mode RGB.

    Args:
      image: a path; the bytes of a file; uint8[h,w,3] in RGB or uint8[h,w], grey; or a Pillow
        image, which is taken as its file would be: turned upright, and without transparency.
      name: what messages call it, unless it is a path.
      max_pixels: of a file; see `image_file.read`.

    Raises:
      UserError: naming an image that is none of these, or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_picture(image, max_pixels)
    if isinstance(image, bytes):
        return _read(image, name, max_pixels)
    if isinstance(image, Image.Image):
        try:
            with _PILLOW:
                return image_file.to_rgb(image)
        except Exception as error:  # on damaged files Pillow raises of every kind
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name}: {reason}") from None
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"{name} is a {type(image).__name__}: give a path, bytes, a NumPy array or a Pillow "
            "image"
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
        content = read_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # no path: a character that none may have
        raise UserError(f"{path}: {error}") from None
    return _read(content, os.fspath(path), max_pixels)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """`read_picture` as uint8[h,w,3], upright: the pixels that boxes are of, for other programs."""
    return np.asarray(read_picture(path))


def _read(content: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        return image_file.read(content, max_pixels)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def images_of(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of the images in a folder and below it, sorted, hidden files and folders left out.

    Raises:
      UserError: there is none, or a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}")

    found = sorted(images_in(folder, fail))
    if not found:
        raise UserError(
            f"{folder} holds no image: no file that ends in one of {', '.join(SUFFIXES)}, nor one "
            "that begins like an image"
        )
    return found
