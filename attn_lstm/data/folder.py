"""A user's own data set: a folder of images and one file that says what is in them.

The file lies in the folder itself and takes one of three forms:

    labels.csv      image,labels,split          one row an image, labels joined by bars
                    cats/1.jpg,cat|sofa,train
    labels.csv      image,cat,sofa,split        one column a label, which holds 0 or 1
                    cats/1.jpg,1,1,train
    labels.jsonl    {"image": "cats/1.jpg", "labels": ["cat", "sofa"], "split": "train"}

Text is UTF-8, with or without a byte order mark, and lines end as they like. Space around a cell
or a label means nothing, blank lines neither. Images are named by their path from the folder, with
slashes or backslashes, and are JPEG, PNG, BMP, GIF or WebP. The labels of an image are a set: one
that is given twice counts once.

Labels are in the order of the columns; where the file lists them, they are those of all its rows,
whatever their split, sorted by name. A second file, to evaluate an earlier model on, must therefore
have the same columns, or use every label at least once.

`split` is optional, but for all rows or none: train, validation (or val) or test. Without it, a
fixed draw of `test_fraction` of the rows is for testing. Unless rows are marked for it,
'validation' is held out of the training rows. Rows keep the order of the file.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

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

ON_MISSING = ("error", "skip")
LABEL_FILES = ("labels.csv", "labels.jsonl")
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1

# Not a setting: what a checkpoint is tested on must not change with what it was validated on.
_TEST_SEED = 1
_SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


def load_folder_split(
    path: str | os.PathLike[str],
    split: str,
    *,
    drop_unlabelled: bool = False,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
    on_missing: str = "error",
) -> Split:
    """Opens a split of a user's own data set.

    Which split an image belongs to depends neither on the images that are missing nor on
    `drop_unlabelled`.

    Args:
        path: the folder. Only the images of the asked split need be there.
        split: 'train', 'validation' or 'test'.
        drop_unlabelled: whether to leave out the images without any label.
        validation_fraction: the part of the training rows that is held out as 'validation', unless
            the file marks rows for it.
        test_fraction: the part of all rows that is for testing, unless the file names splits.
        split_seed: which rows are held out as 'validation'; without influence on 'test'.
        on_missing: what an image that is listed but not on disk is: an 'error', or counted, logged
            and left out ('skip').

    Raises:
        UserError: anything missing or malformed, with the remedy.
    """
    _check_choice("split", split, SPLITS)
    _check_choice("data.on_missing", on_missing, ON_MISSING)
    if not path:
        raise UserError("data.path is empty: set it to the folder that holds the images")
    root = Path(path)
    table = read_labels(root)
    rows = divide(
        table,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
    )[split]
    if drop_unlabelled:
        rows = rows[table.labels[rows].any(axis=1)]
    present = are_present(root, [table.image_ids[row] for row in rows])
    if not present.all():
        missing = [table.image_ids[row] for row in rows[~present]]
        _report_missing(table.file, split, missing, len(rows), on_missing)
    rows = rows[present]
    image_ids = tuple(table.image_ids[row] for row in rows)
    return Split(
        dataset="folder",
        name=split,
        label_names=table.label_names,
        image_ids=image_ids,
        labels=table.labels[rows],
        images=FileSource(root, image_ids),
    )


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{field} of folder is {value!r}: choose from {', '.join(choices)}")


# --------------------------------------------------------------------------------- the labels


class Labels(NamedTuple):
    """What a label file says: N images in its order, C labels.

    Attributes:
        file: where it stands.
        label_names: C names, in the order of the columns of `labels`.
        image_ids: N paths relative to the folder, with slashes and without detours.
        labels: bool[N,C].
        splits: N names of `SPLITS`, or None where the file names none.
    """

    file: Path
    label_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    labels: np.ndarray
    splits: tuple[str, ...] | None


class _Row(NamedTuple):
    line: int  # from 1
    image_id: str
    labels: Sequence[str]
    split: str | None


class _Malformed(Exception):
    """What is wrong in a label file, beginning with its line."""


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """Reads and checks the label file of a folder; no images.

    Raises:
        UserError: no label file, two of them, or one that is malformed, with the line.
    """
    root = Path(path)
    if not os.path.isdir(root):
        raise UserError(
            f"{root} is not a folder that can be entered: set data.path to the folder that holds "
            "the images"
        )
    files = [root / name for name in LABEL_FILES if os.path.isfile(root / name)]
    if len(files) != 1:
        names_in(root)  # complains if that is why there are none
        found = "holds both" if files else "holds neither"
        raise UserError(
            f"{root} {found} {' and '.join(LABEL_FILES) if files else ' nor '.join(LABEL_FILES)}: "
            "leave exactly one there"
        )
    file = files[0]
    try:
        text = _decode(file.read_bytes())
        names, rows = _parse_csv(text) if file.suffix == ".csv" else (None, _parse_jsonl(text))
        return _table(file, names, rows)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except _Malformed as error:
        raise UserError(f"{file}, {error}") from error


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Malformed(f"line {line}: not UTF-8; save the file in that encoding") from error


def _table(file: Path, names: Sequence[str] | None, rows: Sequence[_Row]) -> Labels:
    """The rows as one table; without `names`, the labels that occur are sorted."""
    if not rows:
        raise UserError(f"{file} lists no image: add a row for each")
    line_of: dict[str, int] = {}
    for row in rows:
        first = line_of.setdefault(row.image_id, row.line)
        if first != row.line:
            raise _Malformed(
                f"line {row.line}: image {shown(row.image_id)} stands in line {first} already; "
                "give each image one row"
            )
    if names is None:
        names = sorted({label for row in rows for label in row.labels})
    column_of = {name: column for column, name in enumerate(names)}
    try:
        labels = empty_table(len(rows), len(names))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    for i, row in enumerate(rows):
        labels[i, [column_of[label] for label in row.labels]] = True
    if not labels.any():
        raise UserError(f"{file} gives no image a label: add labels")
    return Labels(file, tuple(names), tuple(line_of), labels, _splits(rows))


def _splits(rows: Sequence[_Row]) -> tuple[str, ...] | None:
    """The split of each row, or None where no row has one."""
    if all(row.split is None for row in rows):
        return None
    for row in rows:
        if row.split is None:
            raise _Malformed(
                f"line {row.line}: no split, where other lines have one; give all or none"
            )
        if row.split not in _SPLIT_NAMES:
            raise _Malformed(
                f"line {row.line}: split {shown(row.split)} is none of {', '.join(_SPLIT_NAMES)}"
            )
    return tuple(_SPLIT_NAMES[row.split] for row in rows if row.split is not None)


def _label(text: str, line: int) -> str:
    name = text.strip()
    if not name:
        raise _Malformed(f"line {line}: an empty label name; name it or remove it")
    if breaks_lines(name):
        raise _Malformed(f"line {line}: label {shown(name)} holds control characters; remove them")
    return name


def _image_id(text: str, line: int) -> str:
    # As Windows reads a path: slashes of both kinds divide it, and a drive makes it absolute.
    path = PureWindowsPath(text.strip())
    if not path.parts:
        raise _Malformed(f"line {line}: no image; give its path from the folder")
    if path.anchor or ".." in path.parts:
        raise _Malformed(
            f"line {line}: image {shown(text)} leaves the folder; put it inside and give its path "
            "from there"
        )
    if breaks_lines(text):
        raise _Malformed(f"line {line}: image {shown(text)} holds control characters; rename it")
    return path.as_posix()


# ---------------------------------------------------------------------------------- the forms


def _parse_csv(text: str) -> tuple[list[str] | None, list[_Row]]:
    """The labels that have a column each, or None where one column lists them; and the rows."""
    records = _csv_records(text)
    line, header = next(records, (1, []))
    names = _label_columns(header, line)
    rows = []
    for line, cells in records:
        if len(cells) != len(header):
            raise _Malformed(
                f"line {line}: {len(cells)} cells under a header of {len(header)}; quote cells "
                "that hold a comma"
            )
        cell = dict(zip(header, cells, strict=True))
        labels = _listed(cell["labels"], line) if names is None else _marked(cell, names, line)
        rows.append(_Row(line, _image_id(cell["image"], line), labels, cell.get("split")))
    return names, rows


def _csv_records(text: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, their cells stripped, each with the line it starts in."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise _Malformed(f"line {line}: not CSV ({error}); correct its quotes") from error


def _label_columns(header: Sequence[str], line: int) -> list[str] | None:
    """The columns that are a label each; None where `labels` lists them."""
    columns = [name for name in header if name not in ("image", "split")]
    if "image" not in header or not columns:
        raise _Malformed(
            f"line {line}: the header is {shown(','.join(header))}; make it image,labels or "
            "image,labels,split, or give each label a column beside image and split"
        )
    seen: set[str] = set()
    for name in header:
        if _label(name, line) in seen:
            raise _Malformed(f"line {line}: column {shown(name)} occurs twice; remove one")
        seen.add(name)
    if "labels" not in columns:
        return columns
    if len(columns) > 1:
        other = next(name for name in columns if name != "labels")
        raise _Malformed(
            f"line {line}: column {shown(other)} stands beside 'labels', which lists all labels "
            "of an image; remove one of them"
        )
    return None


def _listed(cell: str, line: int) -> list[str]:
    return [_label(name, line) for name in cell.split("|")] if cell else []


def _marked(cell: dict[str, str], names: Sequence[str], line: int) -> list[str]:
    for name in names:
        if cell[name] not in ("0", "1"):
            raise _Malformed(
                f"line {line}: label {shown(name)} is {shown(cell[name])}; write 0 or 1"
            )
    return [name for name in names if cell[name] == "1"]


def _parse_jsonl(text: str) -> list[_Row]:
    return [
        _json_row(content, line)
        for line, content in enumerate(text.split("\n"), start=1)
        if content.strip()
    ]


def _json_row(content: str, line: int) -> _Row:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"line {line}: not JSON ({error}); write one object a line") from error
    if not isinstance(record, dict):
        raise _Malformed(f"line {line}: {shown(record)} is no object with image and labels")
    kinds = {"image": str, "labels": list, "split": str}
    for key in record:
        if key not in kinds:
            raise _Malformed(
                f"line {line}: unknown key {shown(key)}; give image, labels and split alone"
            )
    for key, kind in kinds.items():
        if key not in record and key != "split":
            raise _Malformed(f"line {line}: {key} is missing; give image and labels")
        if not isinstance(record.get(key, kind()), kind):
            raise _Malformed(
                f"line {line}: {key} is {shown(record[key])}; make it a "
                f"{'string' if kind is str else 'list of strings'}"
            )
    for label in record["labels"]:
        if not isinstance(label, str):
            raise _Malformed(f"line {line}: label {shown(label)} is not a string; quote it")
    split = record["split"].strip() if "split" in record else None
    labels = [_label(label, line) for label in record["labels"]]
    return _Row(line, _image_id(record["image"], line), labels, split)


# --------------------------------------------------------------------------------- the splits


def divide(
    table: Labels,
    *,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
) -> dict[str, np.ndarray]:
    """The rows of each split, int64 and sorted; every row is in exactly one.

    Raises:
        UserError: a fraction outside of [0, 1), or a negative seed.
    """
    if table.splits is None:
        if not 0 <= test_fraction < 1:
            raise UserError(f"test_fraction is {test_fraction}: give at least 0 and less than 1")
        train, test = holdout(len(table.image_ids), test_fraction, _TEST_SEED)
    else:
        given = np.array(table.splits)
        train, validation, test = (np.flatnonzero(given == name) for name in SPLITS)
        if len(validation):
            return {"train": train, "validation": validation, "test": test}
    kept, held = holdout(len(train), validation_fraction, split_seed)
    return {"train": train[kept], "validation": train[held], "test": test}


# --------------------------------------------------------------------------------- the images


def _report_missing(
    file: Path, split: str, missing: Sequence[str], expected: int, on_missing: str
) -> None:
    lacks = (
        f"{file.parent} lacks {len(missing)} of the {expected} images that {file.name} has for "
        f"the {split} split: {first_shown(missing)}"
    )
    if on_missing == "error":
        raise UserError(
            f"{lacks}; put them there, correct their rows, or leave them out with "
            "data.on_missing=skip"
        )
    logging.warning("%s; they are left out, %d images remain", lacks, expected - len(missing))
