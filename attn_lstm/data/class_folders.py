"""A folder of images for each label, as classification data sets often come.

    cat/1.jpg   cat/2.jpg   dog/1.jpg           or, divided already,
    train/cat/1.jpg   train/dog/1.jpg           valid/cat/3.jpg   test/dog/7.jpg

The labels are the names of the folders, sorted; what lies deeper belongs to the folder at the top.
An image that lies in several of them, by the same name and with the same bytes, has the label of
each. Where there is no part for testing, 'valid' is tested on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from attn_lstm.data.files import (
    breaks_lines,
    empty_table,
    images_in,
    looks_like_image,
    names_in,
    one_form,
    one_spelling,
    shown,
)
from attn_lstm.data.table import SPLIT_NAMES, Table, roles
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file

_PASSED_OVER = "__MACOSX"  # what macOS adds to its archives


class _Found(NamedTuple):
    path: str  # from the folder of the data set
    label: str
    split: str | None


def read(root: Path) -> Table | None:
    """The table of a folder, or None where its images do not all lie in folders of labels.

    Raises:
      UserError: a folder that may not be listed.
    """
    top = _folders(root)
    parts = {name: SPLIT_NAMES.get(name.lower()) for name in top}
    divided = bool(top) and all(parts.values())
    places = [(root / name, parts[name]) for name in top] if divided else [(root, None)]
    found = []
    for place, split in places:
        for folder in _folders(place):
            paths = sorted(images_in(place / folder))
            if paths and breaks_lines(folder):
                raise UserError(f"{shown(str(place / folder))} is no name of a label: rename it")
            found += [
                _Found(Path(path).relative_to(root).as_posix(), folder, split) for path in paths
            ]
    names = sorted(one_spelling(image.label for image in found))
    strays = (
        place / name
        for place in {root, *(place for place, _ in places)}
        for name, is_file in names_in(place).items()
        if is_file
    )
    if len(names) < 2 or any(map(looks_like_image, strays)):
        return None
    try:
        return _table(root, found, names)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable"
        ) from error


def _folders(place: Path) -> list[str]:
    return sorted(
        name
        for name, is_file in names_in(place).items()
        if not is_file and not name.startswith(".") and name != _PASSED_OVER
    )


def _merged(root: Path, found: Sequence[_Found]) -> list[tuple[_Found, set[str]]]:
    """Each image once, with its labels."""
    named: dict[tuple[str, str | None], list[_Found]] = {}
    for image in found:
        key = one_form(image.path.rpartition("/")[2]), image.split
        named.setdefault(key, []).append(image)
    merged: list[tuple[_Found, set[str]]] = []
    for images in named.values():
        same: dict[Hashable, tuple[_Found, set[str]]] = {}
        for image, content in zip(images, _contents(root, images), strict=True):
            same.setdefault(content, (image, set()))[1].add(image.label)
        merged += same.values()
    return sorted(merged, key=lambda entry: entry[0].path)


def _contents(root: Path, images: Sequence[_Found]) -> list[Hashable]:
    """What tells files of one name apart: their size, or, of equal ones, what is in them."""
    if len(images) == 1:
        return [None]
    paths = [root / image.path for image in images]
    sizes = [path.stat().st_size for path in paths]
    return [
        hashlib.sha256(read_file(path)).digest() if sizes.count(size) > 1 else size
        for path, size in zip(paths, sizes, strict=True)
    ]


def _table(root: Path, found: Sequence[_Found], names: Sequence[str]) -> Table:
    merged = _merged(root, found)
    column_of = {one_form(name): column for column, name in enumerate(names)}
    try:
        labels = empty_table(len(merged), len(names))
    except ValueError as error:
        raise UserError(f"{root}: {error}") from error
    for row, (_, of_image) in enumerate(merged):
        labels[row, [column_of[one_form(label)] for label in of_image]] = True
    paths = tuple(image.path for image, _ in merged)
    role_of = roles({image.split for image, _ in merged if image.split})
    splits = tuple(role_of[image.split] for image, _ in merged if image.split) or None
    return Table(root, root, tuple(names), paths, paths, labels, splits)
