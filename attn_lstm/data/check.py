"""Tells what is in a user's own data set, and whether it can be used, before any training.

    python -m attn_lstm.data.check FOLDER

Reads the label file (`folder` says what it looks like) and decodes every image that it names.
Splits that the file leaves open are drawn as the default config draws them. Exit codes: 0 usable, 2
not: a mistake in the path or the label file (one line on stderr), or, below the report, images that
are missing or do not decode.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from attn_lstm.data.folder import SPLITS, Labels, are_present, divide, read_labels
from attn_lstm.errors import UserError

USABLE, NOT_USABLE = 0, 2

_FORMATS = ("JPEG", "PNG", "BMP", "GIF")  # those that the pipeline decodes
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_PAIRS = 10  # co-occurrences shown
_LISTED = 20  # files named under one heading


# --------------------------------------------------------------------------------- the labels


def describe_labels(labels: Labels, rows: Mapping[str, np.ndarray]) -> str:
    """What the label file holds, as text.

    Args:
        labels: N images, C labels.
        rows: the rows of each split, int64, as `divide` gives them.
    """
    sizes = labels.labels.sum(axis=1)
    return "\n\n".join(
        [
            f"{labels.file}: {_count(len(sizes), 'image')}, "
            f"{_count(len(labels.label_names), 'label')}\n{_origin(labels)}",
            _split_table(labels.labels, rows),
            f"Labels an image: {sizes.mean():.2f} on average, {sizes.max()} at most.\n"
            f"--config.decoder.max_labels={sizes.max()} is enough for all of them.",
            _label_table(labels, rows),
            _pair_table(labels),
        ]
    )


def _origin(labels: Labels) -> str:
    if labels.splits is None:
        return "The file names no splits: test and validation are drawn as by default."
    if "validation" in labels.splits:
        return "Splits as the file names them."
    return "Splits as the file names them; validation is held out of train as by default."


def _split_table(labels: np.ndarray, rows: Mapping[str, np.ndarray]) -> str:
    def line(name: str, part: np.ndarray) -> list[str]:
        mean = f"{part.sum() / len(part):.2f}" if len(part) else "-"
        return [name, f"{len(part):,}", f"{(~part.any(axis=1)).sum():,}", mean]

    lines = [line(name, labels[rows[name]]) for name in SPLITS]
    head = ["split", "images", "without a label", "labels an image"]
    return aligned([head, *lines, line("all", labels)])


def _label_table(labels: Labels, rows: Mapping[str, np.ndarray]) -> str:
    counts = labels.labels.sum(axis=0)
    of_split = np.stack([labels.labels[rows[name]].sum(axis=0) for name in SPLITS], axis=1)
    lines = [
        [
            labels.label_names[label],
            f"{counts[label]:,}",
            f"{counts[label] / len(labels.labels):.1%}",
            *(f"{count:,}" for count in of_split[label]),
        ]
        for label in np.argsort(-counts, kind="stable")
    ]
    return aligned([["label", "images", "share", *SPLITS], *lines])


def _pair_table(labels: Labels) -> str:
    """The pairs of labels that are most often on one image."""
    ones = labels.labels.astype(np.float32)  # exact up to 2**24 images, and much faster than int
    together = np.triu(ones.T @ ones, k=1).astype(np.int64)
    order = np.argsort(-together, axis=None, kind="stable")[:_PAIRS]
    pairs = np.stack(np.unravel_index(order, together.shape), axis=1)
    lines = [
        [
            f"{labels.label_names[first]} + {labels.label_names[second]}",
            f"{together[first, second]:,}",
            f"{together[first, second] / len(ones):.1%}",
        ]
        for first, second in pairs
        if together[first, second]
    ]
    if not lines:
        return "No image has two labels."
    return aligned([["most often together", "images", "share"], *lines])


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


def examine(
    root: str | os.PathLike[str], image_ids: Sequence[str], rows: Mapping[str, np.ndarray]
) -> Findings:
    """Reads and decodes every image, several at a time.

    Args:
        root: the folder.
        image_ids: N paths, as in `Labels`.
        rows: the rows of each split, int64.
    """
    present = are_present(root, image_ids)
    there = [image_id for image_id, is_there in zip(image_ids, present, strict=True) if is_there]
    # Pillow warns of much that is no obstacle. Not inside the threads: filters are global.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        seen = list(pool.map(lambda image_id: _examine(os.path.join(root, image_id)), there))
    split_of = {image_ids[row]: name for name in SPLITS for row in rows[name]}
    groups: dict[str, list[tuple[str, str]]] = {}
    for image_id, (digest, _) in zip(there, seen, strict=True):
        if digest:
            groups.setdefault(digest, []).append((image_id, split_of[image_id]))
    return Findings(
        missing=tuple(i for i, is_there in zip(image_ids, present, strict=True) if not is_there),
        broken=tuple((i, why) for i, (_, why) in zip(there, seen, strict=True) if why),
        duplicates=tuple(
            tuple(group) for group in groups.values() if len({split for _, split in group}) > 1
        ),
        unlisted=tuple(sorted(set(_images_in(root)) - set(image_ids))),
    )


def _examine(file: str) -> tuple[str, str]:
    """A hash of the file's bytes, and why it does not decode; each '' where there is none."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        return "", error.strerror or "cannot be read"
    return hashlib.sha256(content).hexdigest(), _why_not_decoded(content)


def _why_not_decoded(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image.load()
    except Image.UnidentifiedImageError:
        return f"none of {', '.join(_FORMATS)}"
    except Exception as error:  # on damaged files Pillow raises of every kind
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _images_in(root: str | os.PathLike[str]) -> Iterator[str]:
    """What looks like an image under `root`, hidden files and folders left out."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


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


def obstacles(findings: Findings, rows: Mapping[str, np.ndarray]) -> list[str]:
    """What stands in the way of training and evaluating, each with its remedy; [] for nothing."""
    found = []
    if findings.missing:
        found.append(
            f"{_count(len(findings.missing), 'missing image')} (add them, remove their rows, or "
            "set data.on_missing=skip)"
        )
    if findings.broken:
        found.append(
            f"{_count(len(findings.broken), 'broken image')} (replace them, remove their rows, or "
            "set data.on_bad_image=skip)"
        )
    # A folder to evaluate on may hold nothing but test images.
    if len(rows["train"]) and not len(rows["validation"]):
        found.append("no validation image (mark rows with it, or raise data.validation_fraction)")
    return found


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def aligned(lines: Iterable[Sequence[str]]) -> str:
    """A table: the first column to the left, the others, which hold figures, to the right."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )


def check(path: str) -> int:
    """Prints the report on a folder; returns the exit code.

    Raises:
        UserError: a mistake in the path or the label file.
    """
    labels = read_labels(path)
    rows = divide(labels)
    print(describe_labels(labels, rows), end="\n\n", flush=True)  # decoding may take minutes
    findings = examine(path, labels.image_ids, rows)
    print(describe_images(findings), end="\n\n")
    found = obstacles(findings, rows)
    print(f"Not usable as it is: {'; '.join(found)}." if found else "Usable.")
    return NOT_USABLE if found else USABLE


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the folder that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attn_lstm.data.check",
        description="Tells what is in a folder of labelled images, and whether it can be used.",
    )
    parser.add_argument("path", help="the folder, with labels.csv or labels.jsonl in it")
    # Names that the terminal cannot show are no reason to stop.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return check(parser.parse_args(argv).path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_USABLE


if __name__ == "__main__":
    sys.exit(main())
