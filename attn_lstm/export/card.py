"""The model card of an export: a Markdown page, filled from the work directory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import ml_collections

from attn_lstm import downloads, storage
from attn_lstm.config import PLACES, used
from attn_lstm.errors import UserError
from attn_lstm.fields import nested
from attn_lstm.reports.tables import COLUMNS, cell
from attn_lstm.runs import workdir
from attn_lstm.runs.opened import Opened

_RARE = 20  # training images; a label with fewer is named among the limits
_NAMED = 20  # labels in a list of them, at most


def render_card(opened: Opened, description: Mapping[str, Any], directory: Path) -> str:
    """The card as text; equal arguments give equal cards.

    Args:
      opened: the checkpoint.
      description: as `bundle.describe` gives it.
      directory: the work directory; its label statistics, and the evaluations of this checkpoint
        that lie in `eval/`, are shown.

    Raises:
      UserError: a file of the directory is damaged.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown has its own special characters, for the filter below
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": _text, "cell": cell}
    evaluations = _evaluations(directory, opened.step)
    labels = _labels(opened, evaluations)
    try:
        return environment.get_template("card.md.j2").render(
            description=description,
            config=opened.config,
            fingerprint=opened.fingerprint,
            images=opened.table.images,
            statistics=_statistics(directory),
            evaluations=evaluations,
            columns=(*COLUMNS, "macro-F1"),
            order=_order(description),
            backbone=_backbone(opened.config),
            labels=labels,
            rare=_listed(label["name"] for label in labels if label["images"] < _RARE),
            rare_below=_RARE,
            never_right=_listed(label["name"] for label in labels if label.get("recall") == 0),
            config_json=json.dumps(_without_folders(opened.config), indent=1, ensure_ascii=False),
        )
    except (jinja2.UndefinedError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory / workdir.STATISTICS} or a file of {directory / 'eval'} is not as this "
            f"program writes it ({error}): delete it and run the command that wrote it again"
        ) from error


def _text(value: Any) -> str:
    """One line without Markdown's special characters, also for the cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~])", r"\\\1", " ".join(str(value).split()))


def _listed(names: Iterable[str]) -> str:
    """Names for a sentence, the first of them where they are many; empty for none."""
    names = [_text(name) for name in names]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _order(description: Mapping[str, Any]) -> str:
    """How the predicted labels of an image are ordered, and what comes with each."""
    order = "in the order in which the network named them"
    if "beam_size" not in description["search"]:
        order = "the most probable first"
    maps = " and attention map" if "attention" in description["outputs"] else ""
    return f"{order}, each with its probability{maps}"


def _evaluations(directory: Path, step: int) -> list[dict[str, Any]]:
    """What `eval.py` has found of this checkpoint, a split each."""
    found = []
    for path in sorted((directory / "eval").glob(f"*-{step}.json")):
        result = storage.read_json(path)
        if not isinstance(result, dict) or not {*COLUMNS, "split", "top-3"} <= result.keys():
            raise storage.damaged(path, "not an evaluation of this program")
        found.append(result)
    return found


def _statistics(directory: Path) -> dict[str, Any]:
    """Label statistics by split, as far as they are kept."""
    path = directory / workdir.STATISTICS
    return storage.read_json(path) if path.exists() else {}


def _labels(opened: Opened, evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each label with its training images, and its figures on the test split where known."""
    tested: dict[str, dict[str, Any]] = next(
        (e["per_class"] for e in evaluations if e["split"] == "test"), {}
    )
    return [
        {"name": name, "images": count, **tested.get(name, {})}
        for name, count in zip(opened.table.names, opened.table.counts, strict=True)
    ]


def _backbone(config: ml_collections.ConfigDict) -> str:
    """Which one, where its parameters come from, and what training did to them."""
    backbone = config.backbone
    name = f"ResNet-{backbone.depth}" if backbone.name == "resnet" else backbone.name
    name = backbone.preset or name
    if not backbone.weights:
        start = "random parameters"
    else:
        start = f"the pretrained parameters of `{_without_folder(backbone.weights)}`"
    if backbone.frozen:
        return f"{name} with {start}, which training left as they were"
    return f"{name}, trained from {start}"


def _without_folder(place: str) -> str:
    """Its last name, which a name on the hub is as a whole."""
    return place if place.startswith(downloads.HUB) else Path(place).name


def _without_folders(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What is used of the config, with places on this machine cut to their last name."""
    return nested(
        {
            field: _without_folder(value) if field in PLACES and isinstance(value, str) else value
            for field, value in used(config).items()
        }
    ).to_dict()
