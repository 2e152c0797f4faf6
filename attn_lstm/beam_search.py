"""Beam search over label sets (paper: inference), batched over images, on the device."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

STOPS = ("path", "step")

PyTree = Any


class StepScores(NamedTuple):
    """What one decoder step says of the paths of W beams for B images."""

    log_probs: jax.Array  # float32[B,W,C]; -inf for labels that have left the pool
    end_log_prob: jax.Array | None  # float32[B,W]; None for a decoder without an end token
    # Leaves [B,W,N,...], of which that of every emitted label is kept (its attention map): there is
    # one of each label, N = C, or one for all, N = 1.
    trace: PyTree


class Beams(NamedTuple):
    """The best paths of B images, W of them in order of their score."""

    labels: jax.Array  # int32[B,W,T], in the order of emission, -1 behind the last
    log_probs: jax.Array  # float32[B,W,T], of each emitted label; 0 behind the last
    scores: jax.Array  # float32[B,W], log of the path's probability; -inf: no such path
    trace: PyTree  # leaves [B,W,T,...], zero behind the last label

    def best_set(self, num_labels: int) -> jax.Array:
        """The label set of the best path: bool[B,C]."""
        return jax.nn.one_hot(self.labels[:, 0], num_labels, dtype=bool).any(axis=1)


class _Loop(NamedTuple):
    step: jax.Array  # int32[], labels emitted so far by every live path
    state: PyTree  # the decoder's, leaves [B,W,...]
    last: jax.Array  # int32[B,W], label emitted last, -1 at the start
    sets: jax.Array  # bool[B,W,C], what each live path has emitted
    live: Beams
    ended: Beams


def beam_search(
    step: Callable[[PyTree, jax.Array], tuple[PyTree, StepScores]],
    state: PyTree,
    *,
    num_labels: int,
    beam_size: int,
    max_labels: int,
    threshold: ArrayLike = 0.0,
    stop: str = "path",
    wanted: int | None = None,
) -> Beams:
    """Finds the label sequences with the largest product of probabilities.

    The score of a path is Π_s p_s[l_s]. Without an end token a path ends when no extension stays
    at or above `threshold`; with one it ends by emitting it, at its price. Paths of `max_labels`
    labels end in any case. Two paths that are permutations of one set are both legal, but the
    lesser one takes a place in the beam only when no other set wants it.

    Args:
      step: maps (state with leaves [B,W,...], int32[B,W] label emitted last, -1 at the start) to
        the next state and its `StepScores`.
      state: the decoder's before the first step, leaves [B,...].
      num_labels: C.
      beam_size: W, paths kept after every step.
      max_labels: T.
      threshold: τ in [0, 1]; may be traced.
      stop: what τ is compared with: the product of the 'path', or the probability of the 'step'.
      wanted: how many of the W best paths matter; all of them by default. The search ends when they
        are known, and what stands behind them may not have been searched for to its end.

    Returns:
      `Beams`, the W best ended paths.

    Raises:
      ValueError: `stop` is none of `STOPS`, a size is below 1, or more is wanted than W.
    """
    wanted = beam_size if wanted is None else wanted
    if stop not in STOPS:
        raise ValueError(f"unknown stop {stop!r}; choose one of: {', '.join(STOPS)}")
    if min(num_labels, beam_size, max_labels, wanted) < 1 or wanted > beam_size:
        raise ValueError(
            "sizes must be positive, and no more wanted than the beam holds: "
            f"{num_labels=} {beam_size=} {max_labels=} {wanted=}"
        )
    log_threshold = jnp.log(jnp.asarray(threshold, jnp.float32))
    loop = _start(step, state, num_labels, beam_size, max_labels)
    rows = jnp.arange(loop.last.shape[0])[:, None]

    def may_improve(loop: _Loop) -> jax.Array:
        return (loop.step < max_labels) & _hopeful(loop.live, loop.ended, wanted).any()

    def extend(loop: _Loop) -> _Loop:
        state, out = step(loop.state, loop.last)
        live, ended, parent = _extended(loop, out, log_threshold, stop)
        label = live.labels[:, :, loop.step]
        state, sets = jax.tree.map(lambda x: x[rows, parent], (state, loop.sets))
        sets = sets | jax.nn.one_hot(label, num_labels, dtype=bool)
        return _Loop(loop.step + 1, state, label, sets, live, ended)

    loop = jax.lax.while_loop(may_improve, extend, loop)
    return _mask_unused(_best_of(loop.ended, loop.live))


def beam_searches(
    step: Callable[[PyTree, jax.Array], tuple[PyTree, StepScores]],
    state: PyTree,
    thresholds: jax.Array,
    *,
    num_labels: int,
    beam_size: int,
    max_labels: int,
    stop: str = "path",
    wanted: int,
) -> Beams:
    """`beam_search` for each of many τ, without traces: leaves [G,B,W,...].

    The searches keep step with each other. A path that several of them follow is one row of the
    decoder, which is most of the work: until τ bites they all follow the same ones, and where it
    has, few paths are left.

    Args:
      thresholds: float32[G].
      step, state, num_labels, beam_size, max_labels, stop, wanted: as in `beam_search`.
    """
    log_thresholds = jnp.log(jnp.asarray(thresholds, jnp.float32))
    loop = _start(step, state, num_labels, beam_size, max_labels)
    batch, searches = loop.last.shape[0], len(log_thresholds)
    rows = jnp.arange(batch)[:, None]
    most = searches * beam_size
    beams = jax.tree.map(
        lambda x: jnp.repeat(x[None], searches, axis=0),
        (loop.live._replace(trace=None), loop.ended._replace(trace=None)),
    )

    def may_improve(carry: tuple[Any, ...]) -> jax.Array:
        number, _, _, _, (live, ended) = carry
        return (number < max_labels) & _hopeful(live, ended, wanted).any()

    def decode(paths: int, state: PyTree, keys: jax.Array) -> PyTree:
        """The first rows of the decoder, by the place of their parent and their label."""
        parent, label = keys[:, :paths] // num_labels, keys[:, :paths] % num_labels
        state = jax.tree.map(lambda x: x[rows, jnp.where(keys[:, :paths] < 0, 0, parent)], state)
        state, out = step(state, jnp.where(keys[:, :paths] < 0, -1, label))
        found = state, out._replace(trace=None)
        return jax.tree.map(lambda x: jnp.pad(x, _behind(x, most - paths)), found)

    sizes = [1, *range(beam_size, 4 * beam_size + 1, beam_size), 8 * beam_size]
    sizes = [size for size in sizes if size < most] + [most]

    def extend(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        number, state, keys, places, (live, ended) = carry
        # keys int32[B,G·W]: the rows of the decoder, packed; places int32[G,B,W]: each path's row.
        needed = places.max() + 1
        fits = jnp.searchsorted(jnp.asarray(sizes), needed)
        branches = [functools.partial(decode, size) for size in sizes]
        state, out = jax.lax.switch(fits, branches, state, keys)

        def one(search: tuple[Any, ...]) -> tuple[Any, ...]:
            place, live, ended, log_threshold = search

            def go_on(live: Beams, ended: Beams) -> tuple[Any, ...]:
                own = jax.tree.map(lambda x: x[rows, place], out)
                emitted = jax.nn.one_hot(live.labels, num_labels, dtype=bool).any(axis=-2)
                own_loop = _Loop(number, None, live.labels, emitted, live, ended)
                live, ended, parent = _extended(own_loop, own, log_threshold, stop)
                label = live.labels[:, :, number]
                key = place[rows, parent] * num_labels + label
                return live, ended, jnp.where(label < 0, -1, key)

            def rest(live: Beams, ended: Beams) -> tuple[Any, ...]:
                nowhere = jnp.full_like(live.scores, -jnp.inf)
                return live._replace(scores=nowhere), ended, jnp.full_like(place, -1)

            return jax.lax.cond(_hopeful(live, ended, wanted).any(), go_on, rest, live, ended)

        live, ended, followed = jax.lax.map(one, (places, live, ended, log_thresholds))
        keys, places = _packed(followed)
        return number + 1, state, keys, places, (live, ended)

    first = jnp.full((batch, most), -1, jnp.int32)
    places = jnp.zeros((searches, batch, beam_size), jnp.int32)
    state = jax.tree.map(lambda x: jnp.pad(x[:, :1], _behind(x[:, :1], most - 1)), loop.state)
    carry = jnp.int32(0), state, first, places, beams
    *_, (live, ended) = jax.lax.while_loop(may_improve, extend, carry)
    return jax.vmap(_best_of)(ended, live)


def _behind(x: jax.Array, count: int) -> list[tuple[int, int]]:
    """The widths of `jnp.pad` for so many rows behind those of axis 1."""
    return [(0, count if axis == 1 else 0) for axis in range(x.ndim)]


def _packed(wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each value of an image once.

    Args:
      wanted: int32[G,B,W], -1 for none.

    Returns:
      int32[B,G·W], the values of each image without repetition, -1 behind them; and int32[G,B,W],
      the place of each value among them, 0 for none.
    """
    searches, batch, width = wanted.shape
    rows = jnp.arange(batch)[:, None]
    flat = jnp.moveaxis(wanted, 0, 1).reshape(batch, -1)
    order = jnp.argsort(-flat, axis=-1)  # none at the end
    ordered = jnp.take_along_axis(flat, order, axis=-1)
    new = jnp.diff(ordered, axis=-1, prepend=jnp.full((batch, 1), -2)) != 0
    place = jnp.cumsum(new, axis=-1) - 1
    values = jnp.full_like(flat, -1).at[rows, place].set(ordered)
    places = jnp.zeros_like(flat).at[rows, order].set(jnp.where(ordered < 0, 0, place))
    return values, jnp.moveaxis(places.reshape(batch, searches, width), 1, 0)


