"""The paper's Figure 3 for one image: its labels in the order of prediction, with the attention.

Lengths are in points (1/72 inch). Text is measured before the figure gets its size, so however
long the names are and however many there are of them, lines wrap and rows grow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from attn_lstm.reports import fonts
from attn_lstm.reports.gallery import Emitted, Example

# A mark beside the colour, for print and for the colour-blind; the last where truth is not known.
RIGHT, WRONG, UNKNOWN = "✓", "✗", "?"
DPI = 150
COLUMNS = 5  # the image and four labels, then rows of five

_CELL, _GAP, _MARGIN = 126.0, 12.0, 12.0
_TALLEST = 1.5 * _CELL  # of an image
_INDENT = 54.0  # of the label lists behind 'True' and 'Missed'
_LEADING = 1.3  # line height, as a multiple of the font's size
_SLACK = 0.96  # of a line's width that is filled: rendered glyphs are rounded to pixels
_INK, _GREY, _RED = "#1a1a1a", "#555555", "#c00020"
_NOTE = (
    "In the order of prediction, with probability p and the attention of the step; colours run "
    "from 0 to the largest weight of the image's maps. Peak: a map's largest weight over an even "
    "spread's."
)
_NOTE_WITHOUT_MAPS = "Labels in the order of prediction, each with its probability."


def _font(size: float, bold: bool = False) -> FontProperties:
    return FontProperties(family=fonts.OWN, size=size, weight="bold" if bold else "normal")


_HEAD, _NAME, _LIST, _SMALL = _font(10, True), _font(8.5, True), _font(8.5), _font(7)


def draw(example: Example, columns: int = COLUMNS) -> Figure:
    """A figure of one image: true labels, predictions in their order with attention, missed ones.

    Wrong labels are red, carry a cross, and have a dashed red frame. Rows of the tables without
    attention get a list in the place of the maps. Characters that no font of the machine has are
    spelled out, with a note.
    """
    given, example = example, _legible(example)
    page = _Page(columns)
    page.paragraph(f"{example.image_id} · F1 {100 * example.f1:.0f} %", _HEAD)
    page.entry("True", ", ".join(example.true) or "none")
    page.skip(_GAP / 2)
    cells = [
        _Cell(emitted.overlay, _caption(step, emitted), wrong=emitted.right is False)
        for step, emitted in enumerate(example.emitted, 1)
        if emitted.overlay is not None
    ]
    if cells:
        cells.insert(0, _Cell(example.image, [("image", _SMALL, _GREY)]))
        for first in range(0, len(cells), columns):
            page.row(cells[first : first + columns])
        note = _NOTE
    else:
        lines = [_caption(step, emitted) for step, emitted in enumerate(example.emitted, 1)]
        page.row([_Cell(example.image, [])])
        for step, (name, detail) in enumerate(lines, 1):
            page.entry("Predicted" if step == 1 else "", f"{name[0]} · {detail[0]}", name[2])
        if not lines:
            page.entry("Predicted", "none")
        note = _NOTE_WITHOUT_MAPS
    page.entry("Missed", ", ".join(example.missed) or "none")
    page.skip(_GAP / 3)
    page.paragraph(note if example is given else f"{note} {fonts.SPELLED_OUT}", _SMALL, _GREY)
    return page.figure()


def _legible(example: Example) -> Example:
    """With names that can be drawn; the same object where all can."""
    names = (example.image_id, *example.true, *(emitted.name for emitted in example.emitted))
    if all(fonts.legible(name) == name for name in names):
        return example
    return dataclasses.replace(
        example,
        image_id=fonts.legible(example.image_id),
        true=tuple(map(fonts.legible, example.true)),
        missed=tuple(map(fonts.legible, example.missed)),
        emitted=tuple(
            dataclasses.replace(emitted, name=fonts.legible(emitted.name))
            for emitted in example.emitted
        ),
    )


def render(figure: Figure, dpi: int = DPI) -> np.ndarray:
    """The pixels of a figure, uint8[H,W,3], so many an inch."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sheet(sections: Mapping[str, Sequence[np.ndarray]], title: str) -> np.ndarray:
    """One page of all figures: a heading for each section, and two figures beside each other.

    Args:
      sections: heading -> figures as `render` gives them, uint8[H,W,3]; empty ones are left out.
      title: over the page.

    Returns:
      uint8[H,W,3].
    """
    width = 2 * max(figure.shape[1] for figures in sections.values() for figure in figures)
    parts = [_heading(title, width, 15)]
    for heading, figures in sections.items():
        if not len(figures):
            continue
        parts.append(_heading(heading, width, 12))
        for first in range(0, len(figures), 2):
            pair = figures[first : first + 2]
            row = np.full((max(len(figure) for figure in pair), width, 3), 255, np.uint8)
            for place, figure in enumerate(pair):
                left = place * width // 2
                row[: figure.shape[0], left : left + figure.shape[1]] = figure
            parts.append(row)
    return np.concatenate(parts)


