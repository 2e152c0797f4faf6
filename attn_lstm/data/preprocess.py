"""Decoding, resizing and augmenting one image in TensorFlow.

Every function takes one image, as a file or as pixels, works eagerly and inside `Dataset.map`, and
gives uint8 pixels. What is random takes its numbers from a stateless `seed` int32[2]: equal seeds
give equal images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from attn_lstm.data import image_file, resizing
from attn_lstm.data.cpu_tensorflow import tf

GREY = 128  # what uncovered and cut-out pixels are filled with
_REDUCTIONS = (1, 2, 4, 8)  # by which libjpeg can decode a picture smaller than it is


# ----------------------------------------------------------------------- decoding and resizing
#
# Pillow does it here as in `data.images`: what is predicted later is what was learned from. It
# works without Python's lock, so that images are decoded beside each other.


def decode(
    encoded: tf.Tensor, size: int, rule: str, max_pixels: int = image_file.MAX_PIXELS
) -> tf.Tensor:
    """string[] with a file that `image_file.read` takes -> uint8[size,size,3].

    Args:
      encoded: the whole file.
      size, rule: as in `resizing.resize`.
      max_pixels: height times width at most, at most `image_file.MOST_PIXELS`.

    Raises:
      tf.errors.InvalidArgumentError: not such an image, a damaged one, or too large a one.
    """

    def show(content: bytes) -> np.ndarray:
        return resizing.resize(image_file.read(content, max_pixels), size, rule)

    return tf.ensure_shape(_by_pillow(show, encoded), [size, size, 3])


def resize(image: tf.Tensor, size: int, rule: str) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[size,size,3]; see `resizing.resize`."""

    def show(pixels: np.ndarray) -> np.ndarray:
        return resizing.resize(pixels, size, rule)

    return tf.ensure_shape(_by_pillow(show, image), [size, size, 3])


def _by_pillow(function: Callable[..., np.ndarray], value: tf.Tensor) -> tf.Tensor:
    """The uint8 array that a function of a NumPy value gives; its `ValueError` as TensorFlow's."""
    value = tf.convert_to_tensor(value)
    if not tf.executing_eagerly():
        return tf.numpy_function(function, [value], tf.uint8, stateful=False)
    try:
        return tf.constant(function(value.numpy()))
    except ValueError as error:
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from error


# ------------------------------------------------------------------------- random crop and flip


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3], mirrored left to right half of the time."""
    return tf.image.stateless_random_flip_left_right(image, seed)


_JPEG = b"\xff\xd8"
# Bytes in which EXIF is looked for: by its standard it comes first, behind a short header at most.
_EXIF_WITHIN = 2**16
# TensorFlow's default is a faster, coarser transform than Pillow's.
_DCT = "INTEGER_ACCURATE"


def decode_random_crop(
    encoded: tf.Tensor,
    seed: tf.Tensor,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    max_pixels: int = image_file.MAX_PIXELS,
) -> tf.Tensor:
    """string[] -> uint8[size,size,3]: a random box of the picture, squashed to the size.

    Of a plain JPEG only the box is decoded, at a half, a quarter or an eighth of its size if that
    is still twice what is asked for: the limit at which Pillow calls such a reduction all but
    indistinguishable from plain resampling (`reducing_gap` of `Image.thumbnail`).

    Args:
      encoded: as in `decode`, which also says what is raised.
      seed: int32[2].
      size: height and width of the result in pixels.
      scale: least and most part of the image's area that the box covers.
      ratio: least and most width / height of the box. When no such box fits after ten tries,
        it is the whole image.
      max_pixels: as in `decode`.
    """
    encoded = tf.convert_to_tensor(encoded)
    is_jpeg = tf.strings.substr(encoded, 0, len(_JPEG)) == _JPEG
    nothing = tf.zeros([3], tf.int64)
    shape = tf.cond(
        is_jpeg, lambda: tf.io.extract_jpeg_shape(encoded, output_type=tf.int64), lambda: nothing
    )
    start = tf.strings.substr(encoded, 0, _EXIF_WITHIN)
    has_exif = tf.strings.regex_full_match(start, rb"(?s)\C*Exif\x00\x00\C*")
    is_cmyk = shape[2] == 4  # on whose sign TensorFlow and Pillow do not always agree
    is_plain = is_jpeg & (shape[0] * shape[1] <= max_pixels) & ~has_exif & ~is_cmyk

    def of_the_file() -> tf.Tensor:
        box = _random_box(shape, seed, scale, ratio)
        reducible = tf.reduce_min(box[2:]) // (2 * size)
        fitting = sum(tf.cast(reducible >= by, tf.int32) for by in _REDUCTIONS[1:])
        return tf.switch_case(fitting, [partial(decode_box, box, by) for by in _REDUCTIONS])

    def decode_box(box: tf.Tensor, by: int) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(
            encoded, box // by, channels=3, ratio=by, dct_method=_DCT
        )

    def of_the_picture() -> tf.Tensor:
        image = _by_pillow(lambda content: image_file.decode(content, max_pixels), encoded)
        image = tf.ensure_shape(image, [None, None, 3])
        box = _random_box(tf.shape(image), seed, scale, ratio)
        return tf.image.crop_to_bounding_box(image, *tf.unstack(box))

    return resize(tf.cond(is_plain, of_the_file, of_the_picture), size, "squash")


def _random_box(
    shape: tf.Tensor, seed: tf.Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tf.Tensor:
    """int32[4], (top, left, height, width) in an image of this shape; see `decode_random_crop`."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.cast(shape, tf.int32),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=ratio,
        area_range=scale,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    # The channels come back as -1: all of them.
    return tf.concat([begin[:2], extent[:2]], axis=0)


