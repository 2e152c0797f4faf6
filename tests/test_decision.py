"""What the search gives a user, beside the steps it was found by."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm import metrics
from attn_lstm.config import resolve
from attn_lstm.decision import _until_certain, observe, predict
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.rows import create_row


def predicted(tiny_config, method="order_free", threshold=0.3, beam_size=1, **overrides):
    overrides = {"search.beam_size": beam_size, "search.stop": "step", **overrides}
    config = resolve(tiny_config(method, **overrides))
    row = create_row(config, num_labels=3)
    network = row.network
    images = jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 256).astype(jnp.uint8)
    variables = network.init(jax.random.key(3), images, emit_most_confident, steps=3)
    features = network.apply(variables, images, method="encode")
    seen = observe(row.decision, network, variables, features)
    return network, variables, features, predict(row.decision, network, variables, seen, threshold)


def test_width_one_follows_the_greedy_unrolling(tiny_config):
    network, variables, features, prediction = predicted(tiny_config)
    outputs = network.apply(variables, features, emit_most_confident, 3, encoded=True)
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
    "method",
    ["order_free", "frequent_first", "resnet_baseline", "softmax", "warp", "cnn_rnn", "csra",
     "order_free_plus", "order_free_ranked", "order_free_label_maps", "multi_order"],
)  # fmt: skip
def test_the_set_is_what_the_sequence_lists(tiny_config, method):
    _, _, _, prediction = predicted(tiny_config, method, beam_size=3, **{"search.top_k": 0})
    for labels, sequence, probs in zip(
        prediction.labels, prediction.sequence, prediction.probabilities, strict=True
    ):
        listed = [int(label) for label in sequence if label >= 0]
        assert sorted(listed) == list(np.flatnonzero(labels))
        assert (np.asarray(probs)[: len(listed)] > 0).all()
        assert (np.asarray(probs)[len(listed) :] == 0).all()


@pytest.mark.parametrize("method", ["softmax", "warp"])
def test_a_fixed_number_of_labels_is_the_best_of_them_whatever_the_threshold(tiny_config, method):
    config = resolve(tiny_config(method, **{"search.top_k": 2}))
    row = create_row(config, num_labels=6)
    network = row.network
    features = jax.random.normal(jax.random.key(0), (8, 4, 5))
    variables = network.init(
        jax.random.key(1), features, emit_most_confident, steps=1, encoded=True
    )
    seen = observe(row.decision, network, variables, features)
    prediction = predict(row.decision, network, variables, seen, 0.99)
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


def on_features(tiny_config, method, num_labels=3, **overrides):
    """A network without its backbone, and features of 4 images with 4 regions."""
    config = resolve(tiny_config(method, **overrides))
    row = create_row(config, num_labels=num_labels)
    network = row.network
    features = jax.random.normal(jax.random.key(0), (4, 4, 5))
    init = jax.jit(
        lambda key: network.init(key, features, emit_most_confident, steps=3, encoded=True)
    )
    return row, network, init(jax.random.key(1)), features


@pytest.mark.parametrize("method", ["query2label", "ml_decoder", "csra"])
def test_each_label_of_a_set_head_has_its_own_map(tiny_config, method):
    row, network, variables, features = on_features(tiny_config, method)
    seen = observe(row.decision, network, variables, features)
    scores, maps = network.apply(variables, features, method="look")
    threshold = float(np.median(scores))  # some are left out, some not
    prediction = predict(row.decision, network, variables, seen, threshold)
    assert 0 < prediction.labels.sum() < prediction.labels.size
    for image in range(4):
        for step, label in enumerate(prediction.sequence[image]):
            expected = maps[image, label] if label >= 0 else np.zeros(4)
            np.testing.assert_allclose(prediction.attention[image, step], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "method",
    ["query2label", "ml_decoder", "csra", "order_free", "order_free_plus", "multi_order"],
)
def test_predictions_export_for_any_number_of_images(tiny_config, method):
    row, network, variables, _ = on_features(tiny_config, method)

    def serve(features):
        seen = observe(row.decision, network, variables, features)
        return predict(row.decision, network, variables, seen, 0.3)

    (images,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((images, 4, 5), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: jax.tree.leaves(serve(x))))(shape)
    assert [out.shape for out in exported.out_avals] == [
        (images, 3), (images, 3), (images, 3), (images, 3), (images, 3, 4),
    ]  # fmt: skip


def test_scores_with_an_end_token_are_probabilities_of_being_reached(tiny_config):
    network, variables, features, prediction = predicted(tiny_config, "frequent_first")
    unrolled = network.apply(variables, features, emit_most_confident, 3, encoded=True).unrolled
    scores = prediction.scores
    for image in range(4):
        reached, best = 1.0, np.zeros(3)
        for t in range(3):
            logits = np.asarray(unrolled.logits[image, t], np.float64)
            logits[:3][np.asarray(unrolled.emitted[image, t])] = -np.inf
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            best = np.maximum(best, reached * p[:3])
            reached *= 1 - p[3]
        np.testing.assert_allclose(scores[image], best, rtol=1e-4)


def test_scores_are_known_to_the_bit_before_all_steps_are_made(tiny_config):
    """Where scores decide, the maps need every step; where a path does, the scores must not."""
    steps = 12
    row, network, variables, features = on_features(
        tiny_config, "frequent_first", num_labels=steps, **{"decoder.max_labels": steps}
    )
    assert row.decision.ends_early
    every = dataclasses.replace(row.decision, decide="scores", ends_early=False)

    @jax.jit
    def found(key, end):
        """The scores of both passes with random parameters, and the steps of the shorter one."""
        leaves, structure = jax.tree.flatten(variables)
        keys = jax.random.split(key, len(leaves))
        leaves = [x + jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        random = structure.unflatten(leaves)
        random["params"]["decoder"]["head"]["bias"] += jnp.zeros(steps + 1).at[-1].set(end)
        scores = [observe(d, network, random, features).scores for d in (row.decision, every)]
        preliminary = network.apply(random, features, method="preliminary")
        start = network.apply(random, features, preliminary, method="start")
        unrolled = _until_certain(steps, network, random, start)
        return *scores, (unrolled.logits != 0).any(axis=(0, 2)).sum()

    made = set()
    for seed in range(12):
        early, late, count = found(jax.random.key(seed), 2.0 * (seed % 6))
        np.testing.assert_array_equal(early, late)
        made.add(int(count))
    assert min(made) < steps / 2 < max(made)


def test_the_mean_score_is_that_of_the_last_step_and_the_map(tiny_config):
    def scores(kind):
        return np.asarray(predicted(tiny_config, **{"search.scores": kind})[3].scores)

    both = [scores(kind) for kind in ("last_step", "map")]
    np.testing.assert_allclose(scores("mean"), np.mean(both, axis=0), rtol=1e-5)


def test_the_score_of_the_map_is_v_prob(tiny_config):
    network, variables, features, prediction = predicted(tiny_config, **{"search.scores": "map"})
    preliminary = network.apply(variables, features, method="preliminary")
    np.testing.assert_array_equal(prediction.scores, preliminary)


@pytest.mark.parametrize("axis", [None, 0])
def test_sets_that_scores_decide_hold_all_labels_at_or_above_tau(tiny_config, axis):
    """τ is one for all labels, or one a label."""
    fields = {"search.decide": "scores"}
    tau = np.median(predicted(tiny_config, **fields)[3].scores, axis=axis).astype(np.float32)
    network, variables, features, prediction = predicted(tiny_config, threshold=tau, **fields)
    scores = np.asarray(prediction.scores)
    np.testing.assert_array_equal(prediction.labels, scores >= tau)
    assert 0 < np.asarray(prediction.labels).sum() < 12
    steps = network.apply(variables, features, emit_most_confident, 3, encoded=True).unrolled
    for image, sequence in enumerate(np.asarray(prediction.sequence)):
        listed = sequence[sequence >= 0]
        assert {*listed} == {*np.flatnonzero(prediction.labels[image])}
        assert (np.diff(scores[image, listed]) <= 0).all()
        np.testing.assert_array_equal(
            prediction.probabilities[image, : len(listed)], scores[image, listed]
        )
        for place, label in enumerate(listed):
            (step,) = np.flatnonzero(steps.labels[image] == label)  # 3 steps emit all 3 labels
            np.testing.assert_allclose(
                prediction.attention[image, place], steps.attention[image, step], rtol=1e-5
            )
        assert (np.asarray(prediction.attention[image, len(listed) :]) == 0).all()


@pytest.mark.parametrize("method", ["multi_order", "order_free"])
def test_the_label_wise_maximum_is_of_the_step_that_it_shows(tiny_config, method):
    fields = {"search.scores": "max", "search.decide": "scores"}
    row, network, variables, features = on_features(tiny_config, method, **fields)
    variables = jax.tree.map(lambda x: 4 * x, variables)  # else the first step has them all
    seen = observe(row.decision, network, variables, features)
    steps = network.apply(variables, features, emit_most_confident, 3, encoded=True).unrolled
    probs = np.asarray(jax.nn.sigmoid(steps.logits[..., :3]))
    scores, found_at = probs.max(axis=1), probs.argmax(axis=1)
    assert len({*found_at.ravel()}) > 1
    threshold = float(np.median(scores))
    prediction = predict(row.decision, network, variables, seen, threshold)
    np.testing.assert_allclose(prediction.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(prediction.labels, scores >= threshold)
    assert 0 < prediction.labels.sum() < prediction.labels.size
    for image, sequence in enumerate(np.asarray(prediction.sequence)):
        listed = sequence[sequence >= 0]
        np.testing.assert_array_equal(listed, np.argsort(-scores[image])[: len(listed)])
        np.testing.assert_allclose(
            prediction.attention[image, : len(listed)],
            steps.attention[image, found_at[image, listed]],
            rtol=1e-5,
        )


@pytest.mark.parametrize(("method", "target"), [("rare_first", "all"), ("order_free", "remaining")])
def test_where_the_last_step_ranks_nothing_the_label_wise_maximum_does(tiny_config, method, target):
    def scores(kind):
        fields = {"search.scores": kind, "decoder.target": target}
        return predicted(tiny_config, method, **fields)[3].scores

    np.testing.assert_array_equal(scores("max"), scores("last_step"))


def test_a_label_that_no_step_emitted_shows_where_the_last_step_looked(tiny_config):
    fields = {"search.decide": "scores", "decoder.max_labels": 2}
    network, variables, features, prediction = predicted(tiny_config, threshold=0.0, **fields)
    steps = network.apply(variables, features, emit_most_confident, 2, encoded=True).unrolled
    for image in range(4):
        (left,) = {0, 1, 2} - {*map(int, steps.labels[image])}
        place = list(prediction.sequence[image]).index(left)
        np.testing.assert_allclose(
            prediction.attention[image, place], steps.attention[image, 1], rtol=1e-5
        )
