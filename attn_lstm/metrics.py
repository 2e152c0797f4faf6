"""The figures of the paper's tables, and average precision beside them. NumPy only, pure.

All figures are in percent. For label i, N^c_i counts the images where it was predicted rightly,
N^p_i those where it was predicted and N^g_i those where it is true (paper, section on
experiments):

    C-P = mean_i N^c_i / N^p_i          C-R = mean_i N^c_i / N^g_i
    O-P = sum_i N^c_i / sum_i N^p_i     O-R = sum_i N^c_i / sum_i N^g_i

C-F1 and O-F1 are the harmonic means of these averages, which is not the mean of the labels' own
F1 (macro-F1).

What is empty is never silently 0:

- A label that is true somewhere and never predicted has precision 0 and stays in the mean.
- A label without a true example has no recall and no average precision: it leaves those means.
  Where it is never predicted either, nothing is known of it, and it leaves those of precision and
  F1 too. A warning names such labels. The paper divides the sum of the precisions by all labels:
  `over_all_labels` gives its figures.
- No image, or no true label at all, is a `ValueError`.

Masks take images out by selection, so what stands in a masked row (padding, NaN) has no effect. Nor
has what stands where a label of an image is not known (`known`): such a pair is neither true nor
predicted, and the ranking of a label is that of the images of which it is known.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import ArrayLike

_LISTED = 20  # labels named in one warning


def multilabel_metrics(
    predicted: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    known: ArrayLike | None = None,
) -> dict[str, float]:
    """The six figures of the paper's tables and macro-F1, in percent.

    Args:
      predicted: bool[N,C] or 0/1, the predicted label sets.
      labels: bool[N,C] or 0/1, the true label sets.
      mask: bool[N] or 0/1, the images that count; None counts all.
      names: of the C labels, for the warning; None numbers them.
      known: bool[N,C] or 0/1, the labels that count; None counts all.

    Returns:
      'C-P', 'C-R', 'C-F1', 'O-P', 'O-R', 'O-F1' as in the module's head, and 'macro-F1', the mean
      of 2 N^c / (N^p + N^g) over the labels that are true or predicted anywhere: scikit-learn's
      `f1_score(average='macro', zero_division=nan)`.

    Raises:
      ValueError: shapes that do not fit, values other than 0 and 1, no image left by the mask, or
        no true label among the images.
    """
    figures = per_class(predicted, labels, mask=mask, known=known)
    means = averaged(figures)
    _warn_without_example(figures["true"] == 0, names)
    return means


def over_all_labels(
    predicted: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    known: ArrayLike | None = None,
) -> dict[str, float]:
    """`multilabel_metrics` as the paper has it: precision and F1 are sums over all C labels by C.

    A label that is neither true nor predicted counts as 0 in them, as with scikit-learn's
    `zero_division=0`. No warning.
    """
    figures = per_class(predicted, labels, mask=mask, known=known)
    zeroed = {name: np.nan_to_num(figures[name], nan=0.0) for name in ("precision", "f1")}
    return averaged({**figures, **zeroed})


def averaged(figures: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`multilabel_metrics` of what `per_class` gives, without a warning."""
    true, found, correct = (figures[name].sum() for name in ("true", "predicted", "correct"))
    if true == 0:
        raise ValueError("nothing to count: none of the images has a true label")
    precision, recall, f1 = (np.nanmean(figures[name]) for name in ("precision", "recall", "f1"))
    overall_precision = 100 * correct / found if found else 0.0
    overall_recall = 100 * correct / true
    means = {
        "C-P": precision,
        "C-R": recall,
        "C-F1": _harmonic_mean(precision, recall),
        "O-P": overall_precision,
        "O-R": overall_recall,
        "O-F1": _harmonic_mean(overall_precision, overall_recall),
        "macro-F1": f1,
    }
    return {name: float(value) for name, value in means.items()}


