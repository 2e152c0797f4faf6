"""CNN-RNN step by step against torch, and its search against all paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attn_lstm.config import resolve
from attn_lstm.decision import observe, predict
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.cnn_rnn import CnnRnn
from attn_lstm.objective import training_choice
from attn_lstm.rows import create_row

BATCH, REGIONS, WIDTH, LABELS = 3, 4, 5, 6


@pytest.fixture(scope="module")
def features():
    return jax.random.normal(jax.random.key(0), (BATCH, REGIONS, WIDTH))


def torch_scores(params, image, path):
    """Scores over labels and end at every step of one image float[D], given the labels before it.

    Returns float[len(path) + 1, C + 1]; no label has left the softmax yet.
    """
    p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
    table = p["embed"]["embedding"]
    hidden = p["lstm"]["hf"]["bias"].shape[0]
    cell = torch.nn.LSTMCell(table.shape[1], hidden)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([p["lstm"][f"i{g}"]["kernel"].T for g in "ifgo"]))
        cell.weight_hh.copy_(torch.cat([p["lstm"][f"h{g}"]["kernel"].T for g in "ifgo"]))
        cell.bias_hh.copy_(torch.cat([p["lstm"][f"h{g}"]["bias"] for g in "ifgo"]))
        cell.bias_ih.zero_()
    state, scores = None, []
    for label in (None, *path):
        word = torch.zeros(1, table.shape[1]) if label is None else table[[label]]
        state = cell(word, state)
        joint = torch.relu(
            state[0] @ p["project_output"]["kernel"]
            + p["project_output"]["bias"]
            + torch.tensor(np.asarray(image)) @ p["project_image"]["kernel"]
        )
        scores.append((joint @ table.T)[0])
    return torch.stack(scores).detach().numpy()


def unrolled(features, choose, steps, **kwargs):
    decoder = CnnRnn(LABELS, hidden=8, embedding=7, dropout=kwargs.pop("dropout", 0.0))
    variables = decoder.init(jax.random.key(2), features, None, choose, steps, method="unroll")
    out = decoder.apply(variables, features, None, choose, steps, method="unroll", **kwargs)
    return variables["params"], out


def test_teacher_forced_steps_equal_torch(features):
    labels = jnp.array([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 1]], jnp.float32)
    rank = jnp.array([4, 0, 1, 2, 5, 3])
    params, out = unrolled(features, training_choice("frequent_first", labels, rank), steps=4)
    paths = [[2, 3, 0], [], [1, 5]]  # the true labels, the frequent ones first, then the end token
    for image, path in enumerate(paths):
        taught = [*path, *[LABELS] * (4 - len(path))]
        np.testing.assert_array_equal(out.labels[image], taught)
        expected = torch_scores(params, features[image].mean(axis=0), taught[:-1])
        np.testing.assert_allclose(out.logits[image], expected, rtol=1e-4, atol=1e-5)
        for step in range(4):
            assert set(np.flatnonzero(out.emitted[image, step])) == set(path[:step])
    assert out.attention is None


def test_emitted_labels_are_never_emitted_again(features):
    _, out = unrolled(features, emit_most_confident, steps=LABELS)
    np.testing.assert_array_equal(np.sort(out.labels, axis=1), [list(range(LABELS))] * BATCH)


def test_dropout_needs_training_and_changes_the_steps(features):
    _, quiet = unrolled(features, emit_most_confident, 3, dropout=0.5)
    _, noisy = unrolled(
        features, emit_most_confident, 3, dropout=0.5, train=True,
        rngs={"dropout": jax.random.key(5)},
    )  # fmt: skip
    assert not np.allclose(quiet.logits, noisy.logits)


def best_path(params, image, num_labels):
    """The most probable path of all, by enumeration; it ends by its end token or by being full."""
    scored = []
    for length in range(num_labels + 1):
        for path in itertools.permutations(range(num_labels), length):
            logits = torch_scores(params, image, path).astype(np.float64)
            total = 0.0
            for step, label in enumerate((*path, num_labels)[:num_labels]):
                logits[step, list(path[:step])] = -np.inf
                total += logits[step, label] - np.log(np.exp(logits[step]).sum())
            scored.append((total, path))
    return max(scored)[1]


def test_a_wide_search_finds_the_best_of_all_paths(tiny_config):
    # There are 6 orders of 3 labels.
    config = resolve(tiny_config("cnn_rnn", **{"search.beam_size": 6, "decoder.max_labels": 3}))
    row = create_row(config, num_labels=3)
    network = row.network
    images = jax.random.randint(jax.random.key(0), (6, 32, 32, 3), 0, 256).astype(jnp.uint8)
    variables = network.init(jax.random.key(3), images, emit_most_confident, steps=3)
    features = jax.random.normal(jax.random.key(4), (6, 16, 128)) * 4
    seen = observe(row.decision, network, variables, features)
    prediction = predict(row.decision, network, variables, seen, config.search.threshold)
    for image in range(6):
        path = best_path(variables["params"]["decoder"], features[image].mean(axis=0), 3)
        np.testing.assert_array_equal(prediction.sequence[image], [*path, *[-1] * (3 - len(path))])
    assert len({int(n) for n in prediction.labels.sum(axis=1)}) > 1  # not one length for all
