"""Draws an evaluation into files: images with their attention, and the HTML page."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
import numpy as np
from PIL import Image

from attn_lstm import storage
from attn_lstm.data.split import Split
from attn_lstm.errors import UserError
from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.predictions import Predictions

if TYPE_CHECKING:
    from attn_lstm.reports.gallery import Example

# The modules that draw are imported by those who draw: they take a second.

_ON_PAGE = 8  # figures of a kind on the page of them all
_IN_REPORT = 6  # of the best and of the worst images, unless it is said otherwise
_NAME_LENGTH = 100  # of an image's name in a file's name
_PACKAGES = ("attn_lstm", "jax", "flax", "numpy")


def rows_of(data: Split, image_ids: Sequence[str]) -> list[int]:
    """The rows of images by name, each once. Raises `UserError` for one that is not there."""
    rows = {name: row for row, name in enumerate(data.image_ids)}
    for name in image_ids:
        if name not in rows:
            near = difflib.get_close_matches(name, data.image_ids, n=1, cutoff=0)[0]
            raise UserError(
                f"--figure_ids={name}: the {data.name} split of {data.dataset} holds no such "
                f"image; the nearest name is {near}"
            )
    return [rows[name] for name in dict.fromkeys(image_ids)]


class Examples:
    """What is drawn of the images of a split, each read once.

    Args:
      config: of the run.
      data: the split.
      predictions: of all its images that could be read.
      maps: their attention, float[N,T,K], or None.
      fitted: what makes probabilities of scores, if it is known.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        data: Split,
        predictions: Predictions,
        maps: np.ndarray | None,
        fitted: Calibration | None = None,
    ):
        self.data, self.predictions = data, predictions
        self._config, self._maps = config, maps
        self._scores = None if fitted is None else predictions.sequence_scores
        self._probabilities = (
            predictions.probabilities if fitted is None else fitted(predictions.sequence_scores)
        )
        self._made: dict[int, Example] = {}

    def indices(self, rows: Sequence[int]) -> np.ndarray:
        """Where rows of the split stand in the predictions, int64[M].

        Raises:
          UserError: one that has no prediction, because its image could not be read.
        """
        seen = {int(row): i for i, row in enumerate(self.predictions.image_id)}
        for row in rows:
            if row not in seen:
                raise UserError(
                    f"--figure_ids={self.data.image_ids[row]}: "
                    f"{self.data.images.name(row)} could not be read"
                )
        return np.array([seen[row] for row in rows], np.int64)

    def of(self, indices: Iterable[int]) -> list[Example]:
        """In the order of the indices. Raises `UserError` for an image that cannot be read."""
        from attn_lstm.data.originals import read_originals
        from attn_lstm.reports.gallery import make_example

        indices = [int(i) for i in indices]
        new = [i for i in dict.fromkeys(indices) if i not in self._made]
        rows = [int(self.predictions.image_id[i]) for i in new]
        images = read_originals(self.data, rows, self._config.data.max_pixels)
        for i, row, image in zip(new, rows, images, strict=True):
            self._made[i] = make_example(
                self.data.image_ids[row],
                image,
                self.data.label_names,
                (
                    self.predictions.sequence[i],
                    self._probabilities[i],
                    None if self._maps is None else self._maps[i],
                ),
                self.predictions.truth[i],
                self._config.data.resize,
                None if self.predictions.known is None else self.predictions.known[i],
                None if self._scores is None else self._scores[i],
            )
        return [self._made[i] for i in indices]


def write_figures(
    folder: Path, result: Mapping[str, Any], examples: Examples, count: int, rows: Sequence[int]
) -> None:
    """A PNG an image, and overview.png with the first of each kind; those of an earlier call go.

    Args:
      folder: is made when missing.
      result: of the evaluation, as in its JSON file.
      examples: of the split.
      count: how many of the best and of the worst images.
      rows: other images to draw, by row of the split.

    Raises:
      UserError: an image cannot be read.
    """
    from attn_lstm.reports import attention_figure
    from attn_lstm.reports.gallery import best_and_worst

    best, worst = best_and_worst(examples.predictions, count)
    chosen = {"best": best, "worst": worst, "asked": examples.indices(rows)}
    folder.mkdir(parents=True, exist_ok=True)
    for kind in (*chosen, "overview"):
        for path in folder.glob(f"{kind}*.png"):
            path.unlink()
    page: dict[str, list[np.ndarray]] = {}
    for kind, indices in chosen.items():
        for place, index in enumerate(indices, 1):
            (example,) = examples.of([index])
            pixels = attention_figure.render(attention_figure.draw(example))
            _save_png(folder / f"{kind}-{place:02}-{_file_name(example.image_id)}.png", pixels)
            if place <= _ON_PAGE:
                page.setdefault(kind.capitalize(), []).append(pixels)
    title = (
        f"{result['method']} on {result['dataset']} {result['split']}, step {result['step']}, "
        f"τ = {result['threshold']:.3f}"
    )
    _save_png(folder / "overview.png", attention_figure.sheet(page, title))


def _file_name(image_id: str) -> str:
    """What file systems take of an image's name, without its ending."""
    name = re.sub(r"\.(jpe?g|png|bmp|gif)$", "", image_id, flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "_", name)[-_NAME_LENGTH:]


def _save_png(path: Path, pixels: np.ndarray) -> None:
    from attn_lstm.reports.attention_figure import DPI

    Image.fromarray(pixels).save(path, dpi=(DPI, DPI))


def write_report(
    path: Path,
    result: Mapping[str, Any],
    examples: Examples,
    count: int,
    command: str,
    images: int | None = None,
) -> None:
    """The HTML page of an evaluation.

    Args:
      path: of the file.
      result: of the evaluation, as in its JSON file.
      examples: of the split.
      count: how many of the best and of the worst images to begin the gallery with; 0 for a few.
      command: that makes the page again.
      images: in the gallery; None for as many as a page of a few megabytes holds.

    Raises:
      UserError: an image cannot be read.
    """
    from attn_lstm.reports import gallery, html

    best_and_worst = gallery.best_and_worst(examples.predictions, count or _IN_REPORT)
    shown = gallery.covering(
        examples.predictions, np.concatenate(best_and_worst), images or html.GALLERY_IMAGES
    )
    page = html.render_report(
        result,
        examples.predictions,
        examples.data.label_names,
        examples.of(shown),
        command,
        {name: import_module(name).__version__ for name in _PACKAGES},
    )
    storage.write_text(path, page)
