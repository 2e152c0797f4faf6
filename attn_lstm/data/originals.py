"""The images of a split as they are on disk, before any resizing: for reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from attn_lstm.data import image_file
from attn_lstm.data.cpu_tensorflow import tf
from attn_lstm.data.pipeline import tensorflow_complaint
from attn_lstm.data.split import Split
from attn_lstm.errors import UserError


def read_originals(split: Split, rows: Iterable[int], max_pixels: int) -> Iterator[np.ndarray]:
    """uint8[h,w,3] of each of the rows, each of its own size, one at a time.

    Args:
      split: whose images.
      rows: of the split.
      max_pixels: as in `image_file.read`.

    Raises:
      UserError: from `next`, for an image that cannot be read or decoded.
    """
    return (_read(split, int(row), max_pixels) for row in rows)


def _read(split: Split, row: int, max_pixels: int) -> np.ndarray:
    try:
        encoded = split.images.read(tf.constant(row, tf.int64))
        return image_file.decode(encoded.numpy(), max_pixels)
    except tf.errors.OpError as error:
        reason = tensorflow_complaint(error.message)
    except ValueError as error:
        reason = str(error)
    raise UserError(f"cannot draw {split.images.name(row)}: {reason}")
