"""Predictions as text: one line of JSON or CSV an image."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from attn_lstm.errors import UserError
from attn_lstm.serving.model import ImagePrediction, PredictedLabel

# {"image", "labels": [{"name", "probability", "step"}, ...]} or {"image", "error"}; a label has
# "calibrated" too where the model is; "overlay" names the picture of the attention maps where one
# was drawn.
Record = dict[str, Any]
Writer = Callable[[Record], None]

_LISTED = {
    "labels": "name", "probabilities": "probability", "steps": "step", "calibrated": "calibrated"
}  # fmt: skip
_COLUMNS = ("image", *_LISTED, "overlay", "error")
_JOINT = "|"  # as in the label file of a user's own data set


def record(image: str, outcome: ImagePrediction | UserError) -> Record:
    """What is written of one image; probabilities have six significant digits."""
    if isinstance(outcome, UserError):
        return {"image": image, "error": str(outcome)}
    return {"image": image, "labels": [_label(label) for label in outcome.labels]}


def _label(label: PredictedLabel) -> dict[str, Any]:
    def rounded(value: float) -> float:
        return float(f"{value:.6g}")

    entry = {"name": label.name, "probability": rounded(label.probability), "step": label.step}
    if label.calibrated is not None:
        entry["calibrated"] = rounded(label.calibrated)
    return entry


def jsonl_writer(output: TextIO) -> Writer:
    """Writes a record as one line of JSON, in ASCII."""

    def write(entry: Record) -> None:
        print(json.dumps(entry), file=output, flush=True)

    return write


def csv_writer(output: TextIO, label_names: Sequence[str]) -> Writer:
    """Writes a head now, then a record as one row; labels, probabilities and steps are joined.

    Raises:
      UserError: a label's name has the bar that joins them.
    """
    barred = [name for name in label_names if _JOINT in name]
    if barred:
        raise UserError(
            f"--format=csv joins labels by {_JOINT!r}, which {barred[0]!r} holds: "
            "take --format=jsonl"
        )
    table = csv.DictWriter(output, _COLUMNS, restval="", lineterminator="\n")
    table.writeheader()

    def write(entry: Record) -> None:
        labels = entry.get("labels", [])
        joined = {
            column: _JOINT.join(str(label[field]) for label in labels if field in label)
            for column, field in _LISTED.items()
        }
        table.writerow({**entry, **joined})
        output.flush()

    return write
