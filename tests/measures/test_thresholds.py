"""τ on predictions made up for it; scikit-learn judges each label's F1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from attn_lstm.measures import thresholds
from attn_lstm.measures.predictions import Predictions
from attn_lstm.measures.thresholds import Threshold


def predictions(labels, truth) -> Predictions:
    labels, truth = np.asarray(labels, bool), np.asarray(truth, bool)
    nothing = np.full((len(labels), 1), -1)
    return Predictions(
        labels=labels,
        scores=labels.astype(np.float32),
        sequence=nothing,
        probabilities=nothing.astype(np.float32),
        peaks=None,
        losses={},
        truth=truth,
        image_id=np.arange(len(labels)),
        regions=None,
    )


def test_the_chosen_threshold_has_the_best_mean_of_both_f1_and_lies_in_the_middle():
    truth = [[1, 0], [0, 1]]
    right, wrong = predictions(truth, truth), predictions([[0, 1], [1, 0]], truth)
    assert thresholds.choose([wrong, right, right, right, wrong]) == 2


def test_micro_goes_by_the_overall_f1_alone():
    truth = np.array([[1, 0]] * 9 + [[0, 1]], bool)
    frequent = predictions([[1, 0]] * 10, truth)  # never the rare label
    rare = predictions([[1, 0]] * 5 + [[0, 0]] * 4 + [[0, 1]], truth)
    assert thresholds.choose([frequent, rare]) == 1
    assert thresholds.choose([frequent, rare], "micro") == 0


@given(st.integers(0, 10**6), st.integers(2, 40), st.booleans())
def test_no_cut_of_a_label_beats_its_best_one(seed, images, coarse):
    rng = np.random.default_rng(seed)
    scores = rng.random(images).astype(np.float32)
    scores = np.round(scores, 1) if coarse else scores
    truth = rng.random(images) < rng.random()
    truth[0] = True
    found = f1_score(truth, scores >= np.float32(thresholds._best_cut(scores, truth)))
    cuts = [*np.unique(scores), np.float32(2)]
    best = max(f1_score(truth, scores >= cut, zero_division=0) for cut in cuts)
    assert found == pytest.approx(best, abs=1e-9)


def test_a_label_of_many_images_has_its_own_tau_and_one_of_few_that_of_all():
    rng = np.random.default_rng(0)
    truth = np.zeros((20_000, 3), bool)
    truth[:10_000, 0] = truth[:2, 1] = True
    scores = rng.uniform(0.0, 0.1, truth.shape)
    scores[truth] += 0.1  # whatever is true scores 0.1 to 0.2, all else below
    by_label = thresholds.choose_by_label(scores, truth, ("many", "few", "none"), tau=0.5)
    assert by_label["many"] == pytest.approx(0.1, abs=0.01)
    assert by_label["few"] == pytest.approx(0.5, abs=0.05)
    assert by_label["few"] < 0.5
    assert "none" not in by_label


def test_thresholds_stand_in_the_order_of_the_labels():
    assert Threshold(0.25).of(["a", "b"]) == 0.25
    tau = Threshold(0.25, {"b": 0.5}).of(["a", "b", "c"])
    np.testing.assert_array_equal(tau, np.float32([0.25, 0.5, 0.25]))