def _extended(
    loop: _Loop, out: StepScores, log_threshold: jax.Array, stop: str
) -> tuple[Beams, Beams, jax.Array]:
    """The beam behind one more step.

    Args:
      loop: before it; its state is not looked at.
      out: what the step says of the live paths.
      log_threshold: log τ; stop: what it is compared with.

    Returns:
      the live paths, the best ended ones, and of which path int32[B,W] each live one is the
      extension; its label is the last, -1 where there is none.
    """
    live, rows = loop.live, jnp.arange(loop.last.shape[0])[:, None]
    extended = live.scores[..., None] + out.log_probs
    compared = extended if stop == "path" else out.log_probs
    legal = (compared >= log_threshold) & (extended > -jnp.inf)
    extended = jnp.where(legal, extended, -jnp.inf)

    if out.end_log_prob is None:
        end_scores = jnp.where(legal.any(axis=-1), -jnp.inf, live.scores)
    else:
        end_scores = live.scores + out.end_log_prob
    ended = _best_of(loop.ended, live._replace(scores=end_scores))

    scores, parent, label = _choose(extended, loop.sets)
    emitted = scores > -jnp.inf
    label = jnp.where(emitted, label, -1)
    log_prob = jnp.where(emitted, out.log_probs[rows, parent, label], 0.0)
    live = jax.tree.map(lambda x: x[rows, parent], live)
    trace = jax.tree.map(lambda x: x[rows, parent, jnp.clip(label, 0, x.shape[2] - 1)], out.trace)
    live = Beams(
        live.labels.at[:, :, loop.step].set(label),
        live.log_probs.at[:, :, loop.step].set(log_prob),
        scores,
        jax.tree.map(lambda kept, x: kept.at[:, :, loop.step].set(x), live.trace, trace),
    )
    return live, ended, parent


