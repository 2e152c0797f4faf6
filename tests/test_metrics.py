import re

import numpy as np
import pytest
from absl import logging
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from attn_lstm import metrics

LABELS = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]], dtype=bool)
# Label 0 is right once of once, label 1 twice of three times, label 2 is never predicted, label 3
# is predicted once and true nowhere.
PREDICTED = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)


@st.composite
def results(draw):
    """predicted bool[N,C], labels bool[N,C], scores float32[N,C] with many ties, mask bool[N].

    At least one true label is left by the mask; some columns are emptied on purpose.
    """
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 6)))
    matrix = hnp.arrays(bool, shape)
    columns = hnp.arrays(bool, shape[1])
    predicted = draw(matrix) & draw(columns)
    labels = draw(matrix) & draw(columns)
    levels = draw(st.sampled_from([2, 5, 1000]))
    scores = draw(hnp.arrays(np.int32, shape, elements=st.integers(-levels, levels)))
    mask = draw(hnp.arrays(bool, shape[0]))
    image, label = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    mask[image] = labels[image, label] = True
    return predicted, labels, np.float32(scores) / 7, mask


@pytest.fixture
def warnings(monkeypatch):
    """The warnings logged during the test."""
    texts = []
    metrics._warn_once.cache_clear()
    monkeypatch.setattr(logging, "warning", lambda text, *values: texts.append(text % values))
    return texts


def test_figures_agree_with_the_formulas_worked_by_hand():
    figures = metrics.multilabel_metrics(PREDICTED, LABELS)
    class_precision = (1 / 1 + 2 / 3 + 0 + 0) / 4
    class_recall = (1 / 2 + 2 / 3 + 0 / 1) / 3  # label 3 has no true example
    overall_precision, overall_recall = 3 / 5, 3 / 6
    expected = {
        "C-P": 100 * class_precision,
        "C-R": 100 * class_recall,
        "C-F1": 200 * class_precision * class_recall / (class_precision + class_recall),
        "O-P": 100 * overall_precision,
        "O-R": 100 * overall_recall,
        "O-F1": 200 * 0.6 * 0.5 / 1.1,
        "macro-F1": 100 * (2 / 3 + 4 / 6 + 0 + 0) / 4,
    }
    assert figures == pytest.approx(expected)


def test_per_class_agrees_with_counts_made_by_hand():
    figures = metrics.per_class(PREDICTED, LABELS)
    np.testing.assert_array_equal(figures["true"], [2, 3, 1, 0])
    np.testing.assert_array_equal(figures["predicted"], [1, 3, 0, 1])
    np.testing.assert_array_equal(figures["correct"], [1, 2, 0, 0])
    np.testing.assert_allclose(figures["precision"], [100, 200 / 3, 0, 0])
    np.testing.assert_allclose(figures["recall"], [50, 200 / 3, 0, np.nan])
    np.testing.assert_allclose(figures["f1"], [200 / 3, 200 / 3, 0, 0])
    assert "average_precision" not in figures


def test_average_precision_agrees_with_a_ranking_worked_by_hand():
    scores = np.array([[0.9], [0.8], [0.8], [0.1]])
    labels = np.array([[1], [0], [1], [1]])
    # Ranks 1, 3 (shared by the two of 0.8) and 4.
    expected = (1 / 1 + 2 / 3 + 3 / 4) / 3
    np.testing.assert_allclose(metrics.average_precision(scores, labels), [expected])
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(100 * expected)


