"""Features of a split kept on disk, and the batches that are read from them.

A `FeatureStore` holds one view of each image: view 0 is the image as it is evaluated, a view v
above 0 is the augmented image that training would see in its epoch v. It is a folder ROOT/NAME in
which NAME is the hash of a key that says all that the features depend on. Features of another key
lie in another folder, so that none can be taken for others. `key.json` there holds the key, and
files of ArrayRecord hold the rows, a record an image, in the order of the split, and behind them a
record that says which rows of which store they are; such a file, a shard, is there as a whole or
not at all.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from attn_lstm.data.cpu_tensorflow import tf
from attn_lstm.data.pipeline import (
    Batches,
    OnBadImage,
    evaluation_parts,
    host_rows,
    training_parts,
)
from attn_lstm.data.split import Split
from attn_lstm.errors import UserError, first_line
from attn_lstm.storage import replaced

KEY = "key.json"

# One record a group, for random access. Compression by a third would cost two thirds of the speed.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_AHEAD = 4  # batches that are read before they are asked for
_SAMPLES = 16  # images that `pixel_digest` looks at


@dataclass(frozen=True)
class FeatureStore:
    """One view of every image of a split.

    Attributes:
      folder: where it lies; hosts that share a store see the same folder.
      rows: N, images of the split.
      shape: (K, D) of the features of an image.
      dtype: 'float16' or 'float32'.
      shard_rows: rows in each shard but the last.
    """

    folder: Path
    rows: int
    shape: tuple[int, int]
    dtype: str
    shard_rows: int

    @property
    def shards(self) -> int:
        """The number of files that a complete store holds."""
        return -(-self.rows // self.shard_rows)

    def rows_of(self, shard: int) -> range:
        """The rows that a shard holds."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"features.array_record-{shard:05}-of-{self.shards:05}"

    @property
    def record_bytes(self) -> int:
        """Bytes of the features of one image."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def missing(self) -> list[int]:
        """The shards that are not there yet.

        Raises:
          UserError: a shard is damaged.
        """
        paths = {shard: self.path(shard) for shard in range(self.shards)}
        missing = [shard for shard, path in paths.items() if not path.exists()]
        for shard in sorted(paths.keys() - set(missing)):
            reader = ArrayRecordReader(str(paths[shard]))
            found, expected = reader.num_records(), len(self.rows_of(shard))
            try:
                mark = reader.read([expected])[0] if found == expected + 1 else None
                reader.close()  # only now it says what is wrong
            except RuntimeError as error:
                raise self._damaged(shard, first_line(error)) from error
            if mark not in (None, self._mark(shard)):
                raise self._damaged(shard, "it holds the rows of another shard")
            if mark is None and found != expected:  # without a mark: of version 0.1.0
                raise self._damaged(shard, f"it holds {found} records, not {expected}")
        return missing

    def _mark(self, shard: int) -> bytes:
        """The record behind the rows of a shard."""
        return json.dumps({"store": self.folder.name, "shard": shard}).encode()

    def write(self, shard: int, features: Sequence[np.ndarray | None]) -> None:
        """Writes the whole of a shard: [K,D] for each of its rows, None where there is no image.

        Raises:
          UserError: the folder cannot be written, or its disk is full.
        """
        if len(features) != len(self.rows_of(shard)):
            raise ValueError(f"{len(features)} features for the rows {self.rows_of(shard)}")
        try:
            with replaced(self.path(shard)) as draft:
                writer = ArrayRecordWriter(str(draft), _WRITER_OPTIONS)
                for row in features:
                    kept = b"" if row is None else row.astype(self._stored, copy=False).tobytes()
                    writer.write(kept)
                writer.write(self._mark(shard))
                writer.close()
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot write features to {self.folder}: {first_line(error)}; make room there "
                "or give another config.cache.path, or config.cache.views=0 to keep none"
            ) from error

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64[B] -> [B,K,D], bool[B]: zeros and False for row -1 and where there is no image.

        Raises:
          UserError: a shard is damaged.
        """
        features = np.zeros((len(rows), *self.shape), self.dtype)
        good = np.zeros(len(rows), bool)
        places = np.flatnonzero(rows >= 0)
        for place, record in zip(places, self._records(rows[places].tolist()), strict=True):
            if record:
                if len(record) != self.record_bytes:
                    raise self._damaged(
                        rows[place] // self.shard_rows,
                        f"row {rows[place]} has {len(record)} bytes, not {self.record_bytes}",
                    )
                features[place] = np.frombuffer(record, self._stored).reshape(self.shape)
                good[place] = True
        return features, good

    def _records(self, rows: list[int]) -> Sequence[bytes]:
        if not rows:
            return []
        try:
            return _source(self).__getitems__(rows)
        except RuntimeError as error:
            # The message does not say which of the files it speaks of.
            for row in rows:
                try:
                    _source(self)[row]
                except RuntimeError:
                    raise self._damaged(row // self.shard_rows, first_line(error)) from error
            raise

    @property
    def _stored(self) -> np.dtype:
        return np.dtype(self.dtype).newbyteorder("<")

    def _damaged(self, shard: int, reason: str) -> UserError:
        return UserError(
            f"{self.path(shard)} is damaged ({reason}): delete it, and its features are computed "
            "again on the next start"
        )


# A source keeps all of its files open. This many are in use: two views where epochs meet, and the
# split that the training is validated on.
@functools.lru_cache(maxsize=3)
def _source(store: FeatureStore) -> ArrayRecordDataSource:
    return ArrayRecordDataSource(
        [f"{store.path(s)}[0:{len(store.rows_of(s))}]" for s in range(store.shards)]
    )


def open_store(root: Path, key: Mapping[str, Any]) -> FeatureStore:
    """The store of a key, whatever it holds so far; its folder is made when missing.

    Args:
      root: holds the stores.
      key: all that the features depend on, in JSON's types; in it 'images' N, 'shape' [K, D],
        'dtype' and 'shard_rows'.

    Raises:
      UserError: the folder cannot be written, or it holds another key.
    """
    text = json.dumps(key, indent=1, sort_keys=True) + "\n"
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / KEY
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with replaced(path) as draft:
                draft.write_text(text)
        kept = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot keep features in {root}: {error.strerror}; "
            "give another folder with config.cache.path"
        ) from error
    if kept != text.encode():
        raise UserError(
            f"{path} is not the key that its folder is named after: delete {folder}, and its "
            "features are computed again"
        )
    return FeatureStore(folder, key["images"], tuple(key["shape"]), key["dtype"], key["shard_rows"])


