"""Every field of a configuration, once: its default, what it may be, and what it is for.

[P] the paper says so; [R] independent re-implementations agree on it; [?] not established, our
default. A data set's file in `configs/` changes what is particular to it, a row of the tables
(`methods.py`) what makes it that row.

    python -m attn_lstm.fields > docs/config.md
"""

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import Any

import ml_collections

from attn_lstm.beam_search import STOPS
from attn_lstm.data import READERS
from attn_lstm.decision import DECISIONS, SCORES
from attn_lstm.losses import LABEL_LOSSES
from attn_lstm.measures import thresholds
from attn_lstm.methods import METHODS
from attn_lstm.models.decoder import MAPS
from attn_lstm.models.heads import HEADS
from attn_lstm.models.presets import PRESETS
from attn_lstm.ordering import ORDERS, TARGETS


class Field(ABC):
    """What is known of a field: its `default`, what it is for (`text`), and what it may be."""

    default: Any
    text: str

    @abstractmethod
    def wrong(self, value: object) -> str | None:
        """What is wrong with a value by itself, to stand behind it; None for nothing."""

    @abstractmethod
    def permitted(self) -> str:
        """What it may be, in words."""


@dataclasses.dataclass(frozen=True)
class Number(Field):
    """Between two numbers, these included; an integer where they are integers."""

    default: float
    low: float
    high: float
    text: str

    def wrong(self, value: object) -> str | None:
        """That it is of another type, or outside of the bounds."""
        whole = isinstance(self.low, int)
        kinds = (int,) if whole else (int, float)
        if (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and self.low <= value <= self.high  # NaN is not between them
        ):
            return None
        kind = "integer" if whole else "number"
        return f"is no {kind} between {self.low} and {self.high}"

    def permitted(self) -> str:
        """The bounds."""
        return f"{self.low} or more" if self.high == math.inf else f"{self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class Choice(Field):
    """One of a collection, which may grow later."""

    default: int | str
    choices: Collection[int | str]
    text: str

    def wrong(self, value: object) -> str | None:
        """That it is none of the choices, with the one that is spelled most like it."""
        if type(value) is type(self.default) and value in self.choices:
            return None
        known = [*map(str, self.choices)]
        near = difflib.get_close_matches(str(value), known, 1)
        return f"is none of: {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else "")

    def permitted(self) -> str:
        """The choices."""
        return ", ".join(f"`{choice}`" for choice in self.choices)


@dataclasses.dataclass(frozen=True)
class Switch(Field):
    """True or False."""

    default: bool
    text: str

    def wrong(self, value: object) -> str | None:
        """That it is neither."""
        return None if isinstance(value, bool) else "is neither True nor False"

    def permitted(self) -> str:
        """Both."""
        return "`True`, `False`"


@dataclasses.dataclass(frozen=True)
class Text(Field):
    """Any text."""

    default: str
    text: str

    def wrong(self, value: object) -> str | None:
        """That it is no text."""
        return None if isinstance(value, str) else "is no text"

    def permitted(self) -> str:
        """That it is any text."""
        return "text"


_MANY = 2**31 - 1
_WIDE = 2**16

