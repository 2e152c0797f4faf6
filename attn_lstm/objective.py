"""What a row minimises: one pass of the network, and the losses of its outputs."""

from typing import Any

import jax
import ml_collections

from attn_lstm import losses
from attn_lstm.models.decoder import Choice
from attn_lstm.models.dropout import row_keys
from attn_lstm.models.network import Network
from attn_lstm.ordering import next_target
from attn_lstm.prediction import emit_most_confident


def loss_names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The parts of the loss of a config's row."""
    names = {"linear": ("map",), "attention_lstm": ("map", "step"), "cnn_rnn": ("step",)}
    return names[config.head]


def training_choice(order: str, labels: jax.Array, rank: jax.Array) -> Choice:
    """What a training step emits (paper: training).

    The order-free network feeds itself its own emissions, as inference does; the fixed orders are
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

    Losses that are drawn use the stream 'dropout' of `rngs`; without it they are mean values.
    """
    outputs = network.apply(
        variables,
        images,
        training_choice(config.order, labels, rank),
        config.decoder.max_labels,
        **kwargs,
    )
    outputs, updates = outputs if kwargs.get("mutable") else (outputs, None)
    rngs = kwargs.get("rngs")
    parts = losses.parts(
        outputs.label_logits,
        outputs.unrolled,
        labels,
        rank,
        loss=config.loss,
        order=config.order,
        target=config.decoder.target,
        smoothing=config.label_smoothing,
        keys=rngs and row_keys(rngs["dropout"], labels.shape[0], network.axis_name),
    )
    return parts, updates
