"""What every data set is turned into: a `Split` of labels in memory and images within reach."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from absl import logging

from attn_lstm.data.boxes import PixelBoxes
from attn_lstm.data.files import first_shown, one_form, shown
from attn_lstm.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf


SPLITS = ("train", "validation", "test")


class Batch(NamedTuple):
    """What the pipeline yields; B images of H x W pixels, C labels.

    Attributes:
      inputs: uint8[B,H,W,3], RGB, or from a feature store float[B,K,D] of the images; all zero
        where `mask` is False.
      labels: float32[B,C], 0 or 1; all zero for padding.
      mask: bool[B]; False for padding and for images that could not be decoded.
      image_id: int32[B]; row of the split (`Split.image_ids[row]` names it), -1 for padding.
      known: bool[B,C], as in `Split`; None where all labels are known.
    """

    inputs: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    image_id: np.ndarray
    known: np.ndarray | None = None


class ImageSource(Protocol):
    """How the encoded bytes of example i are reached inside tf.data."""

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """int64[] -> string[]: the encoded image; a TensorFlow error when it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """The file path or record name of an example, for error messages."""
        ...


class FileSource:
    """Images that lie as files under one folder.

    Args:
      root: the folder.
      relative_paths: one path for each example, relative to `root`.
    """

    def __init__(self, root: str | os.PathLike[str], relative_paths: Sequence[str]) -> None:
        self._paths: tuple[str, ...] | tuple[bytes, ...] = tuple(
            os.path.join(root, path) for path in relative_paths
        )

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """The content of the file."""
        from attn_lstm.data.cpu_tensorflow import tf

        return tf.io.read_file(tf.gather(self._table, index))

    def name(self, index: int) -> str:
        """The path of the file."""
        return os.fsdecode(self._paths[index])

    @cached_property
    def _table(self) -> tf.Tensor:
        from attn_lstm.data.cpu_tensorflow import tf

        # Outside of any graph being traced, so that the graphs share the table by reference.
        with tf.init_scope():
            return tf.constant(self._paths, tf.string, shape=(len(self._paths),))


