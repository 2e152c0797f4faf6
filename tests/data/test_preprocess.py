import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from attn_lstm.data import preprocess

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (24, 36, 3), np.uint8)
# Smooth, so that resampling can be compared.
RAMP = np.stack(
    [
        np.add.outer(np.arange(48) * 3, np.arange(64)),
        np.add.outer(np.arange(48), np.arange(64) * 3),
        np.full((48, 64), 77),
    ],
    axis=-1,
).astype(np.uint8)


def both_ways(function, *values):
    """The result of `function`, after checking that a graph computes what eager execution does."""
    tensors = [tf.constant(value) for value in values]
    eager = function(*tensors).numpy()
    dataset = tf.data.Dataset.from_tensors(tuple(tensors)).map(function)
    (graph,) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(eager, graph)
    assert eager.dtype == np.uint8
    return eager


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_a_file_is_shown_as_pillow_decodes_and_resizes_it(kind):
    data = encoded(Image.fromarray(RAMP), kind)
    got = both_ways(lambda data: preprocess.decode(data, 20, "squash"), data)
    want = Image.open(io.BytesIO(data)).convert("RGB").resize((20, 20), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, want)


JPEG = encoded(Image.fromarray(RAMP), "JPEG")


@pytest.mark.parametrize(
    "data", [b"", b"BM", b"no image", JPEG[: len(JPEG) // 2], b"<svg></svg>", b"\xff\xd8\xff"]
)
def test_what_is_no_whole_image_is_an_error(data):
    def shown(data):
        return preprocess.decode(data, 8, "squash")

    with pytest.raises(tf.errors.InvalidArgumentError):
        shown(tf.constant(data))
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(tf.data.Dataset.from_tensors(data).map(shown))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_too_many_pixels_are_an_error_that_names_the_limit(kind):
    data = encoded(Image.fromarray(RAMP), kind)
    assert preprocess.decode(tf.constant(data), 8, "squash", 48 * 64).shape == (8, 8, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"64 x 48 .* data\.max_pixels=3071"):
        preprocess.decode(tf.constant(data), 8, "squash", 48 * 64 - 1)


# ----------------------------------------------------------------- augmentation without a table


SEEDS = [np.array([7, i], np.int32) for i in range(40)]


def test_flips_are_mirror_images_half_of_the_time():
    flipped = 0
    for seed in SEEDS:
        got = preprocess.random_flip(IMAGE, seed).numpy()
        mirrored = np.array_equal(got, IMAGE[:, ::-1])
        assert mirrored or np.array_equal(got, IMAGE)
        flipped += mirrored
    assert 10 <= flipped <= 30
    both_ways(preprocess.random_flip, IMAGE, SEEDS[0])


def test_random_crops_keep_the_scale_and_the_ratio_asked_for():
    # The value of a pixel is its place, so that the corners tell the box.
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    image = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    data = encoded(Image.fromarray(image), "PNG")
    boxes = set()
    for seed in SEEDS:
        got = preprocess.decode_random_crop(data, seed, 50, (0.3, 0.6)).numpy().astype(int)
        # The middles of the outermost of 50 cells are 49/50 of the box apart.
        height = (got[-1, 0, 0] - got[0, 0, 0]) * 50 / 49
        width = (got[0, -1, 1] - got[0, 0, 1]) * 50 / 49
        assert 0.27 <= height * width / 200**2 <= 0.64
        assert 0.7 <= width / height <= 1.42
        boxes.add((got[0, 0, 0], got[0, 0, 1], height, width))
    assert len(boxes) == len(SEEDS)
    for kind in ("PNG", "JPEG"):
        both_ways(
            lambda data, seed: preprocess.decode_random_crop(data, seed, 50, (0.3, 0.6)),
            encoded(Image.fromarray(image), kind),
            SEEDS[0],
        )


@pytest.mark.parametrize(
    ("height", "width", "shift"),
    [(120, 90, 0), (300, 400, 0.5), (640, 480, 0.5), (1300, 1100, 0.5)],
)
def test_of_a_jpeg_the_box_alone_is_decoded_and_is_that_of_the_whole_picture(height, width, shift):
    """The larger ones also at 1/2, 1/4 and 1/8.

    A box begins at whole pixels of these, which are half as large as those of the result.
    """
    rows, columns = np.meshgrid(np.linspace(0, 9, height), np.linspace(0, 9, width), indexing="ij")
    waves = [np.sin(rows + columns / 2), np.cos(columns), np.sin(rows)]
    picture = Image.fromarray((128 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))
    data = encoded(picture, "JPEG", quality=95)
    whole = encoded(Image.open(io.BytesIO(data)), "PNG")
    for seed in SEEDS[:8]:
        got, want = (
            preprocess.decode_random_crop(each, seed, 64, (0.2, 1.0)).numpy().astype(int)
            for each in (data, whole)
        )
        slopes = [np.abs(np.diff(want, axis=axis)).mean() for axis in (0, 1)]
        assert np.abs(got - want).mean() < 0.3 + shift * sum(slopes)


def test_cutout_greys_one_square_and_nothing_else():
    areas = []
    for seed in SEEDS:
        got = preprocess.cutout(np.zeros((20, 30, 3), np.uint8), seed, 6).numpy()
        grey = (got == preprocess.GREY).all(-1)
        assert ((got == 0).all(-1) | grey).all()
        rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
        assert grey.sum() == len(rows) * len(columns)
        assert len(rows) <= 6 and len(columns) <= 6
        areas.append(grey.sum())
    assert max(areas) == 36
    both_ways(lambda image, seed: preprocess.cutout(image, seed, 6), IMAGE, SEEDS[0])


# -------------------------------------------------------------------------------- RandAugment


def near(got: np.ndarray, want: Image.Image, by: int) -> None:
    assert np.abs(got.astype(int) - np.asarray(want)).max() <= by


FLAT = np.full((9, 9, 3), 50, np.uint8)
NARROW = (IMAGE // 3 + 40).astype(np.uint8)
LARGE = RNG.integers(0, 256, (64, 64, 3), np.uint8) // 2


@pytest.mark.parametrize("image", [IMAGE, RAMP, FLAT, NARROW, LARGE])
def test_ops_on_histograms_agree_with_pil(image):
    pil = Image.fromarray(image)
    near(both_ways(preprocess.autocontrast, image), ImageOps.autocontrast(pil), 1)
    near(both_ways(preprocess.equalize, image), ImageOps.equalize(pil), 0)


@pytest.mark.parametrize("threshold", [0, 1, 128, 255])
def test_solarize_agrees_with_pil(threshold):
    got = both_ways(lambda image: preprocess.solarize(image, threshold), IMAGE)
    near(got, ImageOps.solarize(Image.fromarray(IMAGE), threshold), 0)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_posterize_agrees_with_pil(bits):
    got = both_ways(lambda image: preprocess.posterize(image, bits), IMAGE)
    near(got, ImageOps.posterize(Image.fromarray(IMAGE), bits), 0)


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 1.9])
@pytest.mark.parametrize(
    ("op", "enhance"),
    [
        (preprocess.color, ImageEnhance.Color),
        (preprocess.contrast, ImageEnhance.Contrast),
        (preprocess.brightness, ImageEnhance.Brightness),
        (preprocess.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements_agree_with_pil(op, enhance, factor):
    for image in (IMAGE, RAMP):
        got = both_ways(lambda image: op(image, factor), image)
        near(got, enhance(Image.fromarray(image)).enhance(factor), 1)


def test_whole_pixel_moves_are_exact():
    grey = preprocess.GREY
    left = both_ways(lambda image: preprocess.translate_x(image, 5.0), IMAGE)
    np.testing.assert_array_equal(left[:, :-5], IMAGE[:, 5:])
    assert (left[:, -5:] == grey).all()
    up = both_ways(lambda image: preprocess.translate_y(image, -4.0), IMAGE)
    np.testing.assert_array_equal(up[4:], IMAGE[:-4])
    assert (up[:4] == grey).all()
    square = IMAGE[:, :24]
    turned = both_ways(lambda image: preprocess.rotate(image, 90.0), square)
    np.testing.assert_array_equal(turned, np.rot90(square))


def test_shears_move_each_line_by_its_distance():
    across = both_ways(lambda image: preprocess.shear_x(image, 1.0), IMAGE)
    down = both_ways(lambda image: preprocess.shear_y(image, 1.0), IMAGE)
    for i in range(24):
        np.testing.assert_array_equal(across[i, : 36 - i], IMAGE[i, i:])
        np.testing.assert_array_equal(down[: 24 - i, i], IMAGE[i:, i])


def test_rotation_agrees_with_pil():
    got = both_ways(lambda image: preprocess.rotate(image, 30.0), RAMP)
    want = Image.fromarray(RAMP).rotate(
        30, Image.Resampling.NEAREST, fillcolor=(preprocess.GREY,) * 3
    )
    off = (np.abs(got.astype(int) - np.asarray(want)) > 4).any(-1)
    assert off.mean() < 0.02  # pixels at the edge between the image and the grey


@pytest.mark.parametrize("name", sorted(preprocess.RANDAUGMENT_OPS))
def test_no_op_changes_the_image_at_strength_zero_except_by_histogram(name):
    op = preprocess.RANDAUGMENT_OPS[name]
    got = both_ways(lambda image: op(image, tf.constant(0.0)), NARROW)
    assert got.shape == NARROW.shape
    if name not in ("autocontrast", "equalize"):
        near(got, Image.fromarray(NARROW), 0)
    for strength in (-1.0, 1.0):
        strong = both_ways(lambda image, by=strength: op(image, tf.constant(by)), NARROW)
        assert name == "identity" or not np.array_equal(strong, NARROW)


def test_randaugment_draws_every_op_and_repeats_itself():
    by_op = [
        {op(tf.constant(IMAGE), tf.constant(by)).numpy().tobytes() for by in (-0.5, 0.5)}
        for op in preprocess.RANDAUGMENT_OPS.values()
    ]
    draw = tf.function(lambda seed: preprocess.randaugment(tf.constant(IMAGE), seed, 1, 15))
    results = {draw(np.array([3, i], np.int32)).numpy().tobytes() for i in range(200)}
    assert results <= set().union(*by_op)
    assert all(op & results for op in by_op)
    both_ways(lambda image, seed: preprocess.randaugment(image, seed, 3, 15), IMAGE, SEEDS[0])


def test_each_layer_draws_its_own_op():
    results = [
        preprocess.randaugment(tf.constant(NARROW), SEEDS[3], layers, 30).numpy()
        for layers in (0, 1, 2)
    ]
    np.testing.assert_array_equal(results[0], NARROW)
    assert not np.array_equal(results[1], results[2])
