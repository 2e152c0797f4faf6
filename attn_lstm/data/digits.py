"""The data set that needs no download: scenes of handwritten digits that go together.

Each scene shows one to four different digits of scikit-learn's `load_digits` (1,797 real 8 x 8
samples of the UCI set) on a coloured canvas. What makes the data set a small likeness of the
photographs that the paper works on:

- labels co-occur: the digits of a scene come from one of the themes below;
- labels have a long tail: about half of the scenes hold a 0, one in twenty a 9;
- objects differ in size by a factor of three, and their boxes are known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from attn_lstm.data.records import damage_named, load_records, prepare
from attn_lstm.data.split import Split
from attn_lstm.errors import UserError

CANVAS = 64  # pixels
HEIGHTS = (12, 40)  # pixels of a digit, smallest and largest
NUM_LABELS = 10
SCENES = {"train": 8000, "validation": 1000, "test": 2000}
SAMPLE_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}  # of the handwritten samples

# (part of all scenes, {digit: chance to appear in a scene of this theme}). The first digit of a
# theme is always there, so that no scene is empty; no theme has more than four.
THEMES: tuple[tuple[float, dict[int, float]], ...] = (
    (0.36, {0: 1.0, 1: 0.6, 2: 0.4, 3: 0.2}),
    (0.24, {1: 1.0, 0: 0.4, 4: 0.4, 5: 0.3}),
    (0.18, {2: 1.0, 3: 0.5, 6: 0.3, 0: 0.2}),
    (0.12, {4: 1.0, 5: 0.5, 7: 0.5, 8: 0.25}),
    (0.10, {6: 1.0, 9: 0.5, 7: 0.5, 8: 0.4}),
)

_SEED = 1998  # of everything here: the data set is the same everywhere
_PLACINGS = 40  # tries to find room for a digit before it is drawn smaller
_SHRINK = 0.85


def load_digits_split(path: str | None, split: str) -> Split:
    """Opens a split of the digit scenes; prepares the data set first where it is missing.

    Args:
      path: the folder that holds TFDS data sets; None or '' for TFDS' own (`TFDS_DATA_DIR`,
        else `~/tensorflow_datasets`).
      split: 'train' (8,000 scenes), 'validation' (1,000) or 'test' (2,000). They share no
        handwritten sample.

    Raises:
      UserError: an unknown split, or a folder that cannot be written.
    """
    if split not in SCENES:
        raise UserError(f"digits has no split {split!r}: choose from {', '.join(SCENES)}")
    return load_records(_prepared(path), split, dataset="digits", name=split)


def _prepared(path: str | None) -> DigitScenes:
    with damage_named(path or "TFDS' folder"):
        builder = DigitScenes(data_dir=path or None, file_format="array_record")
        # TFDS writes into a folder of its own and renames that at the end, so nothing half-written
        # ever counts as the data set.
        if builder.data_path.exists():
            return builder
    try:
        prepare(builder)
    except OSError as error:
        # Of two processes that prepare it at once, the later one finds the name taken.
        if not builder.data_path.exists():
            raise UserError(
                f"cannot write the digits data set to {builder.data_path} ({error.strerror}): "
                "set data.path to a folder that can be written"
            ) from error
        builder = DigitScenes(data_dir=path or None, file_format="array_record")
    return builder


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of the scenes; the same bytes wherever and whenever it is prepared."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look beside this file for checksums of downloads; there are none. (It would also
    # need `importlib_resources` for that, which it does not declare.)
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(CANVAS, CANVAS, 3), encoding_format="jpeg"),
            "image/id": np.int64,  # unique over all splits
            "objects": tfds.features.Sequence(
                {
                    "label": tfds.features.ClassLabel(num_classes=NUM_LABELS),
                    "bbox": tfds.features.BBoxFeature(),
                    "sample": np.int64,  # row of scikit-learn's load_digits
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        with _fields_in_order():
            super()._download_and_prepare(*args, **kwargs)

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {name: self._generate_examples(name) for name in SCENES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images, digits = _handwritten()
        pools = sample_pools(digits)[split]
        names = list(SCENES)
        first_id = sum(SCENES[name] for name in names[: names.index(split)])
        for i in range(SCENES[split]):
            rng = np.random.Generator(np.random.PCG64([_SEED, first_id + i]))
            canvas, objects = draw_scene(images, pools, rng)
            yield i, {"image": canvas, "image/id": first_id + i, "objects": objects}


@contextlib.contextmanager
def _fields_in_order() -> Iterator[None]:
    """Lets TFDS write the fields of an example in one order.

    They are a protobuf map, whose order on disk otherwise differs from process to process.
    """

    def serialize(self: ExampleSerializer, example: dict[str, Any]) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)

    original = ExampleSerializer.serialize_example
    ExampleSerializer.serialize_example = serialize
    try:
        yield
    finally:
        ExampleSerializer.serialize_example = original


# ------------------------------------------------------------------------------- the samples


def _handwritten() -> tuple[np.ndarray, np.ndarray]:
    """(float32[1797,8,8] of ink between 0 and 1, int64[1797] digits)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target


