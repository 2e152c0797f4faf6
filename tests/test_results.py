"""Figures of predictions, worked by hand."""

import numpy as np
import pytest

from attn_lstm.data.split import Split
from attn_lstm.results import Predictions, choose_threshold, pointing, report


def predictions(labels, truth, sequence=None, peaks=None, regions=None):
    labels, truth = np.asarray(labels, bool), np.asarray(truth, bool)
    count = len(labels)
    sequence = np.full((count, 2), -1) if sequence is None else np.asarray(sequence)
    return Predictions(
        labels=labels,
        scores=labels.astype(np.float32),
        sequence=sequence,
        probabilities=np.ones(sequence.shape, np.float32),
        peaks=None if peaks is None else np.asarray(peaks),
        losses={"map": np.full(count, 2.0), "step": np.arange(count, dtype=np.float32)},
        truth=truth,
        image_id=np.arange(count, dtype=np.int32),
        regions=regions,
    )


def split(truth, boxes=None):
    truth = np.asarray(truth, bool)
    names = tuple(f"label{i}" for i in range(truth.shape[1]))
    return Split("toy", "test", names, tuple(map(str, range(len(truth)))), truth, None, boxes)


def test_pointing_counts_peaks_inside_the_boxes_of_correct_labels():
    # One image, 2 x 2 regions with centres at 1/4 and 3/4. Label 0 fills the upper half, label 1
    # the lower right quarter; label 2 is predicted but not there.
    boxes = (np.array([[0, 0, 0, 0.5, 1], [1, 0.5, 0.5, 1, 1]], np.float32),)
    seen = predictions([[1, 1, 1]], [[1, 1, 0]], [[0, 1, 2]], [[1, 2, 0]], regions=4)
    assert pointing(seen, split([[1, 1, 0]], boxes)) == {
        "labels": 2,
        "attention": 50.0,  # label 0's peak is in its box, label 1's in the lower left
        "uniform": pytest.approx(100 * (0.5 + 0.25) / 2),
    }


def test_pointing_without_a_correct_label_gives_no_share():
    boxes = (np.zeros((0, 5), np.float32),)
    assert pointing(predictions([[0]], [[1]], [[-1]], [[0]], 4), split([[1]], boxes)) == {
        "labels": 0
    }


def test_the_report_names_labels_counts_and_parts_of_the_loss():
    truth = [[1, 0], [0, 1], [1, 1]]
    result = report(predictions([[1, 0], [1, 0], [1, 1]], truth), split(truth))
    assert result["C-P"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert (result["images"], result["labels"]) == (3, 2)
    assert result["loss_map"] == 2.0
    assert result["loss_step"] == 1.0
    assert result["loss"] == 3.0
    assert result["set_size"] == {"true": pytest.approx(4 / 3), "predicted": pytest.approx(4 / 3)}
    assert list(result["per_class"]) == ["label0", "label1"]
    assert result["per_class"]["label0"]["recall"] == 100.0
    assert "pointing" not in result


def test_undefined_figures_of_a_class_are_null():
    result = report(predictions([[1, 0]], [[1, 0]]), split([[1, 0]]))
    assert result["per_class"]["label1"]["recall"] is None


def test_the_chosen_threshold_has_the_best_mean_of_both_f1_and_lies_in_the_middle():
    truth = [[1, 0], [0, 1]]
    right, wrong = predictions(truth, truth), predictions([[0, 1], [1, 0]], truth)
    assert choose_threshold([wrong, right, right, right, wrong]) == 2
