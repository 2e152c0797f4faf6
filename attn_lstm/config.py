"""Checking a configuration before anything is read, and making it final."""

import difflib
import math
from collections.abc import Collection, Iterator
from typing import Any

import jax
import ml_collections

from attn_lstm.beam_search import STOPS
from attn_lstm.decision import DECISIONS, SCORES
from attn_lstm.errors import UserError
from attn_lstm.losses import LABEL_LOSSES
from attn_lstm.measures import thresholds
from attn_lstm.models.heads import HEADS, Head
from attn_lstm.ordering import ORDERS, TARGETS

# Fields that say where things lie, not what is computed: they may differ between hosts.
PLACES = ("data.path", "data.download", "backbone.weights", "cache.path")
# Fields that may differ between two runs in the same work directory: those, and when to give up.
CHANGEABLE = (*PLACES, "train.on_nonfinite", "train.max_skipped")

CHOICES: dict[str, Collection[Any]] = {
    "dtype": ("auto", "float32", "bfloat16"),
    "head": HEADS,
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
    "search.scores": SCORES,
    "search.decide": DECISIONS,
    "search.thresholds": thresholds.KINDS,
    "optimizer.name": ("adam", "sgd"),
    "optimizer.schedule": ("cosine", "constant"),
    "cache.dtype": ("float16", "float32"),
    "train.on_nonfinite": ("error", "skip"),
    "train.best_figure": ("mAP", "C-F1", "O-F1", "macro-F1"),
}

# Smallest and largest permitted value; fields with integers for bounds are integers.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.image_size": (32, 4096),
    "data.max_pixels": (1, 178_956_970),  # Pillow and TensorFlow decode no more
    "data.validation_fraction": (0.0, 0.9),
    "data.test_fraction": (0.0, 0.9),
    "data.split_seed": (0, 2**31 - 1),
    "data.augment.crop_min_area": (0.01, 1.0),
    "data.augment.randaugment_layers": (0, 16),
    "data.augment.randaugment_magnitude": (0, 30),
    "data.augment.cutout": (0, 4096),
    "asymmetric.gamma_neg": (0.0, 100.0),
    "asymmetric.gamma_pos": (0.0, 100.0),
    "asymmetric.clip": (0.0, 0.99),
    "focal.gamma": (0.0, 100.0),
    "focal.alpha": (0.0, 0.99),
    "decoder.hidden": (1, 2**16),
    "decoder.attention": (1, 2**16),
    "decoder.embedding": (1, 2**16),
    "decoder.max_labels": (1, 2**16),
    "decoder.dropout": (0.0, 0.99),
    "decoder.feature_dropout": (0.0, 0.99),
    "set_head.hidden": (4, 2**16),
    "set_head.heads": (1, 64),
    "set_head.feedforward": (1, 2**16),
    "set_head.layers": (1, 64),
    "set_head.encoder_layers": (0, 64),
    "set_head.groups": (1, 2**16),
    "set_head.residual": (0.0, 1e3),
    "set_head.dropout": (0.0, 0.99),
    "backbone.unfreeze_step": (0, 2**31 - 1),
    "label_smoothing": (0.0, 0.99),
    "ema.decay": (0.0, 0.999999),
    "swa.start_step": (0, 2**31 - 1),
    "cache.views": (0, 1000),
    "optimizer.backbone_scale": (0.0, 1e3),
    "search.beam_size": (1, 1024),
    "search.threshold": (-1.0, 1.0),
    "search.top_k": (0, 2**16),
    "knn.neighbours": (0, 1000),
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
    "train.max_skipped": (1, 2**31 - 1),
    "eval.batch_size": (1, 2**20),
}

SWITCHES = (
    "data.drop_unlabelled",
    "data.download",
    "data.augment.flip",
    "backbone.frozen",
    "backbone.freeze_norm",
    "backbone.remat",
    "decoder.use_attention",
)
TEXTS = ("method", "data.path", "data.train_list", "backbone.weights", "cache.path")

