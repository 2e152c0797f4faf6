"""MS-COCO (Lin et al., 2014), and whatever has its format.

COCO itself is read from the folder that the archives of cocodataset.org unpack to, 2014 (the
paper's) or 2017, or as TFDS prepares it:

    annotations/instances_train2014.json   annotations/instances_val2014.json
    train2014/                             val2014/

Its labels are the categories in the order of COCO's ids ('person' first), rows are sorted by image
id, and crowd annotations count.

Annotation tools export the same format in layouts of their own; `_LAYOUTS` lists where their files
lie. Which part a file holds is said by its name or its folder's: train, valid (val, validation,
dev) or test. The images are looked for beside it and in the folders that these tools use. An image
is known by its `file_name`.

The test split is the part 'test'; where there is none, the part 'valid', as in the literature on
COCO, and 'validation' is then held out of the part 'train'. A single file that names no part is
divided at random. Categories are known by their names: ids and order may differ between files.

Where images list `neg_category_ids`, as in LVIS (Gupta et al., 2019), these alone are known to be
absent: a category that is neither annotated nor listed was not looked for, and is not known
(`Split.known`). One of `not_exhaustive_category_ids` is annotated, if not wherever it is to be
seen, and true as any other.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from absl import logging

from attn_lstm.data.boxes import PixelBoxes
from attn_lstm.data.files import (
    breaks_lines,
    empty_table,
    locate,
    names_in,
    one_form,
    shown,
)
from attn_lstm.data.split import SPLITS, Split, holdout
from attn_lstm.data.table import (
    SPLIT_NAMES,
    TEST_FRACTION,
    Table,
    check_choice,
    roles,
    split_of,
)
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file

_ABSENT = "neg_category_ids"  # of an image

YEARS = (2014, 2017)  # the paper's first: it is taken where a folder holds both

# COCO's own part, year -> (images, images with a label; None where no source states it).
PUBLISHED: dict[tuple[str, int], tuple[int, int | None]] = {
    ("train", 2014): (82_783, 82_081),
    ("val", 2014): (40_504, 40_137),
    ("train", 2017): (118_287, None),
    ("val", 2017): (5_000, None),
}
_NEARLY_FULL = 0.95  # of the published images: a smaller set is taken for a chosen subset

# Where annotation files lie; the first of these that a folder holds is taken.
_LAYOUTS = (
    "annotations/instances_*.json",  # CVAT, Datumaro
    "annotations/labels_*.json",  # Datumaro, without boxes
    "annotations/lvis_*.json",
    "lvis_*.json",
    "*/_annotations.coco.json",  # Roboflow
    "_annotations.coco.json",
    "*/labels.json",  # FiftyOne
    "labels.json",
    "result.json",  # Label Studio
    "*/result.json",
    "annotations/*.json",
    "*.json",
)
_NAMELESS = (
    "_annotations.coco",
    "labels",
    "result",
)  # files whose images are not named as they are
_NO_PART = ""  # of a file whose name tells none

_TOO_LARGE = 10**9  # pixels
_SAMPLE = 100  # images by which their folder is recognised


def load_coco_split(
    path: str | os.PathLike[str],
    split: str,
    *,
    drop_unlabelled: bool = False,
    validation_fraction: float = 0.05,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
    on_missing: str = "error",
    download: bool = False,
) -> Split:
    """Opens a split of COCO, or of a data set in its format.

    Args:
      path: a folder in one of the layouts above, or one that holds TFDS' `coco/2014`. Only what
        belongs to the asked split is read.
      split: 'train', 'validation' or 'test'.
      drop_unlabelled: whether to leave out the images without any label.
      validation_fraction: the part of the training images that is held out as 'validation',
        unless there are files for validation and for testing.
      test_fraction: the part of all images that is for testing, of a single undivided file.
      split_seed: which images are held out as 'validation': the same whether unlabelled ones are
        dropped or not.
      on_missing: what an image that is listed but not on disk is: an 'error', or counted, logged
        and left out ('skip').
      download: whether to let TFDS download and prepare COCO where there is no data set.

    Raises:
      UserError: anything missing or malformed, with the remedy.
    """
    check_choice("split of coco", split, SPLITS)
    if not path:
        raise UserError("data.path is empty: set it to the folder that holds COCO")
    root = Path(path)
    year = coco_year(root)
    if year is None and _is_prepared(root, download):
        return _tfds_split(root, split, drop_unlabelled, validation_fraction, split_seed, download)
    parts = find_parts(root)
    if not parts:
        found = "holds no COCO" if os.path.isdir(root) else "is not a folder that can be entered"
        raise UserError(
            f"{root} {found}: set data.path to a folder with annotations/instances_*.json and "
            "its image folders (COCO's own layout), to what an annotation tool has exported in "
            "COCO's format, or to one with coco/2014 (TFDS'), or set data.download=true to let "
            "TFDS fetch COCO 2014 there"
        )
    part, role = _part_of(parts, split)
    if part not in parts:
        raise UserError(_lacking(root, parts, part, year))
    table = read_part(parts[part], role, year)
    if year is not None:
        _compare_with_published(table.labels, part, year)
    return split_of(
        table,
        "coco" if year is not None else "coco_format",
        split,
        drop_unlabelled=drop_unlabelled,
        on_missing=on_missing,
        # Rows for validation may lie in a file of their own.
        validation_fraction=0.0 if {"validation", "test"} <= parts.keys() else validation_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
    )


def _compare_with_published(labels: np.ndarray, part: str, year: int) -> None:
    """Warns of a set that is nearly, but not exactly, the published one."""
    own = "val" if part == "validation" else part
    images, labelled = len(labels), int(labels.any(axis=1).sum())
    published, published_labelled = PUBLISHED[own, year]
    if images < _NEARLY_FULL * published:
        return
    pairs = [("images", images, published), ("images with a label", labelled, published_labelled)]
    for what, found, expected in pairs:
        if expected is not None and found != expected:
            logging.warning(
                "COCO %s%d holds %d %s, %+d from the published %d",
                own,
                year,
                found,
                what,
                found - expected,
                expected,
            )


# --------------------------------------------------------------------------------- the layouts


def coco_year(root: Path) -> int | None:
    """The year of COCO that lies in a folder in its own layout; None for another layout."""
    files = names_in(root / "annotations")
    found = [
        year
        for year in YEARS
        if any(f"instances_{part}{year}.json" in files for part in ("train", "val"))
    ]
    # One year for all splits of a folder: the training set of 2017 holds images of val2014.
    return found[0] if found else None


def find_parts(root: Path) -> dict[str, Path]:
    """The annotation files of a folder by part: names of `SPLITS`, or '' for one that names none.

    Raises:
      UserError: several files for one part.
    """
    year = coco_year(root)
    if year is not None:
        names = {"train": f"instances_train{year}.json", "validation": f"instances_val{year}.json"}
        files = {part: root / "annotations" / name for part, name in names.items()}
        return {part: file for part, file in files.items() if os.path.isfile(file)}
    for layout in _LAYOUTS:
        parts: dict[str, Path] = {}
        for file in sorted(root.glob(layout)):
            if not os.path.isfile(file) or "image_info" in file.name:
                continue
            part = _part_name(file, root)
            if layout.startswith("*/") and not part:
                continue  # a folder of another purpose
            if part in parts:
                raise UserError(
                    f"{parts[part]} and {file} may both be the annotations "
                    + (f"for {part}" if part else "of the data set")
                    + ": leave one there, or name them after their parts, as in "
                    "instances_train.json and instances_val.json"
                )
            parts[part] = file
        if len(parts) > 1:
            parts.pop(_NO_PART, None)
        if parts:
            return parts
    return {}


def _part_name(file: Path, root: Path) -> str:
    """Which part a file holds, by its own name or else its folder's; '' where neither tells."""
    folder = file.parent.name if file.parent not in (root, root / "annotations") else ""
    for name in (file.stem, folder):
        words = re.split(r"[^a-z]+", name.lower())
        found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        if len(found) == 1:
            return found.pop()
    return _NO_PART