class RecordSource:
    """Images that lie in the records of a TFDS data set with random access (ArrayRecord).

    Args:
      data_source: record i as a serialized `tf.train.Example`: what TFDS builders return from
        `as_data_source(..., deserialize_method=RAW_BYTES)`.
      field: the feature that holds the encoded image.
    """

    def __init__(self, data_source: Sequence[bytes], field: str) -> None:
        self._data_source = data_source
        self._field = field

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """The encoded image in the record."""
        from attn_lstm.data.cpu_tensorflow import tf

        # Python does no more than fetch: parsing there would hold its lock ten times as long.
        record = tf.numpy_function(
            lambda i: self._data_source[int(i)], [index], tf.string, stateful=False
        )
        features = {self._field: tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(record, features)[self._field]

    def name(self, index: int) -> str:
        """The number of the record, and where it lies."""
        return f"record {index} of {self._data_source!r}"


@dataclass(frozen=True)
class SelectedSource:
    """Some examples of another source: example i here is example `rows[i]` there."""

    source: ImageSource
    rows: np.ndarray  # int64[N]

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """What the other source holds for the row."""
        from attn_lstm.data.cpu_tensorflow import tf

        return self.source.read(tf.gather(self._table, index))

    def name(self, index: int) -> str:
        """What the other source calls the row."""
        return self.source.name(int(self.rows[index]))

    @cached_property
    def _table(self) -> tf.Tensor:
        from attn_lstm.data.cpu_tensorflow import tf

        with tf.init_scope():
            return tf.constant(self.rows, tf.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: N images, C labels.

    Attributes:
      dataset: the data set's name, as in the config ('coco', 'digits').
      name: 'train', 'validation' or 'test'.
      label_names: C names, in the order of the columns of `labels`.
      image_ids: N unique names, the same wherever the data set lies.
      labels: bool[N,C]; False where it is not known.
      images: the encoded images, by row.
      boxes: for each image float32[n,5], one row an object: the column of its label, then
        top, left, bottom, right relative to the height and width of the image as it is decoded;
        None if unknown. Of an image whose boxes cannot be placed there are none.
      known: bool[N,C], whether somebody has said that the image has the label, or that it has not;
        None where all labels are known.
    """

    dataset: str
    name: str
    label_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    labels: np.ndarray
    images: ImageSource
    boxes: Sequence[np.ndarray] | None = None
    known: np.ndarray | None = None

    def __post_init__(self) -> None:
        expected = (len(self.image_ids), len(self.label_names))
        if self.labels.shape != expected or self.labels.dtype != bool:
            raise ValueError(
                f"labels must be bool{list(expected)}, not "
                f"{self.labels.dtype}{list(self.labels.shape)}"
            )
        if self.known is not None:
            if self.known.shape != expected or self.known.dtype != bool:
                raise ValueError(
                    f"known must be bool{list(expected)}, not "
                    f"{self.known.dtype}{list(self.known.shape)}"
                )
            if (self.labels & ~self.known).any():
                raise ValueError("labels must be False where they are not known")
        if len(set(self.image_ids)) != len(self.image_ids):
            raise ValueError("image_ids must be unique")
        if self.boxes is not None and len(self.boxes) != len(self.image_ids):
            raise ValueError(f"{len(self.boxes)} boxes for {len(self.image_ids)} images")

    def __len__(self) -> int:
        return len(self.image_ids)

    def select(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The split that holds rows `indices` (int[M]) of this one, in that order."""
        rows = np.asarray(indices, np.int64)
        return replace(
            self,
            image_ids=tuple(self.image_ids[row] for row in rows),
            labels=self.labels[rows],
            images=SelectedSource(self.images, rows),
            boxes=selected(self.boxes, rows),
            known=None if self.known is None else self.known[rows],
        )

    def with_labels(self, names: Sequence[str], origin: str) -> Split:
        """The same images with the columns of other labels, matched by their names.

        A label that the split does not have is true for none of its images. Where the split has
        labels that are not known, that one is known for none of them.

        Args:
          names: C names.
          origin: what has these labels, for messages: 'the checkpoint'.

        Raises:
          UserError: an image has a label that is not among them, or the split knows none of them.
        """
        names = tuple(names)
        if names == self.label_names:
            return self
        column_of = {one_form(name): column for column, name in enumerate(names)}
        columns = np.array([column_of.get(one_form(name), -1) for name in self.label_names])
        lacking = [name for place, name in enumerate(names) if place not in columns]
        strange = columns < 0
        if len(lacking) < len(names):  # a label that no image has may be unknown
            strange &= self.labels.any(axis=0)
        if strange.any():
            column = int(np.flatnonzero(strange)[0])
            near = difflib.get_close_matches(self.label_names[column], names, 1)
            raise UserError(
                f"label {shown(self.label_names[column])}, of {self.labels[:, column].sum()} "
                f"images of the {self.name} split of {self.dataset}, is none of the {len(names)} "
                f"labels of {origin}"
                + (f"; the nearest is {shown(near[0])}" if near else "")
                + ": name it as there, or leave it out"
            )
        if lacking:
            logging.warning(
                "%d of the %d labels of %s are unknown to the %s split, and %s none of its "
                "images: %s",
                len(lacking),
                len(names),
                origin,
                self.name,
                "true for" if self.known is None else "judged in",
                first_shown(lacking),
            )
        shared = columns >= 0

        def moved(cells: np.ndarray) -> np.ndarray:
            table = np.zeros((len(self), len(names)), bool)
            table[:, columns[shared]] = cells[:, shared]
            return table

        return replace(
            self,
            label_names=names,
            labels=moved(self.labels),
            boxes=_renumbered(self.boxes, columns),
            known=None if self.known is None else moved(self.known),
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the data set, the names, the ids and the labels; not the pixels.

        Over which labels are known too, where some are not.
        """
        head = json.dumps([self.dataset, self.name, self.label_names, self.image_ids])
        digest = hashlib.sha256(head.encode())
        digest.update(np.packbits(self.labels, axis=None).tobytes())
        if self.known is not None:
            digest.update(np.packbits(self.known, axis=None).tobytes())
        return digest.hexdigest()


def selected(boxes: Sequence[np.ndarray] | None, rows: np.ndarray) -> Sequence[np.ndarray] | None:
    """The boxes of some images, as in `Split.boxes`."""
    if boxes is None:
        return None
    if isinstance(boxes, PixelBoxes):
        return boxes.select(rows)
    return tuple(boxes[row] for row in rows)


def _renumbered(
    boxes: Sequence[np.ndarray] | None, columns: np.ndarray
) -> Sequence[np.ndarray] | None:
    if boxes is None:
        return None
    if isinstance(boxes, PixelBoxes):
        return boxes.with_columns(columns)
    return tuple(
        np.column_stack([columns[box[:, 0].astype(int)], box[:, 1:]]).astype(np.float32)
        for box in boxes
    )


def holdout(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides n examples at random: the first part to train on, the second to validate on.

    Args:
      n: the number of examples, at least 0.
      fraction: the part to hold out, 0 <= fraction < 1; round(n * fraction) examples.
      seed: at least 0; the same seed gives the same division.

    Returns:
      Two sorted int64 arrays that hold each of 0 .. n - 1 exactly once.

    Raises:
      UserError: a negative n or seed, or a fraction outside of [0, 1).
    """
    if n < 0:
        raise UserError(f"cannot divide {n} examples: give 0 or more")
    if not 0 <= fraction < 1:
        raise UserError(f"validation_fraction is {fraction}: give at least 0 and less than 1")
    if seed < 0:
        raise UserError(f"split_seed is {seed}: give 0 or more")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(n)
    held = round(n * fraction)
    return np.sort(order[held:]), np.sort(order[:held])
