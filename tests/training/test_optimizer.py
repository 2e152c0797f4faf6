import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.fields import default_config
from attn_lstm.training.optimizer import create_schedule


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
