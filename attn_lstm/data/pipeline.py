"""From a `Split` to the batches of one host, in tf.data.

Every order here is a pure function of integers. In training, position q of an endless sequence
belongs to epoch q // N; within an epoch the rows are permuted by (seed, epoch), and batch s takes
the positions [s B, (s + 1) B). A run that starts at step s therefore goes on exactly as one that
came by it, without reading what lies before. Augmentation is seeded by (seed, epoch, row).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from absl import logging

from attn_lstm.data import image_file, preprocess, resizing
from attn_lstm.data.cpu_tensorflow import tf
from attn_lstm.data.split import Batch, ImageSource, Split
from attn_lstm.errors import UserError

ON_BAD_IMAGE = ("error", "skip")
OnBadImage = Literal["error", "skip"]

_ORDER_ROUNDS = 8  # of the permutation's cipher; at its minimum of 4 neighbours stay related
_MAX_SEED = 2**31 - 1
_LISTED = 5  # bad images named in one message


@dataclass(frozen=True)
class Augment:
    """How training images are changed at random; everything is off unless asked for.

    Attributes:
      flip: mirror left to right, half of the time.
      crop_scale: (least, most) part of the image's area that a random crop of aspect ratio 3/4
        to 4/3 keeps, in place of the resize rule; None for no random crop.
      randaugment_layers: RandAugment operations on each image; 0 for none.
      randaugment_magnitude: their strength, 0 to 30.
      cutout: side in pixels of a square that is blanked; 0 for none.
    """

    flip: bool = False
    crop_scale: tuple[float, float] | None = None
    randaugment_layers: int = 0
    randaugment_magnitude: int = 9
    cutout: int = 0

    @classmethod
    def from_config(cls, config: Any) -> Augment:
        """What the fields of a `config.data.augment` ask for."""
        return cls(
            flip=config.flip,
            crop_scale=(config.crop_min_area, 1.0) if config.crop_min_area < 1 else None,
            randaugment_layers=config.randaugment_layers,
            randaugment_magnitude=config.randaugment_magnitude,
            cutout=config.cutout,
        )

    def __post_init__(self) -> None:
        if self.crop_scale is not None:
            least, most = self.crop_scale
            if not 0 < least <= most <= 1:
                raise UserError(
                    f"augment.crop_scale is ({least}, {most}): give 0 < least <= most <= 1"
                )
        if self.randaugment_layers < 0:
            raise UserError(
                f"augment.randaugment_layers is {self.randaugment_layers}: give 0 or more"
            )
        if not 0 <= self.randaugment_magnitude <= preprocess.MAX_MAGNITUDE:
            raise UserError(
                f"augment.randaugment_magnitude is {self.randaugment_magnitude}: "
                f"give 0 to {preprocess.MAX_MAGNITUDE}"
            )
        if self.cutout < 0:
            raise UserError(f"augment.cutout is {self.cutout}: give 0 or more pixels")


# -------------------------------------------------------------------------- order, as integers


def eval_steps(n: int, batch_size: int) -> int:
    """Batches in which `n` examples are evaluated, on every host: ceil(n / batch_size)."""
    return -(-n // batch_size)


def host_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """The contiguous part of each global batch that host `process_index` holds.

    Raises:
      UserError: a batch size that is not a positive multiple of the number of hosts.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size is {batch_size}: give a positive multiple of the {process_count} hosts"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index} of {process_count}")
    part = batch_size // process_count
    return slice(process_index * part, (process_index + 1) * part)


