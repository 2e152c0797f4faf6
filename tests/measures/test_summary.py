"""Figures of predictions, worked by hand."""

import dataclasses

import numpy as np
import pytest

from attn_lstm.data.split import Split
from attn_lstm.errors import UserError
from attn_lstm.measures import bootstrap, calibration, summary, thresholds
from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.predictions import Predictions, cut
from attn_lstm.measures.summary import report
from attn_lstm.reports.terminal import describe
from tests.reports.examples import made_up_predictions, made_up_split


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


def test_the_report_points_into_the_boxes_of_the_images_that_were_read():
    truth = [[1, 0], [1, 1]]
    boxes = (np.zeros((0, 5), np.float32), np.array([[0, 0, 0, 0.5, 1]], np.float32))
    seen = predictions([[1, 0]], truth[1:], [[0, -1]], [[1, 0]], regions=4)
    seen = dataclasses.replace(seen, image_id=np.array([1]))  # the first could not be read
    pointing = report(seen, split(truth, boxes), [2, 1])["pointing"]
    assert pointing == {"labels": 1, "attention": 100.0, "centre": 100.0, "uniform": 50.0}


def test_the_report_says_how_maps_change_and_points_beside_m_map():
    boxes = (np.array([[0, 0, 0, 0.5, 1], [1, 0.5, 0, 1, 1]], np.float32),)
    seen = predictions([[1, 1]], [[1, 1]], [[1, 0]], [[1, 1]], regions=4)
    seen = dataclasses.replace(seen, cam_peaks=np.array([[0, 2]]))
    maps = np.array([[[0, 1, 0, 0], [0, 0.5, 0.5, 0]]], np.float16)
    found = report(seen, split([[1, 1]], boxes), [2, 1], maps=maps)
    assert found["looking"] == {
        "pairs": 1,
        "same_peak": 100.0,
        "total_variation": 0.5,
        "of_other_boxes": {"pairs": 1, "same_peak": 100.0},
    }
    assert found["pointing"] == {
        "labels": 2, "attention": 50.0, "cam": 100.0, "centre": 100.0, "uniform": 50.0
    }  # fmt: skip
    lines = describe(found | {"method": "m", "dataset": "d", "split": "test", "step": 1,
                              "threshold": 0.5, "threshold_origin": "default"})  # fmt: skip
    assert (
        "share the attention's peak in 100.0 % of 1 pairs, 100.0 % where the boxes of correct "
        "labels differ; total variation between their maps 0.50"
    ) in lines
    assert (
        "inside the label's box for 50.0 % of 2 correct labels (M_map's own 100.0, the image's "
        "middle 100.0, a uniform map 50.0)"
    ) in lines


