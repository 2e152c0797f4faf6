"""The losses against torch and hand-worked cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from attn_lstm import losses
from attn_lstm.models.decoder import Unrolled
from attn_lstm.ordering import next_target

RANK = jnp.array([1, 0, 2])


def random_steps(seed, batch=4, steps=3, labels=3, end=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, steps, labels + end)).astype(np.float32)
    truth = (rng.random((batch, labels)) < 0.5).astype(np.float32)
    order = np.argsort(rng.random((batch, labels)), axis=1)
    emitted = np.zeros((batch, steps, labels), bool)
    for b in range(batch):
        for t in range(1, steps):
            emitted[b, t:, order[b, t - 1]] = True
    return logits, truth, emitted


@given(st.integers(0, 10_000))
def test_set_losses_equal_torch(seed):
    logits, truth, emitted = random_steps(seed)

    def oracle(wanted):
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        each = bce(torch.tensor(logits), torch.tensor(wanted), reduction="none")
        return each.sum(-1).mean(-1)

    full = np.broadcast_to(truth[:, None], logits.shape).copy()
    np.testing.assert_allclose(
        losses.set_step_loss("all", logits, emitted, truth), oracle(full), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.set_step_loss("remaining", logits, emitted, truth),
        oracle(np.where(emitted, 0, full).astype(np.float32)),
        rtol=1e-5,
    )


def test_fixed_order_worked_by_hand():
    # True labels 0 and 1; label 1 is the more frequent, so the targets are 1, 0, end, and the
    # last step does not count.
    logits = jnp.array([[[1.0, 2.0, 0.0, 0.5], [0.3, 9.0, 0.1, 0.2], [5.0, 5.0, 0.4, 1.0],
                         [0.0, 0.0, 0.0, -50.0]]])  # fmt: skip
    emitted = jnp.array([[[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 0]]], bool)
    first = np.log(np.exp([1.0, 2.0, 0.0, 0.5]).sum()) - 2.0
    second = np.log(np.exp([0.3, 0.1, 0.2]).sum()) - 0.3  # label 1 has left the pool
    third = np.log(np.exp([0.4, 1.0]).sum()) - 1.0
    loss = losses.sequence_step_loss(
        "frequent_first", logits, emitted, jnp.array([[1.0, 1.0, 0.0]]), RANK
    )
    np.testing.assert_allclose(loss, [(first + second + third) / 3], rtol=1e-6)


def test_ranked_target_is_the_most_probable_true_label_left():
    logits = jnp.array([[[1.0, 2.0, 3.0, 0.0]]])
    emitted = jnp.zeros((1, 1, 3), bool)
    loss = losses.sequence_step_loss(
        "confidence", logits, emitted, jnp.array([[1.0, 1.0, 0.0]]), RANK
    )
    expected = np.log(np.exp([1.0, 2.0, 3.0, 0.0]).sum()) - 2.0
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_an_image_without_labels_is_taught_to_end_at_once():
    logits, _, emitted = random_steps(0, batch=2, end=1)
    loss = losses.sequence_step_loss("rare_first", logits, emitted, jnp.zeros((2, 3)), RANK)
    expected = -jax.nn.log_softmax(logits[:, 0])[:, -1]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("order", ["confidence", "rare_first"])
def test_sequence_loss_has_finite_and_true_gradients(order):
    logits, truth, emitted = random_steps(3, end=1)
    # Teacher forcing never emits a target before its step.
    emitted &= truth[:, None] == 0

    def loss(x):
        return losses.sequence_step_loss(order, x, emitted, truth, RANK).sum()

    assert jnp.isfinite(jax.grad(loss)(jnp.asarray(logits))).all()
    check_grads(loss, (jnp.asarray(logits),), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)


@pytest.mark.parametrize("target", ["all", "remaining"])
def test_set_loss_has_true_gradients(target):
    logits, truth, emitted = random_steps(5)

    def loss(x):
        return losses.set_step_loss(target, x, emitted, truth).sum()

    check_grads(loss, (jnp.asarray(logits),), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)


@given(st.integers(0, 10_000))
def test_softmax_loss_equals_torch_with_soft_targets(seed):
    logits, truth, _ = random_steps(seed, batch=5)
    logits = logits[:, 0]
    truth[0] = 0.0
    wanted = torch.tensor(truth / np.maximum(truth.sum(1, keepdims=True), 1))
    oracle = torch.nn.functional.cross_entropy(torch.tensor(logits), wanted, reduction="none")
    loss = losses.softmax_cross_entropy(logits, truth)
    np.testing.assert_allclose(loss, oracle, rtol=1e-5, atol=1e-6)
    assert loss[0] == 0.0  # an image without labels says nothing


def test_softmax_loss_has_true_gradients_and_none_without_labels():
    logits, truth, _ = random_steps(6)
    truth[0] = 0.0

    def loss(x):
        return losses.softmax_cross_entropy(x, truth).sum()

    first = jnp.asarray(logits[:, 0])
    check_grads(loss, (first,), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)
    assert not jax.grad(loss)(first)[0].any()


def test_smoothing_reaches_the_steps_of_a_sequence():
    logits, truth, emitted = random_steps(7, steps=1, end=1)
    unrolled = Unrolled(jnp.asarray(logits), jnp.asarray(emitted), None, None)
    parts = losses.parts(
        None, unrolled, truth, RANK, loss="bce", order="rare_first", target="all", smoothing=0.4
    )
    target = np.asarray(next_target("rare_first", logits[:, 0], truth > 0, RANK))
    # Nothing has left the pool, so the uniform part is torch's, over all classes and the end.
    oracle = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, 0]), torch.tensor(target).long(), reduction="none",
        label_smoothing=0.4,
    )  # fmt: skip
    np.testing.assert_allclose(parts["step"], oracle, rtol=1e-5)
    assert parts.keys() == {"step"}


def test_unknown_label_loss_is_refused():
    with pytest.raises(ValueError, match="bce, softmax, warp"):
        losses.label_loss("hinge", jnp.zeros((1, 2)), jnp.zeros((1, 2)))


def test_unknown_set_target_is_refused():
    with pytest.raises(ValueError, match="all, remaining"):
        losses.set_step_loss("some", jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 2), bool), jnp.zeros(2))
