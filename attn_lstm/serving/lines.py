"""Predictions as files: a line of JSON or CSV an image, COCO's results, a table of Parquet."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from attn_lstm.errors import UserError
from attn_lstm.serving.results import ImagePrediction, PredictedLabel

# {"image", "labels": [{"name", "probability", "step"}, ...]} or {"image", "error"}; a label has its
# raw "score" too where the probability is calibrated; "overlay" names the picture of the attention
# maps where one was drawn.
Record = dict[str, Any]
Writer = Callable[[Record], None]

_LISTED = {
    "labels": "name", "probabilities": "probability", "steps": "step", "scores": "score"
}  # fmt: skip
_COLUMNS = ("image", *_LISTED, "overlay", "error")
_ROWS = 1000  # of a table that are written at once
_JOINT = "|"  # as in the label file of a user's own data set


def record(image: str, outcome: ImagePrediction | UserError) -> Record:
    """What is written of one image; probabilities have six significant digits."""
    if isinstance(outcome, UserError):
        return {"image": image, "error": str(outcome)}
    return {"image": image, "labels": [_label(label) for label in outcome.labels]}


def _label(label: PredictedLabel) -> dict[str, Any]:
    return {
        field: float(f"{value:.6g}") if isinstance(value, float) else value
        for field, value in label.to_dict().items()
    }


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


@contextlib.contextmanager
def coco_writer(output: TextIO, label_names: Sequence[str]) -> Iterator[Writer]:
    """Writes one JSON list with an entry a label, as COCO's tools take results.

    An entry is {"image_id": the image's path, "category_id": the label's place among those of the
    model, from 1, "category_name", "score", "step"}, where the model is calibrated with the
    "probability" beside its raw score. Images that cannot be read have none.
    """
    places = {name: place for place, name in enumerate(label_names, 1)}
    joint = "[\n"

    def write(entry: Record) -> None:
        nonlocal joint
        for label in entry.get("labels", []):
            result = {
                "image_id": entry["image"],
                "category_id": places[label["name"]],
                "category_name": label["name"],
                "score": label.get("score", label["probability"]),
                "step": label["step"],
            }
            if "score" in label:
                result["probability"] = label["probability"]
            output.write(joint + json.dumps(result))
            joint = ",\n"

    yield write
    output.write("[]\n" if joint == "[\n" else "\n]\n")
    output.flush()


@contextlib.contextmanager
def parquet_writer(path: Path) -> Iterator[Writer]:
    """Writes a table with a row an image: the fields of a line of JSON, labels as a list of them.

    Raises:
      UserError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "--format=parquet needs pyarrow: pip install 'attn_lstm[parquet]'"
        ) from None
    number = arrow.float64()
    label = [("name", arrow.string()), ("probability", number), ("step", arrow.int32()),
             ("score", number)]  # fmt: skip
    schema = arrow.schema(
        [
            ("image", arrow.string()),
            ("labels", arrow.list_(arrow.struct(label))),
            ("overlay", arrow.string()),
            ("error", arrow.string()),
        ]
    )
    rows: list[Record] = []
    with parquet.ParquetWriter(path, schema) as table:

        def flush() -> None:
            if rows:
                table.write_table(arrow.Table.from_pylist(rows, schema))
                rows.clear()

        def write(entry: Record) -> None:
            rows.append({**entry, "image": entry["image"].encode("utf-8", "replace").decode()})
            if len(rows) == _ROWS:
                flush()

        yield write
        flush()