def per_class(
    predicted: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    known: ArrayLike | None = None,
) -> dict[str, np.ndarray]:
    """The figures of each label, each an array over the C labels.

    Args:
      predicted: bool[N,C] or 0/1, the predicted label sets.
      labels: bool[N,C] or 0/1, the true label sets.
      scores: float[N,C], higher for likelier labels, or None to leave out average precision.
      mask: bool[N] or 0/1, the images that count; None counts all.
      known: bool[N,C] or 0/1, the labels that count; None counts all.

    Returns:
      'precision' (0 for a label that is true and never predicted), 'recall' (nan for a label
      without a true example) and 'f1', float64[C] in percent; all three are nan for a label that
      is neither true nor predicted;
      'average_precision' (where scores are given), float64[C] in percent, nan as recall;
      'true', 'predicted', 'correct', int64[C], the numbers of images N^g, N^p and N^c.

    Raises:
      ValueError: shapes that do not fit, values other than 0 and 1, scores that are not finite, or
        no image left by the mask.
    """
    chosen, wanted, counted = _select(mask, predicted=predicted, labels=labels, known=known)
    chosen = _as_bool("predicted", _where(counted, chosen))
    wanted = _as_bool("labels", _where(counted, wanted))
    true, found, correct = (np.count_nonzero(x, axis=0) for x in (wanted, chosen, chosen & wanted))
    figures = {
        "precision": _percent(correct, found, empty=np.where(true, 0.0, np.nan)),
        "recall": _percent(correct, true, empty=np.nan),
        "f1": _percent(2 * correct, found + true, empty=np.nan),
        "true": true,
        "predicted": found,
        "correct": correct,
    }
    if scores is not None:
        figures["average_precision"] = 100 * average_precision(scores, labels, mask, known=known)
    return figures


def mean_average_precision(
    scores: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    known: ArrayLike | None = None,
) -> float:
    """The mean of `average_precision` over the labels with a true example, in percent.

    Takes the arguments of `average_precision`, with its errors; no true label at all is a
    `ValueError` too. The names are for the warning, as in `multilabel_metrics`.
    """
    values = average_precision(scores, labels, mask, known=known)
    missing = np.isnan(values)
    if missing.all():
        raise ValueError("nothing to count: none of the images has a true label")
    _warn_without_example(missing, names)
    return float(100 * values[~missing].mean())


def average_precision(
    scores: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    known: ArrayLike | None = None,
) -> np.ndarray:
    """The average precision of each label's ranking of the images, as a fraction of 1.

    It is the mean, over the label's true images, of the precision among all images that score at
    least as high. No interpolation; images with equal scores share a rank. These are the values
    of scikit-learn's `average_precision_score`.

    Args:
      scores: float[N,C], finite, higher for likelier labels.
      labels: bool[N,C] or 0/1, the true label sets.
      mask: bool[N] or 0/1, the images that count; None counts all.
      known: bool[N,C] or 0/1, the labels that count; None counts all.

    Returns:
      float64[C], nan for a label without a true example.

    Raises:
      ValueError: shapes that do not fit, labels other than 0 and 1, scores that are not finite, or
        no image left by the mask.
    """
    ranked, wanted, counted = _select(mask, scores=scores, labels=labels, known=known)
    ranked = _as_finite("scores", _where(counted, ranked))
    wanted = _as_bool("labels", _where(counted, wanted))
    columns = [*zip(ranked.T, wanted.T, strict=True)]
    if counted is not None:
        columns = [(s[of], true[of]) for (s, true), of in zip(columns, counted.T, strict=True)]
    return np.array([_average_precision(score, true) for score, true in columns])


