"""Dropout that does not know how many devices there are."""

import jax
import jax.numpy as jnp
import numpy as np

from attn_lstm.models.dropout import RowDropout
from attn_lstm.parallel import AXIS, REPLICATED, SPLIT, make_mesh, map_over_devices


def drop(x, key, axis_name=None):
    return RowDropout(0.4, axis_name).apply({}, x, train=True, rngs={"dropout": key})


def test_four_devices_draw_the_masks_of_one():
    x, key = jnp.ones((8, 16)), jax.random.key(3)
    mapped = map_over_devices(
        lambda x, key: drop(x, key, AXIS), make_mesh(), in_specs=(SPLIT, REPLICATED),
        out_specs=SPLIT,
    )  # fmt: skip
    np.testing.assert_array_equal(mapped(x, key), drop(x, key))


def test_rate_scale_and_independent_rows():
    y = drop(jnp.ones((200, 200)), jax.random.key(0))
    np.testing.assert_allclose(jnp.unique(y), [0.0, 1 / 0.6], rtol=1e-6)
    assert abs(float((y == 0).mean()) - 0.4) < 0.01
    assert not np.array_equal(y[0], y[1])


def test_nothing_is_dropped_outside_of_training():
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(RowDropout(0.4).apply({}, x, train=False), x)


def test_a_shared_axis_has_one_mask():
    module = RowDropout(0.4, shared=(1,))
    y = module.apply({}, jnp.ones((8, 5, 64)), train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1], y.shape))
    assert 0 < float((y == 0).mean()) < 1
    assert not np.array_equal(y[0], y[1])
