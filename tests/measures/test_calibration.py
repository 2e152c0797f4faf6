"""Scores as probabilities: a known distortion is undone, and errors are those worked by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.special import logit as scipy_logit

from attn_lstm.measures import calibration


def distorted(slope, bias, seed=0, shape=(4000, 20)):
    """Labels drawn with known probabilities, and scores that say something else of them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 2, shape)
    truth = rng.random(shape) < expit(logits)
    return expit((logits - bias) / slope).astype(np.float32), truth


def test_a_distortion_of_the_log_odds_is_found_and_undone():
    scores, truth = distorted(slope=0.6, bias=-0.5)
    fitted = calibration.fit(scores, truth)
    assert fitted.slope == pytest.approx(0.6, abs=0.02)
    assert fitted.bias == pytest.approx(-0.5, abs=0.05)
    others, right = distorted(slope=0.6, bias=-0.5, seed=1)
    before = calibration.calibration_error(others.ravel(), right.ravel())
    after = calibration.calibration_error(fitted(others).ravel(), right.ravel())
    assert before > 0.05 and after < 0.005


def test_the_line_minimises_the_loss_of_platt():
    scores, truth = distorted(slope=1.5, bias=0.3, shape=(100, 2))
    logits = scipy_logit(scores.astype(np.float64).clip(1e-4, 1 - 1e-4))
    target = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))

    def loss(line):
        x = line[0] * logits + line[1]
        return np.sum(np.logaddexp(0, x) - target * x)

    slope, bias = minimize(loss, [1.0, 0.0]).x
    fitted = calibration.fit(scores, truth)
    assert fitted.slope == pytest.approx(slope, rel=1e-3)
    assert fitted.bias == pytest.approx(bias, rel=1e-2)


@pytest.mark.parametrize("truth", [np.zeros((5, 2), bool), np.ones((5, 2), bool)])
def test_a_split_without_a_contrast_gives_no_certainty(truth):
    scores = np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)
    probabilities = calibration.fit(scores, truth)(scores)
    assert (probabilities > 0).all() and (probabilities < 1).all()
    assert np.abs(probabilities - truth.mean()).max() < 0.3


def test_scores_without_a_mistake_give_no_certainty_and_keep_their_order():
    scores = np.array([[0.0, 0.2], [0.7, 1.0]], np.float32)
    probabilities = calibration.fit(scores, scores > 0.5)(scores)
    assert (probabilities > 0).all() and (probabilities < 1).all()
    assert (np.diff(probabilities.ravel()) > 0).all()


def test_reliability_by_hand():
    probabilities = np.array([0.05, 0.15, 0.55, 0.6, 1.0])
    right = np.array([False, True, True, False, True])
    mean, share, count = calibration.reliability_bins(probabilities, right, 2)
    np.testing.assert_allclose(mean, [0.1, (0.55 + 0.6 + 1) / 3])
    np.testing.assert_allclose(share, [0.5, 2 / 3])
    np.testing.assert_array_equal(count, [2, 3])
    error = (2 * abs(0.5 - 0.1) + 3 * abs(2 / 3 - 2.15 / 3)) / 5
    assert calibration.calibration_error(probabilities, right, 2) == pytest.approx(error)
