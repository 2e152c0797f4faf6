"""One self-contained HTML page of an evaluation: no network, no server, a file to pass on."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from attn_lstm.measures.calibration import Calibration, calibration_error
from attn_lstm.measures.diagnostics import OBJECT_SIZES
from attn_lstm.measures.predictions import Predictions
from attn_lstm.reports import charts
from attn_lstm.reports.gallery import Example
from attn_lstm.reports.overlay import colour_bar
from attn_lstm.reports.tables import COLUMNS, PUBLISHED, cell

GALLERY_IMAGES = 60

_IMAGE = 480  # pixels of the longer side, which are seen when an image is opened
_QUALITY = 80  # of its JPEG
_CO_OCCURRING = 15  # labels in the squares
_PAIRS = 12  # in the table beside them
_TEMPLATES = Path(__file__).parent


def render_report(
    result: Mapping[str, Any],
    predictions: Predictions,
    names: Sequence[str],
    examples: Sequence[Example],
    command: str,
    versions: Mapping[str, str],
) -> str:
    """The page as text; equal arguments give equal pages.

    Args:
      result: as `evaluate` writes it to its JSON file.
      predictions: of the whole split.
      names: of the C labels.
      examples: of the gallery, in its order, each image once.
      command: that makes this page again.
      versions: package -> version.
    """
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = [_card(example) for example in examples]
    shown = _labels_shown(cards)
    return environment.get_template("report.html.j2").render(
        # Our own files; the policy in the page's head lets no other script run.
        style=markupsafe.Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=markupsafe.Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=f"{result['method']} on {_data_set(result)}, step {result['step']}",
        colours=", ".join(colour_bar()),
        result=result,
        tiles=_tiles(result),
        columns=COLUMNS,
        rows=_rows(result),
        published=result["dataset"] in PUBLISHED,
        setting=_setting(result),
        labels=_labels(result, names),
        has_ap=any("average_precision" in label for label in result["per_class"].values()),
        in_gallery=set(shown),
        sections=_sections(result, predictions, names),
        gallery_note=_gallery_note(examples),
        options=[(label, names[label], count) for label, count in sorted(
            shown.items(), key=lambda item: (names[item[0]], item[0])
        )],
        cards=cards,
        command=command,
        provenance=_provenance(result, versions),
        config=json.dumps(result["config"], indent=1, ensure_ascii=False),
    )  # fmt: skip


# ----------------------------------------------------------------------------- table and labels


def _data_set(result: Mapping[str, Any]) -> str:
    """The name of the data set and its split; a folder of one's own has the folder's name."""
    name, place = result["dataset"], Path(result["config"]["data"].get("path") or "")
    return f"{(name == 'folder' and place.name) or name} {result['split']}"


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = result["set_size"]
    tiles = [
        *((name, cell(result[name])) for name in ("C-F1", "O-F1", "mAP", "macro-F1")),
        ("labels an image", f"{sizes['predicted']:.2f}"),
        ("true labels an image", f"{sizes['true']:.2f}"),
    ]
    if "attention" in (pointing := result.get("pointing", {})):
        names = {"cam": "M_map", "centre": "middle", "uniform": "even"}
        others = ", ".join(
            f"{text} {pointing[x]:.1f}" for x, text in names.items() if x in pointing
        )
        tiles.append((f"attention in its box, % ({others})", cell(pointing["attention"])))
    return tiles


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    method = result["method"]
    ours = {f"{method} (here)": result, f"{method} (here), top-3": result["top-3"]}
    published = PUBLISHED.get(result["dataset"], {})
    rows = [("ours", name, figures) for name, figures in ours.items()]
    rows += [("same" if name == method else "", name, f) for name, f in published.items()]
    return [
        {"kind": kind, "name": name, "cells": [cell(figures.get(c)) for c in COLUMNS]}
        for kind, name, figures in rows
    ]


def _setting(result: Mapping[str, Any]) -> str:
    config = result["config"]
    backbone = config["backbone"]
    name = f"ResNet-{backbone['depth']}" if backbone["name"] == "resnet" else backbone["name"]
    name = backbone.get("preset") or name
    weights = f"weights {Path(backbone['weights']).name}" if backbone["weights"] else "no weights"
    return (
        f"{name} ({weights}), {config['data']['image_size']} pixels, {result['images']} images of "
        f"the {result['split']} split"
    )


def _labels(result: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the table of labels, the most frequent first."""
    kinds = {"precision": "precision", "recall": "recall", "ap": "average_precision"}
    rows = []
    for index, name in enumerate(names):
        figures = result["per_class"][name]
        bars = [(kind, figures[field]) for kind, field in kinds.items() if field in figures]
        rows.append({"index": index, "name": name, "bars": bars} | figures)
    return sorted(rows, key=lambda row: -row["true"])


