"""Figures of the predictions for a split: pure functions of host arrays."""

import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attn_lstm import metrics
from attn_lstm.data.split import Split
from attn_lstm.errors import UserError, first_line
from attn_lstm.measures import diagnostics, looking
from attn_lstm.measures.calibration import Calibration, calibration_error
from attn_lstm.measures.predictions import Predictions


def to_npz(predictions: Predictions, split: Split) -> bytes:
    """A file for NumPy with what was predicted of each image of a split.

    It holds `images` (N names), `names` (of the C labels), `labels` and `truth` bool[N,C], `scores`
    float32[N,C], and where some labels are not known `known` bool[N,C].
    """
    known: dict[str, Any] = {} if predictions.known is None else {"known": predictions.known}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.array([split.image_ids[row] for row in predictions.image_id]),
        names=np.array(split.label_names),
        labels=predictions.labels,
        truth=predictions.truth,
        scores=predictions.scores,
        **known,
    )
    return buffer.getvalue()


class Kept(NamedTuple):
    """What a file that `to_npz` made holds of N images."""

    labels: np.ndarray  # bool[N,C], the predicted sets
    scores: np.ndarray  # float32[N,C]
    truth: np.ndarray  # bool[N,C]
    known: np.ndarray | None  # bool[N,C]; None where all labels are known


