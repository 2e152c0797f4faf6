"""M_att against torch, equation by equation."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from attn_lstm.models.attention import Attention, context, of_label


def test_attention_equals_its_equations_in_torch():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 6, 5)).astype(np.float32)
    query = rng.normal(size=(3, 4)).astype(np.float32)
    module = Attention(units=7)

    def look(module, features, query):
        weights = module(module.keys(features), query)[:, 0]
        return context(weights, features), weights

    variables = module.init(jax.random.key(1), features, query, method=look)
    z, weights = module.apply(variables, features, query, method=look)

    p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), variables["params"])
    v, h = torch.tensor(features), torch.tensor(query)
    hidden = torch.tanh(
        v @ p["project_features"]["kernel"]
        + p["project_features"]["bias"]
        + (h @ p["project_query"]["kernel"])[:, None]
    )
    alpha = torch.softmax((hidden @ p["score"]["kernel"])[..., 0], dim=-1)
    np.testing.assert_allclose(weights, alpha, rtol=1e-4)
    np.testing.assert_allclose(z, (alpha[..., None] * v).sum(1), rtol=1e-4, atol=1e-6)


def test_weights_are_a_float32_distribution_in_bfloat16_too():
    features = jax.random.normal(jax.random.key(0), (2, 9, 8), jnp.bfloat16)
    query = jax.random.normal(jax.random.key(1), (2, 4), jnp.bfloat16)
    module = Attention(units=5, dtype=jnp.bfloat16)
    weights, _ = module.init_with_output(
        jax.random.key(2), features, query, method=lambda m, v, h: m(m.keys(v), h)
    )
    assert weights.shape == (2, 1, 9)
    assert weights.dtype == jnp.float32
    assert context(weights[:, 0], features).dtype == jnp.bfloat16
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)


def test_evidence_for_a_label_adds_to_the_scores_of_its_own_map():
    features = jax.random.normal(jax.random.key(0), (2, 4, 8))
    query = jax.random.normal(jax.random.key(1), (2, 3))
    evidence = jax.random.normal(jax.random.key(2), (2, 5, 4))
    module = Attention(units=6)

    def both(module, features, query):
        keys = module.keys(features)
        return module(keys, query), module(keys, query, evidence)

    (shared, own), _ = module.init_with_output(jax.random.key(3), features, query, method=both)
    unscaled = np.asarray(shared) * np.exp(evidence)
    np.testing.assert_allclose(own, unscaled / unscaled.sum(-1, keepdims=True), rtol=1e-5)


def test_the_map_of_a_label_is_its_own_or_the_one_for_all():
    maps = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(of_label(maps, jnp.array([2, 0])), [[4, 5], [6, 7]])
    np.testing.assert_array_equal(of_label(maps[:, :1], jnp.array([2, 0])), [[0, 1], [6, 7]])
    assert of_label(maps, jnp.array([-1, 3])).shape == (2, 2)  # no label, the end token
