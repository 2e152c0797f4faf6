"""The losses against torch and hand-worked cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from attn_lstm import losses
from attn_lstm.alignment import ALIGNMENTS
from attn_lstm.label_pool import Unrolled
from attn_lstm.ordering import next_target
from tests.test_alignment import own_steps

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


@functools.partial(jax.jit, static_argnames="method")
def sequence_loss(method, logits, emitted, truth, rank=RANK, predicted=None):
    unrolled = Unrolled(jnp.asarray(logits), jnp.asarray(emitted), predicted, None)
    targets = losses.sequence_targets(method, unrolled, truth, rank)
    return losses.sequence_step_loss(targets, logits, emitted)


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
    loss = sequence_loss("frequent_first", logits, emitted, jnp.array([[1.0, 1.0, 0.0]]))
    np.testing.assert_allclose(loss, [(first + second + third) / 3], rtol=1e-6)


def test_ranked_target_is_the_most_probable_true_label_left():
    logits = jnp.array([[[1.0, 2.0, 3.0, 0.0]]])
    emitted = jnp.zeros((1, 1, 3), bool)
    loss = sequence_loss("confidence", logits, emitted, jnp.array([[1.0, 1.0, 0.0]]))
    expected = np.log(np.exp([1.0, 2.0, 3.0, 0.0]).sum()) - 2.0
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_an_image_without_labels_is_taught_to_end_at_once():
    logits, _, emitted = random_steps(0, batch=2, end=1)
    loss = sequence_loss("rare_first", logits, emitted, jnp.zeros((2, 3)))
    expected = -jax.nn.log_softmax(logits[:, 0])[:, -1]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("order", ["confidence", "rare_first"])
def test_sequence_loss_has_finite_and_true_gradients(order):
    logits, truth, emitted = random_steps(3, end=1)
    # Teacher forcing never emits a target before its step.
    emitted &= truth[:, None] == 0

    def loss(x):
        return sequence_loss(order, x, emitted, truth).sum()

    assert jnp.isfinite(jax.grad(loss)(jnp.asarray(logits))).all()
    check_grads(loss, (jnp.asarray(logits),), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)


@pytest.mark.parametrize("method", ALIGNMENTS)
@given(seed=st.integers(0, 10_000))
def test_an_aligned_loss_does_not_depend_on_the_order_of_the_labels(method, seed):
    logits, emitted, predicted, truth = own_steps(seed, batch=6, steps=4, labels=6)
    loss = sequence_loss(method, logits, emitted, truth, predicted=predicted)
    permuted = np.random.default_rng(seed).permutation(6)  # label permuted[i] becomes label i
    again = sequence_loss(
        method,
        logits[..., [*permuted, 6]],
        emitted[..., permuted],
        truth[:, permuted],
        predicted=jnp.argsort(jnp.asarray(permuted))[predicted],
    )
    assert jnp.isfinite(loss).all()
    np.testing.assert_allclose(again, loss, rtol=1e-5)


@pytest.mark.parametrize("method", ALIGNMENTS)
def test_an_aligned_loss_has_finite_and_true_gradients(method):
    logits, emitted, predicted, truth = own_steps(3, batch=6, steps=4, labels=5)

    def loss(x):
        return sequence_loss(method, x, emitted, truth, predicted=predicted).sum()

    assert jnp.isfinite(jax.grad(loss)(jnp.asarray(logits))).all()
    check_grads(loss, (jnp.asarray(logits),), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)


def test_an_aligned_loss_worked_by_hand():
    # True labels 0 and 1. Step 0 predicts 2; step 1 predicts 1, which stays; then the end.
    logits = jnp.array([[[1.0, 0.5, 2.0, 0.2], [0.4, 0.9, 3.0, 0.1], [0.6, 5.0, 5.0, 1.5],
                         [0.0, 0.0, 0.0, -50.0]]])  # fmt: skip
    emitted = jnp.array([[[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]], bool)
    predicted = jnp.array([[2, 1, 0, 3]])
    first = np.log(np.exp([1.0, 0.5, 2.0, 0.2]).sum()) - 1.0
    second = np.log(np.exp([0.4, 0.9, 0.1]).sum()) - 0.9
    third = np.log(np.exp([0.6, 1.5]).sum()) - 1.5
    for method in ALIGNMENTS:
        loss = sequence_loss(
            method, logits, emitted, jnp.array([[1.0, 1.0, 0.0]]), predicted=predicted
        )
        np.testing.assert_allclose(loss, [(first + second + third) / 3], rtol=1e-6)


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


def torch_asymmetric(x, y, gamma_neg, gamma_pos, clip):
    """The formulas of the paper, in float64."""
    p = torch.sigmoid(x)
    q = (p - clip).clamp(min=0)
    true = (1 - p) ** gamma_pos * torch.log(p)
    return -(y * true + (1 - y) * q**gamma_neg * torch.log(1 - q)).sum(-1)


def torch_focal(x, y, gamma, alpha):
    p = torch.sigmoid(x)
    pt, weight = torch.where(y > 0, p, 1 - p), torch.where(y > 0, alpha, 1 - alpha)
    return -((weight if alpha else 1.0) * (1 - pt) ** gamma * torch.log(pt)).sum(-1)


SET_LOSSES = [
    (losses.asymmetric_loss, torch_asymmetric, {"gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05}),
    (losses.asymmetric_loss, torch_asymmetric, {"gamma_neg": 4.0, "gamma_pos": 1.0, "clip": 0.05}),
    (losses.asymmetric_loss, torch_asymmetric, {"gamma_neg": 1.5, "gamma_pos": 0.5, "clip": 0.0}),
    (losses.asymmetric_loss, torch_asymmetric, {"gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.2}),
    (losses.focal_loss, torch_focal, {"gamma": 2.0, "alpha": 0.0}),
    (losses.focal_loss, torch_focal, {"gamma": 2.0, "alpha": 0.25}),
]


@pytest.mark.parametrize(("function", "oracle", "options"), SET_LOSSES)
@given(seed=st.integers(0, 10_000))
def test_losses_of_independent_labels_and_their_gradients_equal_torch(
    function, oracle, options, seed
):
    rng = np.random.default_rng(seed)
    logits = (4.0 * rng.normal(size=(3, 2, 5))).astype(np.float32)
    truth = (rng.random(logits.shape) < 0.4).astype(np.float32)
    x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    expected = oracle(x, torch.tensor(truth, dtype=torch.float64), **options)
    expected.sum().backward()
    loss, gradient = jax.value_and_grad(lambda x: function(x, truth, **options).sum())(logits)
    np.testing.assert_allclose(function(logits, truth, **options), expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(loss, expected.sum().item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("function", "options"), [(f, o) for f, _, o in SET_LOSSES])
def test_losses_of_independent_labels_have_true_and_always_finite_gradients(function, options):
    truth = jnp.array([[1.0, 0.0, 1.0, 0.0]])

    def loss(x):
        return function(x, truth, **options).sum()

    for extreme in (0.0, 30.0, 200.0, 1e4):
        for sign in (1.0, -1.0):
            value, gradient = jax.value_and_grad(loss)(jnp.full((1, 4), sign * extreme))
            assert jnp.isfinite(value) and jnp.isfinite(gradient).all(), (sign, extreme)
    inner = jnp.array([[0.3, -0.4, -1.2, 1.1]])
    check_grads(loss, (inner,), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)


def test_asymmetric_and_focal_loss_without_their_exponents_are_cross_entropy():
    logits, truth, _ = random_steps(2)
    expected = losses.binary_cross_entropy(logits[:, 0], truth)
    plain = losses.asymmetric_loss(logits[:, 0], truth, gamma_neg=0.0, clip=0.0)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    np.testing.assert_allclose(losses.focal_loss(logits[:, 0], truth, gamma=0.0), expected, 1e-5)


def test_a_wrong_label_below_the_clip_costs_nothing():
    logits = jnp.log(jnp.array([[0.04 / 0.96, 0.06 / 0.94]]))
    loss = losses.asymmetric_loss(logits, jnp.zeros((1, 2)), gamma_neg=2.0, clip=0.05)
    np.testing.assert_allclose(loss, [-(0.01**2) * np.log(0.99)], rtol=1e-4)


def test_smoothing_reaches_the_steps_of_a_sequence():
    logits, truth, emitted = random_steps(7, steps=1, end=1)
    unrolled = Unrolled(jnp.asarray(logits), jnp.asarray(emitted), None, None)
    parts = losses.parts(
        None, unrolled, truth, RANK, map_loss=losses.focal_loss,
        order="rare_first", target="all", smoothing=0.4,
    )  # fmt: skip
    target = np.asarray(next_target("rare_first", logits[:, 0], truth > 0, RANK))
    # Nothing has left the pool, so the uniform part is torch's, over all classes and the end.
    oracle = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, 0]), torch.tensor(target).long(), reduction="none",
        label_smoothing=0.4,
    )  # fmt: skip
    np.testing.assert_allclose(parts["step"], oracle, rtol=1e-5)
    assert parts.keys() == {"step"}


def test_unknown_label_loss_is_refused():
    with pytest.raises(ValueError, match="bce, asymmetric, focal, softmax, warp"):
        losses.label_loss("hinge")


def test_unknown_set_target_is_refused():
    with pytest.raises(ValueError, match="all, remaining"):
        losses.set_step_loss("some", jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 2), bool), jnp.zeros(2))


@pytest.mark.parametrize(
    "loss",
    [
        losses.binary_cross_entropy,
        functools.partial(losses.focal_loss, gamma=2.0),
        functools.partial(losses.asymmetric_loss, gamma_neg=4.0, clip=0.05),
    ],
    ids=["bce", "focal", "asymmetric"],
)
def test_the_best_constant_leaves_no_slope(loss):
    share = 0.1
    found = losses.best_constant(loss, share)

    def mean(logit):
        true, wrong = loss(logit[None], jnp.ones(1)), loss(logit[None], jnp.zeros(1))
        return share * true + (1 - share) * wrong

    logit = jnp.log(found) - jnp.log1p(-found)
    around = [float(jax.grad(mean)(logit + offset)) for offset in (-0.02, 0.02)]
    assert around[0] < 0 < around[1]


def test_it_is_known_before_a_function_runs_that_is_being_compiled():
    found = jax.jit(lambda: losses.best_constant(losses.binary_cross_entropy, 0.25))()
    assert float(found) == pytest.approx(0.25, rel=0.01)


# Of M_map, `config.order` and `config.decoder.target`: each value of each once.
ROWS = [
    ("bce", "confidence", "all"),
    ("asymmetric", "confidence", "remaining"),
    ("focal", "confidence", "ranked"),
    ("softmax", "confidence", "mla"),
    ("warp", "confidence", "pla"),
    ("bce", "frequent_first", "all"),
    ("bce", "rare_first", "all"),
]


@functools.partial(jax.jit, static_argnames="row")
def losses_and_gradients(row, logits, step_logits, emitted, predicted, labels, rank, known=None):
    loss, order, target = row

    def total(logits, step_logits):
        unrolled = Unrolled(step_logits, emitted, predicted, None)
        wanted = losses.known_labels(labels, known)
        parts = losses.parts(
            logits, unrolled, wanted, rank, map_loss=losses.label_loss(loss), order=order,
            target=target, smoothing=0.1, known=known,
        )  # fmt: skip
        return sum(part.sum() for part in parts.values()), parts

    return jax.grad(total, argnums=(0, 1), has_aux=True)(logits, step_logits)


@pytest.mark.parametrize("row", ROWS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_a_label_that_is_not_known_is_as_if_there_were_no_such_label(row, seed):
    """Whatever is said of it, whatever its logits; for targets that are sets also if emitted."""
    end = int(row[1] != "confidence" or row[2] not in ("all", "remaining"))
    rng = np.random.default_rng(seed)
    step_logits, truth, emitted = random_steps(seed, batch=1, end=end)
    logits = rng.normal(size=(1, 3)).astype(np.float32)
    order = np.argsort(emitted.sum(1)[0])[::-1].astype(np.int32)  # what left the pool first
    rank = rng.permutation(5)
    columns = np.sort(rng.permutation(5)[:3])
    alone = losses_and_gradients(
        row, logits, step_logits, emitted, order[None], truth, np.argsort(np.argsort(rank[columns]))
    )

    def beside(values, others):
        whole = np.array(others)
        whole[..., columns] = values[..., :3]
        return np.concatenate([whole, values[..., 3:]], axis=-1)

    known = np.isin(np.arange(5), columns)[None]
    large = rng.normal(scale=50, size=(1, 3, 5)).astype(np.float32)
    said = rng.choice(np.array([0, 1, np.nan, 7], np.float32), (1, 5))
    pool = np.zeros((1, 3, 5), bool)
    pool[:, 1:, ~known[0]] = not end  # emitted by the first step
    (of_map, of_steps), parts = losses_and_gradients(
        row, beside(logits, large[:, 0]), beside(step_logits, large), beside(emitted, pool),
        columns[order].astype(np.int32)[None], beside(truth, said), rank, known,
    )  # fmt: skip
    (map_alone, steps_alone), parts_alone = alone
    for name, part in parts_alone.items():
        np.testing.assert_allclose(parts[name], part, rtol=1e-4, atol=1e-6)
    nothing = np.zeros((1, 3, 5), np.float32)
    np.testing.assert_allclose(of_map, beside(map_alone, nothing[:, 0]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_steps, beside(steps_alone, nothing), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("row", [ROWS[0], *ROWS[3:5]])
def test_an_image_of_which_nothing_is_known_has_no_loss_and_no_gradient(row):
    end = int(row[2] in ALIGNMENTS)
    step_logits, truth, emitted = random_steps(0, batch=2, end=end)
    order = np.tile(np.arange(3, dtype=np.int32), (2, 1))
    gradients, parts = losses_and_gradients(
        row, step_logits[:, 0, :3], step_logits, emitted, order, truth, RANK, np.zeros((2, 3), bool)
    )
    for leaf in jax.tree.leaves((gradients, parts)):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)
