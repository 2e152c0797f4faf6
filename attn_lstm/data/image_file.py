"""One image file, whatever it holds: its pixels as a person sees them, or one line on why not.

Pillow does the work, without TensorFlow. `preprocess.decode` hands on to here whatever is no plain
JPEG.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")

# From here on Pillow suspects a file that unpacks to more than there is room for. As RGB it is
# 256 MiB; the largest photographs of today's telephones at their usual settings have 50 million.
MAX_PIXELS = 89_478_485
# Pillow decodes no more, and TensorFlow neither.
MOST_PIXELS = 178_956_970
# The limit of JPEG and GIF. Resizing takes memory by the longer side, however few the pixels are.
MAX_SIDE = 65_535

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# It warns of much that is no obstacle, or that we refuse ourselves in the line that tells why.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The first picture of a JPEG, PNG, BMP, GIF or WebP file, as `to_rgb` shows it.

    Args:
        content: the whole file.
        max_pixels: height times width at most, at most `MOST_PIXELS`. A larger image is refused by
            its header, before there is room made for its pixels.

    Returns:
        uint8[h,w,3], RGB.

    Raises:
        ValueError: no such image, a damaged one, or too large a one; its message is one line.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            image.load()
            return to_rgb(image)
    except Image.UnidentifiedImageError:
        what = "not an image" if content else "an empty file"
        raise ValueError(f"{what}: none of {', '.join(FORMATS)}") from None
    except Exception as error:  # on damaged files Pillow raises of every kind
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(
            f"{width} x {height} pixels are more than data.max_pixels={max_pixels}: make it "
            "smaller, or raise that limit"
        )
    if max(width, height) > MAX_SIDE:
        raise ValueError(
            f"{width} x {height} pixels: no side may exceed {MAX_SIDE}; make it smaller"
        )


def to_rgb(image: Image.Image) -> np.ndarray:
    """uint8[h,w,3] of a Pillow image, turned upright as its EXIF says.

    Greyscale is repeated over the channels, of 16 bits the upper 8 are taken, and transparency is
    dropped: the colours below it stay, as for the loaders that published weights were trained with.
    """
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # Pillow's conversion would cut at 255
        grey = np.clip(np.asarray(image), 0, 65_535) >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """What EXIF says of how the picture is to be turned: 1 to 8, 1 where it says nothing."""
    exif = Image.Exif()  # not `getexif`, which takes notes of other kinds for it
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # no obstacle: damaged notes ask for nothing
        return 1
