"""Which images of a split a report shows, and what it shows of each: functions of host arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from attn_lstm.measures.predictions import Predictions
from attn_lstm.reports.overlay import overlay

_SIDE = 480  # pixels of the longer side of what is shown
_SEED = 0  # of the order in which images are tried for the gallery


@dataclasses.dataclass(frozen=True)
class Emitted:
    """A label of an image's predicted sequence."""

    label: int  # column of the label vector
    name: str
    probability: float  # that it is true where scores are calibrated, else when it was emitted
    right: bool | None  # None where it is not known
    # uint8[h,w,3], the image under the attention of its step; the image's maps share their scale
    overlay: np.ndarray | None
    peak: float | None  # the largest attention, as a multiple of an even spread's
    score: float | None  # the raw one, of which the probability was made; None if of none


@dataclasses.dataclass(frozen=True)
class Example:
    """An image with its true labels and what was predicted."""

    image_id: str
    image: np.ndarray  # uint8[h,w,3]
    emitted: tuple[Emitted, ...]  # in the order of emission
    true: tuple[str, ...]
    missed: tuple[str, ...]  # those of `true` that were not predicted
    missed_labels: tuple[int, ...]
    f1: float  # a fraction of 1


def image_f1(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """2 N^c / (N^p + N^g) of each image, float64[N]; 1 where no label is true and none predicted.

    Args:
      predicted, truth: bool[N,C].
    """
    both = predicted.sum(1) + truth.sum(1)
    return np.divide(2 * (predicted & truth).sum(1), both, out=np.ones(len(both)), where=both > 0)


def best_and_worst(predictions: Predictions, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The images with the highest and with the lowest F1, the most telling first, none in both.

    Of the best with equal F1 those with more labels go first (five labels right say more than
    one), then those with the smaller loss. Of the worst those with more labels wrong or missed,
    then those with the larger loss.

    Returns:
      Two int64 arrays of at most `count` indices into the arrays of `predictions`; where there
      are not enough images for both, the best have their share first.
    """
    f1 = image_f1(predictions.judged, predictions.truth)
    # Rows that minimise nothing have no losses.
    loss = sum(predictions.losses.values(), np.zeros(len(f1)))
    right = (predictions.judged & predictions.truth).sum(1)
    mistakes = (predictions.judged ^ predictions.truth).sum(1)
    best = np.lexsort((loss, -right, -f1))[:count]
    worst = np.lexsort((-loss, -mistakes, f1))
    return best, worst[~np.isin(worst, best)][:count]


def covering(predictions: Predictions, chosen: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """`chosen` and other images that show as many labels as possible: int64[<= size].

    Labels are taken in the order of their frequency, once each for an image where the label is
    right, one where it is missed and one where it is wrong. Which image that is, and what fills up
    the rest, is drawn from a fixed seed: nobody has picked it.
    """
    predicted, truth = predictions.judged, predictions.truth
    rows = dict.fromkeys(int(row) for row in chosen)
    order = np.random.default_rng(_SEED).permutation(len(truth))
    by_frequency = np.argsort(-truth.sum(0), kind="stable")
    for kind in (predicted & truth, truth & ~predicted, predicted & ~truth):
        for label in by_frequency:
            candidates = order[kind[order, label]]
            if candidates.size and not any(kind[row, label] for row in rows):
                rows[int(candidates[0])] = None
    rows.update(dict.fromkeys(order.tolist()))
    return np.array([*rows][: max(size, len(chosen))], np.int64)


def make_example(
    image_id: str,
    image: np.ndarray,
    names: Sequence[str],
    predicted: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    truth: np.ndarray,
    resize: str,
    known: np.ndarray | None = None,
    scores: np.ndarray | None = None,
) -> Example:
    """What is shown of one image.

    Args:
      image_id: its name.
      image: uint8[H,W,3], before it was resized for the network.
      names: of the C labels.
      predicted: the sequence int32[T], -1 behind its last label, the probabilities float32[T] and
        the attention maps float[T,K] of a square of regions, or None.
      truth: bool[C].
      resize: `config.data.resize`.
      known: bool[C], the labels of which the truth is; None for all.
      scores: float32[T], of which the probabilities were made; None where nobody has calibrated.
    """
    image = _shrink(image)
    sequence, probabilities, maps = predicted
    emitted = []
    count = int((sequence >= 0).sum())
    top = 0.0 if maps is None or not count else float(maps[:count].max())
    for step, label in enumerate(sequence[sequence >= 0].tolist()):
        shown, peak = None, None
        if maps is not None:
            side = math.isqrt(maps.shape[-1])
            attention = maps[step].astype(np.float32).reshape(side, side)
            shown = overlay(image, attention, resize, top)
            peak = float(attention.max() * maps.shape[-1])
        probability = float(probabilities[step])
        verdict = bool(truth[label]) if known is None or known[label] else None
        score = None if scores is None else float(scores[step])
        emitted.append(Emitted(label, names[label], probability, verdict, shown, peak, score))
    true = np.flatnonzero(truth)
    missed = true[~np.isin(true, sequence)]
    right = len(true) - len(missed)
    judged = sum(label.right is not None for label in emitted)
    return Example(
        image_id=image_id,
        image=image,
        emitted=tuple(emitted),
        true=tuple(names[label] for label in true.tolist()),
        missed=tuple(names[label] for label in missed.tolist()),
        missed_labels=tuple(missed.tolist()),
        f1=2 * right / (len(true) + judged) if len(true) + judged else 1.0,
    )


def _shrink(image: np.ndarray) -> np.ndarray:
    """uint8[H,W,3] -> uint8[h,w,3] with sides of at most `_SIDE`, never larger than it was."""
    small = Image.fromarray(image)
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(small)
