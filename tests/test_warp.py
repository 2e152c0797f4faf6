"""WARP against the papers' loop, run over every sequence of draws that there is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from attn_lstm.models.dropout import row_keys
from attn_lstm.parallel import AXIS, REPLICATED, SPLIT, make_mesh, map_over_devices
from attn_lstm.warp import expected_warp, warp


def loop_over_draws(scores, label, draws):
    """The loss of one true label for a given sequence of C - 1 wrong labels."""
    for trial, wrong in enumerate(draws, start=1):
        if scores[wrong] > scores[label] - 1:
            rank = (len(scores) - 1) // trial
            return sum(1 / j for j in range(1, rank + 1)) * (1 - scores[label] + scores[wrong])
    return 0.0


def outcomes(scores, label, wrong):
    """The losses of one true label for all sequences of draws, which are equally likely."""
    sequences = itertools.product(wrong, repeat=len(scores) - 1)
    return np.array([loop_over_draws(scores, label, draws) for draws in sequences])


def mean_by_enumeration(scores, true):
    wrong = np.flatnonzero(~true)
    if not len(wrong):
        return 0.0
    return sum(outcomes(scores, label, wrong).mean() for label in np.flatnonzero(true))


def random_image(seed, num_labels=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=num_labels), rng.random(num_labels) < 0.5


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_expected_loss_is_the_mean_over_all_draws(seed, num_labels):
    scores, true = random_image(seed, num_labels)
    loss = expected_warp(jnp.asarray(scores[None]), jnp.asarray(true[None], jnp.float32))
    np.testing.assert_allclose(loss, [mean_by_enumeration(scores, true)], rtol=1e-4, atol=1e-5)


def test_drawn_losses_are_those_of_the_loop_with_its_mean():
    scores = np.array([0.3, 0.0, -0.9, 0.6, -1.5])
    true = np.array([1, 0, 0, 0, 0], bool)
    possible = outcomes(scores, 0, [1, 2, 3, 4])
    count = 20_000
    drawn = np.asarray(
        warp(
            jnp.broadcast_to(scores, (count, 5)),
            jnp.broadcast_to(true, (count, 5)).astype(jnp.float32),
            jax.random.split(jax.random.key(0), count),
        )
    )
    values = np.unique(possible)
    nearest = np.abs(drawn[:, None] - values).argmin(axis=1)
    np.testing.assert_allclose(drawn, values[nearest], rtol=1e-5, atol=1e-6)
    frequency = np.bincount(nearest, minlength=len(values)) / count
    chance = np.array([np.isclose(possible, value).mean() for value in values])
    error = np.sqrt(chance * (1 - chance) / count)
    assert (np.abs(frequency - chance) < 4 * error + 1e-9).all()
    assert abs(drawn.mean() - possible.mean()) < 4 * possible.std() / np.sqrt(count)


@given(st.integers(0, 10_000))
def test_where_every_draw_violates_the_rank_is_the_largest(seed):
    scores, true = random_image(seed)
    true[0], true[1], scores = True, False, scores * 0.1  # margins stay within 1
    labels = jnp.asarray(true[None], jnp.float32)
    loss = float(
        warp(jnp.asarray(scores[None]), labels, jax.random.split(jax.random.key(seed), 1))[0]
    )
    weight = 1 + 1 / 2 + 1 / 3 + 1 / 4
    hinges = 1 - scores[true][:, None] + scores[~true]
    assert weight * hinges.min(1).sum() - 1e-4 <= loss <= weight * hinges.max(1).sum() + 1e-4


def test_worked_by_hand():
    # Label 2 is the only wrong one. It violates label 0 at the first draw: rank 2, L = 1.5, and
    # a hinge of 1 - 0 + 0.5; label 1 is above it by more than the margin.
    scores, labels = jnp.array([[0.0, 2.0, 0.5]]), jnp.array([[1.0, 1.0, 0.0]])
    keys = jax.random.split(jax.random.key(0), 1)
    np.testing.assert_allclose(warp(scores, labels, keys), [2.25], rtol=1e-6)
    np.testing.assert_allclose(expected_warp(scores, labels), [2.25], rtol=1e-6)


@pytest.mark.parametrize("labels", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
def test_nothing_to_rank_is_no_loss_and_no_gradient(labels):
    scores, labels = jnp.array([[0.0, 2.0, 0.5]]), jnp.array([labels])
    keys = jax.random.split(jax.random.key(0), 1)
    for loss in (lambda x: warp(x, labels, keys).sum(), lambda x: expected_warp(x, labels).sum()):
        assert loss(scores) == 0.0
        assert not jax.grad(loss)(scores).any()


@given(st.integers(0, 10_000))
def test_a_margin_that_holds_everywhere_is_no_loss(seed):
    scores, true = random_image(seed)
    apart = jnp.asarray(np.where(true, 3 + np.abs(scores), -np.abs(scores)))[None]
    labels = jnp.asarray(true[None], jnp.float32)
    assert warp(apart, labels, jax.random.split(jax.random.key(seed), 1))[0] == 0.0
    assert expected_warp(apart, labels)[0] == 0.0


def test_gradients_are_true_and_leave_the_rank_alone():
    rng = np.random.default_rng(1)
    # Multiples of 0.4: no margin 1 - s + s' lies near 0, where a label starts or stops to violate.
    scores = jnp.asarray(0.4 * rng.integers(-4, 5, size=(6, 5)), jnp.float32)
    labels = jnp.asarray(rng.random((6, 5)) < 0.4, jnp.float32)
    keys = jax.random.split(jax.random.key(4), 6)
    for loss in (lambda x: warp(x, labels, keys).sum(), lambda x: expected_warp(x, labels).sum()):
        assert jnp.abs(jax.grad(loss)(scores)).sum() > 0
        check_grads(loss, (scores,), order=1, modes=["rev"], eps=1e-2, rtol=1e-2, atol=1e-2)


def test_four_devices_draw_what_one_draws():
    scores = jax.random.normal(jax.random.key(1), (8, 6))
    labels = (jax.random.uniform(jax.random.key(2), (8, 6)) < 0.4).astype(jnp.float32)
    key = jax.random.key(3)

    def loss(scores, labels, key, axis_name=None):
        return warp(scores, labels, row_keys(key, scores.shape[0], axis_name))

    mapped = map_over_devices(
        lambda *args: loss(*args, AXIS), make_mesh(), in_specs=(SPLIT, SPLIT, REPLICATED),
        out_specs=SPLIT,
    )  # fmt: skip
    np.testing.assert_allclose(mapped(scores, labels, key), loss(scores, labels, key), rtol=1e-6)


@given(st.integers(0, 10_000))
def test_labels_that_are_not_known_are_never_drawn(seed):
    rng = np.random.default_rng(seed)
    known = rng.random((6, 5)) < 0.7
    labels = ((rng.random((6, 5)) < 0.5) & known).astype(np.float32)
    scores, others = rng.normal(size=(2, 6, 5)).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed), 6)
    for function in (lambda *x, **y: warp(*x, keys, **y), expected_warp):
        np.testing.assert_array_equal(
            function(scores, labels, known=known),
            function(np.where(known, scores, 9 * others), labels, known=known),
        )
        np.testing.assert_allclose(
            function(scores, labels, known=np.ones_like(known)), function(scores, labels), rtol=1e-6
        )
