"""What the predictions of a split say beside its figures. Pure functions of host arrays.

- In which order labels are emitted: frequent ones first, or large objects first?
- Does a sequence repeat a label?
- How large are the predicted sets, and how good on images of few and of many labels?
- Are the labels of small objects found?

N images, C labels, T steps of emission. Shares and figures are in percent, areas fractions of the
image.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attn_lstm import metrics
from attn_lstm.ordering import frequency_rank

# The largest box of a label, in fractions of the image: from, to below. COCO's own classes are in
# pixels of its original photographs, which other data sets and squashed copies do not have.
OBJECT_SIZES = {"small": (0.0, 0.01), "medium": (0.01, 0.1), "large": (0.1, math.inf)}
MANY = 5  # true labels from which on images are one group
LISTED_STEPS = 20  # of emission; a row without a decoder may list every label there is


def diagnose(
    sequence: np.ndarray,
    labels: np.ndarray,
    truth: np.ndarray,
    counts: Sequence[int],
    boxes: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """All of this module, ready for JSON.

    Args:
      sequence: int[N,T], labels in the order of emission, -1 behind the last. Of a row without a
        decoder: by probability.
      labels: bool[N,C], the predicted sets.
      truth: bool[N,C].
      counts: C numbers, the training images that have each label.
      boxes: of each image float[n,5], as in `Split.boxes`; None where the data has none.

    Returns:
      'order': 'frequent_first', and with boxes 'large_first', each as `_order` describes it;
        their 'kendall_tau' is +1 when every image's frequent labels (large objects) come before
        its rare (small) ones, -1 when always behind, near 0 without relation. Steps list
        'mean_rank', 1 the most frequent label, and 'mean_area' of the label's largest box, where
        only labels that have a box in that image count.
      'repeating_sequences': how many name a label twice.
      'set_size', 'by_true_labels', with boxes 'recall_by_object_size': as the functions below.
    """
    sequence = sequence[:, (sequence >= 0).any(axis=0)]  # the longest may have few of T labels
    emitted = sequence >= 0
    label = np.where(emitted, sequence, 0)
    rank = np.where(emitted, 1.0 + np.asarray(frequency_rank(np.asarray(counts)))[label], np.nan)
    result: dict[str, Any] = {
        "order": {"frequent_first": _order(rank, "mean_rank", rank_correlation(rank))},
        "repeating_sequences": repeating_sequences(sequence),
        "set_size": set_sizes(labels, truth),
        "by_true_labels": figures_by_true_labels(labels, truth),
    }
    if boxes is not None:
        areas = largest_areas(boxes, truth.shape[1])
        area = np.where(emitted, np.take_along_axis(areas, label, axis=1), np.nan)
        result["order"]["large_first"] = _order(area, "mean_area", rank_correlation(-area))
        result["recall_by_object_size"] = recall_by_object_size(labels, truth, areas)
    return result


def _order(values: np.ndarray, name: str, tau: np.ndarray) -> dict[str, Any]:
    """The mean correlation, and the mean value at each step.

    The means compare different images (only those with many labels reach the late steps), the
    correlation compares labels of one image.

    Args:
      values: float64[N,T] of the emitted labels, nan where there is none.
      name: for the means of a step.
      tau: float64[N], nan for images that do not count.

    Returns:
      'kendall_tau' (None without an image), 'images' that it is a mean of; lists over the first
      `LISTED_STEPS` steps: 'labels', the number of values, and `name`, their mean (None for none).
    """
    counted = tau[~np.isnan(tau)]
    known = ~np.isnan(values)
    numbers = known.sum(axis=0)
    steps = range(min(len(numbers), LISTED_STEPS))
    return {
        "kendall_tau": float(counted.mean()) if counted.size else None,
        "images": counted.size,
        "labels": [int(numbers[t]) for t in steps],
        name: [float(values[known[:, t], t].mean()) if numbers[t] else None for t in steps],
    }


def rank_correlation(values: np.ndarray) -> np.ndarray:
    """Kendall's tau-b between the columns' order and the values, of each row.

    That of `scipy.stats.kendalltau`, for all rows at once.

    Args:
      values: float[N,T]; nan where a row has none.

    Returns:
      float64[N]: 1 where the values rise from column to column, -1 where they fall; nan for rows
      with fewer than two different values.
    """
    length = values.shape[1]
    score, untied, pairs = (np.zeros(len(values)) for _ in range(3))
    for lag in range(1, length):
        difference = values[:, lag:] - values[:, : length - lag]
        score += np.nansum(np.sign(difference), axis=1)
        pairs += np.sum(~np.isnan(difference), axis=1)
        untied += np.sum(np.abs(difference) > 0, axis=1)  # False for nan
    # Columns are never tied, so that all pairs stand under the one root.
    return np.divide(
        score, np.sqrt(pairs * untied), out=np.full(len(values), np.nan), where=untied > 0
    )


def repeating_sequences(sequence: np.ndarray) -> int:
    """How many rows of int[N,T] hold a label twice; entries below 0 are no labels."""
    ordered = np.sort(sequence, axis=1)
    same = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return int(same.any(axis=1).sum())


def set_sizes(labels: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Sizes of the predicted and the true sets, bool[N,C] each.

    Returns:
      'predicted' and 'true': {'mean', 'images': how many have 0, 1, 2 … labels};
      'mean_absolute_difference' of the two sizes of an image.
    """
    predicted, true = labels.sum(axis=1), truth.sum(axis=1)
    return {
        "predicted": {"mean": float(predicted.mean()), "images": np.bincount(predicted).tolist()},
        "true": {"mean": float(true.mean()), "images": np.bincount(true).tolist()},
        "mean_absolute_difference": float(np.abs(predicted - true).mean()),
    }


