"""Boxes in the pixels of a file, against where a red object is in the decoded picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from attn_lstm.data import image_file
from attn_lstm.data.boxes import PixelBoxes

WIDTH, HEIGHT = 96, 48
BOX = (60, 8, 90, 44)  # left, top, right, bottom of the object in the stored picture


def write(path: Path, orientation: int = 1, size=(WIDTH, HEIGHT), box=BOX) -> Path:
    """A grey picture with a red object, and a note of how it is to be turned."""
    pixels = np.full((size[1], size[0], 3), 80, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (220, 40, 40)
    notes = Image.Exif()
    notes[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=notes)
    return path


def seen(path: Path) -> np.ndarray:
    """Where the object is in the picture as it is decoded: top, left, bottom, right in parts."""
    pixels = image_file.decode(path.read_bytes())
    rows, columns = (np.flatnonzero((pixels[..., 0] > 150).any(axis)) for axis in (1, 0))
    corners = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
    return corners / np.tile(pixels.shape[:2], 2)


def placed(pictures, warnings=()) -> list[np.ndarray]:
    """What becomes of (path, (width, height) that the file states, box) each, label 7."""
    boxes = PixelBoxes(
        Path("instances.json"),
        [np.array([[7, *box]], float) for _, _, box in pictures],
        np.array([size for _, size, _ in pictures]),
        [str(path) for path, _, _ in pictures],
    )
    return [boxes[row] for row in range(len(boxes))]


def upright(orientation: int, box=BOX) -> tuple[tuple[int, int], tuple[float, ...]]:
    """Size and box of the picture after EXIF turns it, by Pillow."""
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(255, box)
    notes = Image.Exif()
    notes[ExifTags.Base.Orientation] = orientation
    mask.info["exif"] = notes.tobytes()
    mask.getexif()[ExifTags.Base.Orientation] = orientation
    turned = ImageOps.exif_transpose(mask)
    return turned.size, turned.getbbox()


@pytest.fixture
def said(caplog):
    """The warnings of the test."""
    from absl import logging

    logging.get_absl_logger().propagate = True
    with caplog.at_level("WARNING"):
        yield lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_upright_picture_are_where_the_object_is(tmp_path, orientation):
    path = write(tmp_path / "a.png", orientation)
    size, box = upright(orientation)
    (found,) = placed([(path, size, box)])
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_stored_picture_are_turned_with_it(tmp_path, orientation):
    path = write(tmp_path / "a.png", orientation)
    (found,) = placed([(path, (WIDTH, HEIGHT), BOX)])
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=1e-6)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_what_sizes_leave_open_is_as_in_the_other_pictures(tmp_path, orientation, said):
    path, other = write(tmp_path / "a.png", orientation), write(tmp_path / "b.png", 6)
    stored = (path, (WIDTH, HEIGHT), BOX)
    found, _ = placed([stored, (other, (WIDTH, HEIGHT), BOX)])
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=1e-6)
    box = upright(orientation)[1]
    found, _ = placed([(path, (WIDTH, HEIGHT), box), (other, *upright(6))])
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=1e-6)
    assert not said()
    (found,) = placed([(path, (WIDTH, HEIGHT), box)])  # with no other picture: upright
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=1e-6)
    (warning,) = said()
    assert "EXIF turns 1 pictures" in warning and str(path) in warning


@pytest.mark.parametrize("scale", [0.5, 3.3])
def test_pictures_that_were_scaled_since_keep_their_boxes(tmp_path, scale):
    path = write(tmp_path / "a.png")
    size = (round(WIDTH * scale), round(HEIGHT * scale))
    box = tuple(side * scale for side in BOX)
    (found,) = placed([(path, size, box)])
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=0.02)


def test_boxes_need_no_size_in_the_file(tmp_path):
    path = write(tmp_path / "a.png")
    (found,) = placed([(path, (0, 0), BOX)])
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=1e-6)


def test_exchanged_sides_are_put_right_where_boxes_show_whose_they_are(tmp_path, said):
    """Width and height are swapped in the file; a box beyond them lies inside of the picture."""
    path = write(tmp_path / "a.png")
    low = write(tmp_path / "b.png", box=(4, 4, 20, 20))  # has room in either
    found = placed([(path, (HEIGHT, WIDTH), BOX), (low, (HEIGHT, WIDTH), (4, 4, 20, 20))])
    for boxes, picture in zip(found, (path, low), strict=True):
        np.testing.assert_allclose(boxes, [[7, *seen(picture)]], atol=1e-6)
    assert not said()


@pytest.mark.parametrize("orientation", [5, 6])  # by 7 and 8 the object comes to lie within both
def test_sizes_of_the_stored_picture_may_stand_beside_boxes_of_the_upright_one(
    tmp_path, orientation, said
):
    path = write(tmp_path / "a.png", orientation)
    box = upright(orientation)[1]  # reaches beyond the stated height
    (found,) = placed([(path, (WIDTH, HEIGHT), box)])
    np.testing.assert_allclose(found, [[7, *seen(path)]], atol=1e-6)
    assert not said()


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((HEIGHT, WIDTH), (4, 4, 20, 20)),  # swapped sizes, or of a picture that was turned since
        ((HEIGHT, WIDTH), (4, 60, 20, 90)),  # of a picture that was turned since, who knows how
        ((64, 64), (4, 4, 20, 20)),  # of a picture that was cut since
    ],
)
def test_boxes_of_another_picture_are_left_out_and_counted(tmp_path, said, size, box):
    path, sound = write(tmp_path / "a.png"), write(tmp_path / "b.png")
    found = placed([(path, size, box), (sound, (WIDTH, HEIGHT), BOX)])
    assert found[0].shape == (0, 5)
    np.testing.assert_allclose(found[1], [[7, *seen(sound)]], atol=1e-6)
    (warning,) = said()
    assert "instances.json states sizes of 1 of 2 pictures that are not theirs" in warning
    assert f"{path} ({size[0]} x {size[1]} there, 96 x 48)" in warning


def test_pictures_that_cannot_be_read_keep_what_the_file_says(tmp_path):
    (found,) = placed([(tmp_path / "none.png", (WIDTH, HEIGHT), BOX)])
    np.testing.assert_allclose(found, [[7, 8 / 48, 60 / 96, 44 / 48, 90 / 96]])


def test_only_the_selected_pictures_are_read(tmp_path):
    path = write(tmp_path / "a.png", 6)
    boxes = PixelBoxes(
        Path("x"),
        [np.array([[0, *BOX]], float), np.zeros((0, 5)), np.array([[1, *BOX]], float)],
        np.array([(64, 64), (0, 0), (WIDTH, HEIGHT)]),
        ["/dev/full", "/nowhere", str(path)],
    )
    chosen = boxes.select(np.array([2, 1])).with_columns(np.array([5, 4]))
    np.testing.assert_allclose(chosen[0], [[4, *seen(path)]], atol=1e-6)
    assert chosen[1].shape == (0, 5) and len(chosen) == 2
