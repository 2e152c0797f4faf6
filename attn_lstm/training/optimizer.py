"""The optimizer of a run, and its learning rate by step."""

import math
import re
from functools import partial
from typing import Any

import jax
import ml_collections
import optax
from flax import traverse_util

PyTree = Any


def create_schedule(config: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant or cosine to zero at `steps`."""
    peak, warmup = config.learning_rate, config.warmup_steps
    # A cosine that falls from the peak to the peak is constant, and that to the last bit: behind 7
    # steps of optax.warmup_constant_schedule 0.1 is 0.10000001.
    start, end = 0.0 if warmup else peak, 0.0 if config.schedule == "cosine" else peak
    return optax.warmup_cosine_decay_schedule(start, peak, warmup, max(steps, warmup + 1), end)


def create_optimizer(
    config: ml_collections.ConfigDict,
    schedule: optax.Schedule,
    *,
    joins_at: int,
    scale: float,
    resting_blocks: int = 0,
) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`, in two groups: the head and the backbone.

    Weight decay is decoupled and applies to kernels only, not to biases and norms.

    Args:
      config: its fields.
      schedule: learning rate of the head by step.
      joins_at: finished updates after which the backbone learns too.
      scale: the backbone's learning rate over the head's.
      resting_blocks: so many first blocks never learn, nor what is below them; 0: all do.
    """

    def group(rate: optax.Schedule) -> optax.GradientTransformation:
        if config.name == "adam":
            return optax.adamw(rate, weight_decay=config.weight_decay, mask=_kernels)
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, _kernels),
            optax.sgd(rate, momentum=0.9),
        )

    backbone = group(lambda step: scale * schedule(step + joins_at))
    if joins_at:
        backbone = optax.conditionally_mask(backbone, lambda step: step >= joins_at)
    if config.layer_decay < 1:
        backbone = optax.chain(backbone, _decayed_by_layer(config.layer_decay))
    groups = {"head": group(schedule), "backbone": backbone}
    if resting_blocks:
        groups["resting"] = optax.set_to_zero()
    update = optax.multi_transform(groups, partial(_group_of, resting_blocks=resting_blocks))
    if config.clip_norm > 0:
        update = optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
    return update


def _decayed_by_layer(decay: float) -> optax.GradientTransformation:
    """Updates of the backbone, times `decay` for every layer that stands above theirs."""

    def scaled(updates: PyTree, params: PyTree | None = None) -> PyTree:
        flat = traverse_util.flatten_dict(updates)
        # Updates of the head are masked.
        own = {path: x for path, x in flat.items() if not isinstance(x, optax.MaskedNode)}
        layers = {path: _layer_of(path) for path in own}
        top = 1 + max((layer for layer in layers.values() if layer < math.inf), default=0)
        factors = {path: decay ** (top - min(layer, top)) for path, layer in layers.items()}
        own = {path: factors[path] * x for path, x in own.items()}
        return traverse_util.unflatten_dict(flat | own)

    return optax.stateless(scaled)


def _layer_of(path: tuple[Any, ...]) -> float:
    """Where a backbone's parameter stands: blocks count from 1, below them is 0, above is inf."""
    if block := re.fullmatch(r"block_(\d+)", path[1]):
        return int(block[1]) + 1
    return math.inf if path[1] == "norm" else 0


# Of a vision transformer: no kernels, though they have two axes.
_EMBEDDINGS = ("class_token", "registers", "positions")


def _kernels(params: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.ndim > 1 and getattr(path[-1], "key", "") not in _EMBEDDINGS, params
    )


def _group_of(params: PyTree, resting_blocks: int) -> PyTree:
    def group(path: tuple[Any, ...], _: Any) -> str:
        if path[0] != "backbone":
            return "head"
        resting = resting_blocks > 0 and _layer_of(path) <= resting_blocks
        return "resting" if resting else "backbone"

    return traverse_util.path_aware_map(group, params)
