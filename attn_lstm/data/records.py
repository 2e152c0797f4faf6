"""Data sets that TFDS has prepared: from its records to a `Split`.

The features must be named as in TFDS' own COCO: `image`, `image/id` (int64, unique) and `objects`,
a sequence of `label` and `bbox`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

import attn_lstm.data.cpu_tensorflow  # noqa: F401  (before TFDS imports TensorFlow itself)
from attn_lstm.data.split import RecordSource, Split
from attn_lstm.errors import UserError
from attn_lstm.storage import replaced

_IMAGE = "image"


class _Table(NamedTuple):
    """All of a split but its pixels, in the order of the records."""

    ids: np.ndarray  # int64[N]
    counts: np.ndarray  # int64[N]: objects of each image
    objects: np.ndarray  # float32[M,5]: label, top, left, bottom, right; image after image


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Downloads and prepares a data set; TFDS' reports go to stderr.

    Raises:
      OSError: the folder cannot be written, or a download failed.
    """
    with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare()


@contextlib.contextmanager
def damage_named(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever goes wrong in files of TFDS under `folder` into a `UserError` with the remedy.

    Raises:
      NotImplementedError: as TFDS does, for what it cannot read.
    """
    try:
        yield
    except (UserError, NotImplementedError):
        raise
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error}): make it readable") from error
    except Exception as error:  # on damaged files TFDS raises of every kind
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{folder} is damaged ({reason}): remove the folder and prepare the data set again"
        ) from error


def load_records(
    builder: tfds.core.DatasetBuilder, records: str, *, dataset: str, name: str
) -> Split:
    """Opens a prepared data set as a `Split`, its rows sorted by image id.

    The labels are read out of the records once, which takes a pass over all images, and kept in
    a file beside the folder of the data set's version.

    Args:
      builder: prepared, in a format with random access (ArrayRecord).
      records: the name that TFDS gives to the split.
      dataset: `Split.dataset`.
      name: `Split.name`.

    Raises:
      UserError: files of the data set are missing or damaged.
      NotImplementedError: from TFDS, for a format without random access.
    """
    with damage_named(builder.data_path):
        data_source = builder.as_data_source(
            split=records, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        missing = [path for path in builder.info.splits[records].filepaths if not path.exists()]
        if missing:
            raise ValueError(f"{missing[0].name} is missing")
        label_names = tuple(builder.info.features["objects"]["label"].names)
        table = _cached_table(builder, records)
    row_of_object = np.repeat(np.arange(len(table.ids)), table.counts)
    labels = np.zeros((len(table.ids), len(label_names)), bool)
    labels[row_of_object, table.objects[:, 0].astype(np.int64)] = True
    split = Split(
        dataset=dataset,
        name=name,
        label_names=label_names,
        image_ids=tuple(map(str, table.ids.tolist())),
        labels=labels,
        images=RecordSource(data_source, _IMAGE),
        boxes=tuple(np.split(table.objects, np.cumsum(table.counts)[:-1])),
    )
    return split.select(np.argsort(table.ids))


def _read_table(examples: Iterable[dict[str, Any]]) -> _Table:
    ids, counts, objects = [], [], [np.zeros((0, 5), np.float32)]
    for example in examples:
        labels, boxes = example["objects"]["label"], example["objects"]["bbox"]
        ids.append(example["image/id"])
        counts.append(len(labels))
        objects.append(np.column_stack([labels, np.reshape(boxes, (-1, 4))]).astype(np.float32))
    return _Table(np.array(ids, np.int64), np.array(counts, np.int64), np.concatenate(objects))


def _cached_table(builder: tfds.core.DatasetBuilder, records: str) -> _Table:
    folder = Path(os.fspath(builder.data_path))
    cache = folder.with_name(f"{folder.name}.{records}.labels.npz")
    # The data set's own description, so that one prepared anew is also read anew.
    source = hashlib.sha256((folder / "dataset_info.json").read_bytes()).hexdigest()
    try:
        with np.load(cache) as stored:
            if stored["source"] == source:
                return _Table(*(stored[field] for field in _Table._fields))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("Reading the labels anew: %s is damaged (%s)", cache, error)
    table = _read_table(
        builder.as_data_source(split=records, decoders={_IMAGE: tfds.decode.SkipDecoding()})
    )
    try:
        with replaced(cache) as draft, draft.open("wb") as file:
            np.savez_compressed(file, source=np.array(source), **table._asdict())
    except OSError as error:
        logging.info("Labels are not kept for the next time: %s", error)
    return table
