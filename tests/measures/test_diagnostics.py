"""Diagnostics of predictions: worked by hand, SciPy's tau, and what no permutation changes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from attn_lstm import metrics
from attn_lstm.measures import diagnostics

SEEDS = st.integers(0, 2**32 - 1)


def sets(rows, labels):
    """bool[N,C] of lists of labels."""
    return np.array([[label in row for label in range(labels)] for row in rows])


def random_case(seed, images=12, labels=6):
    """Sequences without repeats, the sets that they name, true sets, counts and boxes."""
    rng = np.random.default_rng(seed)
    sequence = np.argsort(rng.random((images, labels)), axis=1)
    sequence[np.arange(labels) >= rng.integers(0, labels + 1, (images, 1))] = -1
    truth = rng.random((images, labels)) < 0.4
    truth[0, 0] = True
    boxes = []
    for row in truth:
        columns = np.repeat(np.flatnonzero(row), rng.integers(1, 3))
        low, high = np.sort(rng.random((2, len(columns), 2)) ** 2, axis=0)
        boxes.append(np.concatenate([columns[:, None], low, high], axis=1).astype(np.float32))
    return {
        "sequence": sequence,
        "labels": sets(sequence, labels),
        "truth": truth,
        "counts": rng.integers(0, 50, labels),
        "boxes": boxes,
    }


# ----------------------------------------------------------------------------------- order


def test_order_by_frequency_worked_by_hand():
    # Ranks 1, 3, 2 for the labels 0, 1, 2.
    sequence = np.array([[0, 2, 1], [1, 0, -1], [2, -1, -1], [-1, -1, -1]])
    labels = sets(sequence, 3)
    order = diagnostics.diagnose(sequence, labels, labels, [90, 10, 50])["order"]
    assert order == {
        "frequent_first": {
            "kendall_tau": 0.0,  # the mean of +1 and -1; one label has no order
            "images": 2,
            "labels": [3, 2, 1],
            "mean_rank": [(1 + 3 + 2) / 3, (2 + 1) / 2, 3.0],
        }
    }


def test_order_by_size_counts_the_largest_box_of_labels_that_have_one():
    boxes = [
        # Areas 0.5 and (the larger of two) 0.25; label 2 is emitted but not there.
        np.array([[0, 0, 0, 0.5, 1], [1, 0, 0, 0.1, 0.1], [1, 0.5, 0.5, 1, 1]], np.float32),
        np.zeros((0, 5), np.float32),
    ]
    sequence = np.array([[1, 2, 0, -1], [2, -1, -1, -1]])
    truth = sets([[0, 1], [2]], 3)
    result = diagnostics.diagnose(sequence, sets(sequence, 3), truth, [3, 2, 1], boxes)
    assert result["order"]["large_first"] == {
        "kendall_tau": -1.0,
        "images": 1,
        "labels": [1, 0, 1],
        "mean_area": [0.25, None, 0.5],
    }


@pytest.mark.parametrize(("step", "tau"), [(1, 1.0), (-1, -1.0)])
def test_tau_is_1_for_the_training_order_of_frequency_and_minus_1_for_its_reverse(step, tau):
    counts = [5, 9, 5, 7, 0]  # of equals the lower label is the more frequent, as in training
    sequence = np.array([[1, 3, 0, 2, 4], [1, 3, 2, 4, -1]])[:, ::step]
    labels = sets(sequence, 5)
    order = diagnostics.diagnose(sequence, labels, labels, counts)["order"]
    assert order["frequent_first"]["kendall_tau"] == tau


def test_without_two_labels_anywhere_there_is_no_correlation():
    for sequence in ([[0, -1], [-1, -1]], [[-1, -1], [-1, -1]]):
        labels, truth = sets(sequence, 2), sets([[0], [1]], 2)
        order = diagnostics.diagnose(np.array(sequence), labels, truth, [2, 1])["order"]
        assert order["frequent_first"]["kendall_tau"] is None
        assert order["frequent_first"]["images"] == 0


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([np.nan, -1.0, 0.0, 0.25, 0.5, 3.0]),
    )
)
def test_rank_correlation_is_that_of_scipy(values):
    def expected(row):
        known = np.flatnonzero(~np.isnan(row))
        if len(set(row[known])) < 2:
            return np.nan
        return stats.kendalltau(known, row[known], variant="b").statistic

    np.testing.assert_allclose(
        diagnostics.rank_correlation(values), [expected(row) for row in values], atol=1e-12
    )


# ------------------------------------------------------------------------- repeats and sizes


def test_repeats_are_counted_from_the_sequence():
    sequence = np.array([[0, 1, 0], [2, 2, 2], [0, 1, 2], [1, -1, -1]])
    assert diagnostics.repeating_sequences(sequence) == 2


def test_set_sizes_worked_by_hand():
    labels, truth = sets([[0], [0, 1, 2], []], 3), sets([[0, 1], [0], [2]], 3)
    assert diagnostics.set_sizes(labels, truth) == {
        "predicted": {"mean": pytest.approx(4 / 3), "images": [1, 1, 0, 1]},
        "true": {"mean": pytest.approx(4 / 3), "images": [0, 2, 1]},
        "mean_absolute_difference": pytest.approx((1 + 2 + 1) / 3),
    }


# ----------------------------------------------------------------------------------- groups


def test_figures_by_the_number_of_true_labels():
    truth = sets([[], [0], [1], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]], 6)
    labels = sets([[3], [0], [0, 1], [0], []], 6)
    groups = diagnostics.figures_by_true_labels(labels, truth)
    assert list(groups) == ["1", "5+"]
    # Label 0: 1 of 2 right, label 1: 1 of 1, no other is true or predicted: C-P 1.5/2, C-R 1.
    assert groups["1"] == {
        "C-F1": pytest.approx(100 * 2 * 0.75 / 1.75),
        "O-F1": pytest.approx(100 * 2 * 2 / (3 + 2)),
        "images": 2,
        "labels": 2,
    }
    assert (groups["5+"]["images"], groups["5+"]["labels"]) == (2, 6)


@given(SEEDS)
def test_groups_have_the_figures_of_their_images_alone(seed):
    case = random_case(seed, images=30)
    groups = diagnostics.figures_by_true_labels(case["labels"], case["truth"])
    sizes = case["truth"].sum(axis=1)
    assert sum(group["images"] for group in groups.values()) == (sizes > 0).sum()
    for name, group in groups.items():
        rows = sizes >= 5 if name == "5+" else sizes == int(name)
        expected = metrics.multilabel_metrics(case["labels"][rows], case["truth"][rows])
        for figure in ("C-F1", "O-F1"):
            assert group[figure] == pytest.approx(expected[figure])


def test_recall_by_object_size_worked_by_hand():
    truth = sets([[0, 1, 2], [0, 1, 2, 3]], 4)
    labels = sets([[0, 3], [0, 1]], 4)
    areas = np.array([[0.5, 0.0099, np.nan, np.nan], [0.1, 0.001, 0.2, np.nan]])
    assert diagnostics.recall_by_object_size(labels, truth, areas) == {
        "small": {"recall": 50.0, "labels": 2},
        "large": {"recall": pytest.approx(100 * 2 / 3), "labels": 3},
    }


# ------------------------------------------------------------------------------------ rules


def assert_equal(one, other):
    """Equal but for rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == pytest.approx(other, abs=1e-9)


