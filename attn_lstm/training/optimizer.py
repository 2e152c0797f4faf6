"""The optimizer of a run, and its learning rate by step."""

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
) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`, in two groups: the head and the backbone.

    Weight decay is decoupled and applies to kernels only, not to biases and norms.

    Args:
      config: its fields.
      schedule: learning rate of the head by step.
      joins_at: finished updates after which the backbone learns too.
      scale: the backbone's learning rate over the head's.
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
    update = optax.multi_transform({"head": group(schedule), "backbone": backbone}, _group_of)
    if config.clip_norm > 0:
        update = optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
    return update


def _kernels(params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def _group_of(params: PyTree) -> PyTree:
    return traverse_util.path_aware_map(
        lambda path, _: "backbone" if path[0] == "backbone" else "head", params
    )