# What a frozen backbone leaves without effect, with the values in `configs/common.py`.
_OF_A_LEARNING_BACKBONE = {
    "backbone.unfreeze_step": 0,
    "backbone.freeze_norm": False,
    "backbone.remat": False,
    "optimizer.backbone_scale": 0.1,
}

FIELDS = frozenset((*CHOICES, *RANGES, *SWITCHES, *TEXTS))


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config as ('train.steps', 100) pairs."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def unknown_field(name: str) -> str:
    """What to say of a field that does not exist; `name` is without 'config.'."""
    last = name.rpartition(".")[2]
    in_other_groups = [field for field in sorted(FIELDS) if field.rpartition(".")[2] == last]
    near = in_other_groups or difflib.get_close_matches(name, sorted(FIELDS), 1)
    advice = f"did you mean config.{near[0]}?" if near else "see configs/common.py"
    return f"unknown config field config.{name}; {advice}"


def validate(config: ml_collections.ConfigDict, devices: int) -> None:
    """Checks every field.

    Args:
      config: as `configs/common.py` lays it out.
      devices: over which the batches are split, on all hosts.

    Raises:
      UserError: naming all mistakes at once.
    """
    if mistakes := find_mistakes(config, devices):
        raise UserError("; ".join(mistakes))


def find_mistakes(config: ml_collections.ConfigDict, devices: int) -> list[str]:
    """What `validate` names, one by one."""
    fields = dict(flatten(config))
    mistakes = [unknown_field(name) for name in sorted({*fields} - FIELDS)]
    if missing := sorted(FIELDS - {*fields}):
        mistakes.append(
            f"the config lacks {', '.join(missing)}: it was made by another version; build it on "
            "configs/common.py"
        )
        return mistakes
    mistakes += [f"config.{name}={value!r} {wrong}" for name, value in fields.items()
                 if name in FIELDS and (wrong := _wrong(name, value))]  # fmt: skip
    for name in ("train.batch_size", "eval.batch_size"):
        if isinstance(fields[name], int) and fields[name] % devices:
            mistakes.append(
                f"config.{name}={fields[name]} does not divide over {devices} devices; "
                f"take a multiple of {devices}"
            )
    return mistakes + _contradictions(config)


def _wrong(name: str, value: Any) -> str | None:
    """What is wrong with a value by itself."""
    if name in CHOICES and value not in CHOICES[name]:
        known = [*map(str, CHOICES[name])]
        near = difflib.get_close_matches(str(value), known, 1)
        return f"is none of: {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else "")
    if name in SWITCHES and not isinstance(value, bool):
        return "is neither True nor False"
    if name in TEXTS and not isinstance(value, str):
        return "is no text"
    if name in RANGES:
        low, high = RANGES[name]
        whole = isinstance(low, int)
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:  # NaN is not between them
            return f"is no {'integer' if whole else 'number'} between {low} and {high}"
    return None


