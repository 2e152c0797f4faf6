"""Lines of predictions: what a calibrated model adds to them."""

import csv
import io
import json

import numpy as np
import pytest

from attn_lstm.errors import UserError
from attn_lstm.serving import lines
from attn_lstm.serving.lines import coco_writer, csv_writer, parquet_writer, record
from attn_lstm.serving.results import ImagePrediction, PredictedLabel


def prediction(*scores):
    labels = tuple(
        PredictedLabel(f"label{i}", 0.25 + i / 4, i + 1, None, value)
        for i, value in enumerate(scores)
    )
    return ImagePrediction(labels, np.zeros(3, np.float32))


def test_a_calibrated_label_has_its_score_and_another_does_not():
    entry = record("a.jpg", prediction(0.123456789))
    assert entry["labels"] == [
        {"name": "label0", "probability": 0.25, "step": 1, "score": 0.123457}
    ]
    assert [*record("a.jpg", prediction(None))["labels"][0]] == ["name", "probability", "step"]


def test_csv_joins_what_is_there():
    stream = io.StringIO()
    write = csv_writer(stream, ("label0", "label1"))
    write(record("a.jpg", prediction(0.5, 0.75)))
    write(record("b.jpg", prediction(None, None)))
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["labels"] for row in rows] == ["label0|label1"] * 2
    assert [row["scores"] for row in rows] == ["0.5|0.75", ""]


def test_coco_has_an_entry_a_label_and_none_of_an_image_that_failed():
    stream = io.StringIO()
    with coco_writer(stream, ("label1", "label0")) as write:
        write(record("a.jpg", prediction(0.6, 0.75)))
        write(record("broken.jpg", UserError("is no image")))
        write(record("b.jpg", prediction(None)))
    entries = json.loads(stream.getvalue())
    assert [
        (e["image_id"], e["category_id"], e["score"], e.get("probability")) for e in entries
    ] == [
        ("a.jpg", 2, 0.6, 0.25), ("a.jpg", 1, 0.75, 0.5), ("b.jpg", 2, 0.25, None),
    ]  # fmt: skip


def test_coco_of_nothing_is_an_empty_list():
    stream = io.StringIO()
    with coco_writer(stream, ()):
        pass
    assert json.loads(stream.getvalue()) == []


def test_a_parquet_table_reads_back_as_the_lines_say(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(lines, "_ROWS", 2)
    entries = [record("a.jpg", prediction(0.5, 0.75)), record("b.jpg", UserError("is no image")),
               record("\udcff.jpg", prediction())]  # fmt: skip
    with parquet_writer(tmp_path / "table.parquet") as write:
        for entry in entries:
            write(entry)
    rows = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    assert [row["image"] for row in rows] == ["a.jpg", "b.jpg", "?.jpg"]
    assert rows[0]["labels"] == entries[0]["labels"] and rows[1]["labels"] is None
    assert [row["error"] for row in rows] == [None, "is no image", None]