def test_the_report_names_labels_counts_and_parts_of_the_loss():
    truth = [[1, 0], [0, 1], [1, 1]]
    result = report(predictions([[1, 0], [1, 0], [1, 1]], truth), split(truth), [5, 3])
    assert result["C-P"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert (result["images"], result["labels"]) == (3, 2)
    assert result["loss_map"] == 2.0
    assert result["loss_step"] == 1.0
    assert result["loss"] == 3.0
    assert result["set_size"] == {"true": pytest.approx(4 / 3), "predicted": pytest.approx(4 / 3)}
    assert list(result["per_class"]) == ["label0", "label1"]
    assert result["per_class"]["label0"]["recall"] == 100.0
    assert "pointing" not in result


def test_a_label_of_which_nothing_is_known_is_named_and_counts_by_the_papers_convention_alone():
    truth = [[0, 1, 0], [0, 0, 1]]
    result = report(predictions(truth, truth), split(truth), [0, 1, 1])
    assert result["left_out_labels"] == ["label0"]
    assert result["C-P"] == result["C-F1"] == result["macro-F1"] == 100.0
    assert result["over_all_labels"] == {
        "C-P": pytest.approx(200 / 3),
        "C-F1": pytest.approx(80.0),
        "macro-F1": pytest.approx(200 / 3),
    }
    text = describe({**result, "method": "m", "dataset": "d", "split": "test", "step": 1,
                     "threshold": 0.5, "threshold_origin": "given"})  # fmt: skip
    assert "1 of 3 labels are neither true nor predicted and leave the means: label0 (" in text
    assert "C-P 66.7, C-F1 80.0" in text


def test_undefined_figures_of_a_class_are_null():
    result = report(predictions([[1, 0]], [[1, 0]]), split([[1, 0]]), [1, 1])
    for figure in ("precision", "recall", "f1"):
        assert result["per_class"]["label1"][figure] is None


def test_the_report_diagnoses_by_training_counts_and_by_the_boxes_of_each_image():
    truth = [[1, 0], [1, 1], [1, 1]]
    boxes = [np.array([[0, 0, 0, 0.5, 0.5]]), np.array([[0, 0, 0, 1, 1], [1, 0, 0, 1, 0.05]])]
    seen = predictions([[1, 1], [1, 1]], truth[1:], [[1, 0], [1, 0]])
    seen = dataclasses.replace(seen, image_id=np.array([1, 2]))  # the first could not be read
    whole = split(truth, (boxes[0], boxes[1], boxes[1]))
    diagnosis = report(seen, whole, [1, 5])["diagnostics"]
    assert diagnosis["order"]["frequent_first"]["kendall_tau"] == 1.0
    assert diagnosis["order"]["large_first"]["mean_area"] == [0.05, 1.0]
    assert diagnosis["recall_by_object_size"] == {
        "medium": {"recall": 100.0, "labels": 2},
        "large": {"recall": 100.0, "labels": 2},
    }
    without = report(seen, split(truth), [1, 5])["diagnostics"]
    assert "large_first" not in without["order"] and "recall_by_object_size" not in without


def test_a_row_that_minimises_nothing_reports_no_loss():
    seen = dataclasses.replace(predictions([[1, 0]], [[1, 0]]), losses={})
    assert not [name for name in report(seen, split([[1, 0]]), [1, 1]) if "loss" in name]


def test_a_cut_takes_scores_at_or_above_tau_by_label_too():
    seen = dataclasses.replace(
        predictions([[0, 0], [0, 0]], [[1, 0], [0, 1]]),
        scores=np.array([[0.5, 0.2], [0.4, 0.7]], np.float32),
    )
    np.testing.assert_array_equal(cut(seen, 0.5).labels, [[1, 0], [0, 1]])
    by_label = np.array([0.4, 0.8], np.float32)
    np.testing.assert_array_equal(cut(seen, by_label).labels, [[1, 0], [1, 0]])


def test_predictions_come_back_from_their_file(tmp_path):
    seen = predictions([[1, 0], [0, 0]], [[1, 0], [1, 1]])
    path = tmp_path / "test-3.npz"
    path.write_bytes(summary.to_npz(seen, split(seen.truth)))
    for kept, array in zip(
        summary.read_npz(path)[:3], (seen.labels, seen.scores, seen.truth), strict=True
    ):
        np.testing.assert_array_equal(kept, array)
        assert kept.dtype == array.dtype
    with np.load(path) as kept:
        assert [*kept["images"]] == ["0", "1"] and [*kept["names"]] == ["label0", "label1"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_damaged_file_of_predictions_is_named(tmp_path, damage):
    seen = predictions([[1, 0], [0, 0]], [[1, 0], [1, 1]])
    path = tmp_path / "test-3.npz"
    whole = summary.to_npz(seen, split(seen.truth))
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(UserError, match=r"test-3\.npz.*delete it"):
        summary.read_npz(path)


def test_the_report_says_how_far_scores_are_from_shares_before_and_after():
    truth = [[1, 0], [0, 0], [0, 0], [0, 0]]
    half = np.full((4, 2), 0.5, np.float32)
    seen = dataclasses.replace(predictions([[1, 0], [1, 0], [0, 0], [0, 0]], truth), scores=half)
    over_all = pytest.approx(100 * (0.5 - 1 / 8))
    assert report(seen, split(truth), [1, 1])["calibration"] == {
        "error": pytest.approx(0),  # 1 of the 2 that are predicted
        "over_all_labels": {"error": over_all},
    }
    fitted = Calibration(slope=1.0, bias=float(np.log(1 / 7)))  # 0.5 becomes 1 of 8
    assert report(seen, split(truth), [1, 1], fitted)["calibration"] == {
        "error": pytest.approx(0),
        "calibrated_error": over_all,
        "slope": 1.0,
        "bias": fitted.bias,
        "over_all_labels": {
            "error": over_all, "calibrated_error": pytest.approx(0, abs=1e-6)
        },
    }  # fmt: skip
    nothing = dataclasses.replace(predictions(np.zeros((4, 2)), truth), scores=half)
    assert report(nothing, split(truth), [1, 1])["calibration"] == {
        "error": None, "over_all_labels": {"error": over_all}
    }  # fmt: skip


@pytest.fixture(scope="module")
def partly_known() -> Predictions:
    """Of half of what is said of the images nothing is known; every label is true somewhere."""
    whole = made_up_predictions(images=30)
    known = np.random.default_rng(5).random(whole.truth.shape) < 0.5
    known[:2] = True
    return dataclasses.replace(whole, known=known, truth=whole.truth & known)


def everything_counted(seen):
    boxes = tuple(np.array([[1, 0, 0, 0.5, 1]], np.float32) for _ in seen.truth)
    data = dataclasses.replace(made_up_split(seen), boxes=boxes)
    names, counts = data.label_names, seen.truth.sum(0)
    resampled = bootstrap.resample(seen.labels, seen.scores, seen.truth, 20, known=seen.known)
    return (
        report(seen, data, counts, Calibration(1.2, -0.1)),
        resampled.observed,
        resampled.draws,
        thresholds.choose([cut(seen, tau) for tau in (0.2, 0.5, 0.8)]),
        thresholds.choose_by_label(seen.scores, seen.truth, names, 0.4, seen.known),
        dataclasses.astuple(calibration.fit(*seen.judged_pairs())),
    )


def test_no_figure_depends_on_what_is_predicted_where_the_truth_is_not_known(partly_known):
    ours, rng = everything_counted(partly_known), np.random.default_rng(1)
    known = partly_known.known
    for _ in range(3):
        scores = rng.random(known.shape, np.float32)
        other = dataclasses.replace(
            partly_known,
            labels=np.where(known, partly_known.labels, rng.random(known.shape) < 0.5),
            scores=np.where(known, partly_known.scores, scores),
        )
        np.testing.assert_equal(everything_counted(other), ours)
    result = ours[0]
    np.testing.assert_allclose(ours[1], [result[name] for name in bootstrap.FIGURES], rtol=1e-5)
    assert result["unknown_pairs"] == np.count_nonzero(~known)
    assert sum(label["known"] for label in result["per_class"].values()) == known.sum()
    steps = result["diagnostics"]["order"]["frequent_first"]["labels"]
    sequence = partly_known.sequence
    emitted = np.take_along_axis(known, np.maximum(sequence, 0), 1) & (sequence >= 0)
    assert steps == emitted.sum(0).tolist()


def test_a_mask_that_hides_nothing_changes_no_figure():
    seen = made_up_predictions()
    masked = dataclasses.replace(seen, known=np.ones_like(seen.truth))
    ours, without = everything_counted(masked), everything_counted(seen)
    assert ours[0].pop("unknown_pairs") == 0
    assert {label.pop("known") for label in ours[0]["per_class"].values()} == {len(seen.truth)}
    np.testing.assert_equal(ours, without)


def test_what_is_known_is_kept_with_the_predictions(partly_known, tmp_path):
    path = tmp_path / "kept.npz"
    path.write_bytes(summary.to_npz(partly_known, made_up_split(partly_known)))
    np.testing.assert_array_equal(summary.read_npz(path).known, partly_known.known)
    all_known = dataclasses.replace(partly_known, known=None)
    path.write_bytes(summary.to_npz(all_known, made_up_split(all_known)))
    assert summary.read_npz(path).known is None


def test_the_terminal_says_how_much_is_not_known(partly_known):
    names = {"method": "a", "dataset": "b", "split": "test", "step": 1, "threshold": 0.5,
             "threshold_origin": "given"}  # fmt: skip
    told = describe(
        {**names, **everything_counted(dataclasses.replace(partly_known, peaks=None))[0]}
    )
    share = 100 * (~partly_known.known).mean()
    assert f"{share:.1f}% of the labels of all images are not known and count in no" in told
