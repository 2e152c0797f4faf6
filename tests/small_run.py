"""A run of a few steps on the coloured patches, for tests of what is done with a trained one."""

from pathlib import Path

import jax
import ml_collections
import numpy as np

from attn_lstm.fields import flatten
from attn_lstm.measures.thresholds import Threshold
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import tuned, workdir
from attn_lstm.serving.model import open_model
from attn_lstm.training.loop import train
from configs import coco


def flags_of(config: ml_collections.ConfigDict) -> list[str]:
    """What makes a config of configs/coco.py into this one of the same row, for `train.py`."""
    usual = dict(flatten(coco.get_config(config.method)))
    changed = {name: value for name, value in flatten(config) if usual[name] != value}
    return [
        f"--config=configs/coco.py:{config.method}",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    ]


def train_with_sets_of_any_size(
    config: ml_collections.ConfigDict, directory: Path, files: list
) -> None:
    """Trains on one device, and keeps a τ under which the label sets of `files` differ in size."""
    train(config, directory, make_mesh(jax.devices()[:1]))
    config = workdir.load_config(directory)
    config.search.threshold = 0.0
    everything = open_model(config, directory, "best").predict(files)
    median = np.median([label.probability for p in everything for label in p.labels])
    tuned.save_threshold(directory, config.train.steps, config.search, Threshold(float(median)))
