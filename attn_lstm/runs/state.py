"""What one update hands to the next, and the optimizer that makes it."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct

from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.network import Network

PyTree = Any


class LeftOut(struct.PyTreeNode):
    """The updates that were not applied, since something in them was not finite."""

    count: jax.Array  # int32[], in the whole run
    # Of the last of them:
    step: jax.Array  # int32[], its number, from 1; 0 when there is none
    losses: dict[str, jax.Array]  # float32[] each, the parts of its loss
    norms: dict[str, jax.Array]  # float32[] each, of its gradient, by top-level group of parameters


class TrainState(struct.PyTreeNode):
    """Everything that the next step depends on, beside the config."""

    step: jax.Array  # int32[], finished updates, those that were left out among them
    params: PyTree  # float32
    # The network's other variables: 'batch_stats', and what a row that remembers images keeps.
    collections: dict[str, PyTree]
    opt_state: PyTree
    average: PyTree | None  # float32, of params; None unless `is_averaged`
    # Sums over the images since the last log line, so that a resumed run logs the same means.
    totals: dict[str, jax.Array]  # float32[] each, 'images' among them
    left_out: LeftOut

    @property
    def variables(self) -> dict[str, PyTree]:
        """What is evaluated and used: the average where there is one."""
        params = self.params if self.average is None else self.average
        return {"params": params, **self.collections}


def create_state(
    network: Network,
    optimizer: optax.GradientTransformation,
    image_size: int,
    seed: int,
    frozen: bool,
    averaged: bool,
    loss_names: tuple[str, ...],
) -> TrainState:
    """Random parameters from `seed`, zero steps; pure, to be jitted by the caller."""
    collections = init_variables(network, image_size, jax.random.key(seed))
    params = collections.pop("params")
    learned, _ = learned_and_resting(params, frozen)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        collections=collections,
        opt_state=optimizer.init(learned),
        average=jax.tree.map(jnp.copy, params) if averaged else None,
        totals={name: jnp.float32(0) for name in (*loss_names, "images")},
        left_out=LeftOut(
            count=jnp.int32(0),
            step=jnp.int32(0),
            losses={name: jnp.float32(0) for name in loss_names},
            norms={name: jnp.float32(0) for name in learned},
        ),
    )


def is_averaged(config: ml_collections.ConfigDict) -> bool:
    """Whether a run keeps an average of its parameters."""
    return config.ema.decay > 0 or config.swa.share > 0


def init_variables(network: Network, image_size: int, key: jax.Array) -> dict[str, PyTree]:
    """Random variables of a network for square images of so many pixels, by collection."""
    images = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
    return {"batch_stats": {}, **network.init(key, images, emit_most_confident, steps=1)}


def learned_and_resting(params: PyTree, frozen: bool) -> tuple[PyTree, PyTree]:
    """What the optimizer sees of the parameters, and what never changes: a frozen backbone."""
    resting = {"backbone"} if frozen else set()
    learned = {name: tree for name, tree in params.items() if name not in resting}
    return learned, {name: params[name] for name in resting}
