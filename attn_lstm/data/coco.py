"""MS-COCO (Lin et al., 2014): from its standard folder, or as TFDS prepares it.

The folder is what the archives of cocodataset.org unpack to, 2014 (the paper's) or 2017:

    annotations/instances_train2014.json   annotations/instances_val2014.json
    train2014/                             val2014/

The test split of the literature is COCO's validation set; 'train' and 'validation' divide COCO's
training set. Labels are the categories in the order of COCO's ids ('person' first). An image's
labels are the categories of its annotations, crowds included. Rows are sorted by image id.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from attn_lstm.data.files import (
    are_present,
    breaks_lines,
    empty_table,
    first_shown,
    names_in,
    shown,
)
from attn_lstm.data.split import SPLITS, FileSource, Split, holdout
from attn_lstm.errors import UserError

YEARS = (2014, 2017)  # the paper's first: it is taken where a folder holds both

# COCO's own part, year -> (images, images with a label; None where no source states it).
PUBLISHED: dict[tuple[str, int], tuple[int, int | None]] = {
    ("train", 2014): (82_783, 82_081),
    ("val", 2014): (40_504, 40_137),
    ("train", 2017): (118_287, None),
    ("val", 2017): (5_000, None),
}
_NEARLY_FULL = 0.95  # of the published images: a smaller set is taken for a chosen subset

_TOO_LARGE = 10**9  # pixels


def load_coco_split(
    path: str | os.PathLike[str],
    split: str,
    *,
    drop_unlabelled: bool = False,
    validation_fraction: float = 0.05,
    split_seed: int = 0,
    download: bool = False,
) -> Split:
    """Opens a split of COCO.

    Args:
        path: a folder in COCO's own layout, or one that holds TFDS' `coco/2014`. Only what
            belongs to the asked split is read.
        split: 'test' (COCO's validation set), 'train' or 'validation'.
        drop_unlabelled: whether to leave out the images without any label.
        validation_fraction: the part of COCO's training set that is held out as 'validation'.
        split_seed: which part: the same images whether unlabelled ones are dropped or not.
        download: whether to let TFDS download and prepare the data set where there is none.

    Raises:
        UserError: anything missing or malformed, with the remedy.
    """
    if split not in SPLITS:
        raise UserError(f"coco has no split {split!r}: choose from {', '.join(SPLITS)}")
    if not path:
        raise UserError("data.path is empty: set it to the folder that holds COCO")
    root = Path(path)
    part = "val" if split == "test" else "train"
    if os.path.isdir(root / "annotations"):
        year = _year(root)
        whole = _load_folder(root, part, year)
    elif os.path.isdir(root / "coco" / "2014") or download:
        year = 2014
        whole = _load_tfds(root, part, download=download)
    else:
        found = "holds no COCO" if os.path.isdir(root) else "is not a folder that can be entered"
        raise UserError(
            f"{root} {found}: set data.path to a folder with annotations/instances_*.json and "
            "its image folders (COCO's own layout) or with coco/2014 (TFDS'), or set "
            "data.download=true to let TFDS fetch COCO 2014 there"
        )
    _compare_with_published(len(whole), int(whole.labels.any(axis=1).sum()), part, year)
    rows = np.arange(len(whole))
    if part == "train":
        train_rows, validation_rows = holdout(len(whole), validation_fraction, split_seed)
        rows = train_rows if split == "train" else validation_rows
    if drop_unlabelled:
        rows = rows[whole.labels[rows].any(axis=1)]
    return replace(whole, name=split).select(rows)


def _compare_with_published(images: int, labelled: int, part: str, year: int) -> None:
    """Warns of a set that is nearly, but not exactly, the published one."""
    published, published_labelled = PUBLISHED[part, year]
    if images < _NEARLY_FULL * published:
        return
    pairs = [("images", images, published), ("images with a label", labelled, published_labelled)]
    for what, found, expected in pairs:
        if expected is not None and found != expected:
            logging.warning(
                "COCO %s%d holds %d %s, %+d from the published %d",
                part,
                year,
                found,
                what,
                found - expected,
                expected,
            )


# -------------------------------------------------------------------------- COCO's own layout


class Instances(NamedTuple):
    """What `instances_*.json` says: N images sorted by id, C categories sorted by id."""

    label_names: tuple[str, ...]
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    labels: np.ndarray  # bool[N,C]
    boxes: tuple[np.ndarray, ...] | None  # as in `Split`; None unless all annotations have one


def _year(root: Path) -> int:
    files = names_in(root / "annotations")
    found = [year for year in YEARS if fnmatch.filter(files, f"instances_*{year}.json")]
    if not found:
        raise UserError(
            f"{root / 'annotations'} holds no instances_*2014.json or instances_*2017.json: "
            "unpack COCO's annotations there"
        )
    # One year for all splits of a folder: the training set of 2017 holds images of val2014.
    return found[0]


def _load_folder(root: Path, part: str, year: int) -> Split:
    annotations = root / "annotations" / f"instances_{part}{year}.json"
    if not os.path.isfile(annotations):
        raise UserError(f"{annotations} is missing: unpack COCO's annotations there")
    instances = read_instances(annotations)
    folder = root / f"{part}{year}"
    _check_images(folder, instances.file_names, annotations)
    return Split(
        dataset="coco",
        name=part,
        label_names=instances.label_names,
        image_ids=tuple(map(str, instances.image_ids)),
        labels=instances.labels,
        images=FileSource(folder, instances.file_names),
        boxes=instances.boxes,
    )


def _check_images(folder: Path, file_names: Sequence[str], annotations: Path) -> None:
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is missing: unpack the images of {annotations.name} there")
    present = are_present(folder, file_names)
    missing = [name for name, is_there in zip(file_names, present, strict=True) if not is_there]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the images in {annotations}: "
            f"{first_shown(missing)}; unpack the images there completely"
        )


def read_instances(path: str | os.PathLike[str]) -> Instances:
    """Reads and checks an `instances_*.json` of COCO; annotations may lack `bbox`.

    Raises:
        UserError: a file that cannot be read, is not JSON or not COCO's instances.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): unpack COCO's annotations anew") from error
    try:
        return _instances(content)
    except _Malformed as error:
        raise UserError(f"{path} is not COCO's instances: {error}") from error


class _Malformed(Exception):
    """What is wrong in the content of an annotation file, and where."""


def _instances(content: Any) -> Instances:
    if not isinstance(content, dict):
        raise _Malformed(f"an object is expected, not {_kind(content)}")
    images = sorted(_records(content, "images"), key=lambda image: image["id"])
    categories = sorted(_records(content, "categories"), key=lambda category: category["id"])
    file_names = tuple(
        _file_name(_field(image, "file_name", str, f"image {image['id']}")) for image in images
    )
    names = tuple(
        _text(_field(category, "name", str, f"category {category['id']}"), "category name")
        for category in categories
    )
    if not names:
        raise _Malformed("'categories' is empty")
    _unique("file_name", file_names)
    _unique("category name", names)

    row_of = {image["id"]: row for row, image in enumerate(images)}
    column_of = {category["id"]: column for column, category in enumerate(categories)}
    try:
        labels = empty_table(len(images), len(categories))
    except ValueError as error:
        raise _Malformed(str(error)) from error
    boxes: list[list[tuple[float, ...]]] = [[] for _ in images]
    all_have_boxes = True
    for i, annotation in enumerate(_list(content, "annotations")):
        where = f"annotations[{i}]"
        image_id = _field(annotation, "image_id", int, where)
        category_id = _field(annotation, "category_id", int, where)
        if image_id not in row_of:
            raise _Malformed(f"{where} belongs to image {image_id}, which is not in 'images'")
        if category_id not in column_of:
            raise _Malformed(f"{where} has category {category_id}, which is not in 'categories'")
        row, column = row_of[image_id], column_of[category_id]
        labels[row, column] = True
        if "bbox" in annotation:
            boxes[row].append((column, *_box(annotation, images[row], where)))
        else:
            all_have_boxes = False
    _unique("annotation id", (a["id"] for a in content["annotations"] if "id" in a))
    return Instances(
        label_names=names,
        image_ids=tuple(image["id"] for image in images),
        file_names=file_names,
        labels=labels,
        boxes=tuple(np.array(rows, np.float32).reshape(-1, 5) for rows in boxes)
        if all_have_boxes
        else None,
    )


def _kind(value: Any) -> str:
    return type(value).__name__


def _list(content: dict[str, Any], key: str) -> list[Any]:
    if key not in content:
        raise _Malformed(f"'{key}' is missing")
    if not isinstance(content[key], list):
        raise _Malformed(f"'{key}' must be a list, not {_kind(content[key])}")
    return content[key]


def _field(record: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(record, dict):
        raise _Malformed(f"{where} must be an object, not {_kind(record)}")
    if key not in record:
        raise _Malformed(f"{where} lacks '{key}'")
    if not isinstance(record[key], kind) or isinstance(record[key], bool):
        raise _Malformed(f"'{key}' of {where} must be {kind.__name__}, not {_kind(record[key])}")
    return record[key]


def _records(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects, each with an `id` of its own."""
    records = _list(content, key)
    _unique(f"id in '{key}'", [_field(r, "id", int, f"{key}[{i}]") for i, r in enumerate(records)])
    return records


def _unique(what: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if not isinstance(value, Hashable):
            raise _Malformed(f"{what} must be a number or a string, not {_kind(value)}")
        if value in seen:
            raise _Malformed(f"{what} {shown(value)} occurs twice")
        seen.add(value)


def _text(text: str, what: str) -> str:
    if not text or breaks_lines(text):
        raise _Malformed(f"{what} {shown(text)} is not a printable name")
    return text


def _file_name(name: str) -> str:
    path = PurePosixPath(_text(name, "file_name"))
    if path.is_absolute() or ".." in path.parts:
        raise _Malformed(f"file_name {shown(name)} leaves the image folder")
    return name


def _box(annotation: dict[str, Any], image: dict[str, Any], where: str) -> tuple[float, ...]:
    """COCO's (x, y, width, height) in pixels -> (top, left, bottom, right), relative."""
    box = annotation["bbox"]
    sizes = [_field(image, side, int, f"image {image['id']}") for side in ("height", "width")]
    if not all(1 <= size < _TOO_LARGE for size in sizes):
        raise _Malformed(f"image {image['id']} has an impossible height or width")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise _Malformed(f"'bbox' of {where} must be four numbers: x, y, width, height")
    x, y, width, height = box
    corners = (y / sizes[0], x / sizes[1], (y + height) / sizes[0], (x + width) / sizes[1])
    return tuple(min(max(corner, 0.0), 1.0) for corner in corners)


def _is_number(value: Any) -> bool:
    # The comparison is false for NaN.
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) < _TOO_LARGE


# ------------------------------------------------------------------------------- TFDS' layout


def _load_tfds(root: Path, part: str, *, download: bool) -> Split:
    import tensorflow_datasets as tfds

    from attn_lstm.data.records import damage_named, load_records, prepare

    versions = sorted((root / "coco" / "2014").glob("*/dataset_info.json"))
    if versions:
        with damage_named(versions[-1].parent):
            builder = tfds.builder_from_directory(versions[-1].parent)
    elif download:
        builder = tfds.builder("coco/2014", data_dir=root, file_format="array_record")
        try:
            prepare(builder)
        except OSError as error:
            raise UserError(f"COCO 2014 cannot be prepared in {root}: {error}") from error
    else:
        raise UserError(
            f"{root / 'coco' / '2014'} holds no prepared version: remove it and set "
            "data.download=true to let TFDS prepare COCO 2014"
        )
    try:
        return load_records(
            builder, "validation" if part == "val" else "train", dataset="coco", name=part
        )
    except NotImplementedError as error:
        raise UserError(
            f"{builder.data_path} is stored as {builder.info.file_format.value}, which cannot be "
            "read in any order: run `pip install apache-beam` and `tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record` first"
        ) from error
