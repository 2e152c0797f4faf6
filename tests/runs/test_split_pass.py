"""A whole split through the mapped evaluation step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.config import resolve
from attn_lstm.data import load_split
from attn_lstm.errors import UserError
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.parallel import make_mesh
from attn_lstm.rows import create_row
from attn_lstm.runs import split_pass
from attn_lstm.runs.inputs import Inputs


def arguments(config, split, devices):
    """What a pass over the split takes before its thresholds, and the mesh."""
    row = create_row(config, len(split.label_names))
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    init = jax.jit(lambda key: row.network.init(key, images, emit_most_confident, steps=1))
    variables = init(jax.random.key(7))
    mesh = make_mesh(jax.devices()[:devices])
    inputs = Inputs(config, row, split, variables, None, views=1, say=print)
    step = split_pass.map_eval_step(row, mesh)
    return (step, variables, inputs.evaluation(), jnp.arange(3)), mesh


def predicted(config, split, devices, thresholds):
    given, mesh = arguments(config, split, devices)
    return split_pass.predict_split(*given, thresholds, mesh)


@pytest.fixture(scope="module")
def config(tiny_config):
    return resolve(tiny_config())


def test_the_region_where_m_map_sees_each_label_comes_with_the_predictions(config):
    split = load_split(config.data, "test")
    (seen,) = predicted(config, split, 1, [0.2])
    assert seen.cam_peaks.shape == (10, 3)
    assert ((seen.cam_peaks >= 0) & (seen.cam_peaks < seen.regions)).all()


def test_every_image_counts_once_on_any_number_of_devices(config):
    split = load_split(config.data, "test")
    assert len(split) == 10  # which neither 8 rows a batch nor 4 devices divide
    (one,), (four,) = (predicted(config, split, devices, [0.2]) for devices in (1, 4))
    for seen in (one, four):
        np.testing.assert_array_equal(seen.image_id, np.arange(10))
        np.testing.assert_array_equal(seen.truth, split.labels)
    np.testing.assert_array_equal(one.labels, four.labels)
    np.testing.assert_array_equal(one.sequence, four.sequence)
    np.testing.assert_allclose(one.scores, four.scores, rtol=1e-4)
    for name in one.losses:
        np.testing.assert_allclose(one.losses[name], four.losses[name], rtol=1e-4)


@pytest.mark.parametrize(
    "method", ["order_free", "order_free_plus", "frequent_first", "cnn_rnn", "ml_decoder"]
)
def test_several_thresholds_at_once_are_each_as_if_alone(tiny_config, method):
    config = resolve(tiny_config(method))
    split = load_split(config.data, "test")
    taus = [0.001, 0.05, 0.1, 0.2, 0.4]
    together = predicted(config, split, 1, taus)
    for seen, tau in zip(together, taus, strict=True):
        (alone,) = predicted(config, split, 1, [tau])
        np.testing.assert_array_equal(seen.labels, alone.labels)
        np.testing.assert_array_equal(seen.sequence, alone.sequence)
        np.testing.assert_allclose(seen.probabilities, alone.probabilities, rtol=1e-6)
        np.testing.assert_array_equal(seen.scores, alone.scores)
    assert method != "order_free" or len({seen.labels.sum() for seen in together}) > 1


def test_maps_belong_to_the_predictions_beside_them(config):
    split = load_split(config.data, "test")
    (plain,) = predicted(config, split, 1, [0.2])
    given, mesh = arguments(config, split, 4)
    predictions, maps = split_pass.predict_with_maps(*given, 0.2, mesh)
    np.testing.assert_array_equal(predictions.sequence, plain.sequence)
    np.testing.assert_array_equal(predictions.image_id, np.arange(10))
    longest = (plain.sequence >= 0).sum(axis=1).max()
    assert maps.shape == (len(plain.sequence), longest, plain.regions)
    emitted = plain.sequence[:, :longest] >= 0
    np.testing.assert_allclose(maps.sum(-1, dtype=np.float32)[emitted], 1, rtol=1e-2)
    np.testing.assert_array_equal(maps[~emitted], 0)
    highest = np.take_along_axis(maps, plain.peaks[:, :longest, None], -1)[..., 0]
    np.testing.assert_array_equal(highest[emitted], maps.max(-1)[emitted])


def test_a_row_that_looks_nowhere_has_no_maps(tiny_config):
    config = resolve(tiny_config("resnet_baseline"))
    given, mesh = arguments(config, load_split(config.data, "test"), 1)
    predictions, maps = split_pass.predict_with_maps(*given, 0.5, mesh)
    assert maps is None and predictions.peaks is None
    assert len(predictions.labels) == 10


def test_labels_that_no_readable_image_has_are_a_mistake(tiny_config):
    """As where data.on_bad_image=skip has left out the only images with one."""
    config = resolve(tiny_config("resnet_baseline"))
    split = load_split(config.data, "test")
    given, mesh = arguments(config, dataclasses.replace(split, labels=split.labels & False), 1)
    with pytest.raises(UserError, match="none of the 10 images that could be read has a true"):
        split_pass.predict_split(*given, [0.5], mesh)


def test_a_split_without_batches_is_an_error(config):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        split_pass.predict_split(None, {}, [], jnp.arange(3), [0.5], make_mesh())


def test_runs_of_a_row_share_what_is_compiled(tiny_config):
    mesh = make_mesh(jax.devices()[:1])
    first, second, other = (
        split_pass.map_eval_step(create_row(resolve(config), 3), mesh)
        for config in (
            tiny_config(seed=1),
            tiny_config(seed=2),
            tiny_config(**{"search.beam_size": 4}),
        )
    )
    assert first is second
    assert first is not other
    config = resolve(tiny_config(seed=3))
    split = load_split(config.data, "test")
    before = first._cache_size()
    for _ in range(3):
        predicted(config, split, 1, [0.2])
    assert first._cache_size() <= before + 1


def test_a_batch_is_started_before_the_last_one_is_waited_for(config, monkeypatch):
    split = load_split(config.data, "test")
    (step, *given), mesh = arguments(config, split, 1)
    events = []
    gather = split_pass.parallel.gather

    def started(*arguments):
        events.append("start")
        return step(*arguments)

    def gathered(tree):
        events.append("gather")
        return gather(tree)

    monkeypatch.setattr(split_pass.parallel, "gather", gathered)
    split_pass.predict_split(started, *given, [0.2], mesh)
    assert events == ["start", "start", "gather", "gather"]
