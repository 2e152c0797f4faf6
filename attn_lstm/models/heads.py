"""What stands on the backbone, by `config.head`: how it is built, and what a config may ask of it.

A head gives attributes of `models.network.Network`: a `decoder`, which emits a label a step, or a
`set_head` in the place of M_map, or nothing, which leaves M_map alone.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax.numpy as jnp
import ml_collections

from attn_lstm.losses import LABEL_LOSSES, SET_LOSSES, LabelLoss, best_constant, label_loss
from attn_lstm.models.cnn_rnn import CnnRnn
from attn_lstm.models.decoder import Decoder
from attn_lstm.models.knn import Neighbours
from attn_lstm.models.set_heads import TEMPERATURES, MLDecoder, Query2Label, ResidualAttention
from attn_lstm.ordering import emits_end_token


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What every head is built with, beside its own fields of the config.

    Attributes:
      num_labels: C.
      images: of the training split; needed by `init` alone, for a head that remembers them.
      dtype: compute type.
      axis_name: mapped axis over which the batch is split.
      prior: probability at which labels start, as in `initializers.label_prior`.
      partial: some labels of the training split's images are not known.
    """

    num_labels: int
    images: int
    dtype: jnp.dtype
    axis_name: str | None
    prior: float | None
    partial: bool = False


@dataclasses.dataclass(frozen=True)
class Head:
    """A value of `config.head`.

    Attributes:
      build: makes attributes of the network.
      losses: what `config.loss` may be.
      sequential: it emits its labels one by one.
      preliminary: it has v_prob, from M_map or what stands in its place.
      fit: 'descent', by steps on the gradient of a loss, or 'memory', by one look at the training
        images.
      problems: what is wrong with the config for this head alone.
    """

    build: Callable[[ml_collections.ConfigDict, Sizes], dict[str, Any]]
    losses: tuple[str, ...] = LABEL_LOSSES
    sequential: bool = False
    preliminary: bool = True
    fit: str = "descent"
    problems: Callable[[ml_collections.ConfigDict], Iterable[str]] = lambda _: ()


def head_of(config: ml_collections.ConfigDict) -> Head:
    """The head of a config."""
    return HEADS[config.head]


def map_loss(config: ml_collections.ConfigDict) -> Callable[..., LabelLoss]:
    """`losses.label_loss` of M_map, or of what stands in its place, with the config's settings."""
    options = {
        "bce": {"smoothing": config.label_smoothing},
        "asymmetric": config.asymmetric,
        "focal": config.focal,
    }
    return partial(label_loss, config.loss, options.get(config.loss, {}))


def prior(config: ml_collections.ConfigDict, num_labels: int) -> float | None:
    """Where the labels of M_map start under its loss; None for 1/C.

    A loss for which wrong labels count less is at rest at a higher probability, and falls to it
    along all weights at once: on 4,453 photographs the asymmetric one ended 1.5 points of mAP lower
    from 1/C.
    """
    if config.loss not in ("asymmetric", "focal"):
        return None
    return best_constant(map_loss(config)(), 1 / num_labels)


def _attention_lstm(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    decoder = config.decoder
    return {
        "decoder": Decoder(
            attention=decoder.attention,
            use_attention=decoder.use_attention,
            maps=decoder.maps,
            initial_state=decoder.initial_state,
            end_token=emits_end_token(config.order, decoder.target),
            **_of_sequence(config, sizes),
        )
    }


def _cnn_rnn(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    embedding = config.decoder.embedding
    return {"decoder": CnnRnn(embedding=embedding, **_of_sequence(config, sizes))}


def _of_sequence(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    return {
        "num_labels": sizes.num_labels,
        "hidden": config.decoder.hidden,
        "dropout": config.decoder.dropout,
        "dtype": sizes.dtype,
        "axis_name": sizes.axis_name,
    }


def _query2label(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    layers = config.set_head.encoder_layers
    return {"set_head": Query2Label(encoder_layers=layers, **_of_queries(config, sizes))}


def _ml_decoder(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    groups = config.set_head.groups
    return {"set_head": MLDecoder(groups=groups, **_of_queries(config, sizes))}


def _of_queries(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    names = ("hidden", "heads", "feedforward", "layers", "dropout")
    return {
        **{name: config.set_head[name] for name in names},
        "num_labels": sizes.num_labels,
        "dtype": sizes.dtype,
        "axis_name": sizes.axis_name,
        "prior": sizes.prior,
    }


def _csra(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    own = config.set_head
    temperatures = TEMPERATURES[own.heads]
    return {
        "set_head": ResidualAttention(sizes.num_labels, temperatures, own.residual, sizes.dtype)
    }


def _knn(config: ml_collections.ConfigDict, sizes: Sizes) -> dict[str, Any]:
    neighbours = Neighbours(
        sizes.num_labels, sizes.images, config.knn.neighbours, sizes.partial, name="neighbours"
    )
    return {"set_head": neighbours, "link": lambda shares: shares}


def _multiple_of(multiple: Callable[[int], int]) -> Callable[..., Iterable[str]]:
    """The check that the width of queries is a multiple of what a number of heads asks for."""

    def problems(config: ml_collections.ConfigDict) -> Iterable[str]:
        sizes = config.set_head
        if sizes.hidden % multiple(sizes.heads):
            yield f"config.set_head.hidden={sizes.hidden} is no multiple of {multiple(sizes.heads)}"

    return problems


def _csra_problems(config: ml_collections.ConfigDict) -> Iterable[str]:
    if config.set_head.heads not in TEMPERATURES:
        known = ", ".join(map(str, TEMPERATURES))
        yield f"config.set_head.heads={config.set_head.heads}: csra has {known} heads"


def _cnn_rnn_problems(config: ml_collections.ConfigDict) -> Iterable[str]:
    if not emits_end_token(config.order, config.decoder.target):
        yield (
            "config.head='cnn_rnn' learns when to end from a sequence of labels: give "
            "config.order='frequent_first' or 'rare_first'"
        )


def _knn_problems(config: ml_collections.ConfigDict) -> Iterable[str]:
    if not config.backbone.frozen:
        yield "config.head='knn' trains nothing: give config.backbone.frozen=True"


HEADS: dict[str, Head] = {
    "attention_lstm": Head(_attention_lstm, losses=SET_LOSSES, sequential=True),
    "linear": Head(lambda *_: {}),
    "query2label": Head(_query2label, problems=_multiple_of(lambda heads: math.lcm(4, heads))),
    "ml_decoder": Head(_ml_decoder, problems=_multiple_of(lambda heads: heads)),
    "csra": Head(_csra, problems=_csra_problems),
    "cnn_rnn": Head(
        _cnn_rnn,
        losses=("bce",),
        sequential=True,
        preliminary=False,
        problems=_cnn_rnn_problems,
    ),
    "knn": Head(_knn, losses=("bce",), fit="memory", problems=_knn_problems),
}