def sample_pools(digits: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Divides the samples among the splits, stratified by digit.

    Args:
      digits: int64[n], the digit of each sample.

    Returns:
      For each split, for each digit, the rows of its samples.
    """
    rng = np.random.Generator(np.random.PCG64(_SEED))
    ends = np.cumsum(list(SAMPLE_SHARES.values()))[:-1]
    pools: dict[str, list[np.ndarray]] = {name: [] for name in SAMPLE_SHARES}
    for digit in range(NUM_LABELS):
        rows = rng.permutation(np.flatnonzero(digits == digit))
        parts = np.split(rows, np.round(ends * len(rows)).astype(int))
        for name, part in zip(pools, parts, strict=True):
            pools[name].append(part)
    return pools


# ------------------------------------------------------------------------------- the drawing


def draw_labels(rng: np.random.Generator) -> list[int]:
    """One to four different digits of one theme."""
    shares = [share for share, _ in THEMES]
    _, chances = THEMES[rng.choice(len(THEMES), p=shares)]
    return [digit for digit, chance in chances.items() if rng.random() < chance]


def draw_scene(
    images: np.ndarray, pools: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One scene.

    Args:
      images: float32[n,8,8], ink between 0 and 1.
      pools: for each digit the rows of `images` to draw from.
      rng: the source of everything random.

    Returns:
      The canvas, uint8[64,64,3], and its objects as TFDS features.
    """
    labels = draw_labels(rng)
    low, high = np.log(HEIGHTS)
    # Evenly over the logarithm, largest first: the small ones find room between the large.
    heights = np.sort(np.exp(rng.uniform(low, high, len(labels))))[::-1]
    canvas, taken, objects = _background(rng), np.zeros((CANVAS, CANVAS), bool), []
    for label, height in zip(rng.permutation(labels).tolist(), heights, strict=True):
        sample = int(rng.choice(pools[label]))
        ink, top, left = _place(_cropped(images[sample]), float(height), taken, rng)
        bottom, right = top + ink.shape[0], left + ink.shape[1]
        taken[top:bottom, left:right] = True
        region = canvas[top:bottom, left:right]
        region += ink[..., None] * (_ink_colour(rng) - region)
        box = tfds.features.BBox(
            ymin=top / CANVAS, xmin=left / CANVAS, ymax=bottom / CANVAS, xmax=right / CANVAS
        )
        objects.append({"label": label, "bbox": box, "sample": sample})
    canvas += rng.normal(0, 8, (CANVAS, CANVAS, 1))
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8), objects


def _place(
    ink: np.ndarray, height: float, taken: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, int, int]:
    """The digit at a size and a place (top, left) where its box covers nothing taken."""
    while True:
        scaled = _enlarged(ink, round(height))
        rows, columns = scaled.shape
        for _ in range(_PLACINGS if rows <= CANVAS and columns <= CANVAS else 0):
            top = int(rng.integers(CANVAS - rows + 1))
            left = int(rng.integers(CANVAS - columns + 1))
            if not taken[top : top + rows, left : left + columns].any():
                return scaled, top, left
        # Below the smallest height only where a crowded scene leaves no other way.
        height *= _SHRINK


def _cropped(ink: np.ndarray) -> np.ndarray:
    """float32[8,8] -> the part that holds ink."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _enlarged(ink: np.ndarray, height: int) -> np.ndarray:
    """float32[r,c] -> float32[height, height * c / r], bilinear."""
    width = max(1, round(height * ink.shape[1] / ink.shape[0]))
    return _interpolation(ink.shape[0], height) @ ink @ _interpolation(ink.shape[1], width).T


def _interpolation(old: int, new: int) -> np.ndarray:
    """float32[new,old]: the weights that stretch `old` values to `new` linearly."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    distance = np.abs(centre[:, None] - np.arange(old))
    return np.maximum(0, 1 - distance).astype(np.float32)


def _background(rng: np.random.Generator) -> np.ndarray:
    """float64[64,64,3]: dark, with slow changes of colour."""
    stretch = _interpolation(4, CANVAS)
    coarse = rng.uniform(20, 110, (3, 4, 4))
    return np.moveaxis(stretch @ coarse @ stretch.T, 0, -1).copy()


def _ink_colour(rng: np.random.Generator) -> np.ndarray:
    """float64[3]: light, with at least one channel well above any background."""
    return rng.permutation([rng.uniform(225, 255), *rng.uniform(140, 255, 2)])