def _start(
    step: Callable[..., Any], state: PyTree, num_labels: int, beam_size: int, max_labels: int
) -> _Loop:
    """One live path, the empty one, in the first place of each image's beam."""
    batch = jax.tree.leaves(state)[0].shape[0]
    state = jax.tree.map(lambda x: jnp.repeat(x[:, None], beam_size, axis=1), state)
    last = jnp.full((batch, beam_size), -1, jnp.int32)
    _, out = jax.eval_shape(step, state, last)
    shape = (batch, beam_size, max_labels)
    nowhere = jnp.full((batch, beam_size), -jnp.inf, jnp.float32)
    ended = Beams(
        labels=jnp.full(shape, -1, jnp.int32),
        log_probs=jnp.zeros(shape, jnp.float32),
        scores=nowhere,
        trace=jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape[3:]), x.dtype), out.trace),
    )
    live = ended._replace(scores=nowhere.at[:, 0].set(0.0))
    sets = jnp.zeros((batch, beam_size, num_labels), bool)
    return _Loop(jnp.int32(0), state, last, sets, live, ended)


def _hopeful(live: Beams, ended: Beams, wanted: int) -> jax.Array:
    """Which live paths may still become one of the best: bool[...,W].

    Scores only fall, and of equals the one that ended first stays: a path that is no better than
    the last of so many ended ones never counts.
    """
    return live.scores > ended.scores[..., wanted - 1 : wanted]