def _epoch_key(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """int32[3], the key of an epoch's permutation.

    Hashed: with the epoch's number itself as its key, `random_index_shuffle` repeats the order of
    a small split every 256 epochs.
    """
    state = tf.random.fold_in(tf.constant([seed, 1], tf.int32), epoch)
    return tf.random.stateless_uniform([3], state, minval=None, maxval=None, dtype=tf.int32)


def _training_order(
    n: int, batch_size: int, seed: int, step: tf.Tensor | int
) -> tuple[tf.Tensor, tf.Tensor]:
    """(row, epoch) of the global batch `step`, int64[B] each."""
    position = tf.cast(step, tf.int64) * batch_size + tf.range(batch_size, dtype=tf.int64)
    epoch = position // n
    epochs = tf.range(epoch[0], epoch[-1] + 1)  # one or two, unless the split is very small
    keys = tf.map_fn(lambda epoch: _epoch_key(seed, epoch), epochs, fn_output_signature=tf.int32)
    row = tf.random_index_shuffle(
        position % n,
        tf.gather(keys, epoch - epoch[0]),
        tf.constant(n - 1, tf.int64),
        rounds=_ORDER_ROUNDS,
    )
    return row, epoch


def training_rows(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """int64[B]: the rows of the global training batch `step` of a split of n examples."""
    return _training_order(n, batch_size, seed, step)[0].numpy()


def training_parts(
    n: int, batch_size: int, seed: int, start_step: int, part: slice
) -> tf.data.Dataset:
    """(row, epoch), int64[b] each: `part` of every global training batch from `start_step` on."""

    def order(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row, epoch = _training_order(n, batch_size, seed, step)
        return row[part], epoch[part]

    return tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(order)


def evaluation_parts(
    n: int, batch_size: int, part: slice, rows: np.ndarray | None = None
) -> tf.data.Dataset:
    """int64[b]: `part` of the rows of every global evaluation batch; -1 for padding.

    They are the n rows of a split, or of them `rows` int64[M] alone, in that order.
    """
    count = n if rows is None else len(rows)

    def order(step: tf.Tensor) -> tf.Tensor:
        place = step * batch_size + tf.range(part.start, part.stop, dtype=tf.int64)
        row = place if rows is None else tf.gather(rows, tf.minimum(place, count - 1))
        return tf.where(place < count, row, -1)

    return tf.data.Dataset.range(eval_steps(count, batch_size)).map(order)


# ---------------------------------------------------------------------------- the tf.data graph


def _read_or_blank(
    images: ImageSource,
    row: tf.Tensor,
    wanted: tf.Tensor,
    show: Callable[[tf.Tensor], tf.Tensor],
    size: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """int64[], bool[] -> (uint8[size,size,3], bool[]): the image and True, or black and False.

    TensorFlow has no `try`, but a data set that ignores its errors and has something to go on
    with is one. So a bad image neither ends the epoch nor moves another row.
    """

    def read(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return show(images.read(row)), tf.constant(True)

    attempt = tf.data.Dataset.from_tensors(row).filter(lambda row: wanted).map(read)
    black = tf.zeros([size, size, 3], tf.uint8)
    blank = tf.data.Dataset.from_tensors((black, tf.constant(False)))
    return attempt.ignore_errors().concatenate(blank).take(1).get_single_element()


class _Seeds(NamedTuple):
    """int32[2] of each operation, whether the others are on or not: one can be ablated alone."""

    crop: tf.Tensor
    flip: tf.Tensor
    randaugment: tf.Tensor
    cutout: tf.Tensor


def _example_seeds(seed: int, epoch: tf.Tensor, row: tf.Tensor) -> _Seeds:
    """From (seed, epoch, row)."""
    base = tf.constant([seed, 0], tf.int32)
    own = tf.random.fold_in(tf.random.fold_in(base, epoch), row)
    return _Seeds(*tf.unstack(tf.random.split(own, len(_Seeds._fields))))


@dataclass(frozen=True)
class _View:
    """From the file of an image to what the network sees of it in an epoch."""

    image_size: int
    resize: str
    augment: Augment
    seed: int
    max_pixels: int

    def show(self, encoded: tf.Tensor, seeds: _Seeds) -> tf.Tensor:
        augment = self.augment
        if augment.crop_scale is None:
            image = preprocess.decode(encoded, self.image_size, self.resize, self.max_pixels)
        else:
            image = preprocess.decode_random_crop(
                encoded,
                seeds.crop,
                self.image_size,
                augment.crop_scale,
                max_pixels=self.max_pixels,
            )
        if augment.flip:
            image = preprocess.random_flip(image, seeds.flip)
        if augment.randaugment_layers:
            image = preprocess.randaugment(
                image,
                seeds.randaugment,
                augment.randaugment_layers,
                augment.randaugment_magnitude,
            )
        if augment.cutout:
            image = preprocess.cutout(image, seeds.cutout, augment.cutout)
        return image


def _batches(
    rows: tf.data.Dataset,
    split: Split,
    batch_size: int,
    on_bad_image: OnBadImage,
    view: _View,
) -> Batches:
    """Elements (row, epoch) -> batches of (image, labels, mask, row), and known where some are not.

    Args:
      rows: elements (row int64[], epoch int64[]); row -1 for padding.
      split: where the rows lie.
      batch_size: of this host.
      on_bad_image: 'error' or 'skip'.
      view: what becomes of an image.
    """
    # Tensors outside of the graph: referred to, not copied into it.
    labels = tf.constant(split.labels)
    known = None if split.known is None else tf.constant(split.known)
    ending = tf.Variable(False)

    def example(row: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        seeds = _example_seeds(view.seed, epoch, row)
        image, good = _read_or_blank(
            split.images,
            row,
            (row >= 0) & ~ending,
            lambda encoded: view.show(encoded, seeds),
            view.image_size,
        )
        return (
            image,
            tf.cast(tf.gather(labels, tf.maximum(row, 0)) & (row >= 0), tf.float32),
            good,
            tf.cast(row, tf.int32),
            *(() if known is None else (tf.gather(known, tf.maximum(row, 0)),)),
        )

    options = tf.data.Options()
    options.deterministic = True
    # Images are the unit of parallel work: ops that split themselves further only contend.
    options.threading.max_intra_op_parallelism = 1
    iterator = (
        rows.take_while(lambda *_: ~ending)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
        .as_numpy_iterator()
    )
    batches = Batches(iterator, split, on_bad_image, partial(_diagnosis, split, view.max_pixels))
    weakref.finalize(batches, _end, iterator, ending)
    return batches


def _end(iterator: Iterator[Any], ending: tf.Variable) -> None:
    """Lets the images that are being read come to their end, while others can run Python.

    TensorFlow frees an iterator with Python's lock held, and waits for them then: those that are
    read by a Python function, which waits for the lock, would never end.
    """
    with tf.init_scope():  # whatever graph is being traced when the batches are collected
        ending.assign(True)
        for _ in iterator:
            pass


# -------------------------------------------------------------------------------- the iterators


class Batches(Iterator[Batch]):
    """Iterates over the batches of one host.

    Args:
      batches: the fields of each `Batch`.
      split: whose rows they are.
      on_bad_image: 'error' or 'skip'.
      diagnose: says why there is no image for a row, in one line.

    Attributes:
      bad: row of the split -> what is wrong with its image, for every image seen so far that
        could not be read or decoded (always empty under 'error').

    Raises:
      UserError: from `next`, under 'error', when an image cannot be read or decoded.
    """

    def __init__(
        self,
        batches: Iterator[tuple[np.ndarray, ...]],
        split: Split,
        on_bad_image: OnBadImage,
        diagnose: Callable[[int], str],
    ) -> None:
        if on_bad_image not in ON_BAD_IMAGE:
            raise UserError(
                f"data.on_bad_image is {on_bad_image!r}: choose from {', '.join(ON_BAD_IMAGE)}"
            )
        self.bad: dict[int, str] = {}
        self._split = split
        self._on_bad_image = on_bad_image
        self._diagnose = diagnose
        self._batches = batches

    def __next__(self) -> Batch:
        batch = Batch(*next(self._batches))
        failed = batch.image_id[(batch.image_id >= 0) & ~batch.mask].tolist()
        new = {row: self._diagnose(row) for row in failed if row not in self.bad}
        if new and self._on_bad_image == "error":
            raise UserError(_complaint(self._split, new))
        for row, reason in new.items():
            self.bad[row] = reason
            logging.warning(
                "Left out %s: %s (%d bad images so far)",
                self._split.images.name(row),
                reason,
                len(self.bad),
            )
        return batch


def _diagnosis(split: Split, max_pixels: int, row: int) -> str:
    """Why the image of `row` could not be read or decoded: one line."""
    try:
        image_file.read(split.images.read(tf.constant(row, tf.int64)).numpy(), max_pixels)
    except tf.errors.OpError as error:
        return tensorflow_complaint(error.message)
    except ValueError as error:
        return str(error)
    return "it could not be read at first, but could a moment later (a failing disk or network?)"


def tensorflow_complaint(message: str) -> str:
    """TensorFlow's message without the name of its op and whatever follows the first line."""
    return re.sub(r"^\{\{function_node .*?\}\} | \[Op:.*$", "", message.strip().split("\n")[0])


def _complaint(split: Split, bad: Mapping[int, str]) -> str:
    listed = [f"{split.images.name(row)} ({reason})" for row, reason in bad.items()][:_LISTED]
    more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    return (
        f"cannot read {'; '.join(listed)}{more}: repair or remove the image, "
        "or leave such images out with data.on_bad_image=skip"
    )


def _check(split: Split, image_size: int, resize: str, seed: int = 0) -> None:
    if not len(split):
        raise UserError(f"the {split.name} split of {split.dataset} holds no image")
    if image_size < 1:
        raise UserError(f"data.image_size is {image_size}: give at least 1 pixel")
    if resize not in resizing.RESIZE_RULES:
        raise UserError(
            f"data.resize is {resize!r}: choose from {', '.join(resizing.RESIZE_RULES)}"
        )
    if not 0 <= seed <= _MAX_SEED:
        raise UserError(f"seed is {seed}: give 0 to {_MAX_SEED}")


def train_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    resize: str,
    augment: Augment,
    seed: int,
    start_step: int,
    on_bad_image: OnBadImage,
    process_index: int,
    process_count: int,
    max_pixels: int = image_file.MAX_PIXELS,
) -> Batches:
    """An endless sequence of this host's part of the global training batches.

    Args:
      split: N examples.
      batch_size: examples in a global batch; each host yields batch_size / process_count.
      image_size: height and width of the images, in pixels.
      resize: a rule of `resizing.RESIZE_RULES`, unless `augment` crops at random.
      augment: the random changes.
      seed: of the order and of the augmentation, 0 to 2^31 - 1.
      start_step: the first batch to yield, at no cost whatever it is.
      on_bad_image: 'error' raises a `UserError` that names an image that cannot be decoded;
        'skip' masks it, in every batch alike, and logs it once.
      process_index: this host's.
      process_count: the number of hosts.
      max_pixels: an image with more of them counts as one that cannot be decoded.

    Raises:
      UserError: an argument outside of what is stated here, or a split without images.
    """
    _check(split, image_size, resize, seed)
    part = host_rows(batch_size, process_index, process_count)
    rows = training_parts(len(split), batch_size, seed, start_step, part).unbatch()
    view = _View(image_size, resize, augment, seed, max_pixels)
    return _batches(rows, split, part.stop - part.start, on_bad_image, view)


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    resize: str,
    on_bad_image: OnBadImage,
    process_index: int,
    process_count: int,
    max_pixels: int = image_file.MAX_PIXELS,
    rows: np.ndarray | None = None,
) -> Batches:
    """This host's part of `eval_steps(len(split), batch_size)` batches: each row once, in order.

    The last global batch is filled up with zero images, mask False and image_id -1. With `rows`
    int64[M] of the split they are these alone. The other arguments are those of `train_batches`.
    """
    _check(split, image_size, resize)
    part = host_rows(batch_size, process_index, process_count)
    parts = evaluation_parts(len(split), batch_size, part, rows)
    ordered = parts.map(lambda row: (row, tf.zeros_like(row))).unbatch()  # in no matter which epoch
    view = _View(image_size, resize, Augment(), 0, max_pixels)
    return _batches(ordered, split, part.stop - part.start, on_bad_image, view)


def view_batches(
    split: Split,
    rows: np.ndarray,
    *,
    batch_size: int,
    image_size: int,
    resize: str,
    augment: Augment,
    seed: int,
    epoch: int,
    on_bad_image: OnBadImage,
    max_pixels: int = image_file.MAX_PIXELS,
) -> Batches:
    """The images of `rows` int64[M], in that order, as training shows them in an epoch.

    With `Augment()` they are those of `eval_batches`. The last batch is filled up as there; the
    other arguments are those of `train_batches`, `batch_size` being this host's.
    """
    _check(split, image_size, resize, seed)
    padded = np.full(eval_steps(len(rows), batch_size) * batch_size, -1, np.int64)
    padded[: len(rows)] = rows
    rows_and_epochs = tf.data.Dataset.from_tensor_slices((padded, np.full_like(padded, epoch)))
    view = _View(image_size, resize, augment, seed, max_pixels)
    return _batches(rows_and_epochs, split, batch_size, on_bad_image, view)
