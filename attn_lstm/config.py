"""Checking a configuration before anything is read, and making it final."""

from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from attn_lstm import remote
from attn_lstm.errors import UserError
from attn_lstm.fields import FIELDS, flatten, unknown_field
from attn_lstm.losses import LABEL_LOSSES
from attn_lstm.measures.thresholds import DEFAULT_THRESHOLD
from attn_lstm.models.heads import HEADS, Head
from attn_lstm.models.presets import PRESETS
from attn_lstm.ordering import emits_end_token

# Fields that say where things lie, not what is computed: they may differ between hosts.
PLACES = ("data.path", "data.download", "backbone.weights", "cache.path")
# Fields that may differ between two runs in the same work directory: those, how labels are read
# (what comes of it is compared), and when to give up.
CHANGEABLE = (
    *PLACES,
    "data.separator",
    "data.unknown",
    "train.on_nonfinite",
    "train.max_skipped",
)

# What has no part in the use of a trained network.
_OF_TRAINING = ("data.augment.", "optimizer.", "ema.", "swa.", "train.")
# What a head without a decoder leaves without effect.
_OF_A_DECODER = (
    "order",
    "decoder.hidden",
    "decoder.attention",
    "decoder.embedding",
    "decoder.use_attention",
    "decoder.maps",
    "decoder.initial_state",
    "decoder.target",
    "decoder.max_labels",
    "search.beam_size",
    "search.stop",
    "search.decide",
)
# What sets that are cut from scores leave without effect.
_OF_A_PATH = ("search.beam_size", "search.stop")
# What a frozen backbone leaves without effect.
_OF_A_LEARNING_BACKBONE = (
    "backbone.unfreeze_step",
    "backbone.resting_blocks",
    "backbone.freeze_norm",
    "backbone.remat",
    "optimizer.backbone_scale",
    "optimizer.layer_decay",
)


