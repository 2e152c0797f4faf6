"""The assembled network: what is frozen, what is mapped, what cached features change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm.config import resolve
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.network import create_network


@pytest.fixture
def images():
    return jax.random.randint(jax.random.key(0), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)


def create(tiny_config, images, frozen=False, **overrides):
    weights = "w.npz" if frozen else ""  # named, and not read
    fields = {"backbone.frozen": frozen, "backbone.weights": weights, **overrides}
    config = resolve(tiny_config(**fields))
    network = create_network(config, num_labels=3)
    return network, network.init(jax.random.key(1), images, emit_most_confident, steps=3)


def test_v_prob_is_the_linear_map_of_the_mean_feature(tiny_config, images):
    network, variables = create(tiny_config, images)
    features = network.apply(variables, images, method="encode")
    assert features.shape == (2, 16, 128)
    layer = variables["params"]["map_labels"]
    expected = np.asarray(features).mean(1) @ layer["kernel"] + layer["bias"]
    outputs = network.apply(variables, images, emit_most_confident, 3)
    np.testing.assert_allclose(outputs.label_logits, expected, rtol=1e-4, atol=1e-5)
    assert outputs.unrolled.logits.shape == (2, 3, 3)


def test_class_activation_maps_have_the_logits_of_m_map_for_means(tiny_config, images):
    network, variables = create(tiny_config, images)
    features = network.apply(variables, images, method="encode")
    maps = network.apply(variables, features, method="class_activation")
    assert maps.shape == (2, 3, 16) and maps.dtype == jnp.float32
    logits = network.apply(variables, features, method="label_logits")
    np.testing.assert_allclose(maps.mean(axis=-1), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [{"head": "csra"}, {"head": "cnn_rnn", "order": "frequent_first"}])
def test_a_row_without_m_map_has_no_class_activation(tiny_config, images, head):
    network, variables = create(tiny_config, images, **head)
    features = network.apply(variables, images, method="encode")
    assert network.apply(variables, features, method="class_activation") is None


@pytest.mark.parametrize(
    ("loss", "low", "high"), [("bce", 0.33, 0.34), ("focal", 0.35, 0.5), ("asymmetric", 0.5, 0.9)]
)
@pytest.mark.parametrize(
    ("head", "path"),
    [
        ("linear", ("map_labels", "bias")),
        ("ml_decoder", ("set_head", "bias")),
    ],
)
def test_labels_start_where_their_loss_is_at_rest(tiny_config, images, head, path, loss, low, high):
    _, variables = create(tiny_config, images, head=head, loss=loss)
    biases = variables["params"]
    for key in path:
        biases = biases[key]
    probabilities = jax.nn.sigmoid(biases)
    assert np.all((low < probabilities) & (probabilities < high))


def test_cached_features_give_what_their_images_give(tiny_config, images):
    network, variables = create(tiny_config, images)
    features = network.apply(variables, images, method="encode")
    direct = network.apply(variables, images, emit_most_confident, 3)
    cached = network.apply(variables, features, emit_most_confident, 3, encoded=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), direct, cached)


@pytest.mark.parametrize("frozen", [True, False])
def test_only_a_learning_backbone_gets_gradients(tiny_config, images, frozen):
    network, variables = create(tiny_config, images, frozen)

    def loss(params):
        outputs = network.apply({**variables, "params": params}, images, emit_most_confident, 3)
        return outputs.label_logits.sum() + outputs.unrolled.logits.sum()

    gradients = jax.grad(loss)(variables["params"])
    size = sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(gradients["backbone"]))
    assert (size == 0.0) == frozen
    assert float(jnp.abs(gradients["map_labels"]["kernel"]).sum()) > 0


def test_a_linear_row_has_no_decoder(tiny_config, images):
    network, variables = create(tiny_config, images, head="linear")
    assert "decoder" not in variables["params"]
    assert network.apply(variables, images, emit_most_confident, 3).unrolled is None


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(tiny_config, images):
    network, variables = create(tiny_config, images, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert network.apply(variables, images, method="encode").dtype == jnp.bfloat16
    outputs = network.apply(variables, images, emit_most_confident, 3)
    assert outputs.label_logits.dtype == outputs.unrolled.logits.dtype == jnp.float32
    assert outputs.unrolled.attention.dtype == jnp.float32
