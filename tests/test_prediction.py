"""What the search gives a user, beside the steps it was found by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm import metrics
from attn_lstm.config import resolve
from attn_lstm.models.network import create_network
from attn_lstm.prediction import emit_most_confident, label_scores, predict


def predicted(tiny_config, method="order_free", threshold=0.3, beam_size=1, **overrides):
    config = resolve(tiny_config(method, **overrides))
    network = create_network(config, num_labels=3)
    images = jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 256).astype(jnp.uint8)
    variables = network.init(jax.random.key(3), images, emit_most_confident, steps=3)
    features = network.apply(variables, images, method="encode")
    prediction = predict(
        network, variables, features, threshold, max_labels=3, beam_size=beam_size, stop="step"
    )
    return network, variables, features, prediction


def test_width_one_follows_the_greedy_unrolling(tiny_config):
    network, variables, features, prediction = predicted(tiny_config)
    outputs = network.apply(variables, features, emit_most_confident, 3)
    steps = outputs.unrolled
    probs = jax.nn.sigmoid(jnp.take_along_axis(steps.logits, steps.labels[..., None], -1)[..., 0])
    for image in range(4):
        count = int((np.cumprod(probs[image] >= 0.3)).sum())
        np.testing.assert_array_equal(
            prediction.sequence[image], [*steps.labels[image, :count], *[-1] * (3 - count)]
        )
        np.testing.assert_allclose(
            prediction.probabilities[image, :count], probs[image, :count], rtol=1e-5
        )
        np.testing.assert_allclose(
            prediction.attention[image, :count], steps.attention[image, :count], rtol=1e-5
        )
    np.testing.assert_allclose(prediction.scores, jax.nn.sigmoid(steps.logits[:, -1]), rtol=1e-5)


@pytest.mark.parametrize(
    "method", ["order_free", "frequent_first", "resnet_baseline", "softmax", "warp", "cnn_rnn"]
)
def test_the_set_is_what_the_sequence_lists(tiny_config, method):
    _, _, _, prediction = predicted(tiny_config, method, beam_size=3)
    for labels, sequence, probs in zip(
        prediction.labels, prediction.sequence, prediction.probabilities, strict=True
    ):
        listed = [int(label) for label in sequence if label >= 0]
        assert sorted(listed) == list(np.flatnonzero(labels))
        assert (np.asarray(probs)[: len(listed)] > 0).all()
        assert (np.asarray(probs)[len(listed) :] == 0).all()


@pytest.mark.parametrize("method", ["softmax", "warp"])
def test_a_fixed_number_of_labels_is_the_best_of_them_whatever_the_threshold(tiny_config, method):
    network = create_network(resolve(tiny_config(method)), num_labels=6)
    features = jax.random.normal(jax.random.key(0), (8, 4, 5))
    variables = network.init(jax.random.key(1), features, emit_most_confident, steps=1)
    prediction = predict(
        network, variables, features, 0.99, max_labels=3, beam_size=1, stop="path", top_k=2
    )
    np.testing.assert_array_equal(prediction.labels, metrics.top_k(prediction.scores, 2))
    np.testing.assert_array_equal((prediction.sequence >= 0).sum(axis=1), 2)
    logits = network.apply(variables, features, method="label_logits")
    np.testing.assert_array_equal(prediction.labels, metrics.top_k(logits, 2))


def test_the_softmax_row_scores_by_softmax(tiny_config):
    _, _, _, prediction = predicted(tiny_config, "softmax")
    np.testing.assert_allclose(prediction.scores.sum(axis=1), 1.0, rtol=1e-5)


def test_a_row_that_looks_nowhere_has_no_attention(tiny_config):
    _, variables, _, prediction = predicted(tiny_config, "cnn_rnn", threshold=0.0, beam_size=2)
    assert prediction.attention is None
    assert "map_labels" not in variables["params"]


def test_scores_with_an_end_token_are_probabilities_of_being_reached(tiny_config):
    network, variables, features, _ = predicted(tiny_config, "frequent_first")
    unrolled = network.apply(variables, features, emit_most_confident, 3).unrolled
    scores = label_scores(network, unrolled)
    for image in range(4):
        reached, best = 1.0, np.zeros(3)
        for t in range(3):
            logits = np.asarray(unrolled.logits[image, t], np.float64)
            logits[:3][np.asarray(unrolled.emitted[image, t])] = -np.inf
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            best = np.maximum(best, reached * p[:3])
            reached *= 1 - p[3]
        np.testing.assert_allclose(scores[image], best, rtol=1e-4)
