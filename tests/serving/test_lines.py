"""Lines of predictions: what a calibrated model adds to them."""

import csv
import io

import numpy as np

from attn_lstm.serving.lines import csv_writer, record
from attn_lstm.serving.model import ImagePrediction, PredictedLabel


def prediction(*calibrated):
    labels = tuple(
        PredictedLabel(f"label{i}", 0.25 + i / 4, i + 1, None, value)
        for i, value in enumerate(calibrated)
    )
    return ImagePrediction(labels, np.zeros(3, np.float32))


def test_a_calibrated_label_says_so_and_another_does_not():
    entry = record("a.jpg", prediction(0.123456789))
    assert entry["labels"] == [
        {"name": "label0", "probability": 0.25, "step": 1, "calibrated": 0.123457}
    ]
    assert [*record("a.jpg", prediction(None))["labels"][0]] == ["name", "probability", "step"]


def test_csv_joins_what_is_there():
    stream = io.StringIO()
    write = csv_writer(stream, ("label0", "label1"))
    write(record("a.jpg", prediction(0.5, 0.75)))
    write(record("b.jpg", prediction(None, None)))
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["labels"] for row in rows] == ["label0|label1"] * 2
    assert [row["calibrated"] for row in rows] == ["0.5|0.75", ""]