# ------------------------------------------------------------------------------------- charts


def _sections(
    result: Mapping[str, Any], predictions: Predictions, names: Sequence[str]
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(id, heading, charts) of the page's sections."""
    diagnosis = result["diagnostics"]
    sections = [
        ("curves", "Curves", [
            _precision_recall(result, predictions), _reliability(result, predictions)
        ]),
        ("sets", "Label sets and their order", [
            *_diagnosed(diagnosis), *_order(diagnosis, predictions, names),
            *_co_occurrence(predictions, names)
        ]),
        ("looking", "Where it looks", _looking(result)),
    ]  # fmt: skip
    return [(id, heading, shown) for id, heading, shown in sections if shown]


def _figure(title: str, svg: str, alt: str, caption: str) -> dict[str, Any]:
    # As an image of its own: the ids and styles of several charts do not meet, and nothing in it
    # can run.
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return {"title": title, "source": source, "alt": alt, "caption": caption, "rows": None}


def _precision_recall(result: Mapping[str, Any], predictions: Predictions) -> dict[str, Any]:
    points = {
        "predicted, O-P and O-R": (result["O-R"], result["O-P"]),
        "predicted, C-P and C-R": (result["C-R"], result["C-P"]),
    }
    return _figure(
        "Precision and recall",
        charts.precision_recall(predictions.scores, predictions.truth, points, predictions.known),
        f"Precision-recall curves; mAP {result['mAP']:.1f} %",
        "Curves rank all images by the labels' scores, without interpolation. Sets that come from "
        "a search, not from a cut of these scores, need not lie on a curve.",
    )


def _reliability(result: Mapping[str, Any], predictions: Predictions) -> dict[str, Any]:
    scores, right = predictions.predicted_pairs()
    all_scores, truth = predictions.judged_pairs()
    if "slope" in (kept := result["calibration"]):
        fitted = Calibration(kept["slope"], kept["bias"])
        shown, of_all = (fitted(scores), right), ("probability", fitted(all_scores))
    else:
        sequence = predictions.judged_sequence
        emitted = sequence >= 0
        judged = predictions.truth[np.nonzero(emitted)[0], sequence[emitted]]
        shown, of_all = (predictions.probabilities[emitted], judged), ("score", all_scores)
    named = {
        "probability of predicted labels": shown,
        "score of predicted labels": (scores, right),
        f"{of_all[0]} of every label": (of_all[1], truth),
    }
    series = {
        name: (values.clip(0, 1).astype(np.float64), true)
        for name, (values, true) in named.items()
        if true.size
    }
    errors = {name: 100 * calibration_error(*values) for name, values in series.items()}
    listed = ", ".join(f"{error:.1f} points ({name})" for name, error in errors.items())
    return _figure(
        "Calibration",
        charts.reliability(series),
        f"Reliability diagram; expected calibration error {listed}",
        "Above the diagonal labels are truer than said, below it less. Larger marks stand for "
        "more labels. The probability is the one that is shown of a label: "
        + ("calibrated" if "slope" in kept else "the network's own when it was predicted")
        + f". Expected calibration error, 10 bins: {listed}.",
    )


def _diagnosed(diagnosis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By number of labels, by size of objects, and the sizes of the sets."""
    sizes = diagnosis["set_size"]
    shown = [
        _figure(
            "Sizes of the label sets",
            charts.set_sizes(sizes["predicted"]["images"], sizes["true"]["images"]),
            f"Images by number of labels: {sizes['predicted']['mean']:.2f} predicted on average, "
            f"{sizes['true']['mean']:.2f} true",
            f"On average {sizes['predicted']['mean']:.2f} labels are predicted and "
            f"{sizes['true']['mean']:.2f} are true; the two sizes of an image differ by "
            f"{sizes['mean_absolute_difference']:.2f}.",
        )
    ]
    if groups := diagnosis["by_true_labels"]:
        listed = ", ".join(f"{name}: {group['O-F1']:.1f}" for name, group in groups.items())
        shown.append(
            _figure(
                "Figures by number of true labels",
                charts.grouped_bars(
                    list(groups),
                    {f: [group[f] for group in groups.values()] for f in ("C-F1", "O-F1")},
                    "true labels of the image; below, images",
                    [group["images"] for group in groups.values()],
                ),
                f"O-F1 by number of true labels: {listed}",
                "Each group is judged by itself. Where it is small it lacks most labels, and "
                "its C-F1 says little.",
            )
        )
    if groups := diagnosis.get("recall_by_object_size"):
        listed = ", ".join(f"{name}: {group['recall']:.1f}" for name, group in groups.items())
        limits = ", ".join(
            f"{name} from {100 * low:g} %" for name, (low, _) in OBJECT_SIZES.items()
        )
        shown.append(
            _figure(
                "Recall by size of the object",
                charts.grouped_bars(
                    list(groups),
                    {"recall": [group["recall"] for group in groups.values()]},
                    "the label's largest box; below, labels",
                    [group["labels"] for group in groups.values()],
                ),
                f"Recall by object size: {listed}",
                f"By the area of the label's largest box in the image: {limits}.",
            )
        )
    return shown


def _order(
    diagnosis: Mapping[str, Any], predictions: Predictions, names: Sequence[str]
) -> list[dict[str, Any]]:
    """When labels are predicted against how frequent they are; nothing where there is no order."""
    sequence = predictions.judged_sequence
    emitted = sequence >= 0
    labels = sequence[emitted]
    positions = np.nonzero(emitted)[1] + 1
    count = np.bincount(labels, minlength=len(names))
    true = predictions.truth.sum(0)
    some = np.flatnonzero((count > 0) & (true > 0))
    if len(some) < 2:
        return []
    mean = np.bincount(labels, positions, len(names))[some] / count[some]
    order = np.argsort(mean, kind="stable")

    def listed(places: np.ndarray) -> str:
        return ", ".join(f"{names[some[i]]} ({mean[i]:.1f})" for i in places)

    taus = [
        f"{text} {values['kendall_tau']:+.2f} over {values['images']} images"
        for name, text in (("frequent_first", "frequent first"), ("large_first", "large first"))
        if (values := diagnosis["order"].get(name)) and values["kendall_tau"] is not None
    ]
    correlation = f"Kendall's τ within an image: {'; '.join(taus)}. " if taus else ""
    return [
        _figure(
            "Order of prediction and frequency",
            charts.order_against_frequency(mean, true[some], count[some]),
            f"Mean position of each label against its frequency. {correlation}",
            f"A mark a label, larger where it is predicted more often. {correlation}Earliest: "
            f"{listed(order[:4])}. Latest: {listed(order[::-1][:4])}.",
        )
    ]


def _looking(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measures of looking, each with what it stands beside; none for rows that do not attend.

    `docs/figures.md` says what they are.
    """
    looking, pointing, deletion = (result.get(x, {}) for x in ("looking", "pointing", "deletion"))

    def beside(figures: Mapping[str, float], names: Mapping[str, str], digits: int = 1) -> str:
        return ", ".join(
            f"{text} {figures[name]:.{digits}f}" for name, text in names.items() if name in figures
        )

    rows = []
    if "same_peak" in looking:
        variation = beside(looking, {"total_variation": "total variation of the maps"}, digits=2)
        peak = "Pairs of labels whose maps share their peak, %"
        rows.append((peak, cell(looking["same_peak"]), variation))
    if "attention" in pointing:
        names = {"cam": "M_map's own map", "centre": "the middle", "uniform": "an even map"}
        in_box = "Peaks in the label's box, %"
        rows.append((in_box, cell(pointing["attention"]), beside(pointing, names)))
    if "own" in deletion:
        names = {"random": "random regions", "others": "the image's other labels"}
        fall = "Fall of a label without the regions it looked at, points"
        rows.append((fall, cell(deletion["own"]), beside(deletion, names)))
    if not rows:
        return []
    return [
        {
            "title": "Measures of looking",
            "source": None,
            "head": ("Measure", "Attention", "Beside it"),
            "rows": rows,
            "caption": "A map says something of its label where labels have maps of their own, "
            "where it points better than the middle of the image and M_map's own map, and where "
            "the label falls further than without random regions and than the image's other labels "
            "do.",
        }
    ]


def _co_occurrence(predictions: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
    chosen = np.argsort(-predictions.truth.sum(0), kind="stable")[:_CO_OCCURRING]
    chosen = chosen[predictions.truth[:, chosen].any(0)]
    if len(chosen) < 2:
        return []
    shown = [names[label] for label in chosen]
    figures = []
    for kind, sets in (("true", predictions.truth), ("predicted", predictions.judged)):
        together = _together(sets[:, chosen])
        with np.errstate(invalid="ignore"):
            share = together / np.diag(together)[:, None]
        figures.append(
            _figure(
                f"Labels that occur together: {kind}",
                charts.co_occurrence(share, shown),
                f"How often the {len(shown)} most frequent labels occur together, {kind} sets",
                f"Of the images with the row's label, those that have the column's too, in the "
                f"{kind} sets; the {len(shown)} most frequent labels. Grey: a label with itself, "
                "and labels that no set holds.",
            )
        )
    true, predicted = (
        100 * _together(sets) / len(sets) for sets in (predictions.truth, predictions.judged)
    )
    first, second = np.triu_indices(len(names), 1)
    gap = (predicted - true)[first, second]
    largest = [i for i in np.argsort(-np.abs(gap), kind="stable")[:_PAIRS] if gap[i]]
    figures.append(
        {
            "title": "Pairs that are predicted too often or too seldom",
            "source": None,
            "head": ("Pair", "true", "predicted", "gap"),
            "rows": [
                (
                    f"{names[first[i]]} + {names[second[i]]}",
                    f"{true[first[i], second[i]]:.1f}",
                    f"{predicted[first[i], second[i]]:.1f}",
                    f"{gap[i]:+.1f}",
                )
                for i in largest
            ],
            "caption": "Percent of all images; the largest gaps among all pairs of labels.",
        }
    )
    return figures


def _together(sets: np.ndarray) -> np.ndarray:
    """bool[N,C] -> float64[C,C]: images that have both labels."""
    sets = sets.astype(np.float64)
    return sets.T @ sets


# ------------------------------------------------------------------------------------- gallery


def _gallery_note(examples: Sequence[Example]) -> str:
    maps = any(emitted.peak is not None for example in examples for emitted in example.emitted)
    note = (
        f"{len(examples)} images: the best and the worst by F1, then images that show as many "
        "labels as possible right, missed and wrong, drawn without a look at the images. Labels "
        "stand in the order of prediction with their probability p; wrong ones are crossed out "
        "and framed."
    )
    if any(emitted.score is not None for example in examples for emitted in example.emitted):
        note += " p is calibrated on the validation split, and the score is the raw one."
    if any(emitted.right is None for example in examples for emitted in example.emitted):
        note += " A question mark stands before a label of which nobody has said what is right."
    if maps:
        note += (
            " The overlay is the attention of the label's step; the bar of an image says what its "
            "colours stand for, in multiples of an even spread, and peak is the largest weight of "
            "a map. An image opens larger."
        )
    return note


def _card(example: Example) -> dict[str, Any]:
    def listed(right: bool) -> str:
        return " ".join(str(e.label) for e in example.emitted if e.right == right)

    return {
        "example": example,
        "image": _jpeg(example.image),
        "looks": [
            (emitted, None if emitted.overlay is None else _jpeg(emitted.overlay))
            for emitted in example.emitted
        ],
        "top": max((e.peak for e in example.emitted if e.peak is not None), default=None),
        "right": listed(True),
        "wrong": listed(False),
        "missed": " ".join(map(str, example.missed_labels)),
    }


def _labels_shown(cards: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Label -> cards where it is true or predicted."""
    counts: dict[int, int] = {}
    for card in cards:
        for label in {*f"{card['right']} {card['wrong']} {card['missed']}".split()}:
            counts[int(label)] = counts.get(int(label), 0) + 1
    return counts


def _jpeg(image: np.ndarray) -> str:
    """uint8[H,W,3] as a small data URI."""
    small = Image.fromarray(image)
    small.thumbnail((_IMAGE, _IMAGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---------------------------------------------------------------------------------- provenance


def _provenance(result: Mapping[str, Any], versions: Mapping[str, str]) -> list[tuple[str, str]]:
    config = result["config"]
    search, backbone = config["search"], config["backbone"]
    how = f"beam {search['beam_size']}, stop {search['stop']}"
    if search["decide"] == "scores":
        how = f"scores {search['scores']}"
    return [
        ("Method", result["method"]),
        ("Checkpoint", f"step {result['step']}"),
        ("Data", f"{_data_set(result)}, {result['images']} images"),
        ("Fingerprint of the split", result["fingerprint"]),
        ("τ", f"{result['threshold']:.6g} ({result['threshold_origin']})"),
        ("Search", how),
        ("Backbone", f"{backbone['name']}, weights {backbone['weights'] or 'none'}"),
        ("Images", f"{config['data']['image_size']} pixels, {config['data']['resize']}"),
        ("Seed", str(config["seed"])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
