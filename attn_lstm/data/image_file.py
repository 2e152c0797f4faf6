"""One image file, whatever it holds: its pixels as a person sees them, or one line on why not.

Pillow does the work, without TensorFlow.
"""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import ExifTags, Image

from attn_lstm.storage import open_file

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


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read` as an array: uint8[h,w,3], RGB."""
    return np.asarray(read(content, max_pixels))


def read(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first picture of a JPEG, PNG, BMP, GIF or WebP file, as `to_rgb` shows it.

    Args:
      content: the whole file.
      max_pixels: height times width at most, at most `MOST_PIXELS`. A larger image is refused by
        its header, before there is room made for its pixels.

    Raises:
      ValueError: no such image, a damaged one, or too large a one; its message is one line.
    """
    try:
        with Image.open(io.BytesIO(_without_notes(content)), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            return to_rgb(image)
    except Image.UnidentifiedImageError:
        what = "not an image" if content else "an empty file"
        raise ValueError(f"{what}: none of {', '.join(FORMATS)}") from None
    except Exception as error:  # on damaged files Pillow raises of every kind
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


_PNG = b"\x89PNG\r\n\x1a\n"
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def _without_notes(content: bytes) -> bytes:
    """A PNG without its texts and colour profile, anything else as it is.

    Pillow unpacks them before it comes to the pixels, which alone are wanted, and refuses the whole
    picture for a text above 1 MiB.
    """
    if not content.startswith(_PNG) or not any(note in content for note in _NOTES):
        return content
    kept, place = [_PNG], len(_PNG)
    while place < len(content):
        # A chunk: the length of its data, its name, the data and a checksum.
        end = place + 12 + int.from_bytes(content[place : place + 4])
        if content[place + 4 : place + 8] not in _NOTES:
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


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


def read_header(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """What a file says of its picture before any pixel: (width, height, EXIF orientation).

    The sides are those of the picture as it is stored, before it is turned. Orientations run from 1
    (upright) to 8; those from 5 on exchange the sides.

    Raises:
      ValueError: not such a file as `decode` takes.
      OSError: it cannot be read.
    """
    try:
        with open_file(path) as file:
            is_png = file.read(len(_PNG)) == _PNG
            file.seek(0)
            source = io.BytesIO(_without_notes(file.read())) if is_png else file
            with Image.open(source, formats=FORMATS) as image:
                return *image.size, _orientation(image)
    except OSError as error:
        if error.errno is None:  # Pillow's own, of the content
            raise ValueError(str(error)) from error
        raise
    except Exception as error:  # on damaged files Pillow raises of every kind
        raise ValueError(str(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of mode RGB, turned upright as its EXIF says.

    Greyscale is repeated over the channels, of 16 bits the upper 8 are taken, and transparency is
    dropped: the colours below it stay, as for the loaders that published weights were trained with.
    """
    image.load()
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # Pillow's conversion would cut at 255
        grey = np.clip(np.asarray(image), 0, 65_535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """What EXIF says of how the picture is to be turned: 1 to 8, 1 where it says nothing."""
    exif = Image.Exif()  # not `getexif`, which takes notes of other kinds for it
    try:
        exif.load(image.info.get("exif", b""))
        orientation = int(exif.get(ExifTags.Base.Orientation, 1))
        return orientation if orientation in _TURNS else 1
    except Exception:  # no obstacle: damaged notes ask for nothing
        return 1
