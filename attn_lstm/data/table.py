"""What label files say, in one form, and the `Split` that it becomes.

Readers differ in what they read. Which images are for training, which labels are dropped and what
happens to images that are not there is the same for all of them, and stands here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from attn_lstm.data.files import first_shown, locate, one_form, one_spelling
from attn_lstm.data.split import SPLITS, FileSource, Split, holdout, selected
from attn_lstm.errors import UserError

ON_MISSING = ("error", "skip")
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1

# What files and folders call the splits.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

# Not a setting: what a checkpoint is tested on must not change with what it was validated on.
_TEST_SEED = 1


def roles(parts: Collection[str]) -> dict[str, str]:
    """Which split each part of a data set is for: without one for testing, 'validation' is.

    So it is in the literature on COCO, whose labels for testing were never published; 'validation'
    is then held out of the part for training.
    """
    without_test = "test" not in parts
    return {
        part: "test" if part == "validation" and without_test else part for part in sorted(parts)
    }


@dataclass(frozen=True)
class Table:
    """N images in the order of their file, C labels.

    Attributes:
      source: the label file, or the folder of several.
      root: the folder that holds the images.
      label_names: C names, in the order of the columns of `labels`.
      image_ids: N names, unique in a split and the same wherever the data set lies.
      paths: N paths relative to `root`, as the file writes them.
      labels: bool[N,C].
      splits: N names of `SPLITS`, or None where nothing divides the images.
      boxes, known: as in `Split`.
    """

    source: Path
    root: Path
    label_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    splits: tuple[str, ...] | None
    boxes: Sequence[np.ndarray] | None = None
    known: np.ndarray | None = None


def combined(root: Path, tables: Sequence[Table]) -> Table:
    """The parts of a data set as one table of its folder.

    Labels are matched by their names; those that only a later part has come last. Of a part with
    labels that are not known, those that it does not have are not known either.
    """
    if len(tables) == 1 and tables[0].root == root:
        return tables[0]
    names = tuple(one_spelling(name for table in tables for name in table.label_names))
    column_of = {one_form(name): column for column, name in enumerate(names)}
    labels = np.zeros((sum(len(table.paths) for table in tables), len(names)), bool)
    known = None
    if any(table.known is not None for table in tables):
        known = np.ones_like(labels)
    start = 0
    for table in tables:
        end = start + len(table.paths)
        columns = [column_of[one_form(name)] for name in table.label_names]
        labels[start:end, columns] = table.labels
        if known is not None and table.known is not None:
            known[start:end] = False
            known[start:end, columns] = table.known
        start = end
    paths = tuple(
        os.path.relpath(os.path.join(table.root, path), root)
        for table in tables
        for path in table.paths
    )
    splits = tuple(split for table in tables for split in table.splits or ())
    image_ids = tuple(image_id for table in tables for image_id in table.image_ids)
    return Table(root, root, names, image_ids, paths, labels, splits or None, known=known)


def divide(
    splits: Sequence[str] | None,
    images: int,
    *,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = 0,
) -> dict[str, np.ndarray]:
    """The rows of each split, int64 and sorted; every row is in exactly one.

    Args:
      splits: of each image one of `SPLITS`; None has `test_fraction` of them drawn for testing.
      images: N.
      validation_fraction: the part of the training rows that is held out as 'validation', unless
        rows are marked for it.
      test_fraction: see `splits`.
      split_seed: which rows are held out as 'validation'; without influence on 'test'.

    Raises:
      UserError: a fraction outside of [0, 1), or a negative seed.
    """
    if splits is None:
        if not 0 <= test_fraction < 1:
            raise UserError(f"test_fraction is {test_fraction}: give at least 0 and less than 1")
        train, test = holdout(images, test_fraction, _TEST_SEED)
    else:
        given = np.array(splits)
        train, validation, test = (np.flatnonzero(given == name) for name in SPLITS)
        if len(validation):
            return {"train": train, "validation": validation, "test": test}
    kept, held = holdout(len(train), validation_fraction, split_seed)
    return {"train": train[kept], "validation": train[held], "test": test}


def split_of(
    table: Table,
    dataset: str,
    name: str,
    *,
    drop_unlabelled: bool,
    on_missing: str,
    **fractions: Any,
) -> Split:
    """One split of a table.

    Which split an image belongs to depends neither on the images that are missing nor on
    `drop_unlabelled`.

    Args:
      table: of all images.
      dataset, name: as in `Split`.
      drop_unlabelled: whether to leave out the images without any label.
      on_missing: what an image that is listed but not on disk is: an 'error', or counted, logged
        and left out ('skip').
      fractions: the fractions and the seed of `divide`.

    Raises:
      UserError: an option out of range, or missing images.
    """
    check_choice(f"split of {dataset}", name, SPLITS)
    check_choice(f"data.on_missing of {dataset}", on_missing, ON_MISSING)
    rows = divide(table.splits, len(table.image_ids), **fractions)[name]
    if drop_unlabelled:
        rows = rows[table.labels[rows].any(axis=1)]
    paths = locate(table.root, [table.paths[row] for row in rows])
    present = np.array([path is not None for path in paths], bool)
    if not present.all():
        missing = [table.paths[row] for row in rows[~present]]
        _report_missing(table, name, missing, len(rows), on_missing)
    rows = rows[present]
    known = None if table.known is None else table.known[rows]
    return Split(
        dataset=dataset,
        name=name,
        label_names=table.label_names,
        image_ids=tuple(table.image_ids[row] for row in rows),
        labels=table.labels[rows],
        images=FileSource(table.root, [path for path in paths if path is not None]),
        boxes=selected(table.boxes, rows),
        known=None if known is None or known.all() else known,
    )


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Raises `UserError` for a value that is none of the choices."""
    if value not in choices:
        raise UserError(f"{field} is {value!r}: choose from {', '.join(choices)}")


def _report_missing(
    table: Table, split: str, missing: Sequence[str], expected: int, on_missing: str
) -> None:
    lacks = (
        f"{table.root} lacks {len(missing)} of the {expected} images that {table.source.name} has "
        f"for the {split} split: {first_shown(missing)}"
    )
    if on_missing == "error":
        raise UserError(
            f"{lacks}; put them there, correct their names, or leave them out with "
            "data.on_missing=skip"
        )
    logging.warning("%s; they are left out, %d images remain", lacks, expected - len(missing))