def cutout(image: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3] with a grey square (DeVries and Taylor, 2017).

    The square's side is `size` pixels; its centre lies anywhere in the image, so that a part of
    the square may lie outside.
    """
    shape = tf.shape(image)
    centre = tf.random.stateless_uniform([2], seed) * tf.cast(shape[:2], tf.float32)
    centre = tf.cast(centre, tf.int32)
    begin = centre - size // 2
    rows, columns = tf.range(shape[0]), tf.range(shape[1])
    inside_rows = (rows >= begin[0]) & (rows < begin[0] + size)
    inside_columns = (columns >= begin[1]) & (columns < begin[1] + size)
    inside = inside_rows[:, None, None] & inside_columns[None, :, None]
    return tf.where(inside, tf.constant(GREY, tf.uint8), image)


# -------------------------------------------------------------------------------- RandAugment
#
# The fourteen operations of Cubuk et al. (2020), each as PIL defines it; strengths as in
# torchvision: none at magnitude 0, at magnitude 30 as `RANDAUGMENT_OPS` says.

MAX_MAGNITUDE = 30
_LUMA = (19595, 38470, 7471)  # PIL's weights of red, green and blue, in 1/65536


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: each channel stretched to 0 .. 255; one that is flat stays."""
    low = tf.cast(tf.reduce_min(image, axis=(0, 1)), tf.float32)
    high = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.float32)
    stretched = (tf.cast(image, tf.float32) - low) * tf.math.divide_no_nan(255.0, high - low)
    return tf.where(high > low, tf.saturate_cast(tf.floor(stretched + 1e-3), tf.uint8), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: each channel's histogram made flat."""

    def channel(values: tf.Tensor) -> tf.Tensor:
        histogram = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
        last = tf.boolean_mask(histogram, histogram > 0)[-1]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (step // 2 + tf.cumsum(histogram, exclusive=True)) // tf.maximum(step, 1)
        return tf.where(step > 0, tf.gather(tf.clip_by_value(table, 0, 255), values), values)

    values = tf.cast(image, tf.int32)
    return tf.cast(tf.stack([channel(values[..., c]) for c in range(3)], axis=-1), tf.uint8)


def solarize(image: tf.Tensor, threshold: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: values of `threshold` and above are inverted."""
    return tf.where(tf.cast(image, tf.float32) >= threshold, 255 - image, image)


def posterize(image: tf.Tensor, bits: tf.Tensor | int) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: only the upper `bits` of each value are kept."""
    shift = tf.cast(8 - bits, tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)


def _luma(image: tf.Tensor) -> tf.Tensor:
    """uint8[h,w,3] -> int32[h,w,1]."""
    weighted = tf.reduce_sum(tf.cast(image, tf.int32) * _LUMA, axis=-1, keepdims=True)
    return tf.bitwise.right_shift(weighted + 0x8000, 16)


def _blend(plain: tf.Tensor, image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """`plain` at factor 0, `image` at 1, and the line through both elsewhere; like PIL, floored."""
    plain, image = tf.cast(plain, tf.float32), tf.cast(image, tf.float32)
    return tf.saturate_cast(tf.floor(plain + factor * (image - plain)), tf.uint8)


def color(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: saturation; greyscale at factor 0."""
    return _blend(_luma(image), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: distance from the mean brightness; a flat grey at factor 0."""
    mean = tf.floor(tf.reduce_mean(tf.cast(_luma(image), tf.float32)) + 0.5)
    return _blend(mean, image, factor)


def brightness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: black at factor 0."""
    return _blend(0.0, image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: smoothed by a 3 x 3 filter at factor 0; the border stays."""
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    padded = tf.pad(tf.cast(image, tf.float32), [[1, 1], [1, 1], [0, 0]])[None]
    smooth = tf.round(tf.nn.depthwise_conv2d(padded, kernel, [1, 1, 1, 1], "VALID")[0])
    shape = tf.shape(image)
    rows, columns = tf.range(shape[0])[:, None, None], tf.range(shape[1])[None, :, None]
    border = (rows == 0) | (rows == shape[0] - 1) | (columns == 0) | (columns == shape[1] - 1)
    return _blend(tf.where(border, tf.cast(image, tf.float32), smooth), image, factor)


def affine(image: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: pixel (x, y) is taken from (a x + b y + c, d x + e y + f).

    The nearest pixel is taken, and grey where there is none.

    Args:
      image: the image.
      matrix: float32[6], (a, b, c, d, e, f); x counts columns, y rows, from the upper left.
    """
    transform = tf.concat([tf.cast(matrix, tf.float32), [0.0, 0.0]], axis=0)[None]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform,
        output_shape=tf.shape(image)[:2],
        fill_value=float(GREY),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return moved[0]


def rotate(image: tf.Tensor, degrees: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: turned counter-clockwise about the centre."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x = (tf.cast(tf.shape(image)[1], tf.float32) - 1) / 2
    y = (tf.cast(tf.shape(image)[0], tf.float32) - 1) / 2
    return affine(
        image, tf.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])
    )


def shear_x(image: tf.Tensor, amount: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: each row moves left by `amount` pixels for each row above."""
    return affine(image, tf.stack([1.0, amount, 0.0, 0.0, 1.0, 0.0]))


def shear_y(image: tf.Tensor, amount: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: each column moves up by `amount` for each column before."""
    return affine(image, tf.stack([1.0, 0.0, 0.0, amount, 1.0, 0.0]))


def translate_x(image: tf.Tensor, pixels: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: moved left by `pixels`."""
    return affine(image, tf.stack([1.0, 0.0, pixels, 0.0, 1.0, 0.0]))


def translate_y(image: tf.Tensor, pixels: tf.Tensor | float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: moved up by `pixels`."""
    return affine(image, tf.stack([1.0, 0.0, 0.0, 0.0, 1.0, pixels]))


# Name -> (image, signed strength in -1 .. 1) -> image. For operations without a direction, only
# the size of the strength counts.
RANDAUGMENT_OPS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "identity": lambda image, by: image,
    "autocontrast": lambda image, by: autocontrast(image),
    "equalize": lambda image, by: equalize(image),
    "rotate": lambda image, by: rotate(image, 30 * by),
    "solarize": lambda image, by: solarize(image, 256 - 256 * tf.abs(by)),
    "color": lambda image, by: color(image, 1 + 0.9 * by),
    "posterize": lambda image, by: posterize(
        image, 8 - tf.cast(tf.round(4 * tf.abs(by)), tf.int32)
    ),
    "contrast": lambda image, by: contrast(image, 1 + 0.9 * by),
    "brightness": lambda image, by: brightness(image, 1 + 0.9 * by),
    "sharpness": lambda image, by: sharpness(image, 1 + 0.9 * by),
    "shear_x": lambda image, by: shear_x(image, 0.3 * by),
    "shear_y": lambda image, by: shear_y(image, 0.3 * by),
    "translate_x": lambda image, by: translate_x(image, 0.45 * by * _width(image)),
    "translate_y": lambda image, by: translate_y(image, 0.45 * by * _height(image)),
}


def _height(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.shape(image)[0], tf.float32)


def _width(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.shape(image)[1], tf.float32)


def randaugment(image: tf.Tensor, seed: tf.Tensor, num_layers: int, magnitude: float) -> tf.Tensor:
    """uint8[h,w,3] -> uint8[h,w,3]: RandAugment (Cubuk et al., 2020).

    Args:
      image: the image.
      seed: int32[2].
      num_layers: how many operations are applied, each drawn from `RANDAUGMENT_OPS` anew.
      magnitude: their common strength, 0 to `MAX_MAGNITUDE`; the direction is random.
    """
    strength = magnitude / MAX_MAGNITUDE
    for layer_seed in tf.unstack(tf.random.split(seed, num_layers)):
        which, sign = tf.unstack(tf.random.split(layer_seed, 2))
        index = tf.random.stateless_uniform([], which, maxval=len(RANDAUGMENT_OPS), dtype=tf.int32)
        signed = tf.where(tf.random.stateless_uniform([], sign) < 0.5, -strength, strength)
        # `partial` binds this layer's image; a closure would see the last one.
        branches = [partial(op, image, signed) for op in RANDAUGMENT_OPS.values()]
        image = tf.ensure_shape(tf.switch_case(index, branches), image.shape)
    return image