@given(results())
def test_figures_agree_with_scikit_learn(example):
    predicted, labels, _, _ = example
    figures = metrics.multilabel_metrics(predicted, labels)
    seen = labels.any(axis=0)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels.T.ravel(), predicted.T.ravel(), average="binary", zero_division=0
    )
    by_label = [
        sk.precision_recall_fscore_support(true, chosen, average="binary", zero_division=0)
        for true, chosen in zip(labels.T, predicted.T, strict=True)
    ]
    known = seen | predicted.any(axis=0)
    assert figures["C-P"] == pytest.approx(100 * np.mean([r[0] for r in by_label], where=known))
    assert figures["C-R"] == pytest.approx(100 * np.mean([row[1] for row in by_label], where=seen))
    assert figures["O-P"] == pytest.approx(100 * precision)
    assert figures["O-R"] == pytest.approx(100 * recall)
    assert figures["O-F1"] == pytest.approx(100 * f1)
    if labels.shape[1] > 1:  # scikit-learn reads one column as a single-label task
        macro = sk.f1_score(labels, predicted, average="macro", zero_division=np.nan)
        assert figures["macro-F1"] == pytest.approx(100 * macro)


@given(results())
def test_figures_over_all_labels_agree_with_scikit_learn(example):
    predicted, labels, _, _ = example
    figures = metrics.over_all_labels(predicted, labels)
    by_label = [
        sk.precision_recall_fscore_support(true, chosen, average="binary", zero_division=0)
        for true, chosen in zip(labels.T, predicted.T, strict=True)
    ]
    assert figures["C-P"] == pytest.approx(100 * np.mean([row[0] for row in by_label]))
    assert figures["macro-F1"] == pytest.approx(100 * np.mean([row[2] for row in by_label]))
    counted = metrics.multilabel_metrics(predicted, labels)
    for name in ("C-R", "O-P", "O-R", "O-F1"):
        assert figures[name] == counted[name]


@given(results(), st.integers(1, 3))
def test_labels_of_which_nothing_is_known_change_no_figure(example, count):
    predicted, labels, scores, _ = example
    wider = [np.pad(x, ((0, 0), (count, 0))) for x in (predicted, labels, scores)]
    assert metrics.multilabel_metrics(*wider[:2]) == pytest.approx(
        metrics.multilabel_metrics(predicted, labels)
    )
    assert metrics.mean_average_precision(wider[2], wider[1]) == pytest.approx(
        metrics.mean_average_precision(scores, labels)
    )


def test_a_category_that_never_occurs_leaves_a_perfect_prediction_perfect():
    labels = np.array([[0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 1, 1]], bool)
    assert set(metrics.multilabel_metrics(labels, labels).values()) == {100.0}
    whole = metrics.over_all_labels(labels, labels)
    assert (whole["C-P"], whole["C-R"], whole["macro-F1"]) == (75.0, 100.0, 75.0)
    assert whole["C-F1"] == pytest.approx(200 * 0.75 / 1.75)


@given(results())
def test_average_precision_agrees_with_scikit_learn(example):
    _, labels, scores, _ = example
    values = metrics.average_precision(scores, labels)
    for true, score, value in zip(labels.T, scores.T, values, strict=True):
        if true.any():
            assert value == pytest.approx(sk.average_precision_score(true, score))
        else:
            assert np.isnan(value)
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(100 * np.nanmean(values))


@given(results())
def test_masked_equals_subset_whatever_stands_in_masked_rows(example):
    predicted, labels, scores, mask = example
    padded = [np.where(mask[:, None], x, np.nan) for x in (predicted, labels, scores)]
    subset = [x[mask] for x in (predicted, labels, scores)]
    masked = metrics.per_class(*padded, mask=mask)
    for name, expected in metrics.per_class(*subset).items():
        np.testing.assert_array_equal(masked[name], expected)
    assert metrics.multilabel_metrics(*padded[:2], mask) == metrics.multilabel_metrics(*subset[:2])
    assert metrics.mean_average_precision(padded[2], padded[1], mask) == (
        metrics.mean_average_precision(subset[2], subset[1])
    )


