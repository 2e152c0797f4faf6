"""Boxes of objects, from the pixels of an annotation file to parts of the picture as it is seen.

An annotation file gives boxes in pixels of a picture whose size it states. The network and its
attention see the picture as it is decoded: turned upright as EXIF says, and of the size it has on
the disk. The two agree only if the sizes are compared: tools differ in whether they turn a
telephone's photograph before it is annotated, and pictures are turned or cut after it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from absl import logging

from attn_lstm.data import image_file
from attn_lstm.data.files import first_shown

_NONE = np.zeros((0, 5), np.float32)
_SLACK = 1.5  # pixels by which a box may lie outside of its picture: tools round as they like

# (left, top, right, bottom) as parts of the picture as it is stored -> of the picture turned
# upright, by EXIF's orientation; `image_file` turns the pixels by the same names.
_TURNED: dict[int, Callable[..., tuple[np.ndarray, ...]]] = {
    1: lambda x, y, x2, y2: (x, y, x2, y2),
    2: lambda x, y, x2, y2: (1 - x2, y, 1 - x, y2),
    3: lambda x, y, x2, y2: (1 - x2, 1 - y2, 1 - x, 1 - y),
    4: lambda x, y, x2, y2: (x, 1 - y2, x2, 1 - y),
    5: lambda x, y, x2, y2: (y, x, y2, x2),
    6: lambda x, y, x2, y2: (1 - y2, x, 1 - y, x2),
    7: lambda x, y, x2, y2: (1 - y2, 1 - x2, 1 - y, 1 - x),
    8: lambda x, y, x2, y2: (y, 1 - x2, y2, 1 - x),
}


class _Picture(NamedTuple):
    """What the file of an image says of it."""

    width: int  # as it is stored
    height: int
    orientation: int  # EXIF's

    @property
    def stored(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def upright(self) -> tuple[int, int]:
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


class PixelBoxes(Sequence[np.ndarray]):
    """The boxes of N images, float32[n,5] as in `Split.boxes`, from boxes in pixels.

    The headers of the images are read when a box is first asked for, and those of the selected
    images alone: training asks for none.

    Args:
      source: the annotation file, for warnings.
      objects: of each image float[n,5]: the column of the label, then left, top, right, bottom
        in pixels.
      sizes: int[N,2], the (width, height) that the annotation file states; 0 where it does not.
      paths: of the images.
    """

    def __init__(
        self,
        source: Path,
        objects: Sequence[np.ndarray],
        sizes: np.ndarray,
        paths: Sequence[str],
    ) -> None:
        self._source, self._objects, self._sizes, self._paths = source, objects, sizes, paths

    def __len__(self) -> int:
        return len(self._objects)

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, row: slice) -> list[np.ndarray]: ...

    def __getitem__(self, row: int | slice) -> np.ndarray | list[np.ndarray]:
        return self._relative[row]

    def select(self, rows: np.ndarray) -> PixelBoxes:
        """The boxes of some of the images."""
        return PixelBoxes(
            self._source,
            [self._objects[row] for row in rows],
            self._sizes[rows],
            [self._paths[row] for row in rows],
        )

    def with_columns(self, columns: np.ndarray) -> PixelBoxes:
        """With the number `columns[c]` in the place of each label's column c."""
        objects = [np.column_stack([columns[o[:, 0].astype(int)], o[:, 1:]]) for o in self._objects]
        return PixelBoxes(self._source, objects, self._sizes, self._paths)

    @cached_property
    def _relative(self) -> list[np.ndarray]:
        rows = [row for row, objects in enumerate(self._objects) if len(objects)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pictures = dict(
                zip(rows, pool.map(_picture, (self._paths[row] for row in rows)), strict=True)
            )
        read = {
            row: _meaning(self._objects[row], tuple(self._sizes[row].tolist()), picture)
            for row, picture in pictures.items()
        }
        # What one picture leaves open is as in the others of the file.
        swapped = "in_picture" in read.values() and "in_file" not in read.values()
        meanings = {row: _settled(meaning, pictures[row], swapped) for row, meaning in read.items()}
        found = list(meanings.values())
        as_stored = found.count("stored") > found.count("upright")
        self._warn(meanings, pictures, as_stored)
        relative = [_NONE] * len(self._objects)
        for row, meaning in meanings.items():
            if meaning == "unknown":
                continue
            picture, size = pictures[row], self._sizes[row]
            is_stored = meaning == "stored" or (meaning == "either" and as_stored)
            if picture and (meaning == "in_picture" or not size.all()):
                size = np.array(picture.stored if is_stored else picture.upright)
            turn = picture.orientation if picture and is_stored else 1
            relative[row] = _parts(self._objects[row], size, turn)
        return relative

    def _warn(
        self,
        meanings: dict[int, str],
        pictures: dict[int, _Picture | None],
        as_stored: bool,
    ) -> None:
        if unknown := [row for row, meaning in meanings.items() if meaning == "unknown"]:
            sizes = [
                f"{self._paths[row]} ({_sides(self._sizes[row])} there, "
                f"{_sides(picture.upright) if (picture := pictures[row]) else 'unreadable'})"
                for row in unknown
            ]
            logging.warning(
                "%s states sizes of %d of %d pictures that are not theirs: %s; nothing is said of "
                "where their objects are until width and height are corrected",
                self._source,
                len(unknown),
                len(meanings),
                first_shown(sizes),
            )
        either = [row for row, meaning in meanings.items() if meaning == "either"]
        if either and not {"stored", "upright"} & set(meanings.values()):
            logging.warning(
                "%s: EXIF turns %d pictures so that their sizes do not tell whether boxes are of "
                "the picture before or after that, such as %s; they are taken as after",
                self._source,
                len(either),
                self._paths[either[0]],
            )
        if as_stored:
            logging.info("%s: boxes are of pictures before EXIF turns them", self._source)


def _sides(size: Sequence[int]) -> str:
    width, height = size
    return f"{width} x {height}"


def _picture(path: str) -> _Picture | None:
    try:
        return _Picture(*image_file.read_header(path))
    except (OSError, ValueError):
        return None


def _meaning(objects: np.ndarray, size: tuple[int, int], picture: _Picture | None) -> str:
    """Of which picture an image's boxes are, by the size that the annotation file states for it.

    Returns:
      'plain', of a picture that nothing turns; 'upright' or 'stored', of the one after or before
      EXIF turns it; 'either' of these, by their sizes; of an upright picture with exchanged
      sides: 'in_picture' if the boxes have room in the picture only, 'in_file' if in the stated
      size only, else 'exchanged'; 'unknown', of another picture.
    """
    if picture is None:
        return "plain" if all(size) else "unknown"
    if not all(size):
        return "either" if picture.orientation > 1 else "plain"
    fits_upright, fits_stored = _fits(size, picture.upright), _fits(size, picture.stored)
    if picture.orientation == 1 and fits_stored:
        return "plain"
    if fits_upright:
        return "either" if fits_stored else "upright"
    if size == picture.upright[::-1]:
        in_picture, in_file = _holds(picture.upright, objects), _holds(size, objects)
        return "exchanged" if in_picture == in_file else "in_picture" if in_picture else "in_file"
    return "stored" if fits_stored else "unknown"


def _settled(meaning: str, picture: _Picture | None, swapped: bool) -> str:
    """What exchanged sides mean: the file has swapped them, or its picture was turned since.

    Args:
        meaning: as `_meaning` gives it.
        picture: whose.
        swapped: boxes of the file show that it has swapped width and height.
    """
    if meaning not in ("exchanged", "in_file"):
        return meaning
    if meaning == "exchanged" and swapped:
        return "in_picture"
    return "stored" if picture is not None and picture.orientation > 4 else "unknown"


def _fits(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one picture is the other, scaled, but for rounding to whole pixels."""
    (width, height), (other_width, other_height) = size, other
    return abs(width * other_height - height * other_width) <= max(*size, *other)


def _holds(size: tuple[int, int], objects: np.ndarray) -> bool:
    return bool((objects[:, 3:] <= np.array(size) + _SLACK).all())


def _parts(objects: np.ndarray, size: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels of a (width, height) -> float32[n,5] with top, left, bottom, right in parts of 1."""
    corners = (objects[:, 1:] / np.tile(size, 2)).clip(0, 1)
    left, top, right, bottom = _TURNED[orientation](*corners.T)
    return np.stack([objects[:, 0], top, left, bottom, right], axis=1).astype(np.float32)