def _best_of(first: Beams, second: Beams) -> Beams:
    """The W best paths of two beams of W; ties go to `first`, then to the lower place."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), first, second)
    _, place = jax.lax.top_k(both.scores, first.scores.shape[1])
    rows = jnp.arange(place.shape[0])[:, None]
    return jax.tree.map(lambda x: x[rows, place], both)


def _mask_unused(beams: Beams) -> Beams:
    """Clears what lies behind the last label, so that no trace of another step is left there."""
    used = beams.labels >= 0
    clear = lambda x: jnp.where(used.reshape(used.shape + (1,) * (x.ndim - 3)), x, 0)  # noqa: E731
    return beams._replace(trace=jax.tree.map(clear, beams.trace))


def _choose(scores: jax.Array, sets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The W best extensions, one path a label set before any second path of the same set.

    Args:
      scores: float32[B,W,C], -inf where illegal.
      sets: bool[B,W,C], the labels that each path holds already, equally many in each.

    Returns:
      scores float32[B,W], parent int32[B,W] and label int32[B,W] of the chosen extensions.
    """
    batch, beam_size, num_labels = scores.shape
    repeated = _repeats_a_set(scores, sets)

    def best(candidates: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.top_k(candidates.reshape(batch, -1), beam_size)

    new, repeats = (
        best(jnp.where(repeated, -jnp.inf, scores)),
        best(jnp.where(repeated, scores, -jnp.inf)),
    )
    both, where = (jnp.concatenate(pair, axis=-1) for pair in zip(new, repeats, strict=True))
    # Stable: legal new sets by score, then legal repeats by score, then what is illegal.
    place = jnp.argsort(both == -jnp.inf, axis=-1, stable=True)[:, :beam_size]
    both, where = (jnp.take_along_axis(x, place, axis=-1) for x in (both, where))
    return both, where // num_labels, where % num_labels


def _repeats_a_set(scores: jax.Array, sets: jax.Array) -> jax.Array:
    """Marks extensions whose label set another extension reaches with a better score.

    Paths i and j hold equally many labels, so S_i + l = S_j + m only if S_i = S_j and l = m, or if
    l is the one label that j has and i lacks and m the one that i has and j lacks.

    Args:
      scores: float32[B,W,C]; sets: bool[B,W,C].

    Returns:
      bool[B,W,C]; of equal scores the path in the lower place is the one that is not marked.
    """
    only_j = sets[:, None, :] & ~sets[:, :, None]  # [B,i,j,C]
    differing = only_j.sum(axis=-1)  # [B,i,j]
    # The score of path j's extension by the one label that only i has.
    crossing = jnp.where(jnp.swapaxes(only_j, 1, 2), scores[:, None], -jnp.inf).max(axis=-1)
    rival = jnp.where(
        (differing == 0)[..., None],
        scores[:, None],
        jnp.where((differing == 1)[..., None] & only_j, crossing[..., None], -jnp.inf),
    )
    own = scores[:, :, None]
    place = jnp.arange(scores.shape[1])
    earlier = (place[None, :] < place[:, None])[None, :, :, None]
    itself = (place[None, :] == place[:, None])[None, :, :, None]
    beaten = (rival > own) | ((rival == own) & earlier)
    return (beaten & ~itself & (own > -jnp.inf)).any(axis=2)
