"""`predict.py`'s work: paths in, one line an image out, and its attention maps as a picture."""

from __future__ import annotations

import codecs
import contextlib
import glob
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import ml_collections

from attn_lstm import progress
from attn_lstm.data import web
from attn_lstm.data.files import as_utf8
from attn_lstm.data.images import images_of
from attn_lstm.errors import UserError
from attn_lstm.serving.lines import (
    Writer,
    coco_writer,
    csv_writer,
    jsonl_writer,
    parquet_writer,
    record,
)
from attn_lstm.serving.model import Model, open_model
from attn_lstm.serving.results import ImagePrediction
from attn_lstm.storage import writing

_STDIN = "-"


def predict_images(
    config: ml_collections.ConfigDict,
    directory: Path,
    step: str,
    arguments: Sequence[str],
    *,
    batch_size: int | None,
    form: str,
    output: Path | None,
    overlays: Path | None,
) -> None:
    """Writes one line an image, in the order of the arguments, while later ones are computed.

    Of an image that cannot be read the line says why, and the rest goes on.

    Args:
      config: of the run, with overrides.
      directory: the work directory.
      step: of the checkpoint: a number, 'best' or 'latest'.
      arguments: files, URLs, folders, patterns, and '-' for a list on standard input.
      batch_size: images at once; None for the config's.
      form: jsonl, csv, coco or parquet.
      output: the file to write; None for standard output.
      overlays: folder for one PNG an image; None for no pictures.

    Raises:
      UserError: an argument that names no image, a mistake in config or directory, a file that
        cannot be written, or not one image that could be read.
    """
    images, total = find_images(arguments)
    with progress.doing("reading the checkpoint"):
        model = open_model(config, directory, step, total)
    pictures = None if overlays is None else _Pictures(overlays, model)
    named, given = itertools.tee(images)
    count, bad = 0, []
    with _writer(form, output, model.label_names) as write:
        outcomes = zip(named, model.predict_stream(given, batch_size), strict=True)
        with progress.doing("predicting", total) as shown:
            for image, outcome in outcomes:
                entry = record(image, outcome)
                if isinstance(outcome, UserError):
                    bad.append(outcome)
                elif pictures is not None:
                    entry["overlay"] = pictures.draw(image, outcome)
                write(entry)
                count += 1
                shown.advance(count)
        if not count:
            raise UserError("standard input names no image: give one path a line")
        if len(bad) == count:
            raise UserError(f"none of {count} images could be read; the first: {bad[0]}")
        if bad:
            summary = f"{len(bad)} of {count} images could not be read; their lines say why"
            print(summary, file=sys.stderr)
    places = [str(place) for place in (output, overlays) if place is not None]
    if places:
        print(f"{count} images: written to {' and '.join(places)}", file=sys.stderr)


# ---------------------------------------------------------------------------------- the inputs


def find_images(arguments: Sequence[str]) -> tuple[Iterator[str], int | None]:
    """The paths that the arguments name, in their order, and their number if it is known.

    Standard input is read line by line as the paths are taken; all else is looked up now.

    Raises:
      UserError: no argument, or one that names no image.
    """
    if not arguments:
        raise UserError("no images: give files, folders, patterns, or - for a list on stdin")
    lists = [_lines_of_stdin() if a == _STDIN else _list_images(a) for a in arguments]
    known = [len(paths) for paths in lists if isinstance(paths, list)]
    total = sum(known) if len(known) == len(lists) else None
    return itertools.chain.from_iterable(lists), total


def _list_images(argument: str) -> list[str]:
    """A file or URL; a folder's images, sorted; or the files of a pattern, sorted."""
    if os.path.isdir(argument):
        return images_of(argument)
    if os.path.exists(argument) or web.is_url(argument):
        return [argument]
    found = sorted(filter(os.path.isfile, glob.glob(_pattern(argument), recursive=True)))
    if not found:
        raise UserError(f"{argument} is no file and no folder, and as a pattern matches no file")
    return found


def _pattern(argument: str) -> str:
    """The argument with the folders that exist by their names taken as these names."""
    place, parts = "", argument.split(os.sep)
    while len(parts) > 1 and os.path.isdir(os.path.join(place, parts[0] + os.sep)):
        place = os.path.join(place, parts.pop(0) + os.sep)
    return os.path.join(glob.escape(place), *parts)


def _lines_of_stdin() -> Iterator[str]:
    lines = iter(sys.stdin.buffer)
    first = next(lines, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # not read line by line
        first, *rest = as_utf8(first + sys.stdin.buffer.read()).split(b"\n")
        lines = iter(rest)
    for line in itertools.chain([first.removeprefix(codecs.BOM_UTF8)], lines):
        # The bytes are a file's name, whatever encoding the terminal has.
        if path := os.fsdecode(line.rstrip(b"\r\n")):
            yield path


# --------------------------------------------------------------------------------- the outputs


class _Pictures:
    """One PNG an image: the image itself, then the attention map of each of its labels."""

    def __init__(self, folder: Path, model: Model):
        if not model.attends:
            raise UserError(f"--overlays: {model.config.method!r} has no attention maps to draw")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._taken: set[str] = set()

    def draw(self, image: str, prediction: ImagePrediction) -> str:
        """Returns the path of the PNG."""
        path = self._folder / self._name(image)
        picture = prediction.plot()
        with writing(path):
            picture.save(path)
        return str(path)

    def _name(self, image: str) -> str:
        """The image's name in plain characters; a number tells those of one name apart."""
        plain = re.sub(r"[^\w.-]", "_", os.path.basename(image), flags=re.ASCII)[-200:]
        numbered = (f"{plain}-{number}.png" for number in itertools.count(2))
        names = itertools.chain([f"{plain}.png"], numbered)
        # Some file systems do not tell capitals apart.
        name = next(name for name in names if name.casefold() not in self._taken)
        self._taken.add(name.casefold())
        return name


@contextlib.contextmanager
def _writer(form: str, output: Path | None, label_names: Sequence[str]) -> Iterator[Writer]:
    """What writes the predictions of an image, in a form of `predict_images`.

    Raises:
      UserError: the file cannot be written, or the form needs one.
    """
    if form == "parquet":
        if output is None:
            raise UserError("--format=parquet is no text: give a file with --output")
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            with parquet_writer(output) as write:
                yield write
        return
    with _opened(output) as stream:
        if form == "coco":
            with coco_writer(stream, label_names) as write:
                yield write
        else:
            yield csv_writer(stream, label_names) if form == "csv" else jsonl_writer(stream)


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """A file to write, or standard output.

    Raises:
      UserError: the file cannot be written.
    """
    if path is not None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
                yield file
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    yield sys.stdout
