"""What a row minimises, and what its evaluation reports of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm import parallel
from attn_lstm.config import resolve
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.network import create_network
from attn_lstm.objective import image_losses
from attn_lstm.rows import create_row
from attn_lstm.warp import expected_warp


def losses_of(tiny_config, method, labels, overrides=(), dropout=None, known=None):
    """v_map's logits and the losses, from parameters that depend on the method alone."""
    plain = {"decoder.dropout": 0.0}
    config = resolve(tiny_config(method, **{**plain, **dict(overrides)}))
    network, start = (
        create_network(c, num_labels=labels.shape[1])
        for c in (config, resolve(tiny_config(method, **plain)))
    )
    features = jax.random.normal(jax.random.key(0), (labels.shape[0], 4, 5))
    variables = start.init(jax.random.key(1), features, emit_most_confident, steps=1, encoded=True)
    rank = jnp.arange(labels.shape[1])
    row = create_row(config, labels.shape[1])
    parts, _ = image_losses(
        row.objective, network, variables, features, labels, rank, encoded=True, dropout=dropout,
        known=known,
    )  # fmt: skip
    assert tuple(parts) == row.objective.parts
    return network.apply(variables, features, method="label_logits"), parts


def test_warp_draws_in_training_and_reports_the_mean_in_evaluation(tiny_config):
    labels = jnp.tile(jnp.array([[1.0, 0, 0, 1, 0, 0]]), (8, 1))
    logits, parts = losses_of(tiny_config, "warp", labels)
    np.testing.assert_allclose(parts["map"], expected_warp(logits, labels), rtol=1e-6)
    drawn = [
        losses_of(tiny_config, "warp", labels, dropout=jax.random.key(key))[1] for key in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0]["map"], drawn[1]["map"])
    assert not np.array_equal(drawn[0]["map"], drawn[2]["map"])


def test_a_random_order_is_drawn_in_training_and_that_of_the_frequencies_in_evaluation(tiny_config):
    labels = jnp.ones((8, 6))

    def step_loss(method, dropout=None):
        return losses_of(tiny_config, method, labels, dropout=dropout)[1]["step"]

    np.testing.assert_array_equal(step_loss("random_order"), step_loss("frequent_first"))
    drawn = [step_loss("random_order", dropout=jax.random.key(key)) for key in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("method", ["order_free", "mla", "frequent_first"])
def test_what_is_said_of_labels_that_are_not_known_changes_no_loss(tiny_config, method):
    known = jnp.tile(jnp.array([[True, True, False, True, False, False]]), (4, 1))
    labels = jnp.tile(jnp.array([[1.0, 0, 0, 1, 0, 0]]), (4, 1))
    told = jnp.where(known, labels, jnp.array([[1.0], [0.0], [jnp.nan], [9.0]]))
    (_, parts), (_, others), (_, absent) = (
        losses_of(tiny_config, method, truth, known=mask)
        for truth, mask in ((labels, known), (told, known), (labels, None))
    )
    for name, part in parts.items():
        np.testing.assert_array_equal(part, others[name])
        assert (part < absent[name]).all()  # negatives cost something


def test_cnn_rnn_has_no_loss_of_m_map(tiny_config):
    logits, parts = losses_of(tiny_config, "cnn_rnn", jnp.eye(6))
    assert logits is None
    assert (parts["step"] > 0).all()


@pytest.mark.parametrize(
    ("method", "fields"),
    [("query2label", {}), ("ml_decoder", {}), ("csra", {}), ("order_free", {})],
)
def test_four_devices_have_the_losses_and_gradients_of_one(tiny_config, method, fields):
    """Dropout included: on the features of all, in the layers of transformers and decoder."""
    config = resolve(tiny_config(method, **{"decoder.feature_dropout": 0.3, **fields}))
    row = create_row(config, num_labels=3)
    batch = (
        jax.random.normal(jax.random.key(0), (8, 9, 5)),
        (jax.random.uniform(jax.random.key(1), (8, 3)) < 0.5).astype(jnp.float32),
    )
    variables = create_network(config, num_labels=3).init(
        jax.random.key(2), batch[0], emit_most_confident, steps=1, encoded=True
    )

    def step(params, batch):
        def loss(params):
            parts, _ = image_losses(
                row.objective, row.network, {"params": params}, *batch, jnp.arange(3),
                encoded=True, dropout=jax.random.key(3),
            )  # fmt: skip
            assert tuple(parts) == row.objective.parts
            return sum(part.sum() for part in parts.values())

        return jax.lax.psum(jax.value_and_grad(loss)(params), parallel.AXIS)

    one, four = (
        parallel.map_over_devices(
            step, parallel.make_mesh(jax.devices()[:devices]),
            in_specs=(parallel.REPLICATED, parallel.SPLIT), out_specs=parallel.REPLICATED,
        )(variables["params"], batch)
        for devices in (1, 4)
    )  # fmt: skip
    for first, other in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        assert jnp.isfinite(first).all()
        np.testing.assert_allclose(first, other, rtol=1e-4, atol=1e-5)


def test_knn_minimises_nothing(tiny_config):
    config = resolve(tiny_config("knn", **{"backbone.frozen": True}))
    assert create_row(config, num_labels=3).objective.parts == ()
