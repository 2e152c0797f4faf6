"""The transformer layers against torch's own, with our parameters in them."""

import jax
import numpy as np
import pytest
import torch

from attn_lstm.models.transformer import (
    DecoderLayer,
    EncoderLayer,
    MultiHeadAttention,
    sine_places,
)
from tests.models.torch_transformer import (
    FEEDFORWARD,
    HEADS,
    HIDDEN,
    copy_attention,
    decoder_layer,
    encoder_layer,
    random,
    shaken,
    tensors,
)


def applied(module, *inputs):
    variables = shaken(module.init(jax.random.key(0), *inputs))
    return tensors(variables["params"]), module.apply(variables, *inputs)


def test_places_are_the_sines_of_detr():
    side, width = 3, 8
    mask = torch.ones(side, side)
    scaled = [
        mask.cumsum(axis, dtype=torch.float32) / (side + 1e-6) * 2 * torch.pi for axis in (0, 1)
    ]
    index = torch.arange(width // 2)
    wavelength = 10_000 ** (2 * (index // 2) / (width // 2))
    parts = []
    for place in scaled:
        angle = place[..., None] / wavelength
        parts.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(2))
    expected = torch.cat(parts, -1).reshape(side * side, width)
    np.testing.assert_allclose(sine_places(side, width), expected, atol=1e-5)


def test_attention_equals_torch():
    queries, keys, values = (
        random(1, 3, 5, HIDDEN),
        random(2, 3, 7, HIDDEN),
        random(3, 3, 7, HIDDEN),
    )
    p, (out, weights) = applied(MultiHeadAttention(HIDDEN, HEADS), queries, keys, values)
    attention = torch.nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)
    copy_attention(attention, p)
    with torch.no_grad():
        expected = attention(*map(torch.tensor, (queries, keys, values)))
    np.testing.assert_allclose(out, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights, expected[1], rtol=1e-4, atol=1e-6)


def test_encoder_layer_equals_torch():
    regions = random(1, 3, 7, HIDDEN)
    places = np.zeros((7, HIDDEN), np.float32)
    p, out = applied(EncoderLayer(HIDDEN, HEADS, FEEDFORWARD), regions, places)
    with torch.no_grad():
        expected = encoder_layer(p, HEADS)(torch.tensor(regions))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_decoder_layer_equals_torch():
    x, regions = random(1, 3, 5, HIDDEN), random(2, 3, 7, HIDDEN)
    p, (out, _) = applied(DecoderLayer(HIDDEN, HEADS, FEEDFORWARD), x, regions)
    with torch.no_grad():
        expected = decoder_layer(p, HEADS)(torch.tensor(x), torch.tensor(regions))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("meet", [True, False])
def test_queries_know_of_each_other_only_where_they_meet(meet):
    x, regions = random(1, 1, 5, HIDDEN), random(2, 1, 7, HIDDEN)
    layer = DecoderLayer(HIDDEN, HEADS, FEEDFORWARD, meet=meet)
    variables = layer.init(jax.random.key(0), x, regions)
    changed = x.copy()
    changed[:, 0] += 1.0
    first, second = (layer.apply(variables, q, regions)[0][:, 1:] for q in (x, changed))
    assert np.allclose(first, second) != meet
