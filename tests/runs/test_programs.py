"""Programs that are kept: the same predictions, and no tracing where one is on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.config import resolve
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.heads import HEADS, Head
from attn_lstm.parallel import REPLICATED, SPLIT, make_mesh, map_over_devices, shard_batch
from attn_lstm.rows import create_row
from attn_lstm.runs import programs
from attn_lstm.runs.programs import Programs
from attn_lstm.runs.workdir import LabelTable

TABLE = LabelTable("coco", ("red", "green", "blue"), (3, 2, 1), images=48)
TAU = np.full(3, 0.3, np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where programs are kept for the test."""
    monkeypatch.setattr(programs, "kept_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture(params=["order_free", "ml_decoder"])
def config(request, tiny_config):
    return resolve(tiny_config(request.param))


def variables_of(config):
    row, images = create_row(config, 3), jnp.zeros((1, 32, 32, 3), jnp.uint8)
    return jax.jit(lambda: row.network.init(jax.random.key(1), images, emit_most_confident, 1))()


def predict(config, variables, rows=4):
    """By programs of their own, as another process has them."""
    mesh = make_mesh()
    images = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), np.uint8)
    search = Programs(config, TABLE, mesh).search(rows, variables)
    return jax.device_get(search(variables, shard_batch(images, mesh), TAU)), images


def refuse(*_):
    raise AssertionError("it was traced again")


def test_a_kept_program_predicts_what_the_row_does_and_is_not_traced_again(
    folder, config, monkeypatch
):
    variables, mesh = variables_of(config), make_mesh()
    first, images = predict(config, variables)
    plain = map_over_devices(
        create_row(config, 3).search,
        mesh,
        in_specs=(REPLICATED, SPLIT, REPLICATED),
        out_specs=SPLIT,
    )
    expected = plain(variables, shard_batch(images, mesh), np.float32(0.3))
    jax.tree.map(np.testing.assert_array_equal, first, jax.device_get(expected))
    monkeypatch.setattr(Programs, "_traced", refuse)
    second, _ = predict(config, variables)
    jax.tree.map(np.testing.assert_array_equal, second, first)
    shapes = Programs(config, TABLE, mesh).variables([8, 4])
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda x: x.shape, shapes)


def test_another_size_config_or_code_is_another_program(folder, tiny_config, monkeypatch):
    config = resolve(tiny_config("order_free"))
    variables = variables_of(config)
    predict(config, variables)
    changed = config.copy_and_resolve_references().unlock()
    changed.search.beam_size = 5
    predict(changed, variables)
    predict(config, variables, rows=8)
    assert len([*folder.iterdir()]) == 3
    monkeypatch.setattr(programs, "_code", lambda: "changed")
    predict(config, variables)
    assert len([*folder.iterdir()]) == 4
    changed.search.beam_size = config.search.beam_size
    changed.search.threshold, changed.data.path = 0.7, "elsewhere"  # which change no program
    predict(changed, variables)
    assert len([*folder.iterdir()]) == 4


def test_a_damaged_program_is_made_again(folder, tiny_config):
    config = resolve(tiny_config("order_free"))
    variables = variables_of(config)
    first, _ = predict(config, variables)
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    for content in (b"", b"no program", whole[: len(whole) // 2]):
        kept.write_bytes(content)
        assert Programs(config, TABLE, make_mesh()).variables([4]) is None
        again, _ = predict(config, variables)
        jax.tree.map(np.testing.assert_array_equal, again, first)
        assert Programs(config, TABLE, make_mesh()).variables([4]) is not None


def test_nothing_is_kept_without_a_folder_nor_of_the_heads_of_others(
    tmp_path, folder, tiny_config, monkeypatch
):
    config = resolve(tiny_config("resnet_baseline"))
    monkeypatch.setitem(HEADS, config.head, Head(lambda *_: {}))  # built by this file
    variables = variables_of(config)
    predict(config, variables)
    monkeypatch.setattr(programs, "kept_folder", lambda: None)
    predict(config, variables)
    assert not [*tmp_path.iterdir()]