@given(results(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(example, random):
    predicted, labels, scores, _ = example
    order = random.sample(range(len(labels)), len(labels))
    assert metrics.multilabel_metrics(predicted[order], labels[order]) == (
        metrics.multilabel_metrics(predicted, labels)
    )
    assert metrics.mean_average_precision(scores[order], labels[order]) == pytest.approx(
        metrics.mean_average_precision(scores, labels)
    )


@given(results())
def test_only_the_ranking_matters_to_average_precision(example):
    _, labels, scores, _ = example
    np.testing.assert_array_equal(
        metrics.average_precision(3 * scores - 1, labels), metrics.average_precision(scores, labels)
    )


@given(results())
def test_a_right_prediction_has_100_in_every_figure(example):
    _, labels, _, _ = example
    assert set(metrics.multilabel_metrics(labels, labels).values()) == {100.0}
    assert metrics.mean_average_precision(labels.astype(float), labels) == 100


@given(results())
def test_per_class_holds_what_the_means_are_made_of(example):
    predicted, labels, scores, _ = example
    figures = metrics.per_class(predicted, labels, scores)
    means = metrics.multilabel_metrics(predicted, labels)
    assert np.nanmean(figures["precision"]) == pytest.approx(means["C-P"])
    assert np.nanmean(figures["recall"]) == pytest.approx(means["C-R"])
    assert np.nanmean(figures["f1"]) == pytest.approx(means["macro-F1"])
    assert np.nanmean(figures["average_precision"]) == pytest.approx(
        metrics.mean_average_precision(scores, labels)
    )


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_number_types_do_not_matter(dtype):
    figures = metrics.multilabel_metrics(PREDICTED.astype(dtype), LABELS.astype(dtype).tolist())
    assert figures == metrics.multilabel_metrics(PREDICTED, LABELS)
    assert all(type(value) is float for value in figures.values())


def test_nothing_predicted_is_0_not_an_error():
    figures = metrics.multilabel_metrics(np.zeros_like(LABELS), LABELS)
    assert set(figures.values()) == {0.0}


def test_labels_without_a_true_example_are_named_in_one_warning(warnings):
    names = ["a", "b", "c", "shapes"]
    for _ in range(2):
        metrics.multilabel_metrics(PREDICTED, LABELS, names=names)
        metrics.mean_average_precision(PREDICTED, LABELS, names=names)
    assert len(warnings) == 1
    assert warnings[0].startswith("1 of 4 labels") and warnings[0].endswith(": 'shapes'")
    metrics.multilabel_metrics(PREDICTED, LABELS)
    assert warnings[1].endswith(": number 3")


def test_no_warning_when_every_label_has_an_example(warnings):
    metrics.multilabel_metrics(PREDICTED[:, :3], LABELS[:, :3])
    metrics.mean_average_precision(PREDICTED[:, :3], LABELS[:, :3])
    assert not warnings


@pytest.mark.parametrize("function", [metrics.multilabel_metrics, metrics.mean_average_precision])
@pytest.mark.parametrize(
    ("left", "labels", "mask", "message"),
    [
        (PREDICTED, LABELS, np.zeros(4), "nothing to count: 0 of 4 images"),
        (PREDICTED[:0], LABELS[:0], None, "nothing to count: 0 of 0 images"),
        (PREDICTED[:, :0], LABELS[:, :0], None, "nothing to count: 4 of 4 images, 0 labels"),
        (PREDICTED, np.zeros_like(LABELS), None, "none of the images has a true label"),
        (PREDICTED[:2], LABELS, None, "(2, 4), labels (4, 4)"),
        (PREDICTED[0], LABELS[0], None, "(4,), labels (4,)"),
        (PREDICTED, LABELS, np.ones(3, bool), "(4,) of the images, got (3,)"),
        (PREDICTED, LABELS, [1, 1, 2, 1], "mask of shape (4,) must hold only 0 and 1, found 2"),
        (PREDICTED, LABELS - 1.0, None, "must hold only 0 and 1, found -1.0"),
        (np.where(LABELS, np.nan, 0), LABELS, None, "nan"),
    ],
)
def test_what_cannot_be_counted_is_an_error(function, left, labels, mask, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(left, labels, mask)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(value):
    scores = np.zeros(LABELS.shape)
    scores[2, 1] = value
    for call in (
        lambda: metrics.average_precision(scores, LABELS),
        lambda: metrics.mean_average_precision(scores, LABELS),
        lambda: metrics.per_class(PREDICTED, LABELS, scores),
        lambda: metrics.top_k(scores, 1),
    ):
        with pytest.raises(ValueError, match=f"finite, 1 are not, first {value}"):
            call()


def test_top_k_takes_the_lower_label_of_equal_scores():
    chosen = metrics.top_k(np.array([[1, 3, 3, 2], [0, 0, 0, 0], [-4, -3, -2, -1]]), 2)
    np.testing.assert_array_equal(chosen, [[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]])


def test_top_k_takes_the_lower_label_among_many_equal_scores():
    """More labels than the short arrays that any sort leaves in order."""
    scores = np.arange(200) % 2
    np.testing.assert_array_equal(
        np.flatnonzero(metrics.top_k(scores[None], 5)[0]), [1, 3, 5, 7, 9]
    )


@given(results(), st.data())
def test_top_k_takes_the_first_k_of_a_sort_by_score_and_label(example, data):
    scores = example[2]
    k = data.draw(st.integers(1, scores.shape[1]))
    for row, chosen in zip(scores, metrics.top_k(scores, k), strict=True):
        ranked = sorted(range(row.size), key=lambda label: (-row[label], label))
        assert set(np.flatnonzero(chosen)) == set(ranked[:k])


@pytest.mark.parametrize("k", [-1, 0, 5])
def test_top_k_refuses_more_labels_than_there_are(k):
    with pytest.raises(ValueError, match=f"between 1 and the 4 labels, not be {k}"):
        metrics.top_k(np.zeros((2, 4)), k)


def test_top_k_refuses_scores_of_one_image_alone():
    with pytest.raises(ValueError, match=re.escape("(4,)")):
        metrics.top_k(np.zeros(4), 1)


@given(results(), st.randoms(use_true_random=False))
def test_labels_that_are_not_known_count_in_no_figure(drawn, random):
    predicted, labels, scores, mask = drawn
    rng = np.random.default_rng(random.randrange(2**32))
    known = rng.random(labels.shape) < 0.6
    image, label = np.argwhere(labels & mask[:, None])[0]
    known[image, label] = True

    def figures(predicted, labels, scores):
        return (
            metrics.multilabel_metrics(predicted, labels, mask, known=known),
            metrics.over_all_labels(predicted, labels, mask, known=known),
            metrics.mean_average_precision(scores, labels, mask, known=known),
            metrics.per_class(predicted, labels, scores, mask, known=known),
        )

    ours = figures(predicted, labels, scores)
    anything = np.where(known, 0, rng.choice([0.0, 1.0, np.nan, 5.0], labels.shape))
    np.testing.assert_equal(
        figures(
            np.where(known, predicted, anything),
            np.where(known, labels, anything),
            np.where(known, scores, anything),
        ),
        ours,
    )
    counted = known & mask[:, None]
    for i, of in enumerate(counted.T):  # scikit-learn, on the images of which the label is known
        true, found = labels[of, i], predicted[of, i]
        expected = {"true": true.sum(), "predicted": found.sum(), "correct": (true & found).sum()}
        assert {name: ours[3][name][i] for name in expected} == expected
        if true.any():
            expected = sk.average_precision_score(true, scores[of, i])
            assert ours[3]["average_precision"][i] == pytest.approx(100 * expected)
    overall = sk.f1_score(labels[counted], predicted[counted], zero_division=0)
    assert ours[0]["O-F1"] == pytest.approx(100 * overall)


def test_a_table_of_what_is_known_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"of one shape, got .* known"):
        metrics.multilabel_metrics(PREDICTED, LABELS, known=np.ones((4, 3), bool))
