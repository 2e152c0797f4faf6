"""How far figures hang on which images were tested: a paired bootstrap. Pure functions.

The N images of a test split are drawn N times with replacement, again and again, with the same
draws for every run (Efron and Tibshirani 1993, chapter 13: percentile intervals). The spread of
the difference of two runs over the draws says which differences other images of the same kind would
show too. It says nothing of how the runs would end with other seeds of the training.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

FIGURES = ("C-F1", "O-F1", "mAP")
RESAMPLES = 2000
LEVEL = 95  # of the intervals, in percent

_SEED = 0  # of the draws
_BLOCK = 256  # draws at once: what is summed stays in the processor's cache


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two rows of a table, in points of percent, with its interval at `LEVEL`."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True)
class Resampled:
    """The figures of one run, in percent, by `FIGURES`."""

    observed: np.ndarray  # float64[3], on the images as they are
    draws: np.ndarray  # float64[R,3], nan in draws without any true label


def differences(first: Sequence[Resampled], second: Sequence[Resampled]) -> dict[str, Difference]:
    """The differences of two rows by figure, means over their runs, of the same seeds in each."""
    observed = np.mean(
        [a.observed - b.observed for a, b in zip(first, second, strict=True)], axis=0
    )
    draws = np.mean([a.draws - b.draws for a, b in zip(first, second, strict=True)], axis=0)
    tail = (100 - LEVEL) / 2
    low, high = np.nanpercentile(draws, (tail, 100 - tail), axis=0)
    columns = zip(FIGURES, observed, low, high, strict=True)
    return {name: Difference(*map(float, values)) for name, *values in columns}


def resample(
    labels: np.ndarray,
    scores: np.ndarray,
    truth: np.ndarray,
    resamples: int = RESAMPLES,
    *,
    known: np.ndarray | None = None,
) -> Resampled:
    """The figures of one run on its images, and on so many draws of them with replacement.

    Equal numbers of images give equal draws, so that runs can be compared draw by draw. In a draw
    that lacks a label altogether, that label leaves the means of recall and of average precision,
    and that of precision where it is not predicted either, as it does in `metrics`.

    Args:
      labels: bool[N,C], the predicted sets; scores: float[N,C], finite; truth: bool[N,C], with a
        true label.
      resamples: R.
      known: bool[N,C], the labels that count; None for all.
    """
    if known is not None:
        # Behind all true images, whose scores are finite, nothing is ranked.
        labels, scores, truth = labels & known, np.where(known, scores, -np.inf), truth & known
    counted = np.concatenate([labels & truth, labels, truth], axis=1).astype(np.float32)
    rankings = [
        _Ranking(scores[:, label], truth[:, label]) for label in np.flatnonzero(truth.any(axis=0))
    ]

    def figures(weights: np.ndarray) -> np.ndarray:
        """float32[N,B], how often each image counts, -> float64[B,3]."""
        counts = np.split((weights.T @ counted).astype(np.float64), 3, axis=1)
        precisions = np.array([ranking.average_precision(weights) for ranking in rankings])
        return 100 * np.stack([*_f1(*counts), _mean(precisions, axis=0)], axis=1)

    generator = np.random.default_rng(_SEED)
    sizes = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    return Resampled(
        observed=figures(np.ones((len(truth), 1), np.float32))[0],
        draws=np.concatenate([figures(_draw(generator, len(truth), size)) for size in sizes]),
    )


def _draw(generator: np.random.Generator, images: int, count: int) -> np.ndarray:
    """How often each image is in each of so many draws: float32[N,count]."""
    weights = np.empty((count, images), np.float32)
    for row in weights:
        row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
    return np.ascontiguousarray(weights.T)


def _f1(correct: np.ndarray, found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C-F1 and O-F1 of each draw, float64[B], from numbers of images float64[B,C]."""
    by_label = _ratio(correct, found, empty=0.0)
    precision = _mean(np.where(found + true > 0, by_label, np.nan), axis=1)
    recall = _mean(_ratio(correct, true, empty=np.nan), axis=1)
    per_class = _ratio(2 * precision * recall, precision + recall, empty=0.0)
    overall = _ratio(2 * correct.sum(axis=1), (found + true).sum(axis=1), empty=np.nan)
    return per_class, overall


class _Ranking:
    """One label's ranking of the images, for its average precision under any weights.

    Args:
      scores: float[N]; true: bool[N], with a true image.
    """

    def __init__(self, scores: np.ndarray, true: np.ndarray):
        # Precision is asked for at the scores of true images alone: G levels, the highest first.
        levels = np.unique(scores[true])
        level = len(levels) - np.searchsorted(levels, scores, side="right")
        shape = (len(levels), len(scores))
        self._images = _sums(level, np.flatnonzero(scores >= levels[0]), shape)
        self._hits = _sums(level, np.flatnonzero(true), shape)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Fractions of 1, nan where no true image counts: float32[N,B] -> float64[B].

        These are the values of scikit-learn's `average_precision_score` with `sample_weight`.
        """
        hits = self._hits @ weights
        correct = np.cumsum(hits, axis=0)
        images = np.cumsum(self._images @ weights, axis=0)
        gains = _ratio(hits * correct, images, empty=0.0).sum(axis=0, dtype=np.float64)
        return _ratio(gains, correct[-1].astype(np.float64), empty=np.nan)


def _sums(level: np.ndarray, images: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """A matrix [G,N] that sums these images' weights by their level."""
    return csr_array((np.ones(len(images), np.float32), (level[images], images)), shape)


def _ratio(part: np.ndarray, whole: np.ndarray, empty: float) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(part, empty), where=whole > 0)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Of what is not nan; nan where all is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return _ratio(total, known.sum(axis=axis).astype(np.float64), empty=np.nan)
