"""What is in a user's own data set, and whether it can be used, before any training."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attn_lstm import progress
from attn_lstm.data import coco, folder, image_file, open_images, voc
from attn_lstm.data.files import images_in, locate
from attn_lstm.data.split import SPLITS
from attn_lstm.data.statistics import (
    count_labels,
    numbered,
    pair_table,
    percent,
    split_table,
    sufficient_length,
)
from attn_lstm.data.table import Table, combined, divide, roles
from attn_lstm.errors import DONE, MISTAKE
from attn_lstm.storage import read_file
from attn_lstm.text import plain_table

USABLE, NOT_USABLE = DONE, MISTAKE

_LISTED = 20  # files named under one heading


# ------------------------------------------------------------------------------- the data set


def read(path: str | os.PathLike[str], separator: str = "") -> tuple[Table, str]:
    """What lies in a folder, and the `data.name` of the reader that takes it.

    Args:
      path: of the folder.
      separator: as `data.separator`, of a label file.

    Raises:
      UserError: a mistake in the path or a label file.
    """
    root = Path(path)
    if any(os.path.isfile(root / name) for name in folder.LABEL_FILES):
        return folder.read_labels(root, separator), "folder"
    if parts := coco.find_parts(root):
        role_of, year = roles(parts.keys()), coco.coco_year(root)
        tables = [coco.read_part(parts[part], role_of[part] or None, year) for part in role_of]
        return combined(root, tables), "coco"
    if voc.find(root) is not None:
        return voc.read(root), "voc"
    if table := open_images.read(root):
        return table, "open_images"
    return folder.read_labels(root), "folder"


# --------------------------------------------------------------------------------- the labels


def describe_labels(labels: Table, rows: Mapping[str, np.ndarray], reader: str = "folder") -> str:
    """What the label file holds, as text.

    Args:
      labels: N images, C labels.
      rows: the rows of each split, int64, as `divide` gives them.
      reader: the `data.name` that reads it.
    """
    names = labels.label_names
    whole = count_labels(names, labels.labels, labels.known)
    of_split = {name: count_labels(names, labels.labels[rows[name]]) for name in SPLITS}
    sizes = whole["labels_an_image"]
    return "\n\n".join(
        [
            f"{labels.source}: {numbered(whole['images'], 'image')}, "
            f"{numbered(whole['labels'], 'label')}, read by data.name={reader}\n{_origin(labels)}"
            f"{_unknown(labels)}",
            split_table({**of_split, "all": whole}),
            f"Labels an image: {sizes['mean']:.2f} on average, {sizes['max']} at most.\n"
            + sufficient_length(sizes["max"]),
            _label_table(whole, of_split),
            pair_table(whole),
        ]
    )


def _origin(labels: Table) -> str:
    if labels.splits is None:
        return "No splits are named: test and validation are drawn as by default."
    if "validation" in labels.splits:
        return "Splits as they are named there."
    return "Splits as they are named there; validation is held out of train as by default."


def _unknown(labels: Table) -> str:
    if labels.known is None or labels.known.all():
        return ""
    return (
        f"\nOf {1 - labels.known.mean():.1%} of all labels of all images nothing is known: they "
        "teach nothing and count in no figure, or are taken for absent with data.unknown=negative."
    )


def _label_table(whole: Mapping[str, Any], of_split: Mapping[str, Mapping[str, Any]]) -> str:
    """The labels, the most frequent first, with their numbers of images in all and by split."""
    images = [
        {line["label"]: line["images"] for line in counts["frequencies"]}
        for counts in (whole, *of_split.values())
    ]
    lines = []
    for line in whole["frequencies"]:
        total, *parts = (f"{counts[line['label']]:,}" for counts in images)
        known = [f"{line['known']:,}"] if "known" in line else []
        lines.append([line["label"], total, percent(line["share"]), *parts, *known])
    last = ["known"] if "known" in whole["frequencies"][0] else []
    return plain_table([["label", "images", "share", *of_split, *last], *lines])


# --------------------------------------------------------------------------------- the images


class Findings(NamedTuple):
    """What the files are like; every image by its path from the folder.

    Attributes:
      missing: listed in the label file, but not there.
      broken: (image, why it does not decode).
      duplicates: images with the same bytes that stand in more than one split, as a group of
        (image, split).
      unlisted: images in the folder that the label file does not list.
    """

    missing: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[tuple[str, str], ...], ...]
    unlisted: tuple[str, ...]


def examine(root: str | os.PathLike[str], paths: Sequence[str], splits: Sequence[str]) -> Findings:
    """Reads and decodes every image, several at a time.

    Args:
      root: the folder.
      paths: N, as in `Table`.
      splits: of each of them.
    """
    places = locate(root, paths)
    there = {
        row: os.path.join(root, place) for row, place in enumerate(places) if place is not None
    }
    seen = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress.doing("decoding", len(there)) as shown,
    ):
        try:
            for content in pool.map(_examine, there.values()):
                seen.append(content)
                shown.advance(len(seen))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a signal does not wait for those that are left
            raise
    found = (Path(path).relative_to(root).as_posix() for path in images_in(root))
    groups: dict[str, list[tuple[str, str]]] = {}
    for row, (digest, _) in zip(there, seen, strict=True):
        if digest:
            groups.setdefault(digest, []).append((paths[row], splits[row]))
    return Findings(
        missing=tuple(path for path, place in zip(paths, places, strict=True) if place is None),
        broken=tuple((paths[row], why) for row, (_, why) in zip(there, seen, strict=True) if why),
        duplicates=tuple(
            tuple(group) for group in groups.values() if len({split for _, split in group}) > 1
        ),
        unlisted=tuple(sorted(set(found) - set(places))),
    )


def _examine(file: str) -> tuple[str, str]:
    """A hash of the file's bytes, and why it does not decode; each '' where there is none."""
    try:
        content = read_file(file)
    except OSError as error:
        return "", error.strerror or "cannot be read"
    return hashlib.sha256(content).hexdigest(), _why_not_decoded(content)