def _part_of(parts: Mapping[str, Path], split: str) -> tuple[str, str | None]:
    """Which part a split comes from, and which split its rows are marked for; None for any."""
    if _NO_PART in parts:
        return _NO_PART, None
    for part, role in roles(parts.keys()).items():
        if role == split:
            return part, role
    return ("train", "train") if split == "validation" else (split, split)


def _lacking(root: Path, parts: Mapping[str, Path], part: str, year: int | None) -> str:
    if year is not None:
        name = f"instances_{'train' if part == 'train' else 'val'}{year}.json"
        return f"{root / 'annotations' / name} is missing: unpack COCO's annotations there"
    there = ", ".join(str(file.relative_to(root)) for file in parts.values())
    return f"{root} holds {there}, and nothing for {part}: put a file of annotations for it there"


def read_part(annotations: Path, role: str | None, year: int | None) -> Table:
    """One annotation file as a table.

    Args:
      annotations: the file.
      role: the split that all its rows are marked for; None for none.
      year: of COCO itself, whose images are known by their ids; None for another data set.

    Raises:
      UserError: a file that cannot be read or is malformed, or whose images are nowhere.
    """
    instances = read_instances(annotations)
    if instances.file_names and instances.folder is None:
        first, *others = _image_folders(annotations)
        listed = ", ".join(os.path.relpath(place, _base(annotations)) for place in others)
        raise UserError(
            f"none of the {len(instances.file_names)} images of {annotations}, such as "
            f"{shown(instances.file_names[0])}, lies in {first}, nor in {listed}: unpack them "
            "there, or correct file_name"
        )
    if year is not None:
        ids = tuple(map(str, instances.image_ids))
    else:
        ids = tuple(map(_with_slashes, instances.file_names))
    return Table(
        source=annotations,
        root=instances.folder or annotations.parent,
        label_names=instances.label_names,
        image_ids=ids,
        paths=instances.file_names,
        labels=instances.labels,
        known=instances.known,
        splits=None if role is None else (role,) * len(instances.image_ids),
        boxes=instances.boxes,
    )