FIELDS: dict[str, Field] = {
    "method": Text("", "the row of the tables; what stands behind the config file's colon"),
    "seed": Number(
        0, 0, _MANY, "parameters, data order, augmentation and dropout all derive from it"
    ),
    "dtype": Choice(
        "auto",
        ("auto", "float32", "bfloat16"),
        "compute type; parameters, losses and softmaxes stay float32; auto is bfloat16 on "
        "accelerators and float32 on CPUs, and is resolved before it is saved",
    ),
    "head": Choice(
        "attention_lstm",
        HEADS,
        "what gives the labels; linear is M_map alone",
    ),
    "loss": Choice(
        "bce",
        LABEL_LOSSES,
        "of M_map [R] or the set head in its place; softmax and warp without a decoder only",
    ),
    "label_smoothing": Number(0.0, 0.0, 0.99, "weight of a target that favours nothing"),
    "order": Choice(
        "confidence",
        ORDERS,
        "which true label is the target of a step: confidence is the paper's order-free training; "
        "the others train with teacher forcing and an end token, random with another permutation "
        "of the true labels for every image and update",
    ),
    # ------------------------------------------------------------------------------------ losses
    "asymmetric.gamma_neg": Number(
        4.0, 0.0, 100.0, "exponent for wrong labels (Ben-Baruch et al. 2021)"
    ),
    "asymmetric.gamma_pos": Number(0.0, 0.0, 100.0, "exponent for true labels"),
    "asymmetric.clip": Number(
        0.05, 0.0, 0.99, "up to this probability a wrong label costs nothing"
    ),
    "focal.gamma": Number(2.0, 0.0, 100.0, "exponent (Lin et al. 2017)"),
    "focal.alpha": Number(
        0.0, 0.0, 0.99, "weight of true labels, 1 - alpha that of wrong ones; with 0 both weigh 1"
    ),
    # -------------------------------------------------------------------------------------- data
    "data.name": Choice("", READERS, "the data set"),
    "data.path": Text(
        "",
        "folder or URL of the data set; '' lets digits use the TFDS default folder",
    ),
    "data.image_size": Number(448, 32, 4096, "pixels, both sides [?]"),
    "data.resize": Choice(
        "squash",
        ("squash", "crop", "pad"),
        "how an image becomes a square: squash changes its proportions, crop keeps the middle, "
        "pad adds black",
    ),
    "data.max_pixels": Number(
        89_478_485,
        1,
        178_956_970,  # Pillow and TensorFlow decode no more
        "of an image (256 MiB in memory); one with more is a bad image",
    ),
    "data.on_bad_image": Choice(
        "error", ("error", "skip"), "images that cannot be read; skip masks and counts them"
    ),
    "data.on_missing": Choice(
        "error", ("error", "skip"), "images that are not on disk; skip counts and logs them"
    ),
    "data.unknown": Choice(
        "mask",
        ("mask", "negative"),
        "labels of which nobody has said whether an image has them (docs/own_images.md): mask "
        "teaches nothing by them and counts them in no figure; negative takes them for absent",
    ),
    "data.drop_unlabelled": Switch(False, "remove images without any label"),
    "data.validation_fraction": Number(
        0.1, 0.0, 0.9, "part of the training split held out for choices"
    ),
    "data.test_fraction": Number(
        0.2, 0.0, 0.9, "part of your own data set for testing, where nothing divides it"
    ),
    "data.split_seed": Number(0, 0, _MANY, "which images are held out; not tied to seed"),
    "data.separator": Text(
        "",
        "of folder: what joins labels in one cell or text, such as `,`; ' ' is any space, list a "
        "list as Python writes it; '' is a bar, and asks where labels look joined otherwise",
    ),
    "data.difficult": Choice(
        "label",
        ("label", "absent", "unknown"),
        "of voc: what objects that are marked as difficult are; VOC's own evaluation has a label "
        "with no other object as unknown",
    ),
    "data.protocol": Choice(
        "paper",
        ("paper", "official", "list"),
        "of nus_wide: paper, 150,000 training images by a stored seeded draw [P, their list is "
        "not published]; official, its two lists; list, the images of train_list",
    ),
    "data.train_list": Text(
        "", "protocol list: the file; paper: where the draw is kept, '' for the data folder"
    ),
    "data.download": Switch(False, "let TFDS download the data set into data.path"),
    "data.augment.flip": Switch(True, "horizontally, half of the images"),
    "data.augment.crop_min_area": Number(
        1.0, 0.01, 1.0, "random resized crop of at least this area; 1 turns it off"
    ),
    "data.augment.randaugment_layers": Number(0, 0, 16, "random changes of an image, one by one"),
    "data.augment.randaugment_magnitude": Number(9, 0, 30, "their strength"),
    "data.augment.cutout": Number(
        0, 0, 4096, "side in pixels of a square that is blanked; 0 turns it off"
    ),
    # ---------------------------------------------------------------------------------- backbone
    "backbone.name": Choice(
        "resnet",
        ("resnet", "vit", "convnext", "mobilenet_v2", "small"),
        "the network for v_feat",
    ),
    "backbone.depth": Choice(152, (18, 34, 50, 101, 152), "of resnet [P]"),
    "backbone.preset": Choice(
        "",
        ("", *PRESETS),
        "of vit and convnext: which published one, with its pixels' mean and deviation "
        "(docs/backbones.md)",
    ),
    "backbone.weights": Text(
        "", "file, name or URL of published weights; '' starts from random parameters"
    ),
    "backbone.frozen": Switch(True, "features stay as they were loaded [?]"),
    "backbone.unfreeze_step": Number(
        0,
        0,
        _MANY,
        "with frozen=False: steps in which the head learns alone before the backbone joins",
    ),
    "backbone.resting_blocks": Number(
        0,
        0,
        1000,
        "of vit and convnext: so many first blocks never learn, nor what is below them; 0: all do",
    ),
    "backbone.freeze_norm": Switch(
        False, "batch norms keep their statistics while the backbone learns"
    ),
    "backbone.remat": Switch(False, "recompute activations in the backward pass to save memory"),
    # --------------------------------------------------------------------------- what emits labels
    "decoder.hidden": Number(512, 1, _WIDE, "LSTM units [?]"),
    "decoder.attention": Number(512, 1, _WIDE, "units of the attention's score layer [?]"),
    "decoder.embedding": Number(
        64, 1, _WIDE, "width of the joint space of images and labels, for cnn_rnn [?]"
    ),
    "decoder.use_attention": Switch(True, "False: z_t is the mean of the features"),
    "decoder.maps": Choice(
        "step",
        MAPS,
        "step is one attention map a step, whichever label it emits [R]; label, a map of each "
        "label, to which what each region says for it is added, and which its logit reads "
        "(as in Zhu & Wu 2021)",
    ),
    "decoder.initial_state": Choice(
        "mean", ("mean", "zeros"), "mean is a linear layer on the mean feature [?]"
    ),
    "decoder.target": Choice(
        "all",
        TARGETS,
        "with the order confidence, what a step is held against. A set: all, the true labels [R]; "
        "remaining, those not emitted yet. One label, by softmax, with an end token behind the "
        "last: ranked, the most probable of the remaining; mla and pla, the one that an alignment "
        "of the true labels to the predicted sequence gives it (attn_lstm/alignment.py)",
    ),
    "decoder.max_labels": Number(
        18, 1, _WIDE, "T; 18 is the largest label set of COCO's training split"
    ),
    "decoder.dropout": Number(0.5, 0.0, 0.99, "on the pooled feature and on the LSTM's output [?]"),
    "decoder.feature_dropout": Number(
        0.0,
        0.0,
        0.99,
        "on the channels of v_feat that the decoder or the set head sees, the same in all regions "
        "and at all steps",
    ),
    "set_head.hidden": Number(
        256, 4, _WIDE, "channels of queries and regions; published 2048 and 768"
    ),
    "set_head.heads": Number(
        4, 1, 64, "of the attention, Query2Label's command; of csra: 1, 2, 4, 6 or 8"
    ),
    "set_head.feedforward": Number(1024, 1, _WIDE, "units; published 8192 and 2048"),
    "set_head.layers": Number(2, 1, 64, "of the decoder, Query2Label's command"),
    "set_head.encoder_layers": Number(1, 0, 64, "of query2label, its command"),
    "set_head.groups": Number(
        100, 1, _WIDE, "of ml_decoder, its code; no more than there are labels"
    ),
    "set_head.residual": Number(0.5, 0.0, 1e3, "λ of csra, its command for COCO"),
    "set_head.dropout": Number(0.1, 0.0, 0.99, "in transformer layers, both codes"),
    "knn.neighbours": Number(
        0,
        0,
        1000,
        "k, the images whose labels are carried over [?]; 0: chosen on the validation split",
    ),
    # ---------------------------------------------------------------------------------- decision
    "search.beam_size": Number(3, 1, 1024, "paths kept [?]"),
    "search.threshold": Number(
        -1.0, -1.0, 1.0, "τ; below 0: the one that eval.py --tune stored, or 0.5 before that"
    ),
    "search.top_k": Number(
        0,
        0,
        _WIDE,
        "labels of every image for rows without a decoder, whatever τ; 0: as many as τ lets "
        "through",
    ),
    "search.stop": Choice(
        "path",
        STOPS,
        "what τ is compared with: path, the product of the path [R]; step, the step's own "
        "probability",
    ),
    "search.scores": Choice(
        "last_step",
        SCORES,
        "what ranks the labels of a row with a decoder: last_step, p of its last step; map, "
        "v_prob; mean, of these two; max, the largest p of any step, which stands in the place of "
        "the last step's where decoder.target is not all or the order is taught",
    ),
    "search.decide": Choice(
        "path",
        DECISIONS,
        "what such a row predicts: path, the set of the best path [R]; scores, all labels whose "
        "score reaches τ, as in rows without a decoder",
    ),
    "search.thresholds": Choice(
        "global",
        thresholds.KINDS,
        "which τ eval.py --tune chooses on the validation split: global, with the best mean of "
        "C-F1 and O-F1; micro, with the best O-F1; per_class, one a label for its own F1, where "
        "scores decide",
    ),
    # ---------------------------------------------------------------------------------- training
    "optimizer.name": Choice(
        "adam", ("adam", "sgd"), "adam has decoupled weight decay, sgd momentum 0.9"
    ),
    "optimizer.learning_rate": Number(3e-4, 0.0, 1e3, "peak [?]"),
    "optimizer.backbone_scale": Number(
        0.1, 0.0, 1e3, "of the learning rate, for a backbone that has weights"
    ),
    "optimizer.layer_decay": Number(
        1.0,
        0.01,
        1.0,
        "of vit and convnext: each block's learning rate over that of the block above it "
        "(Bao et al. 2022)",
    ),
    "optimizer.weight_decay": Number(0.0, 0.0, 1e3, "of kernels; not of biases and norms"),
    "optimizer.schedule": Choice(
        "cosine", ("cosine", "constant"), "behind the warm-up; cosine ends at zero at train.steps"
    ),
    "optimizer.warmup_steps": Number(0, 0, _MANY, "in which the learning rate rises from zero"),
    "optimizer.clip_norm": Number(0.0, 0.0, math.inf, "global gradient norm; 0 turns it off"),
    "ema.decay": Number(
        0.0,
        0.0,
        0.999999,
        "moving average of the parameters, which is then what is evaluated and saved; 0: none",
    ),
    "swa.share": Number(
        0.0,
        0.0,
        1.0,
        "the same with an equal average of the parameters behind the last updates, this share of "
        "train.steps (Izmailov et al. 2018; best with optimizer.schedule=constant); 0: none",
    ),
    "cache.views": Number(
        1,
        0,
        1000,
        "with a frozen backbone: views an image whose features are kept on disk, the plain one "
        "first and augmented ones behind it; 0 computes the features anew at every step",
    ),
    "cache.path": Text("", "folder of the features; '' is WORKDIR/features"),
    "cache.dtype": Choice("float16", ("float16", "float32"), "of the features"),
    "train.batch_size": Number(64, 1, 2**20, "images over all devices and hosts [?]"),
    "train.steps": Number(30_000, 1, _MANY, "updates; knn takes one pass whatever they are"),
    "train.log_every": Number(50, 1, _MANY, "steps"),
    "train.eval_every": Number(1_000, 1, _MANY, "steps between validations"),
    "train.checkpoint_every": Number(1_000, 1, _MANY, "steps"),
    "train.keep": Number(2, 1, 1000, "latest checkpoints kept beside the best"),
    "train.on_nonfinite": Choice(
        "error",
        ("error", "skip"),
        "a loss, a gradient or an update that is not finite: error ends the run, with a report in "
        "the work directory; skip goes on without that update",
    ),
    "train.max_skipped": Number(10, 1, _MANY, "updates that skip may leave out in the whole run"),
    "train.best_figure": Choice(
        "mAP",
        ("mAP", "C-F1", "O-F1", "macro-F1"),
        "the validation figure that chooses the best checkpoint",
    ),
    "eval.batch_size": Number(
        64, 1, 2**20, "images over all devices and hosts, of which a multiple is taken"
    ),
}