def _why_not_decoded(content: bytes) -> str:
    try:
        image_file.decode(content)
    except ValueError as error:
        return str(error)
    return ""


def describe_images(findings: Findings) -> str:
    """The findings as text: each kind counted, its first files named."""
    sections = [
        ("Missing images", map(repr, findings.missing)),
        ("Images that do not decode", (f"{i!r}: {why}" for i, why in findings.broken)),
        (
            "Images with the same content in several splits",
            (" = ".join(f"{i!r} ({name})" for i, name in group) for group in findings.duplicates),
        ),
        ("Images in the folder that no row lists", map(repr, findings.unlisted)),
    ]
    return "\n".join(_section(title, list(lines)) for title, lines in sections)


def _section(title: str, lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else []
    return "\n".join([f"{title}: {len(lines):,}", *(f"  {i}" for i in [*lines[:_LISTED], *more])])


# --------------------------------------------------------------------------------- the verdict


def obstacles(
    findings: Findings,
    labels: np.ndarray,
    rows: Mapping[str, np.ndarray],
    known: np.ndarray | None = None,
) -> list[str]:
    """What stands in the way of training and evaluating, each with its remedy; [] for nothing."""
    found = []
    if findings.missing:
        found.append(
            f"{numbered(len(findings.missing), 'missing image')} (add them, remove their rows, or "
            "set data.on_missing=skip)"
        )
    if findings.broken:
        found.append(
            f"{numbered(len(findings.broken), 'broken image')} (replace them, remove their rows, "
            "or set data.on_bad_image=skip)"
        )
    # A folder to evaluate on may hold nothing but test images.
    if len(rows["train"]) and not len(rows["validation"]):
        found.append("no validation image (mark rows with it, or raise data.validation_fraction)")
    for name in SPLITS:
        if len(rows[name]) and not labels[rows[name]].any():
            found.append(
                f"no label in the {name} split, of {numbered(len(rows[name]), 'image')} (mark "
                "other rows for it, or have another part drawn with data.split_seed or "
                "data.validation_fraction)"
            )
        elif known is not None and _lacks_absent(labels[rows[name]], known[rows[name]]):
            found.append(
                f"no label that is known to be absent in the {name} split (write 0 for those, or "
                "set data.unknown=negative)"
            )
    return found


def _lacks_absent(labels: np.ndarray, known: np.ndarray) -> bool:
    """Whether some labels are not known, and none is known to be absent, of bool[N,C] each."""
    return not known.all() and bool(labels[known].all())


def remarks(findings: Findings, names: Sequence[str]) -> list[str]:
    """What stands in nobody's way and may still be a mistake; [] for nothing."""
    found = []
    if groups := near_equal(names):
        listed = "; ".join(" = ".join(map(repr, group)) for group in groups[:_LISTED])
        more = "; ..." if len(groups) > _LISTED else ""
        found.append(f"labels that differ in their spelling alone ({listed}{more})")
    if findings.duplicates:
        count = numbered(len(findings.duplicates), "image")
        found.append(f"{count} with the same content in several splits")
    if findings.unlisted:
        found.append(f"{numbered(len(findings.unlisted), 'image')} that no row lists")
    return found


def near_equal(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of labels that are one to a reader who overlooks case, spaces, signs and forms."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        letters = "".join(filter(str.isalnum, plain)) or plain
        groups.setdefault(letters, []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def verdict(found: Sequence[str], noted: Sequence[str]) -> str:
    """All that was found, in one line."""
    text = f"Not usable as it is: {'; '.join(found)}" if found else "Usable"
    return f"{text}. To be looked at: {'; '.join(noted)}." if noted else f"{text}."


def check(path: str, separator: str = "") -> int:
    """Prints the report on a folder; returns the exit code. The arguments are those of `read`.

    Raises:
      UserError: a mistake in the path or the label file.
    """
    with progress.doing("reading the labels"):
        table, reader = read(path, separator)
    rows = divide(table.splits, len(table.paths))
    print(describe_labels(table, rows, reader), end="\n\n", flush=True)  # decoding takes minutes
    split_of = np.empty(len(table.paths), object)
    for name, of_split in rows.items():
        split_of[of_split] = name
    findings = examine(table.root, table.paths, split_of.tolist())
    print(describe_images(findings), end="\n\n")
    found = obstacles(findings, table.labels, rows, table.known)
    print(verdict(found, remarks(findings, table.label_names)))
    return NOT_USABLE if found else USABLE


if __name__ == "__main__":
    from attn_lstm.commands import run

    run("check")
