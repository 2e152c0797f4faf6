"""The square that the network sees, against TensorFlow's resizing in float32."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn_lstm.data.resizing import RESIZE_RULES, resize

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


def by_tensorflow(image: np.ndarray, size: int, rule: str) -> np.ndarray:
    """The whole picture resized, then cut or padded."""

    def scaled(height: int, width: int) -> np.ndarray:
        resized = tf.image.resize(image, [height, width], "bilinear", antialias=True)
        return np.round(resized.numpy())

    height, width = image.shape[:2]
    if rule == "squash":
        return scaled(size, size)
    if rule == "crop":
        shorter = round(size / 0.875)
        by = shorter / min(height, width)
        whole = scaled(*(max(shorter, round(length * by)) for length in (height, width)))
        top, left = ((length - size) // 2 for length in whole.shape[:2])
        return whole[top : top + size, left : left + size]
    by = size / max(height, width)
    part = scaled(*(max(1, round(length * by)) for length in (height, width)))
    missing = [size - length for length in part.shape[:2]]
    return np.pad(part, [*((m // 2, m - m // 2) for m in missing), (0, 0)])


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    size=st.integers(1, 64),
    rule=st.sampled_from(sorted(RESIZE_RULES)),
    seed=st.integers(0, 99),
)
@settings(max_examples=200)
def test_every_rule_gives_tensorflows_pixels_to_one_grey_level(height, width, size, rule, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    got = resize(image, size, rule)
    assert got.dtype == np.uint8 and got.shape == (size, size, 3)
    np.testing.assert_array_equal(got, resize(Image.fromarray(image), size, rule))
    if rule == "crop" and max(height, width) * size > 20_000 * min(height, width):
        return  # the whole picture would be large
    assert np.abs(got - by_tensorflow(image, size, rule)).max() <= 1


def test_an_image_of_the_right_size_is_left_alone():
    for rule in ("squash", "pad"):
        np.testing.assert_array_equal(resize(IMAGE[:, :24], 24, rule), IMAGE[:, :24])


@pytest.mark.parametrize("swap", [False, True])
def test_crop_keeps_the_centre(swap):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200  # the central square
    image = image.swapaxes(0, 1) if swap else image
    np.testing.assert_array_equal(resize(image, 20, "crop"), np.full((20, 20, 3), 200))
    # Where the shorter side is 32 already, the 28 pixels of the centre are as they were.
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    centre = image[2:30, 18:46]
    image, centre = (image.swapaxes(0, 1), centre.swapaxes(0, 1)) if swap else (image, centre)
    np.testing.assert_array_equal(resize(image, 28, "crop"), centre)


@pytest.mark.parametrize("swap", [False, True])
def test_pad_centres_the_whole_image_between_zeros(swap):
    image = np.full((40, 80, 3), 200, np.uint8)
    want = np.zeros((20, 20, 3), np.uint8)
    want[5:15] = 200
    if swap:
        image, want = image.swapaxes(0, 1), want.swapaxes(0, 1)
    np.testing.assert_array_equal(resize(image, 20, "pad"), want)


@pytest.mark.parametrize("swap", [False, True])
def test_a_strip_is_cropped_at_its_centre_without_being_scaled_as_a_whole(swap):
    image = np.zeros((2, 60_001, 3), np.uint8)
    image[:, 29_990:30_011] = 200
    image = image.swapaxes(0, 1) if swap else image
    got = resize(image, 448, "crop")
    np.testing.assert_array_equal(got, np.full((448, 448, 3), 200))
