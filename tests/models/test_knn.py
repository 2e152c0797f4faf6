"""Nearest neighbours and their votes, against scikit-learn and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

from attn_lstm.config import resolve
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.knn import CANDIDATES, Neighbours, describe, nearest
from attn_lstm.models.network import create_network


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def vote(queries, features, labels, count, known=None, fixed=0, judged=None):
    """The votes of a memory, from a module that was made without its size."""
    known = np.ones(len(features), bool) if known is None else known
    memory = {
        "features": jnp.asarray(features, jnp.float32),
        "labels": jnp.asarray(labels, bool),
        "known": jnp.asarray(known),
        "count": jnp.int32(count),
    }
    if judged is not None:
        memory["judged"] = jnp.asarray(judged)
    module = Neighbours(labels.shape[1], count=fixed, partial=judged is not None)
    regions = jnp.asarray(queries)[:, None]  # of images with a single one
    return np.asarray(jax.jit(module.apply)({"memory": memory}, regions)[0])


def shares(queries, features, labels, count, weights="uniform"):
    """scikit-learn's: the mean of 0/1 targets over the neighbours is the share that has a label."""
    model = KNeighborsRegressor(count, metric="cosine", algorithm="brute", weights=weights)
    return model.fit(features, labels.astype(float)).predict(queries)


@pytest.mark.parametrize("block_rows", [1, 7, 20, 50, 60, 64])
def test_the_nearest_are_scikit_learn_s_in_blocks_of_any_size(block_rows):
    rng = np.random.default_rng(0)
    queries, features = unit(rng, 9, 6), unit(rng, 60, 6)
    distances, rows = (
        NearestNeighbors(n_neighbors=25, metric="cosine", algorithm="brute")
        .fit(features)
        .kneighbors(queries)
    )
    ours = nearest(queries, features, jnp.ones(60, bool), 25, block_rows)
    np.testing.assert_allclose(ours[0], 1 - distances, atol=1e-6)
    np.testing.assert_array_equal(ours[1], rows)


def test_of_equal_neighbours_the_first_row_comes_first():
    features = jnp.tile(jnp.eye(2), (5, 1))
    _, rows = nearest(jnp.eye(2)[:1], features, jnp.ones(10, bool), 10, block_rows=3)
    assert rows.tolist() == [[0, 2, 4, 6, 8, 1, 3, 5, 7, 9]]


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (300, 1),
        (300, 50),
        (300, 250),  # more than the largest candidate
        (30, 20),  # fewer images than the largest candidate
        (30, 30),
        (8200, 100),  # more than one block, which overlap
    ],
)
def test_votes_are_scikit_learn_s(images, count):
    rng = np.random.default_rng(1)
    queries, features = unit(rng, 7, 8), unit(rng, images, 8)
    labels = rng.random((images, 5)) < (0.7, 0.5, 0.2, 0.05, 0.0)
    reach = min(max(*CANDIDATES, count), images)
    tie = shares(queries, features, labels, reach, lambda distance: np.exp(1 - distance))
    votes = np.rint(count * shares(queries, features, labels, count))
    for ours in (
        vote(queries, features, labels, min(count, 200), fixed=count if count > 200 else 0),
        vote(queries, features, labels, 3, fixed=count),  # the config's k overrules the memory's
    ):
        np.testing.assert_allclose(ours, (votes + tie) / (count + 1), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(np.rint((count + 1) * ours - tie), votes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_the_shared_vote_never_overrules_a_vote(seed, images, count):
    rng = np.random.default_rng(seed)
    queries, features = unit(rng, 3, 4), unit(rng, images, 4)
    labels = rng.random((images, 6)) < 0.5
    ours = vote(queries, features, labels, count)
    rows = np.argsort(-(queries @ features.T), axis=1, kind="stable")[:, :count]
    votes = labels[rows].sum(1)
    more = votes[:, :, None] > votes[:, None, :]
    assert (ours[:, :, None] > ours[:, None, :])[more].all()
    assert ((ours >= 0) & (ours <= 1 + 1e-6)).all()


def test_a_vote_by_hand():
    # Two neighbours are asked; the third one, at a right angle, only shares the last vote.
    features = np.array([[1, 0], [0.6, 0.8], [0, 1]])
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]], bool)
    e = np.exp([1, 0.6, 0])
    e /= e.sum()
    ours = vote(jnp.array([[1.0, 0.0]]), features, labels, 2)
    np.testing.assert_allclose(ours[0], [(1 + e[0]) / 3, (1 + e[1]) / 3, e[2] / 3, 1], rtol=1e-6)


def test_an_image_has_no_vote_on_labels_that_are_not_known_of_it():
    rng = np.random.default_rng(3)
    queries, features = unit(rng, 4, 8), unit(rng, 30, 8)
    labels, judged = rng.random((30, 3)) < 0.5, rng.random((30, 3)) < 0.6
    judged[:, 2] = False
    ours = vote(queries, features, labels & judged, 5, judged=judged)
    # Of each label the share among the neighbours that know it, with their part of the last vote.
    nearness = queries @ features.T
    votes = np.exp(nearness) / np.exp(nearness).sum(1, keepdims=True)
    for row, order in enumerate(np.argsort(-nearness, axis=1)):
        votes[row, order[:5]] += 1
    total = votes @ judged
    wanted = np.divide(votes @ (labels & judged), total, out=np.zeros((4, 3)), where=total > 0)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    assert not ours[:, 2].any()


@pytest.mark.parametrize("readable", [40, 4])  # more and fewer than k
def test_unknown_rows_are_as_if_they_were_not_there(readable):
    rng = np.random.default_rng(2)
    queries, features, labels = unit(rng, 5, 6), unit(rng, 60, 6), rng.random((60, 3)) < 0.4
    known = np.zeros(60, bool)
    known[rng.permutation(60)[:readable]] = True
    features[~known] = 0  # and more similar than many that are known
    ours = vote(queries, features, labels, 10, known)
    alone = vote(queries, features[known], labels[known], 10)
    np.testing.assert_allclose(ours, alone, rtol=1e-6)


def test_an_image_is_the_direction_of_its_mean_region():
    features = jnp.array([[[3.0, 0.0], [3.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_allclose(describe(features), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    coarse = jax.random.normal(jax.random.key(0), (4, 9, 64), jnp.bfloat16)
    assert describe(coarse).dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(describe(coarse), axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        describe(coarse), describe(coarse.astype(jnp.float32)), rtol=1e-6, atol=1e-7
    )


def test_the_network_of_the_row_has_a_backbone_and_a_memory(tiny_config):
    config = resolve(tiny_config("knn", **{"backbone.frozen": True}))
    network = create_network(config, num_labels=3, images=12)
    images = jnp.zeros((2, 32, 32, 3), jnp.uint8)
    variables = jax.eval_shape(
        lambda: network.init(jax.random.key(0), images, emit_most_confident, steps=1)
    )
    assert list(variables["params"]) == ["backbone"]
    memory = {name: (x.shape, x.dtype) for name, x in variables["memory"]["neighbours"].items()}
    assert memory == {
        "features": ((12, 128), jnp.float32),
        "labels": ((12, 3), bool),
        "known": ((12,), bool),
        "count": ((), jnp.int32),
    }
