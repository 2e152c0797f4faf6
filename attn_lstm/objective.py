"""What a row minimises: one pass of the network, and the losses of its outputs."""

from typing import Any

import jax
import ml_collections

from attn_lstm import losses
from attn_lstm.label_pool import Choice, emit_most_confident
from attn_lstm.models.dropout import row_keys
from attn_lstm.models.network import Network
from attn_lstm.models.set_heads import LABEL_HEADS
from attn_lstm.ordering import next_target, random_rank


def loss_names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The parts of the loss of a config's row; none for a row that minimises nothing."""
    names = {
        **dict.fromkeys(LABEL_HEADS, ("map",)),
        "attention_lstm": ("map", "step"),
        "cnn_rnn": ("step",),
        "knn": (),
    }
    return names[config.head]


def training_choice(order: str, labels: jax.Array, rank: jax.Array) -> Choice:
    """What a training step emits (paper: training).

    The order-free network feeds itself its own emissions, as inference does; the other orders are
    taught with the true prefix.
    """
    if order == "confidence":
        return emit_most_confident
    return lambda logits, emitted: next_target(order, logits, (labels > 0) & ~emitted, rank)


def image_losses(
    config: ml_collections.ConfigDict,
    network: Network,
    variables: dict,
    images: jax.Array,
    labels: jax.Array,
    rank: jax.Array,
    **kwargs: Any,
) -> tuple[dict[str, jax.Array], Any]:
    """The parts of the loss, float32[B] each, and what `network.apply` returns beside outputs.

    The loss 'warp' and the order 'random' draw from the stream 'dropout' of `rngs`. Without it that
    loss is its mean value, and that order has the frequent labels first.
    """
    rngs = kwargs.get("rngs")
    keys = row_keys(rngs["dropout"], len(labels), network.axis_name) if rngs else None
    if config.order == "random" and keys is not None:
        rank = random_rank(keys, network.num_labels)
    outputs = network.apply(
        variables,
        images,
        training_choice(config.order, labels, rank),
        config.decoder.max_labels,
        **kwargs,
    )
    outputs, updates = outputs if kwargs.get("mutable") else (outputs, None)
    options = {
        "bce": {"smoothing": config.label_smoothing},
        "asymmetric": config.asymmetric,
        "focal": config.focal,
    }
    parts = losses.parts(
        outputs.label_logits,
        outputs.unrolled,
        labels,
        rank,
        map_loss=losses.label_loss(config.loss, options, keys),
        order=config.order,
        target=config.decoder.target,
        smoothing=config.label_smoothing,
    )
    return parts, updates