def _contradictions(config: ml_collections.ConfigDict) -> list[str]:
    """What is wrong with values beside each other."""
    problems = []
    if config.data.name != "digits" and not config.data.path:
        problems.append(f"config.data.path is empty: give the folder of {config.data.name!r}")
    if config.data.protocol == "list" and not config.data.train_list:
        problems.append("config.data.protocol='list' needs config.data.train_list: a file of paths")
    of_paper = config.data.name == "nus_wide" and config.data.protocol == "paper"
    if of_paper and not config.data.drop_unlabelled:
        problems.append(
            "config.data.protocol='paper' removes images without labels: give "
            "config.data.drop_unlabelled=True, or config.data.protocol=official"
        )
    if config.order != "confidence" and config.decoder.target != "all":
        problems.append(
            f"config.decoder.target={config.decoder.target!r} has no meaning with "
            f"config.order={config.order!r}, which says what each step is held against; leave it "
            "at 'all'"
        )
    head = HEADS.get(config.head)
    if head and config.loss in LABEL_LOSSES and config.loss not in head.losses:
        takers = ", ".join(name for name, other in HEADS.items() if config.loss in other.losses)
        problems.append(
            f"config.loss={config.loss!r} needs a config.head of {takers}, not {config.head!r}"
        )
    if config.loss != "bce" and config.label_smoothing:
        problems.append(
            f"config.label_smoothing has no meaning with config.loss={config.loss!r}; leave it at 0"
        )
    if config.swa.start_step and config.ema.decay:
        problems.append(
            "config.ema.decay and config.swa.start_step each choose what is evaluated; leave one "
            "at 0"
        )
    start, steps = config.swa.start_step, config.train.steps
    if not (_wrong("swa.start_step", start) or _wrong("train.steps", steps)) and start >= steps:
        problems.append(
            f"config.swa.start_step={start} is not below config.train.steps={steps}: nothing would "
            "be averaged"
        )
    if config.search.top_k and head and head.sequential:
        takers = ", ".join(name for name, other in HEADS.items() if not other.sequential)
        problems.append(
            f"config.search.top_k={config.search.top_k} needs a config.head of {takers}; others "
            "predict sets of any size, and eval.py reports the 3 best labels beside them"
        )
    if head and not any(_wrong(f"set_head.{name}", size) for name, size in config.set_head.items()):
        problems += head.problems(config)
    threshold = config.search.threshold
    if config.search.top_k and not _wrong("search.threshold", threshold) and threshold >= 0:
        problems.append(
            f"config.search.threshold={threshold} has no meaning with "
            f"config.search.top_k={config.search.top_k}; give config.search.threshold=-1 or "
            "config.search.top_k=0"
        )
    if head:
        problems += _search_problems(config, head)
    learns = head and head.fit == "descent"
    if learns and config.backbone.frozen and not config.backbone.weights:
        problems.append(
            "config.backbone.frozen with random parameters learns nothing: give "
            "config.backbone.weights, or config.backbone.frozen=False to train from scratch"
        )
    fields = dict(flatten(config))
    for name, usual in _OF_A_LEARNING_BACKBONE.items():
        if config.backbone.frozen and fields[name] != usual:
            problems.append(
                f"config.{name}={fields[name]} is for a backbone that learns: give "
                f"config.backbone.frozen=False, or leave it at {usual}"
            )
    scale = config.optimizer.backbone_scale
    if not config.backbone.frozen and not config.backbone.weights and scale != 0.1:
        problems.append(
            f"config.optimizer.backbone_scale={scale} is for a backbone that starts from "
            "config.backbone.weights: one from random parameters learns as fast as the head; give "
            "weights, or leave it at 0.1"
        )
    if config.backbone.weights and config.backbone.name == "small":
        problems.append("config.backbone.weights: the small backbone has no published weights")
    return problems


def _search_problems(config: ml_collections.ConfigDict, head: Head) -> Iterator[str]:
    """Contradictions in what ranks labels and what decides on them."""
    search, sequential = config.search, head.sequential
    by_path = sequential and search.decide == "path"
    if search.scores == "max" and not sequential:
        yield (
            "config.search.scores='max' needs the steps of a decoder, which "
            f"config.head={config.head!r} lacks; leave it at 'last_step'"
        )
    if search.scores in ("map", "mean") and not head.preliminary:
        yield (
            f"config.search.scores={search.scores!r} needs v_prob, which config.head="
            f"{config.head!r} lacks; give 'last_step' or 'max'"
        )
    if sequential and not by_path and search.threshold == 0:
        yield (
            "config.search.threshold=0 with config.search.decide='scores' would predict every "
            "label; give config.search.threshold=-1 and tune it"
        )
    if search.thresholds == "per_class" and (
        by_path
        or search.top_k
        or (not _wrong("search.threshold", search.threshold) and search.threshold >= 0)
    ):
        yield (
            "config.search.thresholds='per_class' needs sets that are cut from scores at a tuned "
            "τ: give config.search.decide='scores' for a row with a decoder, "
            "config.search.threshold=-1 and config.search.top_k=0"
        )


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy in which nothing depends on the machine any more ('auto' is decided)."""
    resolved = ml_collections.ConfigDict(config)
    if resolved.dtype == "auto":
        resolved.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return resolved.lock()
