import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.fields import default_config
from attn_lstm.training.optimizer import create_optimizer, create_schedule


def rates(schedule: str, warmup: int, *, scale: float = 1.0) -> np.ndarray:
    """Of the first 10 steps of 10, with a peak of 3e-4, by float32."""
    config = default_config().optimizer
    config.schedule, config.warmup_steps = schedule, warmup
    of_step = create_schedule(config, 10)
    return np.asarray(jax.jit(jax.vmap(lambda step: scale * of_step(step)))(jnp.arange(10)))


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_a_constant_rate_stands_behind_a_linear_warm_up(warmup, scale):
    peak = np.float32(scale) * np.float32(3e-4)
    found = rates("constant", warmup, scale=scale)
    np.testing.assert_array_equal(found[warmup:], peak)  # to the last bit
    np.testing.assert_allclose(found[:warmup], peak * np.arange(warmup) / max(warmup, 1), rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_cosine_falls_from_the_peak_to_zero_at_the_last_step(warmup):
    found = rates("cosine", warmup)
    np.testing.assert_allclose(found[:warmup], 3e-4 * np.arange(warmup) / max(warmup, 1), rtol=1e-6)
    along = np.arange(10 - warmup) / (10 - warmup)
    expected = 3e-4 * (1 + np.cos(np.pi * along)) / 2
    np.testing.assert_allclose(found[warmup:], expected, rtol=1e-5)


def a_step(**fields) -> dict:
    """How far one update at a constant rate of 1 moves each parameter, by sgd and a gradient of 1.

    With `resting_blocks` beside the fields of the optimizer.
    """
    resting_blocks = fields.pop("resting_blocks", 0)
    config = default_config().optimizer
    config.update({"name": "sgd", "schedule": "constant", "learning_rate": 1.0, **fields})
    one = {"scale": jnp.ones(2)}
    backbone = {"patches": one, "block_0": one, "block_1": one, "block_10": one, "norm": one}
    params = {"backbone": {**backbone, "positions": jnp.ones((3, 2))}, "map_labels": one}
    optimizer = create_optimizer(
        config, create_schedule(config, 10), joins_at=0, scale=0.5, resting_blocks=resting_blocks
    )
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    moved = jax.tree.map(lambda x: -float(x.flatten()[0]), updates)
    found = {name: leaf.get("scale") if name != "positions" else leaf
             for name, leaf in moved["backbone"].items()}  # fmt: skip
    return found | {"head": moved["map_labels"]["scale"]}


def test_each_block_learns_more_slowly_than_the_one_above_it():
    assert a_step(layer_decay=0.5) == {
        "norm": 0.5, "block_10": 0.25, "block_1": 0.5**11, "block_0": 0.5**12,
        "patches": 0.5**13, "positions": 0.5**13, "head": 1.0,
    }  # fmt: skip
    assert {*a_step().values()} == {0.5, 1.0}


def test_the_first_blocks_rest_and_nothing_of_them_decays():
    moved = a_step(resting_blocks=2, weight_decay=0.1)
    resting = {name for name, by in moved.items() if by == 0}
    assert resting == {"patches", "positions", "block_0", "block_1"}
    assert a_step(weight_decay=0.1)["positions"] == 0.5  # no kernel