def used(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields that have a part in a run of this config: 'train.steps' -> 100.

    Left out are those of other heads, losses and backbones.
    """
    head = HEADS[config.head]
    unused = [
        *(f"{loss}." for loss in ("asymmetric", "focal") if config.loss != loss),
        *(["knn."] if config.head != "knn" else _OF_TRAINING),
        *([] if config.head in ("query2label", "ml_decoder", "csra") else ["set_head."]),
        *([] if head.sequential else _OF_A_DECODER),
        *(_OF_A_PATH if config.search.decide == "scores" else []),
        *([] if config.backbone.name == "resnet" else ["backbone.depth"]),
        *(_OF_A_LEARNING_BACKBONE if config.backbone.frozen else []),
    ]
    return {name: value for name, value in flatten(config) if not name.startswith(tuple(unused))}


def validate(config: ml_collections.ConfigDict, devices: int | None = None) -> None:
    """Checks the fields.

    Args:
      config: as `fields.default_config` lays it out.
      devices: on all hosts, to train on; None where a trained network is used, for which the fields
        of its training may hold anything.

    Raises:
      UserError: naming all mistakes at once.
    """
    if mistakes := find_mistakes(config, devices):
        raise UserError("; ".join(mistakes))


def find_mistakes(config: ml_collections.ConfigDict, devices: int | None = None) -> list[str]:
    """What `validate` names, one by one."""
    fields = dict(flatten(config))
    mistakes = [unknown_field(name) for name in sorted({*fields} - {*FIELDS})]
    if missing := sorted({*FIELDS} - {*fields}):
        mistakes.append(
            f"the config lacks {', '.join(missing)}: build it on attn_lstm.fields.default_config"
        )
        return mistakes
    checked = FIELDS if devices else [name for name in FIELDS if not name.startswith(_OF_TRAINING)]
    mistakes += [
        f"config.{name}={fields[name]!r} {wrong}"
        for name in checked
        if (wrong := _wrong(name, fields[name]))
    ]
    mistakes += [
        f"config.{name}={fields[name]!r} {remote.NEEDS_DISK}"
        for name in ("cache.path", "data.train_list")
        if remote.is_url(str(fields[name]))
    ]
    mistakes += _contradictions(config)
    return mistakes + _contradictions_of_training(config, devices) if devices else mistakes


def _known_head(config: ml_collections.ConfigDict) -> Head | None:
    """The head that is asked for; None for what is named as no head already."""
    return None if _wrong("head", config.head) else HEADS[config.head]


def _wrong(name: str, value: Any) -> str | None:
    """What is wrong with a value by itself."""
    return FIELDS[name].wrong(value)


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
    problems += _backbone_problems(config)
    head = _known_head(config)
    if head and config.loss in LABEL_LOSSES and config.loss not in head.losses:
        takers = ", ".join(name for name, other in HEADS.items() if config.loss in other.losses)
        problems.append(
            f"config.loss={config.loss!r} needs a config.head of {takers}, not {config.head!r}"
        )
    if config.loss != "bce" and config.label_smoothing:
        problems.append(
            f"config.label_smoothing has no meaning with config.loss={config.loss!r}; leave it at 0"
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
    return problems


def _contradictions_of_training(config: ml_collections.ConfigDict, devices: int) -> list[str]:
    """As `_contradictions`, of what has no part in the use of a trained network."""
    problems, batch = [], config.train.batch_size
    if not _wrong("train.batch_size", batch) and batch % devices:
        problems.append(
            f"config.train.batch_size={batch} does not divide over {devices} devices; take a "
            f"multiple of {devices}"
        )
    if config.swa.share and config.ema.decay:
        problems.append(
            "config.ema.decay and config.swa.share each choose what is evaluated; leave one at 0"
        )
    head = _known_head(config)
    if head and config.train.best_figure != "mAP":
        problems += _best_figure_problems(config, head)
    learns = head and head.fit == "descent"
    if learns and config.backbone.frozen and not config.backbone.weights:
        problems.append(
            "config.backbone.frozen with random parameters learns nothing: give "
            "config.backbone.weights, or config.backbone.frozen=False to train from scratch"
        )
    fields = dict(flatten(config))
    for name in _OF_A_LEARNING_BACKBONE:
        usual = FIELDS[name].default
        if config.backbone.frozen and fields[name] != usual:
            problems.append(
                f"config.{name}={fields[name]} is for a backbone that learns: give "
                f"config.backbone.frozen=False, or leave it at {usual}"
            )
    scale, usual = config.optimizer.backbone_scale, FIELDS["optimizer.backbone_scale"].default
    if not config.backbone.frozen and not config.backbone.weights and scale != usual:
        problems.append(
            f"config.optimizer.backbone_scale={scale} is for a backbone that starts from "
            "config.backbone.weights: one from random parameters learns as fast as the head; give "
            f"weights, or leave it at {usual}"
        )
    if config.backbone.weights and config.backbone.name == "small":
        problems.append("config.backbone.weights: the small backbone has no published weights")
    return problems


def _best_figure_problems(config: ml_collections.ConfigDict, head: Head) -> Iterator[str]:
    """Whether a figure of sets can choose the best checkpoint, at the τ that training has."""
    figure, threshold = config.train.best_figure, config.search.threshold
    if config.search.top_k or _wrong("search.threshold", threshold):
        return
    judges = f"config.train.best_figure={figure!r} judges label sets, "
    remedy = "give config.train.best_figure='mAP'"
    ends = head.sequential and emits_end_token(config.order, config.decoder.target)
    if threshold == 0 and not ends:
        yield (
            f"{judges}which config.search.threshold=0 makes the same size for every image; {remedy}"
        )
    field, value = ("order", "random") if head.sequential else ("loss", "softmax")
    if threshold < 0 and config[field] == value:
        yield (
            f"{judges}which training cuts at τ = {DEFAULT_THRESHOLD} while "
            f"config.search.threshold={threshold} leaves τ open, and with "
            f"config.{field}={value!r} the labels of an image share one probability, so that "
            f"hardly two reach it; {remedy}"
        )


def _backbone_problems(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Contradictions between the network, its preset and the images."""
    backbone = config.backbone
    of_presets = ("vit", "convnext")
    preset = PRESETS.get(backbone.preset)
    if preset and preset.backbone != backbone.name and backbone.name in of_presets:
        yield (
            f"config.backbone.preset={backbone.preset} with config.backbone.name={backbone.name}: "
            f"give config.backbone.name={preset.backbone}"
        )
        return
    if (backbone.name in of_presets) != bool(backbone.preset):
        yield (
            f"config.backbone.preset={backbone.preset!r} with config.backbone.name="
            f"{backbone.name!r}: give {' or '.join(of_presets)} and one of the presets of "
            "docs/backbones.md, or neither"
        )
        return
    fields = dict(flatten(config))
    for name in ("backbone.resting_blocks", "optimizer.layer_decay"):
        if backbone.name not in of_presets and fields[name] != FIELDS[name].default:
            yield (
                f"config.{name}={fields[name]} needs config.backbone.name=vit or convnext; "
                f"leave it at {FIELDS[name].default}"
            )
    if not preset:
        return
    architecture, side = preset.architecture, config.data.image_size
    if not _wrong("data.image_size", side) and side % architecture.patch:
        near = side // architecture.patch * architecture.patch
        yield (
            f"config.data.image_size={side} does not divide into the patches of "
            f"{architecture.patch} pixels of {backbone.preset}; give {near} or "
            f"{near + architecture.patch}"
        )
    if not _wrong("backbone.resting_blocks", backbone.resting_blocks) and (
        backbone.resting_blocks > architecture.depth
    ):
        yield (
            f"config.backbone.resting_blocks={backbone.resting_blocks} is more than the "
            f"{architecture.depth} blocks of {backbone.preset}"
        )
    if backbone.freeze_norm:
        yield f"config.backbone.freeze_norm is for batch norms, which {backbone.name} has none of"


def _search_problems(config: ml_collections.ConfigDict, head: Head) -> Iterator[str]:
    """Contradictions in what ranks labels and what decides on them."""
    search, sequential = config.search, head.sequential
    by_path = sequential and search.decide == "path"
    if search.scores in ("mean", "max") and not sequential:
        yield (
            f"config.search.scores={search.scores!r} needs the steps of a decoder, which "
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
