"""Attention maps over images: where they lie, how bright they are."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.reports.overlay import draw_panels, overlay

RULES = ("squash", "crop", "pad")
GREY = np.full((60, 90, 3), 128, np.uint8)


def lit(attention, resize, image=GREY):
    """float[H,W]: what the map adds to an image, as brightness above that of a map of zeros."""
    dark = overlay(image, np.zeros_like(attention), resize)
    return overlay(image, attention, resize).astype(float).sum(-1) - dark.astype(float).sum(-1)


@given(
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.sampled_from(RULES),
    st.integers(0, 2**32 - 1),
)
def test_any_image_under_any_map_keeps_its_size_and_ignores_the_scale(size, grid, resize, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    attention = rng.random(grid, np.float32)
    drawn = overlay(image, attention, resize)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, overlay(image, attention * 4, resize))


@pytest.mark.parametrize("resize", RULES)
@pytest.mark.parametrize("size", [(60, 90), (90, 60), (64, 64), (40, 200)])
def test_a_region_lights_up_where_the_network_saw_it(resize, size):
    from attn_lstm.data.resizing import resize as resized

    height, width = size
    places = np.zeros((*size, 3), np.uint8)
    places[..., 0] = 50 + np.arange(height)[:, None]
    places[..., 1] = 50 + np.arange(width)
    places[..., 2] = 255  # not so on borders
    side, cells = 210, 7
    square = resized(places, side, resize)
    for row in range(cells):
        for column in range(cells):
            attention = np.zeros((cells, cells), np.float32)
            attention[row, column] = 1
            light = lit(attention, resize, np.full_like(places, 128))
            y, x = (side // cells * i + side // cells // 2 for i in (row, column))
            if square[y, x, 2] < 250:  # on a border
                continue
            peak = np.unravel_index(light.argmax(), light.shape)
            seen = square[y, x, :2].astype(int) - 50
            # Half a region: where it is cut off, its centre may lie outside of the image.
            assert np.abs(peak - seen).max() <= max(size) / cells / 2 + 1


def test_colours_stand_for_the_weights_interpolated_between_the_centres_of_regions():
    attention = np.asarray([[0.0, 0.2]], np.float32)
    drawn = overlay(np.zeros((4, 400, 3), np.uint8), attention, "squash")
    weights = np.interp(np.arange(400) + 0.5, [100, 300], [0.0, 1.0])
    expected = matplotlib.colormaps["inferno"](weights)[:, :3] * 255 / 2
    assert np.abs(drawn - expected).max() <= 2


def test_an_even_map_is_bright_all_over():
    drawn = overlay(GREY, np.full((7, 7), 1 / 49, np.float32), "squash")
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1
    assert drawn[0, 0].astype(int).sum() > GREY[0, 0].astype(int).sum()


def test_what_the_crop_left_away_is_pale_whatever_the_map():
    maps = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    first, second = (overlay(GREY, attention, "crop") for attention in maps)
    same = (first == second).all(-1)
    assert same[:, :18].all()
    assert same[:, 72:].all()
    assert same[:3].all()
    assert same[-3:].all()
    assert (first[same] > 200).all()
    assert not same[4:-4, 19:71].all()


def test_weights_on_the_borders_of_a_padded_image_are_not_on_it():
    attention = np.zeros((12, 12), np.float32)
    attention[0] = attention[-1] = 1
    assert lit(attention, "pad").max() == 0
    assert lit(attention, "squash").max() > 0


@pytest.mark.parametrize(
    ("image", "attention", "resize", "match"),
    [
        (GREY.astype(np.float32), np.ones((2, 2)), "squash", "float32"),
        (GREY[..., 0], np.ones((2, 2)), "squash", r"60, 90"),
        (GREY, np.ones(4), "squash", r"\[4\]"),
        (GREY, np.ones((2, 2)), "stretch", "stretch"),
    ],
)
def test_other_arguments_are_errors(image, attention, resize, match):
    with pytest.raises(ValueError, match=match):
        overlay(image, attention, resize)


def test_panels_show_the_image_and_each_map_in_rows_of_four():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 90, 3), np.uint8)
    maps = [(f"{i}. label", rng.random((7, 7), np.float32)) for i in range(6)]
    alone, four, seven = (draw_panels(image, "name", maps[:n], "squash") for n in (0, 3, 6))
    assert alone.width < four.width == seven.width
    assert alone.height == four.height < seven.height
    # The image comes first, and the maps look like nothing else.
    head = np.asarray(seven)[:270, : alone.width - 8]
    np.testing.assert_array_equal(head, np.asarray(alone)[:270, : alone.width - 8])
    assert (np.asarray(four)[30:270, 376:736] != np.asarray(four)[30:270, 8:368]).any(-1).all()


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_panels_of_any_shape_and_with_captions_of_any_length(size):
    image = np.zeros((*size, 3), np.uint8)
    captions = ["", "x" * 500, "two\nlines", "字 $ü$"]
    maps = [(text, np.ones((3, 3), np.float32)) for text in captions]
    assert draw_panels(image, "y" * 300, maps, "pad").width == 4 * 368 + 8
