"""Predictions and images made up for the tests of reports."""

from __future__ import annotations

import numpy as np

from attn_lstm.data.split import FileSource, Split
from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.predictions import Predictions
from attn_lstm.reports.gallery import Example, make_example

NAMES = ("person", "teddy bear", "stop sign", "<script>alert('x')</script>", 'a "quoted" & $name$')


def made_up_predictions(images: int = 12, labels: int = 5, seed: int = 0) -> Predictions:
    """Random sets, of which every sequence lists each label once."""
    rng = np.random.default_rng(seed)
    steps = min(4, labels)
    truth = rng.random((images, labels)) < 0.4
    truth[:2] = True  # every label is true somewhere
    scores = np.clip(truth * 0.4 + rng.random((images, labels)) * 0.6, 0, 1).astype(np.float32)
    order = np.argsort(-scores, axis=1)[:, :steps]
    emitted = np.arange(steps) < rng.integers(0, steps + 1, (images, 1))
    sequence = np.where(emitted, order, -1).astype(np.int32)
    predicted = np.zeros((images, labels), bool)
    for row, some in zip(predicted, sequence, strict=True):
        row[some[some >= 0]] = True
    return Predictions(
        labels=predicted,
        scores=scores,
        sequence=sequence,
        probabilities=np.where(emitted, np.take_along_axis(scores, order, 1), 0).astype(np.float32),
        peaks=np.zeros(sequence.shape, np.int32),
        losses={"map": rng.random(images, np.float32)},
        truth=truth,
        image_id=np.arange(images, dtype=np.int32),
        regions=9,
    )


def made_up_split(predictions: Predictions, names: tuple[str, ...] = NAMES) -> Split:
    images = len(predictions.truth)
    files = tuple(f"{i:03}.jpg" for i in range(images))
    return Split("coco", "test", names, files, predictions.truth, FileSource("/none", files))


def made_up_examples(
    predictions: Predictions,
    names: tuple[str, ...] = NAMES,
    attend: bool = True,
    fitted: Calibration | None = None,
) -> list[Example]:
    rng = np.random.default_rng(1)
    steps = predictions.sequence.shape[1]
    examples = []
    for i in range(len(predictions.truth)):
        image = rng.integers(0, 255, (30, 40, 3), np.uint8)
        maps = rng.dirichlet(np.full(9, 0.3), steps) if attend else None
        scores = None if fitted is None else predictions.sequence_scores[i]
        probabilities = predictions.probabilities[i] if fitted is None else fitted(scores)
        predicted = (predictions.sequence[i], probabilities, maps)
        truth = predictions.truth[i]
        known = None if predictions.known is None else predictions.known[i]
        examples.append(
            make_example(f"{i:03}.jpg", image, names, predicted, truth, "squash", known, scores)
        )
    return examples
