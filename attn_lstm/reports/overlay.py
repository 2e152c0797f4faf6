"""Attention drawn over the image that it was paid to (paper: Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attn_lstm.data.resizing import CROP_RATIO
from attn_lstm.reports import fonts

# Perceptually uniform, lighter with every step, and readable by the colour-blind.
_COLOUR_MAP = "inferno"
_OPACITY = 0.5  # of the colours over the image
_FADING = 0.7  # part of white in what the network was not shown
# Part of the shorter side that the crop rule keeps, as `data.preprocess` has it; importing that
# would import TensorFlow.

# In pixels.
_PANEL = 360  # longer side of an image
_CAPTION = 30  # height, above it
_CAPTION_SIZE = 14  # of its font
_GAP = 8
_COLUMNS = 4  # in a row, at most


def overlay(
    image: np.ndarray, attention: np.ndarray, resize: str, largest: float | None = None
) -> np.ndarray:
    """One attention map over its image, pixel by pixel of the image.

    The map is interpolated bilinearly between the centres of its regions. Colours run from weight
    0 to `largest`: maps compare by their colours where they share it. What the crop rule hid from
    the network fades to white, and weights on the borders that the pad rule added lie outside of
    the image.

    Args:
      image: uint8[H,W,3], RGB, of the size it had before it was resized for the network.
      attention: float[h,w], the weights of the regions, finite and not negative.
      resize: `config.data.resize`, the rule that made the network's square of the image.
      largest: the weight of the brightest colour; None for the largest of this map.

    Returns:
      uint8[H,W,3].

    Raises:
      ValueError: another type, shape or rule.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"the image is {image.dtype}{list(image.shape)}, expected uint8[H,W,3]")
    if attention.ndim != 2 or not attention.size:
        raise ValueError(f"the attention is of shape {list(attention.shape)}, expected [h,w]")
    (left, top, right, bottom), box = _shown(image.shape[0], image.shape[1], resize)
    scale = np.asarray([*attention.shape[::-1]] * 2)
    weights = Image.fromarray(attention.astype(np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=tuple(box * scale)
    )
    largest = float(attention.max()) if largest is None else largest
    share = np.asarray(weights) / max(largest, float(np.finfo(np.float32).tiny))
    colours = matplotlib.colormaps[_COLOUR_MAP](share)[..., :3] * 255
    result = image + _FADING * (255.0 - image)
    shown = image[top:bottom, left:right]
    result[top:bottom, left:right] = shown + _OPACITY * (colours - shown)
    return np.round(result).astype(np.uint8)


def colour_bar() -> list[str]:
    """The colours from weight 0 to the largest as they lie over grey, '#rrggbb'."""
    colours = matplotlib.colormaps[_COLOUR_MAP](np.linspace(0, 1, 9))[:, :3]
    return [matplotlib.colors.to_hex(_OPACITY * c + (1 - _OPACITY) * 0.5) for c in colours]


def _shown(height: int, width: int, resize: str) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Which part of an image the network was shown, and which part of its square shows it.

    Returns:
      (left, top, right, bottom) in pixels of the image, and the same in parts of the square,
      float64[4].

    Raises:
      ValueError: an unknown rule.
    """
    whole = (0, 0, width, height)
    if resize == "squash":
        return whole, np.asarray([0.0, 0.0, 1.0, 1.0])
    if resize == "crop":
        side = max(1, round(CROP_RATIO * min(height, width)))
        left, top = (width - side) // 2, (height - side) // 2
        return (left, top, left + side, top + side), np.asarray([0.0, 0.0, 1.0, 1.0])
    if resize == "pad":
        longer = max(height, width)
        x, y = (1 - width / longer) / 2, (1 - height / longer) / 2
        return whole, np.asarray([x, y, 1 - x, 1 - y])
    raise ValueError(f"unknown resize rule {resize!r}")


def draw_panels(
    image: np.ndarray, title: str, maps: Sequence[tuple[str, np.ndarray]], resize: str
) -> Image.Image:
    """One picture: the image, and beside it one overlay a map, each under its caption.

    Args:
      image: uint8[H,W,3], of the size it had before it was resized for the network.
      title: of the image itself.
      maps: captions and attention maps, float[h,w].
      resize: see `overlay`.
    """
    scale = _PANEL / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    pixels = np.asarray(Image.fromarray(image).resize((width, height)))
    panels = [(title, pixels), *((text, overlay(pixels, map_, resize)) for text, map_ in maps)]
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    # As wide for a tall image as for a broad one: captions need the room.
    cell = (_PANEL + _GAP, height + _CAPTION)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (text, panel) in enumerate(panels):
        left, top = _GAP + place % columns * cell[0], place // columns * cell[1]
        file, text = fonts.one_font(text)
        font = ImageFont.truetype(file, _CAPTION_SIZE)
        draw.text(
            (left + _PANEL // 2, top + _CAPTION // 2), _fitted(text, font), "black", font, "mm"
        )
        sheet.paste(Image.fromarray(panel), (left + (_PANEL - width) // 2, top + _CAPTION))
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont) -> str:
    """A caption that is as wide as a panel at most; what goes is the middle."""
    text = " ".join(text.split())
    start, end = len(text) // 2, len(text) // 2
    while font.getlength(text[:start] + "…" * (start < end) + text[end:]) > _PANEL:
        start, end = start - 1, end + 1
    return text[:start] + "…" * (start < end) + text[end:]