def default_config() -> ml_collections.ConfigDict:
    """The defaults shared by all data sets, unlocked."""
    return nested({name: field.default for name, field in FIELDS.items()})


def nested(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config whose leaves are ('train.steps', 100) pairs; `flatten` gives them back."""
    groups: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        group = groups
        for part in path:
            group = group.setdefault(part, {})
        group[last] = value
    return ml_collections.ConfigDict(groups)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config as ('train.steps', 100) pairs."""
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def unknown_field(name: str) -> str:
    """What to say of a field that does not exist; `name` is without 'config.'."""
    last = name.rpartition(".")[2]
    in_other_groups = [field for field in sorted(FIELDS) if field.rpartition(".")[2] == last]
    near = in_other_groups or difflib.get_close_matches(name, sorted(FIELDS), 1)
    advice = f"did you mean config.{near[0]}?" if near else "docs/config.md lists them all"
    return f"unknown config field config.{name}; {advice}"


def page() -> str:
    """All fields and rows in Markdown."""
    lines = [
        "# Config fields",
        "",
        "`python -m attn_lstm.fields` writes this page. Each is a flag of every command:",
        "`--config.search.beam_size=5`. [P] the paper says so; [R] independent re-implementations",
        "agree on it; [?] not established, our default.",
    ]
    for group, names in groupby(FIELDS, lambda name: name[: max(0, name.find("."))]):
        lines += ["", f"## {group or 'The run'}", "", "| field | default | may be | what it is |"]
        lines += ["|---|---|---|---|"]
        for name in names:
            field = FIELDS[name]
            default = "''" if field.default == "" else field.default
            lines.append(f"| `{name}` | `{default}` | {field.permitted()} | {field.text} |")
    lines += [
        "",
        "## Rows",
        "",
        "The name behind a config file's colon stands for these values.",
        "",
        "| row | source | what it is | fields |",
        "|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        fields = ", ".join(f"`{field}={value}`" for field, value in method.fields.items())
        text = method.text.replace("|", "\\|")
        lines.append(f"| `{name}` | {method.source} | {text} | {fields} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