def read_npz(path: Path) -> Kept:
    """Reads a file that `to_npz` made.

    Raises:
      UserError: it is damaged, or cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            known = kept["known"] if "known" in kept.files else None
            return Kept(kept["labels"], kept["scores"], kept["truth"], known)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}): delete it, and have the run evaluated "
            "again"
        ) from None


def figures(predictions: Predictions, names: Sequence[str] | None = None) -> dict[str, float]:
    """C-P … O-F1, macro-F1 and mAP in percent, and the means of the loss and its parts, if any.

    The names of the C labels are for the warning of those that have no true example.
    """
    truth = predictions.truth
    result = metrics.multilabel_metrics(predictions.judged, truth, names=names)
    result["mAP"] = metrics.mean_average_precision(
        predictions.scores, truth, names=names, known=predictions.known
    )
    parts = {name: float(x.mean(dtype=np.float64)) for name, x in predictions.losses.items()}
    result |= {f"loss_{name}": mean for name, mean in parts.items()}
    if parts:
        result["loss"] = sum(parts.values())
    return result


def top3_figures(predictions: Predictions) -> dict[str, float]:
    """C-P … O-F1 and macro-F1 in percent of the 3 best labels of every image, by their scores.

    Of those that are known.
    """
    scores, known = predictions.scores, predictions.known
    if known is not None:
        scores = np.where(known, scores, scores.min() - 1)
    best = metrics.top_k(scores, min(3, scores.shape[1]))
    return metrics.averaged(metrics.per_class(best, predictions.truth, known=known))


def report(
    predictions: Predictions,
    split: Split,
    counts: Sequence[int],
    fitted: Calibration | None = None,
    maps: np.ndarray | None = None,
) -> dict[str, Any]:
    """Everything that `eval.py` writes: figures, the top-3 row, diagnostics and per-class figures.

    'left_out_labels' names the labels that are neither true nor predicted, which no figure knows;
    'over_all_labels' has the figures in which they count as 0. Where some labels are not known,
    'unknown_pairs' is the number of those of all images, which no figure counts, and each label has
    the number of 'known' images.

    Args:
      predictions: of a split.
      split: that split.
      counts: C numbers, the training images that have each label.
      fitted: what brings the scores closer to frequencies, if it is known.
      maps: float[N,T,K], where the network looked for each label of the sequences, if anywhere.
    """
    truth, labels, known = predictions.truth, predictions.judged, predictions.known
    result: dict[str, Any] = figures(predictions, split.label_names)
    whole = metrics.over_all_labels(labels, truth)
    result["over_all_labels"] = {name: whole[name] for name in ("C-P", "C-F1", "macro-F1")}
    neither = ~(labels.any(axis=0) | truth.any(axis=0))
    result["left_out_labels"] = [split.label_names[label] for label in np.flatnonzero(neither)]
    if known is not None:
        result["unknown_pairs"] = int(np.count_nonzero(~known))
    result["top-3"] = top3_figures(predictions)
    result["images"], result["labels"] = map(int, truth.shape)
    result["unreadable_images"] = len(split) - len(truth)
    boxes = None if split.boxes is None else [split.boxes[row] for row in predictions.image_id]
    diagnosis = diagnostics.diagnose(predictions.judged_sequence, labels, truth, counts, boxes)
    sizes = diagnosis["set_size"]
    result["set_size"] = {name: sizes[name]["mean"] for name in ("true", "predicted")}
    result["diagnostics"] = diagnosis
    result["calibration"] = calibration_report(predictions, fitted)
    result |= looking_report(predictions, boxes, maps)
    per_class = metrics.per_class(labels, truth, predictions.scores, known=known)
    if known is not None:
        per_class["known"] = np.count_nonzero(known, axis=0)
    result["per_class"] = {
        name: {figure: _number(values[i]) for figure, values in per_class.items()}
        for i, name in enumerate(split.label_names)
    }
    return result


def looking_report(
    predictions: Predictions, boxes: Sequence[np.ndarray] | None, maps: np.ndarray | None
) -> dict[str, Any]:
    """Where the network looks for the labels of its sequences, beside what costs nothing.

    Args:
      predictions: of a split.
      boxes: of each image, as in `Split.boxes`, or None where the data has none.
      maps: as in `report`.

    Returns:
      'looking', how much the map changes between two labels of one image: `looking.same_peak`, with
      boxes 'of_other_boxes' too, and the mean 'total_variation'; with boxes 'pointing' as in
      `looking.pointing`, by 'attention' and, where there is one, by M_map's 'cam'. Nothing for rows
      that look nowhere.
    """
    sequence, peaks, regions = predictions.judged_sequence, predictions.peaks, predictions.regions
    if peaks is None or regions is None:
        return {}
    changes: dict[str, Any] = looking.same_peak(peaks, sequence)
    if maps is not None and changes["pairs"]:
        changes["total_variation"] = float(looking.total_variation(maps, sequence).mean())
    if boxes is None:
        return {"looking": changes}
    changes["of_other_boxes"] = looking.same_peak(peaks, sequence, boxes)
    of: dict[str, np.ndarray] = {"attention": peaks}
    if predictions.cam_peaks is not None:
        of["cam"] = np.take_along_axis(predictions.cam_peaks, np.maximum(sequence, 0), axis=1)
    pointing = looking.pointing(sequence, of, regions, boxes)
    return {"looking": changes, "pointing": pointing}


def calibration_report(predictions: Predictions, fitted: Calibration | None) -> dict[str, Any]:
    """How far scores are from the shares that are true, in points of percent.

    Most labels of an image are false and have a score near 0, so that the error over all labels is
    small whatever the predicted ones say.

    Returns:
      'error', the expected calibration error of the predicted labels, None where there are none;
      where a line was fitted to other images, its 'slope' and 'bias' and the 'calibrated_error'
      that it leaves; and under 'over_all_labels' both errors over all labels of all images.
    """

    def errors(scores: np.ndarray, right: np.ndarray) -> dict[str, Any]:
        told = {"error": scores}
        if fitted is not None:
            told["calibrated_error"] = fitted(scores)
        return {
            name: 100 * calibration_error(values.clip(0, 1), right) if right.size else None
            for name, values in told.items()
        }

    return {
        **errors(*predictions.predicted_pairs()),
        **({} if fitted is None else dataclasses.asdict(fitted)),
        "over_all_labels": errors(*predictions.judged_pairs()),
    }


def _number(value: np.generic) -> float | int | None:
    """A JSON number; None for a figure that is not defined."""
    number = value.item()
    return None if isinstance(number, float) and not math.isfinite(number) else number
