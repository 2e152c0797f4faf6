"""Pascal VOC (Everingham et al., 2010), 2007 to 2012, and data sets in its layout.

    Annotations/000005.xml       the objects of each image, with their boxes
    JPEGImages/000005.jpg
    ImageSets/Main/train.txt     val.txt   trainval.txt   test.txt: names of images

The folder is that of one year, such as VOCdevkit/VOC2007, or one above it that holds no other.
Tests are on test.txt, and trainval.txt is for training, as in the literature on 2007. Where
test.txt is not there, or its annotations are not (those of 2012 were never published), tests are on
val.txt and train.txt is for training. 'validation' is held out of the training images. Where there
is no list to test on, as from annotation tools, all images with annotations are divided at random.

Labels are the names of the objects in all lists, sorted; of VOC's own they are always all 20. An
image has the labels of its objects. Objects that are marked as difficult, which VOC's own
evaluation leaves out of the count, are labels like the others, none, or not known (`difficult`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from attn_lstm.data.boxes import PixelBoxes
from attn_lstm.data.files import (
    as_utf8,
    breaks_lines,
    empty_table,
    first_shown,
    locate,
    names_in,
    one_form,
    one_spelling,
    shown,
)
from attn_lstm.data.split import SPLITS, Split
from attn_lstm.data.table import TEST_FRACTION, Table, check_choice, split_of
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file

NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
DIFFICULT = ("label", "absent", "unknown")

_FOLDERS = ("Annotations", "JPEGImages")
_LISTS = {
    "train": "train",
    "training": "train",
    "trainval": "trainval",
    "test": "test",
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}


def load_voc_split(
    path: str | os.PathLike[str],
    split: str,
    *,
    difficult: str = "label",
    drop_unlabelled: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
    on_missing: str = "error",
) -> Split:
    """Opens a split of Pascal VOC.

    Args:
      path: the folder, see above.
      split: 'train', 'validation' or 'test'.
      difficult: what objects that are marked as difficult are: a 'label' as any other,
        'absent', or 'unknown', where the label has no other object in the image.
      drop_unlabelled: whether to leave out the images without any label.
      validation_fraction: the part of the training images that is held out as 'validation'.
      test_fraction: the part of all images that is for testing, where there are no lists.
      split_seed: which images are held out.
      on_missing: what an image that is listed but not on disk is: an 'error', or counted, logged
        and left out ('skip').

    Raises:
      UserError: anything missing or malformed, with the remedy.
    """
    check_choice("split of voc", split, SPLITS)
    if not path:
        raise UserError("data.path is empty: set it to a folder such as VOCdevkit/VOC2007")
    return split_of(
        read(path, difficult=difficult),
        "voc",
        split,
        drop_unlabelled=drop_unlabelled,
        on_missing=on_missing,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
    )


def find(path: str | os.PathLike[str]) -> Path | None:
    """The folder of VOC's layout at `path` or below it; None where there is none.

    Raises:
      UserError: several years below it.
    """
    root = Path(path)
    found = [
        place
        for place in (root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*")))
        if all(os.path.isdir(place / name) for name in _FOLDERS)
    ]
    if len(found) > 1:
        raise UserError(
            f"{root} holds {', '.join(str(place.relative_to(root)) for place in found)}: set "
            "data.path to one of them"
        )
    return found[0] if found else None


def read(path: str | os.PathLike[str], *, difficult: str = "label") -> Table:
    """All images of the lists, or of the annotations where there are no lists.

    Raises:
      UserError: anything missing or malformed, with the remedy.
    """
    check_choice("data.difficult of voc", difficult, DIFFICULT)
    root = find(path)
    if root is None:
        raise UserError(
            f"{path} holds no {' beside '.join(_FOLDERS)}: set data.path to a folder such as "
            "VOCdevkit/VOC2007"
        )
    lists = _lists(root)
    if lists is None:
        there = (name for name, is_file in names_in(root / "Annotations").items() if is_file)
        ids = sorted(name[:-4] for name in there if name.lower().endswith(".xml"))
        splits = None
    else:
        ids = [image_id for listed in lists.values() for image_id in listed]
        splits = tuple(name for name, listed in lists.items() for _ in listed)
    if not ids:
        raise UserError(f"{root} lists no image: unpack VOC's archives there completely")
    files = locate(root / "Annotations", [f"{image_id}.xml" for image_id in ids])
    absent = [image_id for image_id, file in zip(ids, files, strict=True) if file is None]
    if absent:
        raise UserError(
            f"{root / 'Annotations'} lacks those of {len(absent)} images in ImageSets/Main: "
            f"{first_shown(absent)}; unpack VOC's archives there completely"
        )
    annotated = [_annotation(root / "Annotations" / file) for file in files if file]
    return _table(root, ids, splits, annotated, difficult)


def _table(
    root: Path,
    ids: Sequence[str],
    splits: tuple[str, ...] | None,
    annotated: Sequence[_Annotation],
    difficult: str,
) -> Table:
    counted = [
        [item for item in annotation.objects if difficult == "label" or not item.difficult]
        for annotation in annotated
    ]
    found = one_spelling(item.name for annotation in annotated for item in annotation.objects)
    names = NAMES if {*found} <= {*NAMES} else tuple(sorted(found))
    column_of = {one_form(name): column for column, name in enumerate(names)}
    try:
        labels = empty_table(len(ids), len(names))
    except ValueError as error:
        raise UserError(f"{root}: {error}") from error
    for row, objects in enumerate(counted):
        labels[row, [column_of[one_form(item.name)] for item in objects]] = True
    known = None
    if difficult == "unknown":
        known = np.ones_like(labels)
        for row, annotation in enumerate(annotated):
            known[row, [column_of[one_form(item.name)] for item in annotation.objects]] = False
        known |= labels
    paths = _image_paths(root, ids)
    boxes = None
    if all(item.box is not None for objects in counted for item in objects):
        boxes = PixelBoxes(
            root / "Annotations",
            [
                np.array(
                    [
                        (column_of[one_form(item.name)], *item.box)
                        for item in objects
                        if item.box is not None
                    ],
                    np.float64,
                ).reshape(-1, 5)
                for objects in counted
            ],
            np.array([annotation.size for annotation in annotated], np.int64).reshape(-1, 2),
            [os.path.join(root, path) for path in paths],
        )
    return Table(root, root, names, tuple(ids), paths, labels, splits, boxes, known)


def _image_paths(root: Path, ids: Sequence[str]) -> tuple[str, ...]:
    """The image of each name, whatever its suffix."""
    by_stem = {one_form(os.path.splitext(name)[0]): name for name in names_in(root / "JPEGImages")}
    return tuple(f"JPEGImages/{by_stem.get(one_form(i), f'{i}.jpg')}" for i in ids)


# ----------------------------------------------------------------------------------- the lists


def _lists(root: Path) -> dict[str, list[str]] | None:
    """The images for 'train' and 'test'; None where nothing divides them."""
    folder = root / "ImageSets" / "Main"
    there = {
        _LISTS[name[:-4].lower()]: _read_list(folder / name)
        for name, is_file in names_in(folder).items()
        if is_file and name.endswith(".txt") and name[:-4].lower() in _LISTS
    }
    test = there.get("test", [])
    if not test or locate(root / "Annotations", [f"{test[0]}.xml"]) == [None]:
        test = there.get("val", [])
        training = there.get("train", [])
    else:
        training = there.get("trainval") or [*there.get("train", []), *there.get("val", [])]
    if not test:
        return None
    shared = {*training} & {*test}
    if shared:
        raise UserError(
            f"{root / 'ImageSets' / 'Main'} lists {len(shared)} images for training and for "
            f"testing, such as {shown(min(shared))}: take both lists from the same distribution"
        )
    return {"train": training, "test": test}


def _read_list(file: Path) -> list[str]:
    try:
        text = as_utf8(read_file(file)).decode()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8: save it in that encoding") from error
    names, seen = [], set()
    for line, content in enumerate(text.split("\n"), start=1):
        name = content.strip().strip('"')
        if not name:
            continue
        if breaks_lines(name) or name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise UserError(f"{file}, line {line}: {shown(name)} is not the name of an image")
        if one_form(name) in seen:
            raise UserError(f"{file}, line {line}: {shown(name)} occurs twice; list it once")
        seen.add(one_form(name))
        names.append(name)
    return names


# ----------------------------------------------------------------------------- the annotations


class _Object(NamedTuple):
    name: str
    difficult: bool
    box: tuple[float, ...] | None  # left, top, right, bottom in pixels


class _Annotation(NamedTuple):
    size: tuple[int, int]  # width, height; 0 where the file does not say
    objects: list[_Object]


def _annotation(file: Path) -> _Annotation:
    try:
        root = ElementTree.fromstring(read_file(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"{file} is not XML ({error}): restore it") from error
    try:
        return _Annotation(
            (_whole(root, "size/width"), _whole(root, "size/height")),
            [_object(item) for item in root.iterfind("object")],
        )
    except ValueError as error:
        raise UserError(f"{file} is not an annotation of VOC: {error}") from error


def _object(item: ElementTree.Element) -> _Object:
    name = " ".join(item.findtext("name", "").split())
    if not name or breaks_lines(name):
        raise ValueError(f"an object has the name {shown(name)}")
    difficult = item.findtext("difficult", "0").strip()
    if difficult not in ("", "0", "1"):
        raise ValueError(f"'difficult' of {shown(name)} is {shown(difficult)}, neither 0 nor 1")
    if item.find("bndbox") is None:
        return _Object(name, difficult == "1", None)
    left, top, right, bottom = (
        _number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    # Pixels are counted from 1, and the last one belongs to the box.
    return _Object(name, difficult == "1", (left - 1, top - 1, right, bottom))


def _whole(item: ElementTree.Element, path: str) -> int:
    value = _number(item, path) if item.findtext(path, "").strip() else 0.0
    if value < 0 or value != int(value):
        raise ValueError(f"{path} is {shown(item.findtext(path))}")
    return int(value)


def _number(item: ElementTree.Element, path: str) -> float:
    text = item.findtext(path, "").strip()
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 10**9:  # false for NaN
        raise ValueError(f"{path} is {shown(text)}, no number")
    return value
