"""One update, written for one device's rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from attn_lstm.models.network import Network
from attn_lstm.objective import image_losses
from attn_lstm.parallel import AXIS
from attn_lstm.training.state import TrainState, learned_and_resting


def make_train_step(
    config: ml_collections.ConfigDict,
    network: Network,
    optimizer: optax.GradientTransformation,
) -> Callable[..., TrainState]:
    """`step(state, batch, rank) -> state`, to be mapped over the axis `AXIS`."""

    def step(state: TrainState, batch: Any, rank: jax.Array) -> TrainState:
        dropout = jax.random.fold_in(jax.random.key(config.seed), state.step)
        counted = jax.lax.psum(batch.mask.sum().astype(jnp.float32), AXIS)

        learned, resting = learned_and_resting(state.params, config.backbone.frozen)

        def loss(learned: Any) -> tuple[jax.Array, Any]:
            parts, updates = image_losses(
                config,
                network,
                {"params": {**learned, **resting}, "batch_stats": state.batch_stats},
                batch.image,
                batch.labels,
                rank,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout},
            )
            sums = {name: jnp.where(batch.mask, part, 0.0).sum() for name, part in parts.items()}
            # This device's share of the mean over the global batch; gradients are summed below.
            return sum(sums.values()) / counted, (sums, updates.get("batch_stats", {}))

        gradients, (sums, batch_stats) = jax.grad(loss, has_aux=True)(learned)
        gradients, sums = jax.lax.psum((gradients, sums), AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, learned)
        learned = optax.apply_updates(learned, updates)
        average = state.average
        if average is not None:
            # The decay grows with the steps, so that the random start is soon forgotten.
            decay = jnp.minimum(config.ema.decay, (1.0 + state.step) / (10.0 + state.step))
            # Of what learns only: averaging a resting value with itself would round it.
            before = {name: average[name] for name in learned}
            average = {**optax.incremental_update(learned, before, 1.0 - decay), **resting}
        sums["images"] = counted
        return TrainState(
            step=state.step + 1,
            params={**learned, **resting},
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=average,
            totals=jax.tree.map(jnp.add, state.totals, sums),
        )

    return step
