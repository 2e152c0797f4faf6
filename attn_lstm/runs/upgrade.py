"""The config that another version saved, read as one of this version."""

from collections.abc import Mapping
from typing import Any

from attn_lstm.errors import UserError
from attn_lstm.fields import FIELDS, unknown_field

# What a config that lacks a field stands for: what was done before there was the field, whatever
# its default is today. A new field is entered here too.
BEFORE: dict[str, bool | float | str] = {
    "loss": "bce",
    "asymmetric.gamma_neg": 4.0, "asymmetric.gamma_pos": 0.0, "asymmetric.clip": 0.05,
    "focal.gamma": 2.0, "focal.alpha": 0.0,
    "data.protocol": "paper", "data.train_list": "", "data.test_fraction": 0.2,
    "data.on_missing": "error", "data.separator": "|", "data.difficult": "label",
    "data.unknown": "mask",  # the data sets that were read had no label of which nothing was known
    "data.max_pixels": 178_956_970,  # as many as can be decoded
    "backbone.preset": "", "backbone.resting_blocks": 0, "optimizer.layer_decay": 1.0,
    "decoder.embedding": 64, "decoder.feature_dropout": 0.0, "decoder.maps": "step",
    "set_head.hidden": 256, "set_head.heads": 4, "set_head.feedforward": 1024,
    "set_head.layers": 2, "set_head.encoder_layers": 1, "set_head.groups": 100,
    "set_head.residual": 0.5, "set_head.dropout": 0.1,
    "knn.neighbours": 0,
    "search.top_k": 0, "search.scores": "last_step", "search.decide": "path",
    "search.thresholds": "global", "swa.share": 0.0,
    "train.on_nonfinite": "error", "train.max_skipped": 10,
}  # fmt: skip

# Fields that are gone, each with the only value that is left of it.
RETIRED: dict[str, bool | float | str] = {
    "decoder.heads": 1,
    "decoder.query": "state",
    "decoder.learned_stop": False,
    "decoder.loss": "bce",
    "swa.start_step": 0,
}


def upgrade(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a saved config by name, with those that it lacks and without retired ones.

    Raises:
      UserError: a field that this version does not know, a retired one with a value that is no
        more, or none where every version has one.
    """
    saved, problems = _with_share(saved), []
    for name in saved.keys() - FIELDS.keys():
        if name not in RETIRED:
            problems.append(unknown_field(name))
        elif saved[name] != RETIRED[name]:
            problems.append(
                f"config.{name}={saved[name]!r} is no more, only {RETIRED[name]!r} is left"
            )
    missing = FIELDS.keys() - saved.keys() - BEFORE.keys()
    problems += [f"config.{name} is missing" for name in missing]
    if problems:
        raise UserError("; ".join(sorted(problems)))
    return {name: saved[name] if name in saved else BEFORE[name] for name in FIELDS}


def _with_share(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the average from an update on, as 0.1.0 had it, as that of the last share of them."""
    start, steps = saved.get("swa.start_step"), saved.get("train.steps")
    if not (isinstance(start, int) and isinstance(steps, int) and 0 < start <= steps):
        return saved
    return {**saved, "swa.start_step": 0, "swa.share": (steps - start + 1) / steps}
