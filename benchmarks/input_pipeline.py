r"""Images a second of the input pipeline, beside PyTorch's DataLoader and a bare JPEG decoder.

    python -m benchmarks.input_pipeline --images=FOLDER [--image_size=224] [--count=1000] \
        [--rounds=5]

All sides read the files of the folder's JPEGs on all cores, in turn, each in a pipeline made for
its turn; the clock starts behind the first batches. The DataLoader has Pillow in as many workers as
there are cores, and gives the same pixels, but for `draft`, which has libjpeg decode a picture
smaller than it is. The floor is TensorFlow's bare decoder: a picture that is resized and batched
must have been decoded.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from attn_lstm import errors
from attn_lstm.data import FileSource, Split, preprocess
from attn_lstm.data.cpu_tensorflow import tf
from attn_lstm.data.pipeline import Augment, train_batches
from attn_lstm.errors import UserError
from benchmarks import measure
from benchmarks.torch_loader import delivered

_IMAGES = flags.DEFINE_string("images", None, "folder in which JPEGs are looked for (required)")
_SIZE = flags.DEFINE_integer("image_size", 224, "pixels, both sides")
_COUNT = flags.DEFINE_integer("count", 1000, "images a round")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of each side")
flags.mark_flag_as_required("images")

_BATCH = 32
_WARM = 4 * _BATCH  # images before the clock starts
_AREA = (0.25, 1.0)  # of random crops


def _split(paths: list[Path]) -> Split:
    return Split(
        dataset="benchmark",
        name="train",
        label_names=("any",),
        image_ids=tuple(path.name for path in paths),
        labels=np.ones((len(paths), 1), bool),
        images=FileSource("", [str(path) for path in paths]),
    )


def _decoded(split: Split, decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Iterator[int]:
    """1 for each image that has been decoded; `decode` gets the file, and a seed int32[2]."""

    def read(row: tf.Tensor) -> tf.Tensor:
        return decode(split.images.read(row), tf.stack([0, tf.cast(row, tf.int32)]))

    options = tf.data.Options()
    options.threading.max_intra_op_parallelism = 1
    images = tf.data.Dataset.range(len(split)).repeat()
    images = images.map(read, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return (1 for _ in images.with_options(options))


def _delivered(split: Split, augment: Augment) -> Iterator[int]:
    """The size of each batch that the training pipeline has made."""
    batches = train_batches(
        split,
        batch_size=_BATCH,
        image_size=_SIZE.value,
        resize="squash",
        augment=augment,
        seed=0,
        start_step=0,
        on_bad_image="error",
        process_index=0,
        process_count=1,
    )
    return (len(batch.mask) for batch in batches)


def _whole(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _resized(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return preprocess.decode(encoded, _SIZE.value, "squash")


def _box(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return preprocess.decode_random_crop(encoded, seed, _SIZE.value, _AREA)


def _rate(done: Iterator[int]) -> float:
    """Images a second behind the first ones."""
    ahead = -_WARM
    while ahead < 0:
        ahead += next(done)
    images, start = 0, time.perf_counter()
    while images < _COUNT.value:
        images += next(done)
    return images / (time.perf_counter() - start)


def main() -> int:
    """Prints the table; returns the exit code."""
    files = sorted(Path(_IMAGES.value).rglob("*"))
    paths = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")]
    if not paths:
        raise UserError(f"--images={_IMAGES.value}: no .jpg or .jpeg in there")
    split = _split(paths)
    sides = {
        "DataLoader, Pillow": partial(delivered, paths, _SIZE.value, _BATCH, draft=False),
        "DataLoader, Pillow with draft": partial(delivered, paths, _SIZE.value, _BATCH, draft=True),
        "the bare decoder": partial(_decoded, split, _whole),
        "decoded and resized": partial(_decoded, split, _resized),
        "a random box, decoded and resized": partial(_decoded, split, _box),
        "the pipeline, nothing augmented": partial(_delivered, split, Augment()),
        "the pipeline, flips": partial(_delivered, split, Augment(flip=True)),
        "the pipeline, boxes and flips": partial(
            _delivered, split, Augment(flip=True, crop_scale=_AREA)
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for name in measure.turns(list(sides), _ROUNDS.value):
        rates[name].append(_rate(sides[name]()))
    floors = rates["DataLoader, Pillow"], rates["the bare decoder"]
    rows = [
        (
            name,
            f"{statistics.median(each):.0f}",
            *(f"{measure.median_ratio(each, of=floor):.2f}" for floor in floors),
        )
        for name, each in rates.items()
    ]
    sizes = [tf.io.extract_jpeg_shape(tf.io.read_file(str(p)))[:2].numpy() for p in paths[:500]]
    height, width = np.median(sizes, axis=0)
    print(f"{measure.machine()}\n{len(paths)} JPEGs of {height:.0f} x {width:.0f} pixels (median)")
    title = f"To {_SIZE.value} x {_SIZE.value} pixels; a box has {_AREA[0]} to 1 of the area"
    columns = ("side", "images/s (median)", "to the DataLoader's", "to the bare decoder's")
    measure.print_table(title, columns, rows)
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
