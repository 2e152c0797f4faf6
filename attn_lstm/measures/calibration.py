"""Scores as probabilities that hold: how far they are from frequencies, and what brings them there.

Pure functions of host arrays.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BINS = 10

# Scores are taken to lie this far from 0 and 1: a label that no path holds has the score 0.
MARGIN = 1e-4


@dataclasses.dataclass(frozen=True)
class Calibration:
    """sigmoid(slope · logit(score) + bias): the probability that a label with that score is true.

    One line for all labels (Platt 1999). With a slope above 0 no label of an image changes places
    with another.
    """

    slope: float
    bias: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """float[...], 0 to 1 -> float64[...]."""
        return 1 / (1 + np.exp(-(self.slope * logit(scores) + self.bias)))


def fit(scores: np.ndarray, truth: np.ndarray) -> Calibration:
    """The line under which the truth is likeliest, on a held-out split.

    Its targets are Platt's, (N₁ + 1) / (N₁ + 2) for the N₁ true labels and 1 / (N₀ + 2) for the
    others, so that a split on which the scores make no mistake does not give certainties.

    Args:
      scores: float[M], 0 to 1; truth: bool[M].
    """
    from sklearn.linear_model import LogisticRegression  # takes seconds, and is seldom asked for

    true = np.count_nonzero(truth)
    target = np.where(truth.ravel(), (true + 1) / (true + 2), 1 / (truth.size - true + 2))
    logits = logit(scores).reshape(-1, 1)
    line = LogisticRegression(C=np.inf).fit(
        np.concatenate([logits, logits]),
        np.repeat([True, False], truth.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return Calibration(float(line.coef_[0, 0]), float(line.intercept_[0]))


def logit(scores: ArrayLike) -> np.ndarray:
    """log(s / (1 - s)) in float64, of scores 0 to 1 that are kept a margin away from both."""
    p = np.clip(np.asarray(scores, np.float64), MARGIN, 1 - MARGIN)
    return np.log(p) - np.log1p(-p)


class Bins(NamedTuple):
    """The b bins of equal width that hold a probability."""

    mean: np.ndarray  # float64[b], of the probabilities
    share: np.ndarray  # float64[b], that is right, as a fraction of 1
    counts: np.ndarray  # int64[b]


def reliability_bins(probabilities: np.ndarray, right: np.ndarray, bins: int = BINS) -> Bins:
    """How often probabilities of about the same size are right.

    Args:
      probabilities: float[M], 0 to 1; right: bool[M].
      bins: of equal width, from 0 to 1.
    """
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    some = count > 0
    sums = (np.bincount(place, x.astype(np.float64), bins)[some] for x in (probabilities, right))
    mean, share = (total / count[some] for total in sums)
    return Bins(mean, share, count[some])


def calibration_error(probabilities: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error: mean |share true - probability|, weighted by count."""
    mean, share, count = reliability_bins(probabilities, right, bins)
    return float(np.average(np.abs(mean - share), weights=count))
