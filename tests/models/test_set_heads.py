"""The set heads against torch and by hand; their dropout, their gradients, their maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.models.set_heads import MLDecoder, Query2Label, ResidualAttention
from attn_lstm.models.transformer import sine_places
from tests.models.torch_transformer import (
    FEEDFORWARD,
    HEADS,
    HIDDEN,
    copy_norm,
    decoder_layer,
    encoder_layer,
    feed,
    random,
    shaken,
    tensors,
)

BATCH, REGIONS, WIDTH, LABELS = 3, 9, 6, 7
SIZES = {"hidden": HIDDEN, "heads": HEADS, "feedforward": FEEDFORWARD}
MODULES = {
    "query2label": Query2Label(LABELS, layers=2, dropout=0.3, **SIZES),
    "ml_decoder": MLDecoder(LABELS, layers=1, groups=3, dropout=0.3, **SIZES),
    "csra": ResidualAttention(LABELS, (1, 2, 99), 0.5),
}


@pytest.fixture(scope="module")
def features():
    return random(0, BATCH, REGIONS, WIDTH)


@pytest.fixture(scope="module", params=MODULES)
def head(request, features):
    module = MODULES[request.param]
    return module, shaken(module.init(jax.random.key(0), features))


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def test_query2label_equals_torch(features):
    """With the attention of torch asked as the published code asks it."""
    module = MODULES["query2label"]
    variables = shaken(module.init(jax.random.key(0), features))
    logits, weights = module.apply(variables, features)
    p = tensors(variables["params"])
    places, labels = torch.tensor(sine_places(3, HIDDEN)), p["labels"]
    with torch.no_grad():
        regions = dense(p["project"], torch.tensor(features))
        layer = encoder_layer(p["encoder_0"], HEADS)
        look = layer.self_attn(regions + places, regions + places, regions)[0]
        regions = layer.norm1(regions + look)
        regions = layer.norm2(regions + feed(layer, regions))
        x = torch.zeros(BATCH, LABELS, HIDDEN)
        for name in ("decoder_0", "decoder_1"):
            layer = decoder_layer(p[name], HEADS)
            x = layer.norm1(x + layer.self_attn(x + labels, x + labels, x)[0])
            seen, maps = layer.multihead_attn(x + labels, regions + places, regions)
            x = layer.norm2(x + seen)
            x = layer.norm3(x + feed(layer, x))
        norm = torch.nn.LayerNorm(HIDDEN)
        copy_norm(norm, p["norm"])
        x = norm(x)
        expected = torch.stack(
            [x[:, c] @ p["kernel"][c] + p["bias"][c] for c in range(LABELS)], dim=1
        )
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weights, maps, rtol=1e-3, atol=1e-5)


def test_ml_decoder_equals_torch(features):
    """Seven labels of three groups: 0 1 2, 3 4 5, 6."""
    module = MODULES["ml_decoder"]
    variables = shaken(module.init(jax.random.key(0), features))
    logits, weights = module.apply(variables, features)
    p = tensors(variables["params"])
    queries = np.random.RandomState(0).normal(size=(3, HIDDEN)).astype(np.float32)
    with torch.no_grad():
        regions = torch.relu(dense(p["project"], torch.tensor(features)))
        layer = decoder_layer(p["decoder_0"], HEADS)
        x = torch.tensor(queries).expand(BATCH, -1, -1)
        x = layer.norm1(x + x)
        seen, maps = layer.multihead_attn(x, regions, regions)
        x = layer.norm2(x + seen)
        x = layer.norm3(x + feed(layer, x))
        expected = [x[:, c // 3] @ p["kernel"][c // 3, :, c % 3] for c in range(LABELS)]
        expected = torch.stack(expected, dim=1) + p["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(weights, maps[:, [0, 0, 0, 1, 1, 1, 2]], rtol=1e-3, atol=1e-5)


def test_with_queries_enough_each_label_has_its_own(features):
    module = MLDecoder(LABELS, layers=1, groups=100, **SIZES)
    params = module.init(jax.random.key(0), features)["params"]
    assert params["kernel"].shape == (LABELS, HIDDEN, 1)


def test_csra_worked_by_hand():
    """Two regions of two channels, one label, w = (3, 4): w / |w| = (0.6, 0.8)."""
    features = np.array([[[1.0, 0.0], [0.0, 2.0]]], np.float32)  # scores 0.6 and 1.6
    kernel = np.array([[[3.0], [4.0]], [[0.6], [0.8]]], np.float32)
    module = ResidualAttention(1, (1, 99), 0.5)
    logits, weights = module.apply({"params": {"kernel": kernel}}, features)
    soft = 1 / (1 + np.exp(-1.0))  # weight of the second region at temperature 1
    first = 1.1 + 0.5 * (0.6 * (1 - soft) + 1.6 * soft)
    second = 1.1 + 0.5 * 1.6
    np.testing.assert_allclose(logits, [[first + second]], rtol=1e-6)
    np.testing.assert_allclose(weights, [[[(1 - soft) / 2, (soft + 1) / 2]]], rtol=1e-6)


@given(st.integers(0, 10_000))
def test_csra_equals_torch_and_so_do_its_gradients(seed):
    features, kernel = random(seed, BATCH, REGIONS, WIDTH), random(seed + 1, 3, WIDTH, LABELS)
    module = MODULES["csra"]

    def total(features, kernel):
        return (module.apply({"params": {"kernel": kernel}}, features)[0] ** 2).sum()

    x, w = (torch.tensor(a, requires_grad=True) for a in (features, kernel))
    expected = 0.0
    for head, temperature in enumerate((1, 2, 99)):
        score = x @ (w[head] / torch.norm(w[head], dim=0, keepdim=True))
        if temperature == 99:
            attended = score.max(dim=1)[0]
        else:
            attended = (score * torch.softmax(score * temperature, dim=1)).sum(dim=1)
        expected = expected + score.mean(dim=1) + 0.5 * attended
    (expected**2).sum().backward()
    logits, _ = module.apply({"params": {"kernel": kernel}}, features)
    np.testing.assert_allclose(logits, expected.detach(), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(jax.grad(total, (0, 1))(features, kernel), (x, w), strict=True):
        np.testing.assert_allclose(ours, theirs.grad, rtol=1e-3, atol=1e-4)


def test_maps_are_distributions_over_the_regions(head, features):
    module, variables = head
    logits, weights = module.apply(variables, features)
    assert logits.shape == (BATCH, LABELS)
    assert weights.shape == (BATCH, LABELS, REGIONS)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)


def test_gradients_are_finite_and_reach_the_features(head, features):
    module, variables = head

    def total(variables, features):
        rngs = {"dropout": jax.random.key(1)}
        return jax.nn.sigmoid(module.apply(variables, features, train=True, rngs=rngs)[0]).sum()

    gradients = jax.grad(total, (0, 1))(variables, jnp.asarray(features))
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert (jnp.abs(gradients[1]).sum(axis=-1) > 0).all()


def test_half_precision_keeps_logits_and_maps_in_full(head, features):
    module, variables = head
    exact, _ = module.apply(variables, features)
    logits, weights = module.clone(dtype=jnp.bfloat16).apply(variables, features)
    assert logits.dtype == weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(logits, exact, atol=0.1 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("name", ["query2label", "ml_decoder"])
def test_dropout_needs_training(features, name):
    module = MODULES[name]
    variables = module.init(jax.random.key(0), features)
    rngs = {"dropout": jax.random.key(1)}
    quiet, noisy = (module.apply(variables, features, t, rngs=rngs)[0] for t in (False, True))
    assert not np.allclose(quiet, noisy)
    np.testing.assert_array_equal(quiet, module.apply(variables, features)[0])


def test_regions_that_are_no_square_have_no_places(features):
    with pytest.raises(ValueError, match="8 regions are no square"):
        MODULES["query2label"].init(jax.random.key(0), features[:, :8])
