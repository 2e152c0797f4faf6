"""One update, written for one device's rows."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from attn_lstm import parallel
from attn_lstm.objective import image_losses
from attn_lstm.parallel import AXIS, REPLICATED, SPLIT
from attn_lstm.rows import Row
from attn_lstm.runs.state import LeftOut, TrainState, learned_and_resting

PyTree = Any


def permitted_to_leave_out(config: ml_collections.ConfigDict) -> int:
    """How many updates a run may leave out, because they are not finite, before it ends."""
    return config.train.max_skipped if config.train.on_nonfinite == "skip" else 0


def make_train_step(
    config: ml_collections.ConfigDict,
    row: Row,
    optimizer: optax.GradientTransformation,
    *,
    frozen: bool,
) -> Callable[..., TrainState]:
    """`step(state, batch, rank) -> state`, to be mapped over the axis `AXIS`.

    Args:
      config: resolved; its seed, averages and what it permits to leave out are used.
      row: what learns.
      optimizer: of what learns.
      frozen: the backbone rests in this stage of the training.

    An update with anything in it that is not finite changes nothing but the step, and is noted in
    `state.left_out`. Behind one more than the run may leave out no update changes anything, so that
    the note says what ended it.
    """
    network = row.network.clone(frozen=frozen)

    def step(state: TrainState, batch: Any, rank: jax.Array) -> TrainState:
        dropout = jax.random.fold_in(jax.random.key(config.seed), state.step)
        counted = jax.lax.psum(batch.mask.sum().astype(jnp.float32), AXIS)
        images = jnp.maximum(counted, 1.0)  # none of a batch's images may be readable

        before, resting = learned_and_resting(state.params, config.backbone.frozen)

        def loss(learned: Any) -> tuple[jax.Array, Any]:
            parts, batch_stats = image_losses(
                row.objective,
                network,
                {"params": {**learned, **resting}, **state.collections},
                batch.inputs,
                batch.labels,
                rank,
                encoded=row.encoded,
                dropout=dropout,
                known=batch.known,
            )
            sums = {name: jnp.where(batch.mask, part, 0.0).sum() for name, part in parts.items()}
            # This device's share of the mean over the global batch; gradients are summed below.
            return sum(sums.values()) / images, (sums, batch_stats)

        gradients, (sums, batch_stats) = jax.grad(loss, has_aux=True)(before)
        gradients, sums = jax.lax.psum((gradients, sums), AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, before)
        learned = optax.apply_updates(before, updates)
        changed = {"params": learned, "opt_state": opt_state, "batch_stats": batch_stats}
        unchanged = {
            "params": before,
            "opt_state": state.opt_state,
            "batch_stats": state.collections["batch_stats"],
        }
        if state.average is not None:
            # Of what learns only: averaging a resting value with itself would round it.
            unchanged["average"] = {name: state.average[name] for name in learned}
            changed["average"] = optax.incremental_update(
                learned, unchanged["average"], _weight_in_average(config, state)
            )
        losses = {name: total / images for name, total in sums.items()}
        norms = {name: optax.tree.norm(tree) for name, tree in gradients.items()}
        finite = _all_finite((losses, norms, changed))
        changed["totals"] = jax.tree.map(jnp.add, state.totals, {**sums, "images": counted})
        unchanged["totals"] = state.totals

        going_on = state.left_out.count <= permitted_to_leave_out(config)
        chosen = _choose(finite & going_on, changed, unchanged)
        for name in {"params", "average"} & {*chosen}:
            chosen[name] = {**chosen[name], **resting}
        collections = {**state.collections, "batch_stats": chosen.pop("batch_stats")}
        left_out = LeftOut(state.left_out.count + 1, state.step + 1, losses, norms)
        return state.replace(
            **chosen,
            collections=collections,
            step=state.step + 1,
            left_out=_choose(~finite & going_on, left_out, state.left_out),
        )

    return step


def map_train_step(
    config: ml_collections.ConfigDict,
    row: Row,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    frozen: bool,
) -> Callable[..., TrainState]:
    """`make_train_step`, compiled over the mesh; the state that it is given is used up."""
    return parallel.map_over_devices(
        make_train_step(config, row, optimizer, frozen=frozen),
        mesh,
        in_specs=(REPLICATED, SPLIT, REPLICATED),
        out_specs=REPLICATED,
        donate=(0,),
    )


def _weight_in_average(config: ml_collections.ConfigDict, state: TrainState) -> jax.Array:
    """Of the parameters that an update on `state` gives, in the average that is kept of them."""
    if config.swa.share:
        # 1 up to the first of them, then 1/2, 1/3, …: an equal average of the last ones.
        averaged = max(1, round(config.swa.share * config.train.steps))
        applied = state.step - state.left_out.count + 1
        return 1.0 / jnp.maximum(1.0, applied - (config.train.steps - averaged))
    # The decay grows with the steps, so that the random start is soon forgotten.
    return 1.0 - jnp.minimum(config.ema.decay, (1.0 + state.step) / (10.0 + state.step))


def _all_finite(tree: PyTree) -> jax.Array:
    """bool[], the same on all devices.

    To be mapped over `AXIS`. The devices agree anyway, but XLA computes a sum over them once, where
    it would compile the conjunction of all leaves into every array that is chosen by it: hundreds
    of thousands of operations for a ResNet.
    """
    wrong = [~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jax.lax.psum(jnp.stack(wrong).any().astype(jnp.int32), AXIS) == 0


def _choose(condition: jax.Array, tree: PyTree, other: PyTree) -> PyTree:
    """The one tree where the condition, bool[], holds, and the other where it does not."""
    return jax.tree.map(functools.partial(jnp.where, condition), tree, other)