def figures_by_true_labels(labels: np.ndarray, truth: np.ndarray) -> dict[str, dict[str, Any]]:
    """C-F1 and O-F1 on the images with 1, 2, 3, 4 and `MANY` or more true labels.

    As `metrics.multilabel_metrics` on these images alone: a label that none of them has leaves the
    mean of the recalls, and that of the precisions too unless it is predicted for one of them.
    Where a group is small, most labels may be so, and its C-F1 says little.

    Args:
      labels: bool[N,C], the predicted sets.
      truth: bool[N,C].

    Returns:
      by '1', '2' … '5+': 'C-F1', 'O-F1', the number of 'images', and 'labels', how many labels
      they have among them. Groups without an image are not there.
    """
    sizes = np.minimum(truth.sum(axis=1), MANY)
    return {
        f"{size}+" if size == MANY else f"{size}": {
            **_f1(labels[sizes == size], truth[sizes == size]),
            "images": int((sizes == size).sum()),
            "labels": int(truth[sizes == size].any(axis=0).sum()),
        }
        for size in range(1, MANY + 1)
        if (sizes == size).any()
    }


def _f1(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    # Not by `multilabel_metrics`, which would warn of the labels that a group lacks.
    figures = metrics.averaged(metrics.per_class(labels, truth))
    return {name: figures[name] for name in ("C-F1", "O-F1")}


def largest_areas(boxes: Sequence[np.ndarray], num_labels: int) -> np.ndarray:
    """The area of the largest box of each label: float64[N,C], nan for labels without a box.

    Args:
      boxes: N images, of each float[n,5], as in `Split.boxes`.
      num_labels: C.
    """
    areas = np.full((len(boxes), num_labels), np.nan)
    for row, objects in enumerate(boxes):
        columns, (top, left, bottom, right) = objects[:, 0].astype(int), objects[:, 1:].T
        np.fmax.at(areas[row], columns, (bottom - top) * (right - left))
    return areas


def recall_by_object_size(
    labels: np.ndarray, truth: np.ndarray, areas: np.ndarray
) -> dict[str, dict[str, Any]]:
    """How many of the true labels are predicted, by the size of their largest box.

    Args:
      labels: bool[N,C], the predicted sets.
      truth: bool[N,C].
      areas: float[N,C], as `largest_areas` gives them. A true label without a box does not count.

    Returns:
      by the names of `OBJECT_SIZES`: 'recall' and 'labels', the number of true ones over all
      images. Sizes that no label has are not there.
    """
    result = {}
    for name, (low, high) in OBJECT_SIZES.items():
        found = labels[truth & (areas >= low) & (areas < high)]
        if found.size:
            result[name] = {"recall": 100 * float(found.mean()), "labels": found.size}
    return result
