"""The deletion test on a network of which it is known what each label needs."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.config import resolve
from attn_lstm.data.split import Batch
from attn_lstm.measures.predictions import Predictions
from attn_lstm.parallel import make_mesh
from attn_lstm.rows import create_row
from attn_lstm.runs import deletion

IMAGES, LABELS, REGIONS = 11, 3, 16
NEED = 4 * np.arange(LABELS)  # the one region that each label is read from


class OneRegionEach(nn.Module):
    """Reads label l from channel l of one region; where it says it looks, the tests say."""

    looks: ClassVar[bool] = True

    @nn.compact
    def __call__(self, features, train=False):
        seen = features[:, NEED, np.arange(LABELS)]
        return 10 * (seen - 0.5), jnp.zeros((len(features), LABELS, REGIONS))


class Fed:
    """Eight features at a time, as `Inputs` would give those of a split."""

    def __init__(self, features):
        self.features, self.asked = features, []

    def evaluation(self, doing, rows):
        self.asked.append(rows)
        padded = np.full(-(-len(rows) // 8) * 8, -1, np.int32)
        padded[: len(rows)] = rows
        for part in padded.reshape(-1, 8):
            inputs = np.where(part[:, None, None] >= 0, self.features[part], 0)
            yield Batch(inputs, np.zeros((8, LABELS), np.float32), part >= 0, part)


@pytest.fixture(scope="module")
def row(tiny_config):
    made = create_row(resolve(tiny_config("csra")), LABELS)
    network = made.network.clone(set_head=OneRegionEach())
    return dataclasses.replace(made, network=network, encoded=True)


def features():
    values = np.zeros((IMAGES, REGIONS, LABELS), np.float32)
    values[:, NEED, np.arange(LABELS)] = 1
    return values


def predictions():
    return Predictions(
        labels=np.ones((IMAGES, LABELS), bool),
        scores=np.ones((IMAGES, LABELS), np.float32),
        sequence=np.tile(np.arange(LABELS, dtype=np.int32), (IMAGES, 1)),
        probabilities=np.ones((IMAGES, LABELS), np.float32),
        peaks=None,
        losses={},
        truth=np.ones((IMAGES, LABELS), bool),
        image_id=np.arange(IMAGES, dtype=np.int32),
        regions=REGIONS,
    )


def found(row, fed, maps, devices=4, seen=None):
    mesh = make_mesh(jax.devices()[:devices])
    return deletion.deletion(row, {}, fed, seen or predictions(), maps, mesh)


FALL = 100 * (1 / (1 + np.exp(-5)) - 1 / (1 + np.exp(5)))


@pytest.mark.parametrize("devices", [1, 4])
def test_a_label_falls_with_the_one_region_that_it_needs_and_no_other_does(row, devices):
    maps = np.zeros((IMAGES, LABELS, REGIONS), np.float16)
    for label, region in enumerate(NEED):
        maps[:, label, region : region + 4] = 0.25
    result = found(row, Fed(features()), maps, devices)
    assert (result["images"], result["labels"], result["regions"]) == (IMAGES, 33, 4)
    assert result["probability"] == pytest.approx(100 / (1 + np.exp(-5)))
    assert result["own"] == pytest.approx(FALL, rel=1e-5)
    assert result["others"] == pytest.approx(0, abs=1e-5)
    assert 0 < result["random"] < FALL / 2  # one in four, of 165 draws


def test_an_even_map_finds_no_more_than_random_regions(row):
    maps = np.full((IMAGES, LABELS, REGIONS), 1 / REGIONS, np.float16)
    result = found(row, Fed(features()), maps)
    for name in ("own", "random", "others"):
        assert result[name] == pytest.approx(FALL / 4, abs=FALL / 6)


def test_the_images_tried_are_bounded_and_lie_evenly_among_those_with_labels(row, monkeypatch):
    monkeypatch.setattr(deletion, "IMAGES", 3)
    monkeypatch.setattr(deletion, "LABELS", 2)
    seen, fed = predictions(), Fed(features())
    seen.sequence[[0, 1]] = -1
    maps = np.zeros((IMAGES, LABELS, REGIONS), np.float16)
    result = found(row, fed, maps, seen=seen)
    assert (result["images"], result["labels"]) == (3, 6)
    np.testing.assert_array_equal(fed.asked, [[2, 6, 10]])
    known = np.ones((IMAGES, LABELS), bool)
    known[2], known[7, 0] = False, False
    partly = dataclasses.replace(seen, known=known)  # of what is not known no label is tried
    assert found(row, fed, maps, seen=partly)["labels"] == 5
    np.testing.assert_array_equal(fed.asked[-1], [3, 7, 10])
    seen.sequence[:] = -1
    assert found(row, fed, maps, seen=seen) == {"images": 0, "labels": 0}


def test_what_stays_takes_the_place_of_what_is_gone():
    given = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    gone = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    without = np.asarray(deletion.without(given, gone))
    np.testing.assert_allclose(without[0, [0, 3]], [given[0, [1, 2, 4]].mean(axis=0)] * 2, 1e-6)
    np.testing.assert_array_equal(without[~gone], given[~gone])
    np.testing.assert_allclose(without[0].mean(axis=0), given[0, [1, 2, 4]].mean(axis=0), 1e-6)
