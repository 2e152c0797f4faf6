"""What a row minimises, and what its evaluation reports of it."""

import jax
import jax.numpy as jnp
import numpy as np

from attn_lstm.config import resolve
from attn_lstm.models.network import create_network
from attn_lstm.objective import image_losses, loss_names
from attn_lstm.prediction import emit_most_confident
from attn_lstm.warp import expected_warp


def losses_of(tiny_config, method, labels, **kwargs):
    config = resolve(tiny_config(method, **{"decoder.dropout": 0.0}))
    network = create_network(config, num_labels=labels.shape[1])
    features = jax.random.normal(jax.random.key(0), (labels.shape[0], 4, 5))
    variables = network.init(jax.random.key(1), features, emit_most_confident, steps=1)
    rank = jnp.arange(labels.shape[1])
    parts, _ = image_losses(config, network, variables, features, labels, rank, **kwargs)
    assert tuple(parts) == loss_names(config)
    return network.apply(variables, features, method="label_logits"), parts


def test_warp_draws_in_training_and_reports_the_mean_in_evaluation(tiny_config):
    labels = jnp.tile(jnp.array([[1.0, 0, 0, 1, 0, 0]]), (8, 1))
    logits, parts = losses_of(tiny_config, "warp", labels)
    np.testing.assert_allclose(parts["map"], expected_warp(logits, labels), rtol=1e-6)
    drawn = [
        losses_of(tiny_config, "warp", labels, train=True, rngs={"dropout": jax.random.key(key)})[1]
        for key in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0]["map"], drawn[1]["map"])
    assert not np.array_equal(drawn[0]["map"], drawn[2]["map"])


def test_cnn_rnn_has_no_loss_of_m_map(tiny_config):
    logits, parts = losses_of(tiny_config, "cnn_rnn", jnp.eye(6))
    assert logits is None
    assert (parts["step"] > 0).all()
