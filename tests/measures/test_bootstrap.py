"""The bootstrap against scikit-learn, SciPy, and populations whose differences are known."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from attn_lstm import metrics
from attn_lstm.measures import bootstrap


def made_up(rng, images, labels, signal=1.0, coarse=False):
    """Predictions of some skill: labels bool[N,C], scores float32[N,C], truth bool[N,C]."""
    truth = rng.random((images, labels)) < rng.uniform(0.1, 0.5, labels)
    truth[0] = True
    scores = (signal * truth + rng.normal(size=truth.shape)).astype(np.float32)
    scores = np.round(scores) if coarse else scores  # with many ties
    return scores > 0.5, scores, truth


@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans())
def test_weighted_average_precision_is_that_of_scikit_learn(seed, images, coarse):
    rng = np.random.default_rng(seed)
    _, scores, truth = made_up(rng, images, 1, coarse=coarse)
    weights = rng.integers(0, 4, (images, 5)).astype(np.float32)
    found = bootstrap._Ranking(scores[:, 0], truth[:, 0]).average_precision(weights)
    for value, weight in zip(found, weights.T, strict=True):
        if (weight * truth[:, 0]).any():
            expected = average_precision_score(truth[:, 0], scores[:, 0], sample_weight=weight)
            assert value == pytest.approx(expected, abs=1e-6)
        else:
            assert np.isnan(value)


@pytest.mark.filterwarnings("ignore")
def test_the_figures_of_each_draw_are_those_of_the_images_drawn():
    labels, scores, truth = made_up(np.random.default_rng(3), 12, 5)
    labels[:, 3] = False  # never predicted
    labels[:, 4] = truth[:, 4] = False  # nor true: it is in none of the means
    found = bootstrap.resample(labels, scores, truth, resamples=300)  # of two blocks
    generator = np.random.default_rng(0)
    lacking = 0
    for draw in (None, *found.draws):
        rows = np.arange(12) if draw is None else generator.integers(12, size=12)
        expected = metrics.multilabel_metrics(labels[rows], truth[rows])
        expected["mAP"] = metrics.mean_average_precision(scores[rows], truth[rows])
        values = found.observed if draw is None else draw
        np.testing.assert_allclose(values, [expected[n] for n in bootstrap.FIGURES], rtol=1e-5)
        lacking += not truth[rows, :4].any(axis=0).all()
    assert lacking  # labels left the means in some draws


def test_equal_predictions_differ_by_exactly_nothing():
    run = bootstrap.resample(*made_up(np.random.default_rng(0), 50, 6), resamples=50)
    again = bootstrap.resample(*made_up(np.random.default_rng(0), 50, 6), resamples=50)
    for difference in bootstrap.differences([run, run], [again, again]).values():
        assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
        assert not difference.excludes_zero


def test_differences_of_seeds_are_averaged_draw_by_draw():
    rng = np.random.default_rng(1)
    truth = made_up(rng, 60, 5)[2]
    runs = [
        bootstrap.resample(scores > 0.5, scores, truth, resamples=200)
        for scores in (truth + rng.normal(size=(4, *truth.shape))).astype(np.float32)
    ]
    found = bootstrap.differences(runs[:2], runs[2:])
    draws = (runs[0].draws - runs[2].draws + runs[1].draws - runs[3].draws) / 2
    for column, name in enumerate(bootstrap.FIGURES):
        low, high = np.quantile(draws[:, column], [0.025, 0.975])
        assert (found[name].low, found[name].high) == pytest.approx((low, high))
        means = [run.observed[column] for run in runs]
        assert found[name].mean == pytest.approx((means[0] + means[1] - means[2] - means[3]) / 2)


def test_the_interval_of_the_overall_f1_is_that_of_scipy():
    rng = np.random.default_rng(2)
    labels, scores, truth = made_up(rng, 300, 5, signal=1.5)
    others = (truth + 1.2 * rng.normal(size=truth.shape)).astype(np.float32)

    def overall(rows, sets):
        correct = (sets & truth)[rows].sum(axis=(-2, -1))
        return 200 * correct / (sets[rows].sum(axis=(-2, -1)) + truth[rows].sum(axis=(-2, -1)))

    def difference(rows, axis=-1):
        return overall(rows, labels) - overall(rows, others > 0.5)

    expected = scipy.stats.bootstrap(
        (np.arange(300),), difference, method="percentile", n_resamples=4000, rng=rng
    ).confidence_interval
    ours, theirs = (bootstrap.resample(s > 0.5, s, truth, resamples=4000) for s in (scores, others))
    found = bootstrap.differences([ours], [theirs])["O-F1"]
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.4)
    assert found.mean == pytest.approx(difference(np.arange(300)))


def test_intervals_hold_the_difference_of_the_population_as_often_as_they_say():
    """Samples of a population whose difference is known; 95 of 100 intervals should hold it."""
    rng = np.random.default_rng(4)
    population = 20_000
    _, first, truth = made_up(rng, population, 4, signal=1.6)
    shared = rng.normal(size=truth.shape)  # pairs are alike, as two runs of one backbone are
    second = (1.4 * truth + 0.6 * (first - 1.6 * truth) + 0.8 * shared).astype(np.float32)
    known = np.zeros(3)
    for sign, scores in ((1, first), (-1, second)):
        known += sign * bootstrap.resample(scores > 0.7, scores, truth, resamples=1).observed
    assert (np.abs(known) > 1).all()

    held = np.zeros(3)
    for _ in range(200):
        rows = rng.choice(population, 250, replace=False)
        ours, theirs = (
            bootstrap.resample(s[rows] > 0.7, s[rows], truth[rows], resamples=200)
            for s in (first, second)
        )
        found = bootstrap.differences([ours], [theirs])
        for column, name in enumerate(bootstrap.FIGURES):
            held[column] += found[name].low <= known[column] <= found[name].high
    assert (held >= 0.90 * 200).all() and (held <= 0.99 * 200).all(), held
