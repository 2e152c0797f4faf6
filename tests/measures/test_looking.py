"""Measures of looking, worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.measures.looking import deletion, pairs, pointing, same_peak, total_variation

# One image of 2 x 2 regions with centres at 1/4 and 3/4. Label 0 fills the upper half, label 1 the
# lower right quarter.
BOXES = [np.array([[0, 0, 0, 0.5, 1], [1, 0.5, 0.5, 1, 1]], np.float32)]


def test_pairs_are_of_the_labels_of_one_image():
    assert pairs(np.array([[5, 3, 4], [2, -1, -1], [1, 0, -1]])) == [
        (0, 0, 1), (0, 0, 2), (0, 1, 2), (2, 0, 1)
    ]  # fmt: skip


def test_total_variation_is_the_weight_that_has_to_move():
    maps = np.array([[[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]], np.float16)
    np.testing.assert_allclose(total_variation(maps, np.array([[2, 1, 0]])), [0.5, 1.0, 1.0])
    assert total_variation(maps, np.array([[2, -1, -1]])).shape == (0,)


@given(st.integers(0, 2**32 - 1))
def test_total_variation_lies_between_equal_and_disjoint_maps(seed):
    maps = np.random.default_rng(seed).dirichlet(np.full(9, 0.3), (4, 3))
    sequence = np.tile(np.arange(3), (4, 1))
    found = total_variation(maps, sequence)
    assert ((found >= 0) & (found <= 1 + 1e-9)).all()
    np.testing.assert_allclose(total_variation(maps[:, [0, 0, 0]], sequence), 0)


def test_same_peak_counts_pairs():
    peaks, sequence = np.array([[3, 3, 1], [2, 2, 2]]), np.array([[0, 1, 2], [1, -1, -1]])
    assert same_peak(peaks, sequence) == {"pairs": 3, "same_peak": pytest.approx(100 / 3)}
    assert same_peak(peaks, sequence[1:]) == {"pairs": 0}


def test_same_peak_with_boxes_counts_correct_labels_whose_boxes_differ():
    sequence, peaks = np.array([[0, 1, 2]]), np.array([[3, 3, 3]])
    assert same_peak(peaks, sequence, BOXES) == {"pairs": 1, "same_peak": 100.0}  # 2 has no box
    one_place = [np.array([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1]])]
    assert same_peak(peaks, sequence, one_place) == {"pairs": 0}


def test_pointing_counts_peaks_inside_the_boxes_of_correct_labels():
    # Label 2 is predicted but not there. Label 0's first peak is in its box, label 1's is in the
    # lower left; the second maps miss both. The middle of the image is a corner of both boxes.
    sequence = np.array([[0, 1, 2]])
    peaks = {"attention": np.array([[1, 2, 0]]), "cam": np.array([[2, 0, 0]])}
    assert pointing(sequence, peaks, 4, BOXES) == {
        "labels": 2,
        "attention": 50.0,
        "cam": 0.0,
        "centre": 100.0,
        "uniform": pytest.approx(100 * (0.5 + 0.25) / 2),
    }


def test_pointing_without_a_correct_label_gives_no_share():
    none = [np.zeros((0, 5), np.float32)]
    assert pointing(np.array([[0]]), {"attention": np.array([[0]])}, 4, none) == {"labels": 0}


# A label a region: label l is there as long as region l of 20 is, and 5 regions are taken away.
def needs_its_region(gone):
    return np.where(gone, 0.1, 0.9)


def test_deletion_tells_a_label_that_looked_at_what_it_needs_from_one_that_did_not():
    maps = np.zeros((1, 2, 20), np.float32)
    maps[0, 0, [4, 10, 11, 12, 13]] = 0.2  # label 4 looks at its own place
    maps[0, 1, 14:19] = 0.2  # label 7 does not
    found = deletion(needs_its_region, np.array([[4, 7]]), maps, np.random.default_rng(0))
    assert (found["labels"], found["regions"]) == (2, 5)
    assert found["probability"] == pytest.approx(90)
    assert found["own"] == pytest.approx((80 + 0) / 2)
    assert found["others"] == 0.0


def test_deletion_sees_that_regions_are_needed_by_other_labels_too():
    maps = np.zeros((2, 3, 20), np.float32)
    maps[:, :, :5] = 0.2
    sequence = np.array([[0, 1, 9], [7, -1, -1]])
    found = deletion(needs_its_region, sequence, maps, np.random.default_rng(0))
    assert found["own"] == pytest.approx(80 * 2 / 4)
    # Of the image's other two labels those at 0 and 1 fall, and 9 does not.
    assert found["others"] == pytest.approx((40 + 40 + 80) / 3)


@pytest.mark.parametrize("precision", [np.float16, np.float32])
def test_an_even_map_has_no_advantage_over_random_regions(precision):
    maps = np.full((1000, 2, 20), 1 / 20, precision)
    sequence = np.random.default_rng(1).permuted(np.tile(np.arange(20), (1000, 1)), axis=1)[:, :2]
    found = deletion(needs_its_region, sequence, maps, np.random.default_rng(0))
    for name in ("own", "random", "others"):
        assert found[name] == pytest.approx(80 * 5 / 20, abs=2)


def test_deletion_without_a_label_or_a_region_to_take_tries_none():
    rng = np.random.default_rng(0)
    for sequence, regions in ((-1, 4), (0, 3)):
        maps = np.full((2, 1, regions), 1 / regions)
        assert deletion(None, np.full((2, 1), sequence), maps, rng) == {"labels": 0}
