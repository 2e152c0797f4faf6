"""Alignments against SciPy, against all permutations, and worked by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from attn_lstm.alignment import ALIGNMENTS, aligned_targets, assign
from attn_lstm.label_pool import emit_most_confident, pool_log_softmax

END = 5  # of hand-worked cases with 5 labels

# Compiled once a shape: outside of `jit` the loops would be compiled at every call.
compiled_assign = jax.jit(assign)
compiled_targets = jax.jit(aligned_targets, static_argnames="method")


def own_steps(seed, batch, steps, labels, scale=2.0):
    """Steps of a network fed with its own predictions, and random true labels.

    Returns logits float32[B,T,C+1], emitted bool[B,T,C], predicted int32[B,T], truth float32[B,C].
    """
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(batch, steps, labels + 1))).astype(np.float32)
    gone = jnp.zeros((batch, labels), bool)
    emitted, predicted = [], []
    for t in range(steps):
        emitted.append(gone)
        predicted.append(emit_most_confident(logits[:, t], gone))
        gone = gone | jax.nn.one_hot(predicted[-1], labels, dtype=bool)
    truth = (rng.random((batch, labels)) < rng.random((batch, 1))).astype(np.float32)
    return logits, jnp.stack(emitted, 1), jnp.stack(predicted, 1), truth


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (6, 6), (4, 7), (7, 4)])
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1.0, 1e4]))
def test_assignment_equals_scipy(rows, columns, seed, scale):
    rng = np.random.default_rng(seed)
    costs = (scale * rng.exponential(size=(4, rows, columns))).astype(np.float32)
    possible = rng.random(costs.shape) < rng.random((4, 1, 1))
    for image in possible:  # there is always an assignment
        size = min(rows, columns)
        image[rng.permutation(rows)[:size], rng.permutation(columns)[:size]] = True
    found_rows, found_columns = (np.asarray(x) for x in compiled_assign(costs, possible))
    for image in range(4):
        pairs = found_rows[image], found_columns[image]
        assert all(len({*side}) == min(rows, columns) for side in pairs)
        assert possible[image][pairs].all()
        oracle = np.where(possible[image], costs[image].astype(np.float64), np.inf)
        best = oracle[linear_sum_assignment(oracle)].sum()
        np.testing.assert_allclose(oracle[pairs].sum(), best, rtol=1e-5)


def test_ties_and_equal_rows_are_assigned_once_each():
    rows, columns = compiled_assign(jnp.zeros((4, 6, 6)), jnp.ones((4, 6, 6), bool))
    for side in (rows, columns):
        np.testing.assert_array_equal(np.sort(side, axis=1), [range(6)] * 4)


def cheapest(log_probs, true, predicted, method):
    """The smallest total -log p of all ways to assign, by trying them; in float64."""
    steps = min(len(true), len(log_probs))
    totals = []
    for order in itertools.permutations(true, steps):
        if method == "pla" and any(
            label in true and order[t] != label for t, label in enumerate(predicted[:steps])
        ):
            continue
        totals.append(-sum(np.float64(log_probs[t, label]) for t, label in enumerate(order)))
    return min(totals)


@pytest.mark.parametrize("method", ALIGNMENTS)
@pytest.mark.parametrize(("steps", "labels"), [(5, 7), (4, 4), (6, 4)])
@given(seed=st.integers(0, 10_000))
def test_targets_are_the_cheapest_of_all_permutations(method, steps, labels, seed):
    logits, emitted, predicted, truth = own_steps(seed, 6, steps, labels)
    truth[0], truth[1, :] = 0.0, np.arange(labels) < steps  # none, and as many as there is room for
    truth[:, steps:] = 0.0  # no image has more labels than steps
    log_probs = pool_log_softmax(logits, emitted)
    targets = np.asarray(compiled_targets(method, log_probs, predicted, truth))
    assert targets.dtype == np.int32
    for image in range(6):
        true = list(np.flatnonzero(truth[image]))
        assert sorted(targets[image, : len(true)]) == true
        assert (targets[image, len(true) :] == labels).all()
        total = -sum(np.float64(log_probs[image, t, targets[image, t]]) for t in range(len(true)))
        best = cheapest(np.asarray(log_probs[image]), true, list(predicted[image]), method)
        assert np.isfinite(total)
        np.testing.assert_allclose(total, best, rtol=1e-5)


def by_hand(method, probabilities, predicted, true):
    log_probs = jnp.log(jnp.asarray(probabilities))[None]
    labels = jnp.zeros((1, END)).at[0, jnp.asarray(true, int)].set(1.0)
    return list(map(int, compiled_targets(method, log_probs, jnp.asarray([predicted]), labels)[0]))


# The steps predict 3, 0, 2 and 4, each of which then leaves the pool.
STEPS = [[0.10, 0.20, 0.15, 0.40, 0.05, 0.10],
         [0.50, 0.30, 0.05, 0.00, 0.05, 0.10],
         [0.00, 0.05, 0.60, 0.00, 0.15, 0.20],
         [0.00, 0.10, 0.00, 0.00, 0.70, 0.20]]  # fmt: skip


@pytest.mark.parametrize("method", ALIGNMENTS)
@pytest.mark.parametrize(
    ("true", "targets"),
    [
        ([0, 1], [1, 0, END, END]),  # 0 is predicted at step 1, and 0.20 · 0.50 is the best
        # 2 is predicted at step 2; of the rest 4 goes first: 0.05 · 0.30 against 0.20 · 0.05.
        ([1, 2, 4], [4, 1, 2, END]),
        ([1, 2], [2, 1, END, END]),  # 2 is predicted too late: 0.15 · 0.30 against 0.20 · 0.05
        ([], [END] * 4),
        ([0, 1, 2, 3, 4], [3, 0, 2, 4]),  # one more than there are steps: 1 is left out
    ],
)
def test_alignments_worked_by_hand(method, true, targets):
    assert by_hand(method, STEPS, [3, 0, 2, 4], true) == targets


def test_predicted_labels_stay_where_minimal_loss_would_move_them():
    # Step 1 predicts 1; yet 1 before 0 has the larger product, 0.35 · 0.40 against 0.30 · 0.45.
    steps = [[0.30, 0.35, 0.35, 0.0, 0.0, 0.0], [0.40, 0.45, 0.0, 0.05, 0.05, 0.05]]
    assert by_hand("mla", steps, [2, 1], [0, 1]) == [1, 0]
    assert by_hand("pla", steps, [2, 1], [0, 1]) == [0, 1]


def test_of_too_many_labels_the_predicted_ones_count_under_pla():
    # Step 1 predicts 0, and of the three true labels step 0 holds the other two more probable.
    steps = [[0.05, 0.30, 0.25, 0.40, 0.0, 0.0], [0.24, 0.23, 0.22, 0.0, 0.20, 0.11]]
    assert by_hand("mla", steps, [3, 0], [0, 1, 2]) == [1, 2]
    assert by_hand("pla", steps, [3, 0], [0, 1, 2]) == [1, 0]


def test_numbers_that_are_not_finite_end_the_assignment_too():
    log_probs = jnp.full((1, 3, END + 1), jnp.nan)
    labels = jnp.ones((1, END))
    targets = compiled_targets("mla", log_probs, jnp.asarray([[0, 1, 2]]), labels)
    assert targets.shape == (1, 3)


def test_unknown_alignment_names_the_choices():
    with pytest.raises(ValueError, match="mla, pla"):
        aligned_targets("dtw", jnp.zeros((1, 1, 2)), jnp.zeros((1, 1), int), jnp.zeros((1, 1)))
