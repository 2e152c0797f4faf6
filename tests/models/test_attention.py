"""M_att against torch, equation by equation."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from attn_lstm.models.attention import Attention


def test_attention_equals_its_equations_in_torch():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 6, 5)).astype(np.float32)
    query = rng.normal(size=(3, 4)).astype(np.float32)
    module = Attention(units=7)

    def look(module, features, query):
        return module(features, module.keys(features), query)

    variables = module.init(jax.random.key(1), features, query, method=look)
    context, weights = module.apply(variables, features, query, method=look)

    p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), variables["params"])
    v, h = torch.tensor(features), torch.tensor(query)
    hidden = torch.tanh(
        v @ p["project_features"]["kernel"]
        + p["project_features"]["bias"]
        + (h @ p["project_query"]["kernel"])[:, None]
    )
    alpha = torch.softmax((hidden @ p["score"]["kernel"])[..., 0], dim=-1)
    np.testing.assert_allclose(weights, alpha, rtol=1e-4)
    np.testing.assert_allclose(context, (alpha[..., None] * v).sum(1), rtol=1e-4, atol=1e-6)


def test_weights_are_a_float32_distribution_in_bfloat16_too():
    features = jax.random.normal(jax.random.key(0), (2, 9, 8), jnp.bfloat16)
    query = jax.random.normal(jax.random.key(1), (2, 4), jnp.bfloat16)
    module = Attention(units=5, dtype=jnp.bfloat16)
    (context, weights), _ = module.init_with_output(
        jax.random.key(2), features, query, method=lambda m, v, h: m(v, m.keys(v), h)
    )
    assert weights.dtype == jnp.float32
    assert context.dtype == jnp.bfloat16
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
