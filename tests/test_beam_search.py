"""The search against exhaustive enumeration, on decoders whose steps depend on their history."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.beam_search import StepScores, beam_search, beam_searches


def history_step(end_token, params, state, label):
    """A step whose probabilities depend on the whole history, order included."""
    mix, turn, read = params
    hidden, emitted = state
    num_labels = emitted.shape[-1]
    emitted = emitted | jax.nn.one_hot(label, num_labels, dtype=bool)
    hidden = jnp.tanh(hidden @ turn + mix[label])  # -1, no label yet, is the last row
    logits = hidden @ read
    if end_token:
        gone = jnp.concatenate([emitted, jnp.zeros_like(emitted[..., :1])], -1)
        both = jax.nn.log_softmax(jnp.where(gone, -jnp.inf, logits), -1)
        log_probs, end = both[..., :-1], both[..., -1]
    else:
        log_probs = jnp.where(emitted, -jnp.inf, jax.nn.log_sigmoid(logits[..., :-1]))
        end = None
    # A trace of each label: what it keeps tells the step and the label apart.
    trace = hidden[..., None, :] + jnp.arange(num_labels)[:, None]
    return (hidden, emitted), StepScores(log_probs, end, trace)


class RandomDecoder:
    """Random parameters and images for `history_step`; each kind of search compiles once."""

    def __init__(self, seed: int, num_labels: int, batch: int, end_token: bool = False):
        rng = np.random.default_rng(seed)
        self.params = (
            jnp.asarray(rng.normal(size=(num_labels + 1, 6)), jnp.float32),
            jnp.asarray(rng.normal(size=(6, 6)) / 2, jnp.float32),
            jnp.asarray(2 * rng.normal(size=(6, num_labels + 1)), jnp.float32),
        )
        images = jnp.asarray(rng.normal(size=(batch, 6)), jnp.float32)
        self.state = images, jnp.zeros((batch, num_labels), bool)
        self.end_token, self.num_labels = end_token, num_labels

    def step(self, state, label):
        return _compiled_step(self.end_token)(self.params, state, label)

    def search(self, width, max_labels, threshold=0.0, stop="path", wanted=None):
        search = _compiled_search(self.end_token, self.num_labels, width, max_labels, stop, wanted)
        return jax.device_get(search(self.params, self.state, threshold))


@functools.cache
def _compiled_step(end_token):
    return jax.jit(functools.partial(history_step, end_token))


@functools.cache
def _compiled_search(end_token, num_labels, width, max_labels, stop, wanted):
    def search(params, state, threshold):
        return beam_search(
            functools.partial(history_step, end_token, params),
            state,
            num_labels=num_labels,
            beam_size=width,
            max_labels=max_labels,
            threshold=threshold,
            stop=stop,
            wanted=wanted,
        )

    return jax.jit(search)


def enumerate_paths(step, state, num_labels, max_labels, threshold, stop):
    """All ended paths of one image and their probabilities, by plain recursion."""
    ended = {}

    def visit(state, path, probability):
        last = jnp.array([path[-1] if path else -1])
        state, out = step(state, last)
        probs = np.exp(np.asarray(out.log_probs[0], np.float64))
        if out.end_log_prob is not None:
            ended[path] = probability * math.exp(float(out.end_log_prob[0]))
        extended = False
        for label in range(num_labels):
            new = probability * probs[label]
            compared = new if stop == "path" else probs[label]
            if label in path or compared < threshold or new == 0:
                continue
            extended = True
            if len(path) + 1 == max_labels:
                ended[(*path, label)] = new
            else:
                visit(state, (*path, label), new)
        if not extended and out.end_log_prob is None:
            ended[path] = probability

    visit(state, (), 1.0)
    return ended


def as_path(labels) -> tuple[int, ...]:
    return tuple(int(label) for label in labels if label >= 0)


@pytest.mark.parametrize("stop", ["path", "step"])
@pytest.mark.parametrize("end_token", [False, True])
@pytest.mark.parametrize(("num_labels", "max_labels"), [(4, 4), (5, 3)])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6])
def test_exhaustive_width_equals_enumeration(stop, end_token, num_labels, max_labels, threshold):
    decoder = RandomDecoder(7, num_labels, 3, end_token)
    width = sum(math.perm(num_labels, n) for n in range(max_labels + 1))
    beams = decoder.search(width, max_labels, threshold, stop)
    for image in range(3):
        one = jax.tree.map(lambda x, image=image: x[image : image + 1], decoder.state)
        expected = enumerate_paths(decoder.step, one, num_labels, max_labels, threshold, stop)
        found = {
            as_path(path): math.exp(score)
            for path, score in zip(beams.labels[image], beams.scores[image], strict=True)
            if score > -math.inf
        }
        assert set(found) == set(expected)
        for path, probability in expected.items():
            assert found[path] == pytest.approx(probability, rel=1e-4)
        best = max(expected, key=expected.get)
        assert as_path(beams.labels[image, 0]) == best
        assert set(np.flatnonzero(beams.best_set(num_labels)[image])) == set(best)


@given(st.integers(0, 999), st.floats(0.0, 0.9), st.sampled_from(["path", "step"]))
def test_width_one_is_greedy(seed, threshold, stop):
    decoder = RandomDecoder(seed, 6, 1)
    state = decoder.state
    beams = decoder.search(1, 4, threshold, stop)
    path, probability, last = [], 1.0, jnp.array([-1])
    while len(path) < 4:
        state, out = decoder.step(state, last)
        label = int(out.log_probs[0].argmax())
        p = float(jnp.exp(out.log_probs[0, label]))
        if (probability * p if stop == "path" else p) < threshold - 1e-6:
            break
        path, probability, last = [*path, label], probability * p, jnp.array([label])
    assert as_path(beams.labels[0, 0]) == tuple(path)
    assert math.exp(beams.scores[0, 0]) == pytest.approx(probability, rel=1e-4)


@given(st.integers(0, 999), st.sampled_from([1, 2, 7]), st.booleans())
def test_paths_never_repeat_a_label_and_come_in_order_of_score(seed, width, end_token):
    beams = RandomDecoder(seed, 5, 2, end_token).search(width, 5)
    assert (np.diff(beams.scores, axis=1) <= 0).all() or np.isinf(beams.scores).any()
    for paths, log_probs in zip(beams.labels, beams.log_probs, strict=True):
        for path, log_prob in zip(paths, log_probs, strict=True):
            labels = as_path(path)
            assert len(set(labels)) == len(labels)
            assert not np.any(np.asarray(path)[len(labels) :] >= 0)
            assert not np.any(np.asarray(log_prob)[len(labels) :])


@given(
    st.integers(0, 999),
    st.floats(0.0, 0.9),
    st.sampled_from(["path", "step"]),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_what_is_wanted_is_the_same_to_the_bit(seed, threshold, stop, end_token, wanted):
    decoder = RandomDecoder(seed, 6, 3, end_token)
    every = decoder.search(3, 5, threshold, stop)
    first = decoder.search(3, 5, threshold, stop, wanted)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[:, :wanted], b[:, :wanted]), first, every
    )


def test_the_search_ends_as_soon_as_what_is_wanted_is_known():
    """An end that is all but certain: the best path is known behind one step, the third is not."""

    def steps(wanted):
        def step(emitted, label):
            emitted = emitted | jax.nn.one_hot(label, 4, dtype=bool)
            log_probs = jnp.where(emitted, -jnp.inf, jnp.log(0.05))
            return emitted, StepScores(log_probs, jnp.log(jnp.full(emitted.shape[:2], 0.8)), ())

        count = 0

        def counted(state, label):
            nonlocal count
            count += 1
            return step(state, label)

        with jax.disable_jit():
            beam_search(counted, jnp.zeros((1, 4), bool), num_labels=4, beam_size=3, max_labels=4,
                        wanted=wanted)  # fmt: skip
        return count - 1  # one of them for the shapes alone

    assert steps(1) == 1
    assert steps(3) > 1


def independent_labels(probabilities):
    """A step that says the same at every time: every permutation of a set has the same score."""
    log_probs = jnp.log(jnp.asarray(probabilities, jnp.float32))

    def step(emitted, label):
        emitted = emitted | jax.nn.one_hot(label, len(probabilities), dtype=bool)
        return emitted, StepScores(jnp.where(emitted, -jnp.inf, log_probs), None, ())

    return step, jnp.zeros((1, len(probabilities)), bool)


def test_permutations_of_one_set_do_not_crowd_the_beam():
    step, state = independent_labels([0.9, 0.8, 0.7, 0.6])
    beams = beam_search(step, state, num_labels=4, beam_size=3, max_labels=2)
    sets = {frozenset(as_path(path)) for path in beams.labels[0]}
    assert sets == {frozenset({0, 1}), frozenset({0, 2}), frozenset({1, 2})}
    np.testing.assert_allclose(np.exp(beams.scores[0]), [0.72, 0.63, 0.56], rtol=1e-5)


@functools.cache
def _compiled_pairs(num_labels, width):
    def search(probabilities):
        step, state = independent_labels(probabilities)
        return beam_search(step, state, num_labels=num_labels, beam_size=width, max_labels=2)

    return jax.jit(search)


@given(
    st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4, unique=True), st.sampled_from([2, 4])
)
def test_distinct_sets_come_before_second_paths_of_a_set(probabilities, width):
    beams = jax.device_get(_compiled_pairs(4, width)(np.float32(probabilities)))
    sets = [frozenset(as_path(path)) for path in beams.labels[0] if len(as_path(path))]
    # A beam of W single labels leads to at least min(W, pairs) different pairs.
    reachable = {
        frozenset({a, b})
        for a in np.argsort(probabilities)[::-1][:width]
        for b in range(len(probabilities))
        if a != b
    }
    assert len(set(sets)) == min(width, len(reachable))
    best = max(itertools.combinations(sorted(probabilities), 2), key=math.prod)
    assert math.exp(beams.scores[0, 0]) == pytest.approx(math.prod(best), rel=1e-4)


def test_nothing_above_the_threshold_gives_the_empty_set():
    step, state = independent_labels([0.3, 0.2])
    beams = beam_search(step, state, num_labels=2, beam_size=2, max_labels=2, threshold=0.5)
    assert as_path(beams.labels[0, 0]) == ()
    assert float(beams.scores[0, 0]) == 0.0
    assert not beams.best_set(2).any()


def test_a_traced_threshold_does_not_recompile():
    step, state = independent_labels([0.9, 0.8, 0.1])
    compiled = jax.jit(
        lambda tau: beam_search(
            step, state, num_labels=3, beam_size=2, max_labels=3, threshold=tau
        ).best_set(3)
    )
    sizes = [int(compiled(tau).sum()) for tau in (0.95, 0.85, 0.5, 0.01)]
    assert sizes == [0, 1, 2, 3]
    assert compiled._cache_size() == 1


def test_the_trace_of_each_label_is_its_own_of_its_own_step():
    decoder = RandomDecoder(3, 5, 2)
    beams = decoder.search(4, 3)
    for image in range(2):
        one = jax.tree.map(lambda x, image=image: x[image : image + 1], decoder.state)
        last = jnp.array([-1])
        for t, label in enumerate(as_path(beams.labels[image, 0])):
            one, out = decoder.step(one, last)
            np.testing.assert_allclose(beams.trace[image, 0, t], out.trace[0, label], atol=1e-5)
            last = jnp.array([label])


@pytest.mark.parametrize(
    "bad", [{"stop": "never"}, {"beam_size": 0}, {"max_labels": 0}, {"wanted": 2}]
)
def test_bad_settings_are_refused(bad):
    step, state = independent_labels([0.5])
    settings = {"num_labels": 1, "beam_size": 1, "max_labels": 1, **bad}
    with pytest.raises(ValueError, match=r"stop|sizes"):
        beam_search(step, state, **settings)


@functools.cache
def _compiled_searches(end_token, num_labels, width, max_labels, stop):
    def search(params, state, thresholds):
        return beam_searches(
            functools.partial(history_step, end_token, params),
            state,
            thresholds,
            num_labels=num_labels,
            beam_size=width,
            max_labels=max_labels,
            stop=stop,
            wanted=1,
        )

    return jax.jit(search)


@pytest.mark.parametrize("stop", ["path", "step"])
@pytest.mark.parametrize("end_token", [False, True])
@pytest.mark.parametrize("width", [1, 3])
def test_searches_for_many_thresholds_are_each_as_if_alone(stop, end_token, width):
    taus = np.concatenate([[0.0, 0.0], np.geomspace(0.001, 0.99, 21), [1.0]]).astype(np.float32)
    search = _compiled_searches(end_token, 7, width, 5, stop)
    different = set()
    for seed in range(12):
        decoder = RandomDecoder(seed, 7, 5, end_token)
        together = jax.device_get(search(decoder.params, decoder.state, taus))
        for g, tau in enumerate(taus):
            alone = decoder.search(width, 5, tau, stop)
            np.testing.assert_array_equal(together.labels[g, :, 0], alone.labels[:, 0])
            np.testing.assert_allclose(together.scores[g, :, 0], alone.scores[:, 0], rtol=1e-5)
            np.testing.assert_allclose(
                together.log_probs[g, :, 0], alone.log_probs[:, 0], rtol=1e-5, atol=1e-6
            )
            different |= {as_path(labels) for labels in alone.labels[:, 0]}
    assert len(different) > 20
