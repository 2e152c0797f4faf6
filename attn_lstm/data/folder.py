"""A user's own data set: a folder of images, and one file that says what is in them.

The file lies in the folder itself and takes one of three forms:

    labels.csv      image,labels,split          one row an image, labels joined by bars
                    cats/1.jpg,cat|sofa,train
    labels.csv      image,cat,sofa,split        one column a label, which holds 1 or 0, and -1 or
                    cats/1.jpg,1,-1,train       nothing where it is not known (`Split.known`)
    labels.jsonl    {"image": "cats/1.jpg", "labels": ["cat", "sofa"], "split": "train"}

or there is a folder of images for each label: see `class_folders`; or train/, valid/ and test/ hold
Roboflow's _classes.csv, a column a label, beside their images.

Text is UTF-8, with or without a byte order mark, or UTF-16 with one, and lines end as they like;
semicolons or tabs may stand in the place of the commas. Space around a cell or a label means
nothing, blank lines neither. Images are named by their path from the folder, with slashes or
backslashes, and are JPEG, PNG, BMP, GIF or WebP. The labels of an image are a set: one that is
given twice counts once. What joins them may be something else than a bar: `separators` says what,
and how a file that looks so is asked about.

Labels are in the order of the columns; where the file lists them, they are those of all its rows,
whatever their split, sorted by name. A second file, to evaluate an earlier model on, must therefore
have the same columns, or use every label at least once.

`split` is optional, but for all rows or none: train, validation (or val, valid, dev) or test.
Without it, a fixed draw of `test_fraction` of the rows is for testing. Unless rows are marked for
it, 'validation' is held out of the training rows. Rows keep the order of the file.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

from attn_lstm.data import class_folders, separators
from attn_lstm.data.files import (
    as_utf8,
    breaks_lines,
    empty_table,
    names_in,
    one_form,
    one_spelling,
    shown,
)
from attn_lstm.data.split import SPLITS, Split
from attn_lstm.data.table import (
    ON_MISSING,
    SPLIT_NAMES,
    TEST_FRACTION,
    VALIDATION_FRACTION,
    Table,
    check_choice,
    combined,
    roles,
    split_of,
)
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file

LABEL_FILES = ("labels.csv", "labels.jsonl")

_EXPORTED, _FILENAME = "_classes.csv", "filename"  # Roboflow's file, and its word for an image
# What stands in the column of a label; pandas writes columns with blank cells as fractions.
_MARKS = {"1": True, "1.0": True, "0": False, "0.0": False, "-1": None, "-1.0": None, "": None}
_DELIMITERS = ",;\t"  # the comma's place, where a table was saved with regional settings


def load_folder_split(
    path: str | os.PathLike[str],
    split: str,
    *,
    drop_unlabelled: bool = False,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
    on_missing: str = "error",
    separator: str = "",
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
      separator: what joins labels in one cell, see `separators`; '' for bars, and for asking
        where they look joined by something else.

    Raises:
      UserError: anything missing or malformed, with the remedy.
    """
    check_choice("split of folder", split, SPLITS)
    check_choice("data.on_missing of folder", on_missing, ON_MISSING)
    if not path:
        raise UserError("data.path is empty: set it to the folder that holds the images")
    return split_of(
        read_labels(path, separator),
        "folder",
        split,
        drop_unlabelled=drop_unlabelled,
        on_missing=on_missing,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
    )


# --------------------------------------------------------------------------------- the labels


class _Row(NamedTuple):
    line: int  # from 1
    image_id: str
    labels: Sequence[str]
    split: str | None
    known: np.ndarray | None = None  # bool[C] by column; None where all labels are known


class _Malformed(Exception):
    """What is wrong in a label file, beginning with its line."""


def read_labels(path: str | os.PathLike[str], separator: str = "") -> Table:
    """Reads and checks the label file of a folder, or else its folders of labels; no images.

    The separator is that of `load_folder_split`.

    Raises:
      UserError: neither, two label files, one that is malformed, with the line, or one whose
        labels look joined by something else than bars.
    """
    root = Path(path)
    if not os.path.isdir(root):
        raise UserError(
            f"{root} is not a folder that can be entered: set data.path to the folder that holds "
            "the images"
        )
    files = [root / name for name in LABEL_FILES if os.path.isfile(root / name)]
    if len(files) > 1:
        raise UserError(f"{root} holds both {' and '.join(LABEL_FILES)}: leave exactly one there")
    if files:
        return _read_file(files[0], separator)
    table = _read_exported(root) or class_folders.read(root)
    if table is None:
        raise UserError(
            f"{root} holds neither {' nor '.join(LABEL_FILES)}, and its images do not all lie in a "
            "folder for each label: write labels.csv there, a line image,labels and below it a "
            "line an image, such as photos/1.jpg,cat|dog"
        )
    return table


def _read_exported(root: Path) -> Table | None:
    """Roboflow's labels of whole images: PART/_classes.csv, a column a label, beside the images."""
    files = {
        SPLIT_NAMES[name.lower()]: root / name / _EXPORTED
        for name in names_in(root)
        if name.lower() in SPLIT_NAMES and os.path.isfile(root / name / _EXPORTED)
    }
    tables = []
    for part, role in roles(files.keys()).items():
        table = _read_file(files[part], "")
        tables.append(replace(table, splits=(role,) * len(table.image_ids)))
    return combined(root, tables) if tables else None