@given(SEEDS)
def test_the_order_of_the_images_changes_nothing(seed):
    case = random_case(seed)
    order = np.random.default_rng(seed).permutation(len(case["sequence"]))
    shuffled = {name: case[name][order] for name in ("sequence", "labels", "truth")}
    boxes = [case["boxes"][row] for row in order]
    assert_equal(
        diagnostics.diagnose(**case),
        diagnostics.diagnose(**shuffled, counts=case["counts"], boxes=boxes),
    )


@given(SEEDS)
def test_the_order_of_the_columns_changes_nothing(seed):
    case = random_case(seed)
    case["counts"] = np.random.default_rng(seed).permutation(len(case["counts"]))  # none is equal
    order = np.random.default_rng(seed).permutation(len(case["counts"]))
    place = np.argsort(order)
    boxes = [b.copy() for b in case["boxes"]]
    for b in boxes:
        b[:, 0] = place[b[:, 0].astype(int)]
    moved = {
        "sequence": np.where(case["sequence"] >= 0, place[case["sequence"]], -1),
        "labels": case["labels"][:, order],
        "truth": case["truth"][:, order],
        "counts": case["counts"][order],
        "boxes": boxes,
    }
    assert_equal(diagnostics.diagnose(**case), diagnostics.diagnose(**moved))


@given(SEEDS)
def test_reversing_every_sequence_reverses_the_correlations(seed):
    case = random_case(seed)
    backwards = np.full_like(case["sequence"], -1)
    for row, sequence in zip(backwards, case["sequence"], strict=True):
        emitted = sequence[sequence >= 0]
        row[: len(emitted)] = emitted[::-1]
    one = diagnostics.diagnose(**case)["order"]
    other = diagnostics.diagnose(**{**case, "sequence": backwards})["order"]
    for name in one:
        assert one[name]["images"] == other[name]["images"]
        if one[name]["images"]:
            assert one[name]["kendall_tau"] == pytest.approx(-other[name]["kendall_tau"])


@given(SEEDS)
def test_empty_steps_behind_the_last_change_nothing(seed):
    case = random_case(seed)
    longer = np.pad(case["sequence"], ((0, 0), (0, 4)), constant_values=-1)
    assert diagnostics.diagnose(**case) == diagnostics.diagnose(**{**case, "sequence": longer})


def test_the_result_is_small_json_whatever_the_number_of_images():
    case = random_case(0, images=300, labels=90)
    result = diagnostics.diagnose(**case)
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result
    assert len(text) < 5_000
    assert len(result["order"]["frequent_first"]["mean_rank"]) == diagnostics.LISTED_STEPS
