"""Single images, against the pixels of the pipeline."""

import numpy as np
import pytest
from PIL import Image

from attn_lstm.data import pipeline
from attn_lstm.data.images import as_picture, read_image, read_picture
from attn_lstm.data.resizing import resize
from attn_lstm.data.split import FileSource, Split
from attn_lstm.errors import UserError

RNG = np.random.default_rng(0)
COLOURS = Image.fromarray(np.asarray(Image.fromarray(
    RNG.integers(0, 256, (6, 9, 3), np.uint8)).resize((90, 60))))  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One image in every form that people have on disk."""
    folder = tmp_path_factory.mktemp("images")
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera upright
    COLOURS.save(folder / "plain.jpg", quality=90)
    COLOURS.save(folder / "turned.jpg", quality=90, exif=exif)
    COLOURS.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    COLOURS.convert("L").save(folder / "grey.jpg", quality=90)
    COLOURS.convert("L").save(folder / "grey.png")
    COLOURS.convert("RGBA").save(folder / "clear.png")
    COLOURS.convert("P").save(folder / "palette.png")
    COLOURS.convert("P").save(folder / "palette.gif")
    COLOURS.save(folder / "plain.bmp")
    Image.fromarray(np.asarray(COLOURS.convert("L"), np.uint16) * 257).save(folder / "deep.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("rule", ["squash", "crop", "pad"])
def test_files_give_the_pixels_of_evaluation(files, rule):
    names = tuple(path.name for path in files)
    labels = np.zeros((len(files), 1), bool)
    split = Split("some", "test", ("label",), names, labels, FileSource(files[0].parent, names))
    (batch,) = pipeline.eval_batches(
        split, batch_size=len(files), image_size=32, resize=rule, on_bad_image="error",
        process_index=0, process_count=1,
    )  # fmt: skip
    for path, expected in zip(files, batch.inputs, strict=True):
        np.testing.assert_array_equal(resize(read_picture(path), 32, rule), expected, path.name)


def test_pillow_images_are_read_as_their_files(files):
    for path in files:
        with Image.open(path) as image:
            picture = as_picture(image, "image")
        np.testing.assert_array_equal(picture, read_picture(path), path.name)
        np.testing.assert_array_equal(picture, read_image(path), path.name)


def test_arrays_pass_as_they_are_and_grey_ones_get_three_channels():
    pixels = np.asarray(COLOURS)
    np.testing.assert_array_equal(as_picture(pixels, "image"), pixels)
    grey = as_picture(pixels[..., 0], "image")
    np.testing.assert_array_equal(grey, pixels[..., :1].repeat(3, -1))


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (np.zeros((4, 4, 3), np.float32), r"number 3 is float32\[4, 4, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8\[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8\[0, 4, 3\]"),
        ([[1, 2]], "number 3 is a list"),
        ("no/such/file.jpg", "no/such/file.jpg: No such file"),
        (".", "Is a directory"),
        ("a\0b", "null"),
    ],
)
def test_what_is_no_image_is_named(image, match):
    with pytest.raises(UserError, match=match):
        as_picture(image, "number 3")


@pytest.mark.parametrize("content", [b"", b"this is no picture", b"\xff\xd8\xff\xe0 cut off"])
def test_a_file_that_does_not_decode_is_one_line(tmp_path, content):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.jpg: ") as raised:
        read_picture(path)
    assert "\n" not in str(raised.value)
    assert "Op:" not in str(raised.value)


def test_a_damaged_pillow_image_is_named(tmp_path, files):
    path = tmp_path / "half.png"
    path.write_bytes(next(f for f in files if f.name == "clear.png").read_bytes()[:300])
    with Image.open(path) as image, pytest.raises(UserError, match="number 3: "):
        as_picture(image, "number 3")


def test_a_file_of_too_many_pixels_is_refused(files):
    with pytest.raises(UserError, match="max_pixels"):
        read_picture(next(f for f in files if f.name == "grey.png"), max_pixels=100)