def _heading(text: str, width: int, size: float) -> np.ndarray:
    """uint8[H,width,3]."""
    page = _Page(COLUMNS, width=72 * width / DPI)
    page.paragraph(fonts.legible(text), _font(size, True))
    pixels = render(page.figure())
    strip = np.full((len(pixels), width, 3), 255, np.uint8)
    strip[:, : pixels.shape[1]] = pixels[:, :width]
    return strip


_Line = tuple[str, FontProperties, str]  # text, font, colour


_VERDICTS = {True: (RIGHT, _INK), False: (WRONG, _RED), None: (UNKNOWN, _INK)}


def _caption(step: int, emitted: Emitted) -> list[_Line]:
    mark, colour = _VERDICTS[emitted.right]
    detail = f"p {emitted.probability:.2f}"
    if emitted.peak is not None:
        detail += f" · peak {emitted.peak:.1f}"
    return [(f"{step} {mark} {emitted.name}", _NAME, colour), (detail, _SMALL, _GREY)]


class _Cell:
    """An image with its caption."""

    def __init__(self, image: np.ndarray, lines: Sequence[_Line], wrong: bool = False):
        self.image, self.wrong = image, wrong
        self.lines = [
            (piece, fonts.fitting(font, text), colour)
            for text, font, colour in lines
            for piece in wrap(text, fonts.fitting(font, text), _CELL)
        ]
        height, width = image.shape[:2]
        scale = min(_CELL / width, _TALLEST / height)
        self.width, self.height = width * scale, height * scale

    @property
    def caption_height(self) -> float:
        return sum(_LEADING * font.get_size() for _, font, _ in self.lines)


class _Page:
    """Takes what a figure shows from top to bottom, and makes the figure when its height is known.

    Args:
      columns: cells a row.
      width: None for that of the columns.
    """

    def __init__(self, columns: int, width: float | None = None):
        self._width = width or columns * _CELL + (columns - 1) * _GAP + 2 * _MARGIN
        self._top = _MARGIN
        self._texts: list[tuple[float, float, _Line]] = []
        self._images: list[tuple[float, float, _Cell]] = []

    def skip(self, height: float) -> None:
        self._top += height

    def paragraph(self, text: str, font: FontProperties, colour: str = _INK) -> None:
        font = fonts.fitting(font, text)
        for piece in wrap(text, font, self._width - 2 * _MARGIN):
            self._line(_MARGIN, (piece, font, colour))

    def entry(self, head: str, text: str, colour: str = _INK) -> None:
        """A head in bold, and text that wraps to the right of it."""
        self._texts.append((_MARGIN, self._top, (head, _NAME, _INK)))
        font = fonts.fitting(_LIST, text)
        for piece in wrap(text, font, self._width - 2 * _MARGIN - _INDENT):
            self._line(_MARGIN + _INDENT, (piece, font, colour))

    def row(self, cells: Sequence[_Cell]) -> None:
        caption = max(cell.caption_height for cell in cells)
        start = self._top
        for column, cell in enumerate(cells):
            left = _MARGIN + column * (_CELL + _GAP)
            self._top = start + caption - cell.caption_height  # captions stand on their images
            for line in cell.lines:
                self._line(left, line)
            self._images.append((left, start + caption + 2, cell))
        self._top = start + caption + 2 + max(cell.height for cell in cells) + _GAP

    def _line(self, left: float, line: _Line) -> None:
        self._texts.append((left, self._top, line))
        self._top += _LEADING * line[1].get_size()

    def figure(self) -> Figure:
        width, height = self._width, self._top + _MARGIN / 2
        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            figure = Figure((width / 72, height / 72), dpi=DPI, facecolor="white")
            for left, top, (text, font, colour) in self._texts:
                figure.text(
                    left / width,
                    1 - (top + font.get_size()) / height,
                    text,
                    fontproperties=font,
                    color=colour,
                    va="baseline",
                    parse_math=False,  # names may hold dollar signs
                )
            for left, top, cell in self._images:
                box = (left, height - top - cell.height, cell.width, cell.height)
                axes = figure.add_axes((box[0] / width, box[1] / height,
                                        box[2] / width, box[3] / height))  # fmt: skip
                axes.imshow(cell.image, aspect="auto", interpolation="antialiased")
                axes.set_axis_off()
                if cell.wrong:
                    frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False,
                                      edgecolor=_RED, linewidth=3, linestyle=(0, (3, 1.5)),
                                      clip_on=False)  # fmt: skip
                    axes.add_artist(frame)
        return figure


def wrap(text: str, font: FontProperties, width: float) -> list[str]:
    """Lines no wider than `width` points, broken at spaces; a longer word is broken anywhere."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if _fits(joined, font, width):
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and not _fits(lines[-1] + letter, font, width):
                lines.append("")
            lines[-1] += letter
    return lines


def _fits(text: str, font: FontProperties, width: float) -> bool:
    measured, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return measured <= _SLACK * width