def _image_folders(annotations: Path) -> list[Path]:
    """Where the images of an annotation file may lie, the likeliest folder first."""
    base, root = annotations.parent, _base(annotations)
    words = [] if annotations.stem in _NAMELESS else annotations.stem.split("_")
    parts = ["_".join(words[start:]) for start in reversed(range(len(words)))]
    beside = [place / part for part in parts for place in (root, root / "images")]
    shared = [base, base / "images", base / "data", root / "images", root / "data", root]
    return [*dict.fromkeys([*beside, *shared])]


def _base(annotations: Path) -> Path:
    """The folder of the data set."""
    base = annotations.parent
    return base.parent if base.name == "annotations" else base


def _find_images(annotations: Path, names: Sequence[str]) -> Path | None:
    """The folder that holds the most of the images; None where none holds any."""
    sample = names[:: max(1, len(names) // _SAMPLE)]
    places = [place for place in _image_folders(annotations) if os.path.isdir(place)]
    found = {place: len(sample) - locate(place, sample).count(None) for place in places}
    best = max(places, key=found.__getitem__, default=None)
    return best if best is not None and found[best] else None


# ------------------------------------------------------------------------------------ the files


class Instances(NamedTuple):
    """What an annotation file says: N images sorted by id, C categories sorted by id.

    Attributes:
      label_names: C names.
      image_ids: N ids.
      file_names: N paths, inside of the folder of the images.
      labels: bool[N,C].
      boxes: as in `Split`; None unless all annotations have one.
      folder: that of the images; None where none of them is found.
      known: as in `Split`.
    """

    label_names: tuple[str, ...]
    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    labels: np.ndarray
    boxes: Sequence[np.ndarray] | None
    folder: Path | None
    known: np.ndarray | None


def read_instances(path: str | os.PathLike[str]) -> Instances:
    """Reads and checks an annotation file in COCO's format; annotations may lack `bbox`.

    Raises:
      UserError: a file that cannot be read, is not JSON or not COCO's instances.
    """
    try:
        content = json.loads(read_file(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): unpack COCO's annotations anew") from error
    try:
        return _instances(content, Path(path))
    except _Malformed as error:
        raise UserError(f"{path} is not COCO's instances: {error}") from error


class _Malformed(Exception):
    """What is wrong in the content of an annotation file, and where."""


def _instances(content: Any, path: Path) -> Instances:
    if not isinstance(content, dict):
        raise _Malformed(f"an object is expected, not {_kind(content)}")
    images = sorted(_records(content, "images"), key=lambda image: image["id"])
    file_names = tuple(_file_name(image) for image in images)
    _unique("file_name", (one_form(_with_slashes(name)) for name in file_names))
    annotations = _list(content, "annotations")
    names, column_of = _categories(content, annotations)
    row_of = {image["id"]: row for row, image in enumerate(images)}
    try:
        labels = empty_table(len(images), len(names))
    except ValueError as error:
        raise _Malformed(str(error)) from error
    objects: list[list[tuple[float, ...]]] = [[] for _ in images]
    all_have_boxes = True
    for i, annotation in enumerate(annotations):
        where = f"annotations[{i}]"
        image_id = _field(annotation, "image_id", int, where)
        category_id = annotation["category_id"]  # `_categories` has seen to it
        if image_id not in row_of:
            raise _Malformed(f"{where} belongs to image {image_id}, which is not in 'images'")
        row, column = row_of[image_id], column_of[category_id]
        labels[row, column] = True
        if annotation.get("bbox"):
            objects[row].append((column, *_box(annotation, where)))
        else:
            all_have_boxes = False
    _unique("annotation id", (a["id"] for a in annotations if "id" in a))
    known = _known(images, labels, column_of)
    folder = _find_images(path, file_names)
    boxes = None
    if all_have_boxes:
        sizes = np.array([_size(image) for image in images], np.int64).reshape(-1, 2)
        found = locate(folder, file_names) if folder else [None] * len(images)
        boxes = PixelBoxes(
            path,
            [np.array(rows, np.float64).reshape(-1, 5) for rows in objects],
            sizes,
            [
                os.path.join(folder or "", at or name)
                for at, name in zip(found, file_names, strict=True)
            ],
        )
    return Instances(
        label_names=names,
        image_ids=tuple(image["id"] for image in images),
        file_names=file_names,
        labels=labels,
        boxes=boxes,
        folder=folder,
        known=known,
    )


def _known(
    images: Sequence[dict[str, Any]], labels: np.ndarray, column_of: Mapping[int, int]
) -> np.ndarray | None:
    """What somebody looked for, bool[N,C]; None where no image says what it was searched for."""
    if not any(_ABSENT in image for image in images):
        return None
    known = labels.copy()
    for row, image in enumerate(images):
        where = f"image {image['id']}"
        for category_id in _field(image, _ABSENT, list, where) if _ABSENT in image else ():
            if not isinstance(category_id, int) or category_id not in column_of:
                raise _Malformed(
                    f"'{_ABSENT}' of {where} has {shown(category_id)}, which is not in 'categories'"
                )
            known[row, column_of[category_id]] = True
    return known


def _categories(
    content: dict[str, Any], annotations: Sequence[Any]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names of the labels, and the column of each category's id.

    Of several categories of one name one may be in use: Roboflow adds a heading that no annotation
    has, and which may be called as a label is.
    """
    categories = sorted(_records(content, "categories"), key=lambda category: category["id"])
    if not categories:
        raise _Malformed("'categories' is empty")
    name_of = {}
    for category in categories:
        name = _field(category, "name", str, f"category {category['id']}")
        name_of[category["id"]] = _text(name, "category name")
    used = set()
    for i, annotation in enumerate(annotations):
        category_id = _field(annotation, "category_id", int, f"annotations[{i}]")
        if category_id not in name_of:
            raise _Malformed(
                f"annotations[{i}] has category {category_id}, which is not in 'categories'"
            )
        used.add(category_id)
    owner: dict[str, int] = {}
    for category_id, name in name_of.items():
        other = owner.setdefault(one_form(name), category_id)
        if other != category_id and category_id in used:
            if other in used:
                raise _Malformed(
                    f"category name {shown(name)} occurs twice, with the ids {other} and "
                    f"{category_id}, and annotations have both: rename one"
                )
            owner[one_form(name)] = category_id
    owners = sorted(owner.values())
    column_of = {category_id: column for column, category_id in enumerate(owners)}
    columns = {
        category_id: column_of[owner[one_form(name)]] for category_id, name in name_of.items()
    }
    return tuple(name_of[category_id] for category_id in owners), columns


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


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _file_name(image: dict[str, Any]) -> str:
    """The path of an image inside of its folder.

    Label Studio and FiftyOne may write where the image lay for them: a path that leads out of the
    folder, an absolute one or an address. Of such a one the last part is taken. LVIS gives the
    address alone, which ends with COCO's folder and name.
    """
    where = f"image {image['id']}"
    if "file_name" not in image and isinstance(image.get("coco_url"), str):
        return urlsplit(_text(image["coco_url"], "coco_url")).path.lstrip("/")
    name = _text(_field(image, "file_name", str, where), "file_name")
    _, is_local_file, within = name.partition("local-files/?d=")
    if is_local_file or "://" in name:
        return PureWindowsPath(unquote(within or urlsplit(name).path)).name or name
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.root or ".." in windows.parts:
        name = windows.name
        if name in ("", ".."):
            raise _Malformed(f"file_name {shown(image['file_name'])} names no file")
    return name


def _box(annotation: dict[str, Any], where: str) -> tuple[float, ...]:
    """COCO's (x, y, width, height) -> (left, top, right, bottom), in pixels."""
    box = annotation["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise _Malformed(f"'bbox' of {where} must be four numbers: x, y, width, height")
    x, y, width, height = box
    return x, y, x + width, y + height


def _size(image: dict[str, Any]) -> tuple[int, int]:
    """(width, height), 0 where the file does not say."""
    sizes = [image.get(side) or 0 for side in ("width", "height")]
    if not all(_is_number(size) and size >= 0 and size == int(size) for size in sizes):
        raise _Malformed(f"image {image['id']} has an impossible height or width")
    return int(sizes[0]), int(sizes[1])


def _is_number(value: Any) -> bool:
    # The comparison is false for NaN.
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) < _TOO_LARGE


# ------------------------------------------------------------------------------- TFDS' layout


def _is_prepared(root: Path, download: bool) -> bool:
    return os.path.isdir(root / "coco" / "2014") or (download and not find_parts(root))


def _tfds_split(
    root: Path,
    split: str,
    drop_unlabelled: bool,
    validation_fraction: float,
    split_seed: int,
    download: bool,
) -> Split:
    part = "validation" if split == "test" else "train"
    whole = _load_tfds(root, part, download=download)
    _compare_with_published(whole.labels, part, 2014)
    rows = np.arange(len(whole))
    if part == "train":
        train_rows, validation_rows = holdout(len(whole), validation_fraction, split_seed)
        rows = train_rows if split == "train" else validation_rows
    if drop_unlabelled:
        rows = rows[whole.labels[rows].any(axis=1)]
    return replace(whole, name=split).select(rows)


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
        return load_records(builder, part, dataset="coco", name=part)
    except NotImplementedError as error:
        raise UserError(
            f"{builder.data_path} is stored as {builder.info.file_format.value}, which cannot be "
            "read in any order: run `pip install apache-beam` and `tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record` first"
        ) from error
