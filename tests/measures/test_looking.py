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


def test_deletion_tells_a_label_that_needs_its_region_from_one_that_does_not():
    # One channel a label, present in one region each of 20; 2 are taken away. A label's score is
    # the largest value of its channel, so that it falls only with the region that it lies in.
    features = np.zeros((1, 20, 3), np.float32)
    features[0, [4, 7], [0, 1]] = 1.0
    maps = np.zeros((1, 2, 20), np.float32)
    maps[0, 0, [4, 5]] = 0.6, 0.4  # label 0 looks at its own place
    maps[0, 1, [1, 2]] = 0.6, 0.4  # label 1 does not
    found = deletion(
        lambda x: x.max(axis=1), features, np.array([[0, 1]]), maps, np.random.default_rng(0)
    )
    assert found["labels"] == 2
    # The mean feature, 1/20, comes in the place of label 0's own.
    assert found["own"] == pytest.approx(100 * (0.95 + 0) / 2)
    assert found["others"] == 0.0


def test_deletion_of_random_regions_takes_their_share_on_average():
    features = np.zeros((400, 20, 1), np.float32)
    features[:, 3] = 1.0
    maps = np.zeros((400, 1, 20), np.float32)
    maps[:, 0, 3] = 1.0
    sequence = np.zeros((400, 1), int)
    found = deletion(lambda x: x.max(axis=1), features, sequence, maps, np.random.default_rng(0))
    assert found["own"] == pytest.approx(95.0)
    assert found["random"] == pytest.approx(9.5, abs=2.5)  # 2 of 20 regions
    assert "others" not in found


def test_deletion_without_a_label_tries_none():
    features, maps = np.ones((2, 4, 1), np.float32), np.full((2, 1, 4), 0.25)
    none = np.full((2, 1), -1)
    assert deletion(lambda x: x.mean(1), features, none, maps, np.random.default_rng(0)) == {
        "labels": 0
    }