def pixel_digest(split: Split) -> str:
    """SHA-256 (hex) over the encoded bytes of some images, spread over the split.

    Tells copies of a data set apart that differ in their pixels alone, such as one that was made
    smaller; `Split.fingerprint` does not.
    """
    digest = hashlib.sha256()
    for row in np.unique(np.linspace(0, len(split) - 1, _SAMPLES).astype(np.int64)):
        try:
            encoded = split.images.read(tf.constant(row, tf.int64)).numpy()
        except tf.errors.OpError:
            encoded = b""
        digest.update(hashlib.sha256(encoded).digest())
    return digest.hexdigest()


# -------------------------------------------------------------------------------- the iterators


def feature_train_batches(
    split: Split,
    stores: Sequence[FeatureStore],
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    on_bad_image: OnBadImage,
    process_index: int,
    process_count: int,
) -> Batches:
    """`pipeline.train_batches` with features for images: the same rows in the same order.

    `Batch.inputs` is [B,K,D] in the type of the stores.

    Args:
      split: N examples.
      stores: complete, one a view; epoch e takes the features of view e % len(stores).
      batch_size, seed, start_step, on_bad_image, process_index, process_count: as there; of
        'error' and 'skip' only the latter goes on where a store has no features of an image.

    Raises:
      UserError: as there, or, from `next`, a shard is damaged.
    """
    part = host_rows(batch_size, process_index, process_count)
    order = training_parts(len(split), batch_size, seed, start_step, part)
    return _batches(split, stores, order, on_bad_image)


def feature_eval_batches(
    split: Split,
    store: FeatureStore,
    *,
    batch_size: int,
    on_bad_image: OnBadImage,
    process_index: int,
    process_count: int,
    rows: np.ndarray | None = None,
) -> Batches:
    """`pipeline.eval_batches` with features for images: each row once, in order, then padding.

    The other arguments are those of `feature_train_batches`.
    """
    part = host_rows(batch_size, process_index, process_count)
    order = evaluation_parts(len(split), batch_size, part, rows).map(
        lambda row: (row, tf.zeros_like(row))
    )
    return _batches(split, [store], order, on_bad_image)


def _batches(
    split: Split,
    stores: Sequence[FeatureStore],
    order: tf.data.Dataset,
    on_bad_image: OnBadImage,
) -> Batches:
    """Elements (row, epoch) int64[B] -> batches."""

    def read(row: np.ndarray, epoch: np.ndarray) -> tuple[np.ndarray, ...]:
        view = epoch % len(stores)
        features, good = stores[view[0]].read(np.where(view == view[0], row, -1))
        for other in np.unique(view[view != view[0]]):  # where epochs meet
            here = view == other
            features[here], good[here] = stores[other].read(row[here])
        labels = split.labels[np.maximum(row, 0)] & (row >= 0)[:, None]
        fields = features, labels.astype(np.float32), good, row.astype(np.int32)
        return fields if split.known is None else (*fields, split.known[np.maximum(row, 0)])

    def diagnose(row: int) -> str:
        shard = stores[0].path(row // stores[0].shard_rows)
        return (
            "it could not be read when its features were computed; once it is repaired, delete "
            f"{shard}"
        )

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        # One thread: a source reads the records of a batch in parallel itself.
        pool = ThreadPoolExecutor(1)
        try:
            reading = (pool.submit(read, *rows) for rows in order.prefetch(2).as_numpy_iterator())
            queue = deque(itertools.islice(reading, _AHEAD))
            while queue:
                yield queue.popleft().result()
                queue.extend(itertools.islice(reading, 1))
        finally:
            # Not waited for: the garbage collector may end this generator in the pool's own thread.
            pool.shutdown(wait=False, cancel_futures=True)

    return Batches(batches(), split, on_bad_image, diagnose)
