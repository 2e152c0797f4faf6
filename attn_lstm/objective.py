"""What a row minimises: one pass of the network, and the losses of its outputs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from attn_lstm import losses
from attn_lstm.label_pool import Choice, emit_most_confident
from attn_lstm.losses import LabelLoss
from attn_lstm.models.dropout import row_keys
from attn_lstm.models.network import Network
from attn_lstm.ordering import emits_end_token, next_target, random_rank


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a row.

    Attributes:
      parts: their names; none for a row that minimises nothing.
      steps: T, of the decoder.
      order: `config.order`; target: `config.decoder.target`.
      map_loss: of M_map: takes key[B], what the loss draws from, or None for its mean.
      smoothing: of the decoder's steps.
    """

    parts: tuple[str, ...]
    steps: int
    order: str
    target: str
    map_loss: Callable[[jax.Array | None], LabelLoss]
    smoothing: float


def training_choice(
    order: str, labels: jax.Array, rank: jax.Array, pool: jax.Array | None = None
) -> Choice:
    """What a training step emits (paper: training).

    The order-free network feeds itself its own emissions, as inference does; the other orders are
    taught with the true prefix. `pool`, bool[B,C], are the labels that it may emit; None for all.
    """
    if order == "confidence":
        if pool is None:
            return emit_most_confident
        return lambda logits, emitted: emit_most_confident(logits, emitted | ~pool)
    return lambda logits, emitted: next_target(order, logits, (labels > 0) & ~emitted, rank)


def image_losses(
    objective: Objective,
    network: Network,
    variables: dict[str, Any],
    inputs: jax.Array,
    labels: jax.Array,
    rank: jax.Array,
    *,
    encoded: bool,
    dropout: jax.Array | None = None,
    known: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], Any]:
    """The parts of the loss by name, float32[B] each, and the batch statistics behind this batch.

    Args:
      inputs: images uint8[B,H,W,3], or where they are `encoded` features float[B,K,D] of them.
      labels: float32[B,C], 0 or 1; rank: int[C], as `ordering.frequency_rank` gives it.
      dropout: key[] of a training step; None evaluates. The loss 'warp' and the order 'random' draw
        from it too: in evaluation that loss is its mean value, and that order has the frequent
        labels first.
      known: bool[B,C], or None where all labels are; the others teach nothing, see `losses`. Where
        each step is held against one label and the sequence ends by a token, a sequence goes over
        the known labels alone, as its softmax does; steps that are held against a set may emit any.
    """
    train = dropout is not None
    labels = losses.known_labels(labels, known)
    pool = known if emits_end_token(objective.order, objective.target) else None
    keys = None if dropout is None else row_keys(dropout, len(labels), network.axis_name)
    if objective.order == "random" and keys is not None:
        rank = random_rank(keys, network.num_labels)
    outputs, updates = network.apply(
        variables,
        inputs,
        training_choice(objective.order, labels, rank, pool),
        objective.steps,
        train=train,
        encoded=encoded,
        rngs={} if dropout is None else {"dropout": dropout},
        mutable=["batch_stats"] if train else [],
    )
    parts = losses.parts(
        outputs.label_logits,
        outputs.unrolled,
        labels,
        rank,
        map_loss=objective.map_loss(keys),
        order=objective.order,
        target=objective.target,
        smoothing=objective.smoothing,
        known=known,
    )
    return parts, updates.get("batch_stats", {})
