"""The pictures of a validation: always of the same images, and never a reason to stop."""

import dataclasses

import numpy as np
import pytest

from attn_lstm.config import resolve
from attn_lstm.data import load_split
from attn_lstm.data.split import FileSource
from attn_lstm.measures.predictions import Predictions
from attn_lstm.training.samples import Samples


@pytest.fixture
def config(tiny_config):
    return resolve(tiny_config())


def predicted(split, rows=None):
    """Every label of every image, in order."""
    rows = np.arange(len(split)) if rows is None else np.asarray(rows)
    labels = np.tile(np.arange(3, dtype=np.int32), (len(rows), 1))
    return Predictions(
        labels=np.ones(labels.shape, bool), scores=np.ones(labels.shape, np.float32),
        sequence=labels, probabilities=np.full(labels.shape, 0.5, np.float32), peaks=None,
        losses={}, truth=split.labels[rows], image_id=rows.astype(np.int32), regions=16,
    )  # fmt: skip


def test_the_same_labelled_images_are_drawn_each_time(config, monkeypatch):
    monkeypatch.setattr("attn_lstm.training.samples.COUNT", 3)
    split = load_split(config.data, "test")
    maps = np.full((len(split), 3, 16), 1 / 16, np.float16)
    samples = Samples(config, split, print)
    first = samples.draw(predicted(split), maps)
    again = samples.draw(predicted(split), None)
    assert [*first] == [*again]
    assert len(first) == 3
    for name, pixels in first.items():
        assert split.labels[split.image_ids.index(name)].any()
        assert pixels.dtype == np.uint8 and pixels.ndim == 3
        assert pixels.shape[1] < 1000
        assert not np.array_equal(pixels, again[name])  # with and without maps


def test_an_image_that_was_left_out_has_no_picture(config, monkeypatch):
    monkeypatch.setattr("attn_lstm.training.samples.COUNT", 3)
    split = load_split(config.data, "test")
    samples = Samples(config, split, print)
    names = [*samples.draw(predicted(split), None)]
    rows = [row for row in range(len(split)) if split.image_ids[row] != names[1]]
    assert [*samples.draw(predicted(split, rows), None)] == [names[0], names[2]]


def test_images_that_are_gone_are_said_once_and_no_reason_to_stop(config, tmp_path):
    split = load_split(config.data, "test")
    gone = dataclasses.replace(split, images=FileSource(tmp_path, split.image_ids))
    said = []
    samples = Samples(config, gone, said.append)
    assert samples.draw(predicted(split), None) == {}
    assert samples.draw(predicted(split), None) == {}
    (line,) = said
    assert "no pictures for TensorBoard" in line and str(tmp_path) in line
