"""Runs on a vision transformer and on a ConvNeXt, from files of timm's."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from attn_lstm.errors import UserError
from attn_lstm.models import convnext
from attn_lstm.models.presets import PRESETS
from attn_lstm.models.vit import Architecture
from attn_lstm.training.loop import train
from attn_lstm.weights import load_preset
from tests import work_directories
from tests.published import of_timm, saved

TINY = Architecture(width=16, depth=3, heads=2, feedforward=32, patch=14, grid=4, layer_scale=True)
CONVNEXT = convnext.Architecture(widths=(8, 12, 16, 20), depths=(1, 1, 1, 1))


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


@pytest.fixture
def convnext_fields(monkeypatch, tmp_path) -> dict:
    """As `fields`, in the place of ConvNeXt-T."""
    preset = dataclasses.replace(PRESETS["convnext_tiny_224"], architecture=CONVNEXT)
    monkeypatch.setitem(PRESETS, "convnext_tiny_224", preset)
    return {
        "backbone.name": "convnext",
        "backbone.preset": "convnext_tiny_224",
        "backbone.weights": str(saved(of_timm(CONVNEXT), tmp_path)),
        "data.image_size": 32,
        "train.steps": 4,
    }


def backbone_of(folder: Path) -> dict:
    return work_directories.saved(folder, 4)["variables"]["params"]["backbone"]


def test_a_head_trains_on_its_kept_features(tiny_config, fields, tmp_path, one_device):
    config = tiny_config(**fields, **{"backbone.frozen": True})
    assert train(config, tmp_path / "run", one_device)
    kept = backbone_of(tmp_path / "run")
    published = load_preset(fields["backbone.weights"], "dinov2_s14")["params"]
    jax.tree.map(np.testing.assert_array_equal, kept, published)


def changed(folder: Path, fields: dict) -> set[str]:
    """The modules of the backbone that are no more as they were published."""
    learned = backbone_of(folder)
    published = load_preset(fields["backbone.weights"], fields["backbone.preset"])["params"]
    return {
        name
        for name in published
        if not all(jax.tree.leaves(jax.tree.map(np.array_equal, learned[name], published[name])))
    }


@pytest.mark.parametrize(
    ("network", "resting", "moved"),
    [
        ("fields", 1, {"block_1", "block_2", "norm"}),
        ("convnext_fields", 2, {"block_2", "block_3", "norm"}),
    ],
)
def test_its_upper_blocks_join_later_and_the_lower_ones_rest(
    network, resting, moved, tiny_config, request, tmp_path, one_device
):
    fields = request.getfixturevalue(network)
    config = tiny_config(
        **fields,
        **{"backbone.unfreeze_step": 2, "backbone.resting_blocks": resting, "backbone.remat": True,
           "optimizer.layer_decay": 0.7, "optimizer.weight_decay": 0.01},
    )  # fmt: skip
    assert train(config, tmp_path / "run", one_device)
    assert changed(tmp_path / "run", fields) == moved


def test_the_file_of_another_network_is_refused(tiny_config, fields, tmp_path, one_device):
    other = dataclasses.replace(TINY, width=32)
    path = saved(of_timm(other), tmp_path)
    config = tiny_config(**{**fields, "backbone.weights": str(path)})
    with pytest.raises(UserError, match=r"does not fit dinov2_s14.*has shape"):
        train(config, tmp_path / "run", one_device)
