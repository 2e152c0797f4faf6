"""Figures of the predictions for a split: pure functions of host arrays."""

import dataclasses
import math
from typing import Any

import numpy as np

from attn_lstm import metrics
from attn_lstm.data.split import Split

# τ is chosen among these; with the path's product as the score, small ones matter.
THRESHOLDS = np.concatenate([np.geomspace(0.001, 0.1, 9)[:-1], np.linspace(0.1, 0.9, 33)])


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Host arrays of all N images of a split, in its order, for one threshold."""

    labels: np.ndarray  # bool[N,C]
    scores: np.ndarray  # float32[N,C]
    sequence: np.ndarray  # int32[N,T]
    probabilities: np.ndarray  # float32[N,T]
    peaks: np.ndarray | None  # int32[N,T], the region with the largest attention
    losses: dict[str, np.ndarray]  # float32[N] each
    truth: np.ndarray  # bool[N,C]
    image_id: np.ndarray  # int32[N], rows of the split
    regions: int | None  # K


def figures(predictions: Predictions) -> dict[str, float]:
    """C-P … O-F1, macro-F1 and mAP in percent, and the mean of each part of the loss."""
    result = metrics.multilabel_metrics(predictions.labels, predictions.truth)
    result["mAP"] = metrics.mean_average_precision(predictions.scores, predictions.truth)
    for name, part in predictions.losses.items():
        result[f"loss_{name}"] = float(part.mean(dtype=np.float64))
    result["loss"] = float(sum(part.mean(dtype=np.float64) for part in predictions.losses.values()))
    return result


def report(predictions: Predictions, split: Split) -> dict[str, Any]:
    """Everything that `eval.py` writes: figures, the top-3 row, set sizes and per-class figures."""
    truth, labels = predictions.truth, predictions.labels
    result: dict[str, Any] = figures(predictions)
    top3 = metrics.top_k(predictions.scores, min(3, truth.shape[1]))
    result["top-3"] = metrics.multilabel_metrics(top3, truth)
    result["images"], result["labels"] = map(int, truth.shape)
    result["unreadable_images"] = len(split) - len(truth)
    result["set_size"] = {
        "true": float(truth.sum(1).mean()),
        "predicted": float(labels.sum(1).mean()),
    }
    if split.boxes is not None and predictions.peaks is not None:
        result["pointing"] = pointing(predictions, split)
    per_class = metrics.per_class(labels, truth, predictions.scores)
    result["per_class"] = {
        name: {figure: _number(values[i]) for figure, values in per_class.items()}
        for i, name in enumerate(split.label_names)
    }
    return result


def _number(value: np.generic) -> float | int | None:
    """A JSON number; None for a figure that is not defined."""
    value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pointing(predictions: Predictions, split: Split) -> dict[str, float]:
    """How often the attention of a correct label peaks inside a box of that label, in percent.

    A peak counts as the centre of its region (the maps are square). 'uniform' is what a peak
    anywhere with equal chance would score on the same labels: the share of region centres inside.
    """
    side = math.isqrt(predictions.regions)
    centre = (np.arange(side) + 0.5) / side
    centres = np.stack(np.meshgrid(centre, centre, indexing="ij"), -1).reshape(-1, 2)  # [K,(y,x)]
    hits, chance = [], []
    for row, sequence, peaks in zip(
        predictions.image_id, predictions.sequence, predictions.peaks, strict=True
    ):
        boxes = split.boxes[row]
        for label, peak in zip(sequence, peaks, strict=True):
            corners = boxes[boxes[:, 0] == label, 1:]
            if label < 0 or len(corners) == 0:
                continue
            low, high = corners[:, None, :2], corners[:, None, 2:]
            inside = ((centres >= low) & (centres <= high)).all(-1).any(0)
            hits.append(inside[peak])
            chance.append(inside.mean())
    if not hits:
        return {"labels": 0}
    return {
        "labels": len(hits),
        "attention": 100 * float(np.mean(hits)),
        "uniform": 100 * float(np.mean(chance)),
    }


def choose_threshold(candidates: list[Predictions]) -> int:
    """The threshold with the largest mean of C-F1 and O-F1, on a held-out split: its index.

    Of equals the middle one, which is the farthest from where the figures fall.
    """
    means = []
    for predictions in candidates:
        f = metrics.multilabel_metrics(predictions.labels, predictions.truth)
        means.append((f["C-F1"] + f["O-F1"]) / 2)
    best = np.flatnonzero(np.isclose(means, np.max(means), rtol=0, atol=1e-9))
    return int(best[len(best) // 2])