def _read_file(file: Path, separator: str) -> Table:
    try:
        text = _decode(read_file(file))
        if file.suffix == ".csv":
            names, rows = _parse_csv(text, separator)
        else:
            names, rows = None, _parse_jsonl(text, separator)
        listed = () if names or separator else (label for row in rows for label in row.labels)
        if asked := separators.question(listed):
            raise UserError(f"{file}: {asked}")
        return _table(file, names, rows)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except _Malformed as error:
        raise UserError(f"{file}, {error}") from error


def _decode(content: bytes) -> str:
    try:
        return as_utf8(content).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Malformed(f"line {line}: not UTF-8; save the file in that encoding") from error


def _table(file: Path, names: Sequence[str] | None, rows: Sequence[_Row]) -> Table:
    """The rows as one table; without `names`, the labels that occur are sorted."""
    if not rows:
        raise UserError(f"{file} lists no image: add a row for each")
    line_of: dict[str, int] = {}
    for row in rows:
        first = line_of.setdefault(one_form(row.image_id), row.line)
        if first != row.line:
            raise _Malformed(
                f"line {row.line}: image {shown(row.image_id)} stands in line {first} already; "
                "give each image one row"
            )
    if names is None:
        names = sorted(one_spelling(label for row in rows for label in row.labels))
    column_of = {one_form(name): column for column, name in enumerate(names)}
    try:
        labels = empty_table(len(rows), len(names))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    known = None
    if any(row.known is not None for row in rows):
        known = np.ones_like(labels)
    for i, row in enumerate(rows):
        labels[i, [column_of[one_form(label)] for label in row.labels]] = True
        if known is not None and row.known is not None:
            known[i] = row.known
    if not labels.any():
        raise UserError(f"{file} gives no image a label: add labels")
    image_ids = tuple(row.image_id for row in rows)
    splits = _splits(rows)
    return Table(file, file.parent, tuple(names), image_ids, image_ids, labels, splits, known=known)


def _splits(rows: Sequence[_Row]) -> tuple[str, ...] | None:
    """The split of each row, or None where no row has one."""
    if all(row.split is None for row in rows):
        return None
    for row in rows:
        if row.split is None:
            raise _Malformed(
                f"line {row.line}: no split, where other lines have one; give all or none"
            )
        if row.split not in SPLIT_NAMES:
            raise _Malformed(
                f"line {row.line}: split {shown(row.split)} is none of {', '.join(SPLITS)}"
            )
    return tuple(SPLIT_NAMES[row.split] for row in rows if row.split is not None)


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


def _parse_csv(text: str, separator: str) -> tuple[list[str] | None, list[_Row]]:
    """The labels that have a column each, or None where one column lists them; and the rows."""
    records = _csv_records(text)
    line, header = next(records, (1, []))
    if "image" not in header:
        header = ["image" if name == _FILENAME else name for name in header]
    names = _label_columns(header, line)
    rows = []
    for line, cells in records:
        if len(cells) != len(header):
            raise _Malformed(
                f"line {line}: {len(cells)} cells under a header of {len(header)}; quote cells "
                "that hold a comma"
            )
        cell = dict(zip(header, cells, strict=True))
        known = None
        if names is None:
            labels = _listed(cell["labels"], separator or separators.BAR, line)
        else:
            labels, known = _marked(cell, names, line)
        rows.append(_Row(line, _image_id(cell["image"], line), labels, cell.get("split"), known))
    return names, rows


def _delimiter(text: str) -> str:
    """What divides the cells: of those that give the header a column 'image', the usual first."""
    header = text.lstrip().partition("\n")[0]
    for delimiter in _DELIMITERS:
        cells = {cell.strip().strip('"') for cell in header.split(delimiter)}
        if cells & {"image", _FILENAME}:
            return delimiter
    return _DELIMITERS[0]


def _csv_records(text: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, their cells stripped, each with the line it starts in."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
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
        if one_form(_label(name, line)) in seen:
            raise _Malformed(f"line {line}: column {shown(name)} occurs twice; remove one")
        seen.add(one_form(name))
    if "labels" not in columns:
        return columns
    if len(columns) > 1:
        other = next(name for name in columns if name != "labels")
        raise _Malformed(
            f"line {line}: column {shown(other)} stands beside 'labels', which lists all labels "
            "of an image; remove one of them"
        )
    return None


def _listed(cell: str, separator: str, line: int) -> list[str]:
    return [_label(name, line) for name in separators.divide(cell, separator)]


def _marked(
    cell: dict[str, str], names: Sequence[str], line: int
) -> tuple[list[str], np.ndarray | None]:
    """The labels that are true, and bool[C], which are known, or None where all are."""
    for name in names:
        if cell[name] not in _MARKS:
            raise _Malformed(
                f"line {line}: label {shown(name)} is {shown(cell[name])}; write 1 or 0, or -1 or "
                "nothing where it is not known"
            )
    marks = [_MARKS[cell[name]] for name in names]
    known = np.array([mark is not None for mark in marks], bool)
    true = [name for name, mark in zip(names, marks, strict=True) if mark]
    return true, None if known.all() else known


def _parse_jsonl(text: str, separator: str) -> list[_Row]:
    return [
        _json_row(content, separator, line)
        for line, content in enumerate(text.split("\n"), start=1)
        if content.strip()
    ]


def _json_row(content: str, separator: str, line: int) -> _Row:
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
    if separator:  # within the texts of the list, which is divided already
        labels = [part for label in labels for part in _listed(label, separator, line)]
    return _Row(line, _image_id(record["image"], line), labels, split)
