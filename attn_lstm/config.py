"""Checking a configuration before anything is read, and making it final."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from attn_lstm.beam_search import STOPS
from attn_lstm.errors import UserError
from attn_lstm.losses import LABEL_LOSSES
from attn_lstm.ordering import ORDERS, TARGETS, emits_end_token

# Fields that say where things lie, not what is computed: they may differ between two runs in the
# same work directory.
PLACES = ("data.path", "data.download", "backbone.weights", "cache.path")

CHOICES: dict[str, tuple[Any, ...]] = {
    "dtype": ("auto", "float32", "bfloat16"),
    "head": ("attention_lstm", "linear", "cnn_rnn"),
    "loss": LABEL_LOSSES,
    "order": ORDERS,
    "data.name": ("digits", "coco", "nus_wide", "folder"),
    "data.protocol": ("paper", "official", "list"),
    "data.on_missing": ("error", "skip"),
    "data.resize": ("squash", "crop", "pad"),
    "data.on_bad_image": ("error", "skip"),
    "backbone.name": ("resnet", "mobilenet_v2", "small"),
    "backbone.depth": (18, 34, 50, 101, 152),
    "decoder.initial_state": ("mean", "zeros"),
    "decoder.target": TARGETS,
    "search.stop": STOPS,
    "optimizer.name": ("adam", "sgd"),
    "optimizer.schedule": ("cosine", "constant"),
    "cache.dtype": ("float16", "float32"),
    "train.best_figure": ("mAP", "C-F1", "O-F1", "macro-F1"),
}

# Smallest and largest permitted value; an integer field needs no more than its bounds.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.image_size": (32, 4096),
    "data.validation_fraction": (0.0, 0.9),
    "data.test_fraction": (0.0, 0.9),
    "data.split_seed": (0, 2**31 - 1),
    "data.augment.crop_min_area": (0.01, 1.0),
    "data.augment.randaugment_layers": (0, 16),
    "data.augment.randaugment_magnitude": (0, 30),
    "data.augment.cutout": (0, 4096),
    "decoder.hidden": (1, 2**16),
    "decoder.attention": (1, 2**16),
    "decoder.embedding": (1, 2**16),
    "decoder.max_labels": (1, 2**16),
    "decoder.dropout": (0.0, 0.99),
    "backbone.unfreeze_step": (0, 2**31 - 1),
    "label_smoothing": (0.0, 0.99),
    "ema.decay": (0.0, 0.999999),
    "cache.views": (0, 1000),
    "optimizer.backbone_scale": (0.0, 1e3),
    "search.beam_size": (1, 1024),
    "search.threshold": (-1.0, 1.0),
    "search.top_k": (0, 2**16),
    "optimizer.learning_rate": (0.0, 1e3),
    "optimizer.weight_decay": (0.0, 1e3),
    "optimizer.warmup_steps": (0, 2**31 - 1),
    "optimizer.clip_norm": (0.0, math.inf),
    "train.batch_size": (1, 2**20),
    "train.steps": (1, 2**31 - 1),
    "train.log_every": (1, 2**31 - 1),
    "train.eval_every": (1, 2**31 - 1),
    "train.checkpoint_every": (1, 2**31 - 1),
    "train.keep": (1, 1000),
    "eval.batch_size": (1, 2**20),
}


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config as ('train.steps', 100) pairs."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def validate(config: ml_collections.ConfigDict, devices: int) -> None:
    """Checks every field.

    Args:
      config: as `configs/common.py` lays it out.
      devices: over which the batches are split, on all hosts.

    Raises:
      UserError: naming all mistakes at once.
    """
    fields = dict(flatten(config))
    missing = sorted({*CHOICES, *RANGES} - {*fields})
    if missing:
        raise UserError(
            f"the config lacks {', '.join(missing)}: it was made by another version; build it on "
            "configs/common.py"
        )
    problems = []
    for name, choices in CHOICES.items():
        if fields[name] not in choices:
            known = ", ".join(map(str, choices))
            problems.append(f"config.{name}={fields[name]!r} is none of: {known}")
    for name, (low, high) in RANGES.items():
        if not low <= fields[name] <= high:  # also catches NaN
            problems.append(f"config.{name}={fields[name]!r} is not between {low} and {high}")
    for name in ("train.batch_size", "eval.batch_size"):
        if fields[name] % devices:
            problems.append(
                f"config.{name}={fields[name]} does not divide over {devices} devices; "
                f"take a multiple of {devices}"
            )
    if config.data.name != "digits" and not config.data.path:
        problems.append(f"config.data.path is empty: give the folder of {config.data.name!r}")
    if config.order != "confidence" and config.decoder.target != "all":
        problems.append(
            f"config.decoder.target={config.decoder.target!r} has no meaning with the fixed "
            f"config.order={config.order!r}; leave it at 'all'"
        )
    if config.head == "cnn_rnn" and not emits_end_token(config.order, config.decoder.target):
        problems.append(
            "config.head='cnn_rnn' learns when to end from a sequence of labels: give "
            "config.order='frequent_first' or 'rare_first'"
        )
    if config.loss != "bce" and config.head != "linear":
        problems.append(
            f"config.loss={config.loss!r} needs config.head='linear', not {config.head!r}"
        )
    if config.loss != "bce" and config.label_smoothing:
        problems.append(
            f"config.label_smoothing has no meaning with config.loss={config.loss!r}; leave it at 0"
        )
    if config.search.top_k and config.head != "linear":
        problems.append(
            f"config.search.top_k={config.search.top_k} needs config.head='linear'; others predict "
            "sets of any size, and eval.py reports the 3 best labels beside them"
        )
    if config.search.top_k and config.search.threshold >= 0:
        problems.append(
            f"config.search.threshold={config.search.threshold} has no meaning with "
            f"config.search.top_k={config.search.top_k}; give config.search.threshold=-1 or "
            "config.search.top_k=0"
        )
    if config.backbone.frozen and not config.backbone.weights:
        problems.append(
            "config.backbone.frozen with random parameters learns nothing: give "
            "config.backbone.weights, or config.backbone.frozen=False to train from scratch"
        )
    if config.backbone.frozen and config.backbone.unfreeze_step:
        problems.append(
            f"config.backbone.unfreeze_step={config.backbone.unfreeze_step} needs "
            "config.backbone.frozen=False"
        )
    if config.backbone.weights and config.backbone.name == "small":
        problems.append("config.backbone.weights: the small backbone has no published weights")
    if problems:
        raise UserError("; ".join(problems))


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy in which nothing depends on the machine any more ('auto' is decided)."""
    resolved = ml_collections.ConfigDict(config)
    if resolved.dtype == "auto":
        resolved.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return resolved.lock()