def top_k(scores: ArrayLike, k: int) -> np.ndarray:
    """The k best labels of each image, exactly k of them whatever their scores.

    Args:
      scores: float[N,C], finite, higher for likelier labels.
      k: labels an image, 1 to C.

    Returns:
      bool[N,C]; of equal scores the lower label index goes first.

    Raises:
      ValueError: scores that are not a matrix or not finite, or k out of range.
    """
    values = _as_finite("scores", np.asarray(scores))
    if values.ndim != 2:
        raise ValueError(f"scores must be [images, labels], not of shape {values.shape}")
    if not 1 <= k <= values.shape[1]:
        raise ValueError(f"k must lie between 1 and the {values.shape[1]} labels, not be {k}")
    best = np.argsort(-values, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Of one label: scores float64[N], labels bool[N]."""
    hits = np.sort(scores[labels])
    if not hits.size:
        return np.nan
    # Counting from the left end of a run of equal scores gives all of the run the same rank.
    images = scores.size - np.searchsorted(np.sort(scores), hits)
    correct = hits.size - np.searchsorted(hits, hits)
    return float(np.mean(correct / images))


def _harmonic_mean(a: float, b: float) -> float:
    """Of two figures that are not negative; 0 where both are."""
    return 2 * a * b / (a + b) if a + b else 0.0


def _percent(part: np.ndarray, whole: np.ndarray, empty: ArrayLike) -> np.ndarray:
    """float64[C]: 100 part / whole, and `empty` where the whole is 0."""
    filled = np.broadcast_to(np.asarray(empty, np.float64), whole.shape).copy()
    return np.divide(100 * part, whole, out=filled, where=whole > 0)


def _warn_without_example(missing: np.ndarray, names: Sequence[str] | None) -> None:
    if not missing.any():
        return
    places = np.flatnonzero(missing).tolist()
    which = [f"number {i}" if names is None else repr(names[i]) for i in places]
    listed = ", ".join(which[:_LISTED]) + (", ..." if len(which) > _LISTED else "")
    _warn_once(
        f"{len(which)} of {missing.size} labels have no true example and are left out of the means "
        f"of recall and average precision, and of precision and F1 if never predicted: {listed}"
    )


@functools.cache
def _warn_once(text: str) -> None:
    """Figures are asked for again at every validation: it need not be said each time."""
    logging.warning("%s", text)


def _select(mask: ArrayLike | None, *, known: ArrayLike | None, **named: ArrayLike) -> list[Any]:
    """The rows of the arrays [N,C] that the mask [N] keeps, after a check of their shapes.

    Behind them which of the cells are known, bool[N,C], or None.
    """
    arrays = {name: np.asarray(value) for name, value in named.items()}
    if known is not None:
        arrays["known"] = _as_bool("known", np.asarray(known))
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        got = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"arrays must all be [images, labels] of one shape, got {got}")
    (images, labels) = shapes.pop()
    keep = np.ones(images, dtype=bool) if mask is None else np.asarray(mask)
    if keep.shape != (images,):
        raise ValueError(f"mask must have the shape {(images,)} of the images, got {keep.shape}")
    keep = _as_bool("mask", keep)
    if not keep.any() or not labels:
        raise ValueError(
            f"nothing to count: {np.count_nonzero(keep)} of {images} images, {labels} labels"
        )
    chosen = [array[keep] for array in arrays.values()]
    return chosen if known is not None else [*chosen, None]


def _where(known: np.ndarray | None, array: np.ndarray) -> np.ndarray:
    """The array with 0 where it does not count."""
    return array if known is None else np.where(known, array, np.zeros((), array.dtype))


def _as_bool(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array
    wrong = ~((array == 0) | (array == 1))
    if wrong.any():
        raise ValueError(
            f"{name} of shape {array.shape} must hold only 0 and 1, found {array[wrong][0]}"
        )
    return array == 1


def _as_finite(name: str, array: np.ndarray) -> np.ndarray:
    values = array.astype(np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise ValueError(
            f"{name} of shape {array.shape} must be finite, "
            f"{np.count_nonzero(wrong)} are not, first {values[wrong][0]}"
        )
    return values
