"""Runs on a vision transformer, from a file of timm's."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from attn_lstm.errors import UserError
from attn_lstm.models.presets import PRESETS
from attn_lstm.models.vit import Architecture
from attn_lstm.training.loop import train
from attn_lstm.weights import load_vit
from tests import work_directories
from tests.published import of_timm, saved

TINY = Architecture(width=16, depth=3, heads=2, feedforward=32, patch=14, grid=4, layer_scale=True)


@pytest.fixture
def fields(monkeypatch, tmp_path) -> dict:
    """Of a config with a small network in the place of DINOv2 S/14."""
    preset = dataclasses.replace(PRESETS["dinov2_s14"], architecture=TINY)
    monkeypatch.setitem(PRESETS, "dinov2_s14", preset)
    return {
        "backbone.name": "vit",
        "backbone.preset": "dinov2_s14",
        "backbone.weights": str(saved(of_timm(TINY), tmp_path)),
        "data.image_size": 56,
        "train.steps": 4,
    }


def backbone_of(folder: Path) -> dict:
    return work_directories.saved(folder, 4)["variables"]["params"]["backbone"]


def test_a_head_trains_on_its_kept_features(tiny_config, fields, tmp_path, one_device):
    config = tiny_config(**fields, **{"backbone.frozen": True})
    assert train(config, tmp_path / "run", one_device)
    kept = backbone_of(tmp_path / "run")
    published = load_vit(fields["backbone.weights"], "dinov2_s14")["params"]
    jax.tree.map(np.testing.assert_array_equal, kept, published)


def test_its_upper_blocks_join_later_and_the_lower_ones_rest(
    tiny_config, fields, tmp_path, one_device
):
    config = tiny_config(
        **fields,
        **{"backbone.unfreeze_step": 2, "backbone.resting_blocks": 1, "backbone.remat": True,
           "optimizer.layer_decay": 0.7, "optimizer.weight_decay": 0.01},
    )  # fmt: skip
    assert train(config, tmp_path / "run", one_device)
    learned = backbone_of(tmp_path / "run")
    published = load_vit(fields["backbone.weights"], "dinov2_s14")["params"]
    same = {
        name: all(jax.tree.leaves(jax.tree.map(np.array_equal, learned[name], published[name])))
        for name in published
    }
    assert {name for name, equal in same.items() if not equal} == {"block_1", "block_2", "norm"}


def test_the_file_of_another_network_is_refused(tiny_config, fields, tmp_path, one_device):
    other = dataclasses.replace(TINY, width=32)
    path = saved(of_timm(other), tmp_path)
    config = tiny_config(**{**fields, "backbone.weights": str(path)})
    with pytest.raises(UserError, match=r"does not fit dinov2_s14.*has shape"):
        train(config, tmp_path / "run", one_device)
