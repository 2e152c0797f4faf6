"""The report's charts as SVG: sizes and colours for a page, a phone and a printer."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve

from attn_lstm.measures.calibration import reliability_bins
from attn_lstm.reports import fonts

# Of Okabe and Ito, who chose colours that the colour-blind tell apart; and none without a mark,
# a line style or a hatch of its own.
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a919b"

_SIZE = (4.7, 3.5)  # inches
_CURVE_POINTS = 150  # of a curve; more would not be seen, and weigh
_LEGIBLE_CURVES = 25  # of labels; more are shown as a band
_MAX_CURVES = 100  # of single labels, the most frequent
_LEAST_TRUE = 5  # images of a label that has a curve; fewer give a staircase
_MAX_NAME = 16  # letters of a label on an axis
_STYLE = {
    **matplotlib.rcParamsDefault,
    "font.family": fonts.OWN,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,  # names may hold dollar signs
    "svg.hashsalt": "attn_lstm",  # equal figures are equal bytes
}


def chart(draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE) -> str:
    """What `draw` puts on its axes, as the text of an SVG file."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(size, layout="constrained", facecolor="white")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


# ------------------------------------------------------------------------------ precision, recall


def precision_recall(
    scores: np.ndarray,
    truth: np.ndarray,
    points: dict[str, tuple[float, float]],
    known: np.ndarray | None = None,
) -> str:
    """Curves of every label, of all of them together, and what was predicted.

    Args:
      scores: float[N,C]; truth: bool[N,C].
      points: name -> (recall, precision) in percent, of the predicted sets.
      known: bool[N,C], the labels that count; None for all.
    """
    counts = np.ones(truth.shape, bool) if known is None else known

    def draw(axes: Axes) -> None:
        _f1_lines(axes)
        frequent = np.argsort(-truth.sum(0), kind="stable")[:_MAX_CURVES]
        drawn = frequent[truth[:, frequent].sum(0) >= _LEAST_TRUE]
        if len(drawn) > _LEGIBLE_CURVES:
            _band(axes, truth[:, drawn], scores[:, drawn], counts[:, drawn])
        else:
            for label in drawn:
                of = counts[:, label]
                _curve(axes, truth[of, label], scores[of, label], color=GREY, lw=0.6, alpha=0.35)
            axes.plot([], [], color=GREY, lw=1, label=f"each of {_LEAST_TRUE} images or more")
        _curve(axes, truth[counts], scores[counts], color=BLUE, lw=2.2, label="all labels together")
        for (name, (recall, precision)), marker in zip(points.items(), "o^", strict=False):
            axes.plot(recall, precision, marker, color=ORANGE, ms=9, mec="white", label=name)
        axes.set(xlim=(0, 100), ylim=(0, 102), xlabel="recall, %", ylabel="precision, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return chart(draw, (4.7, 3.9))


def _f1_lines(axes: Axes) -> None:
    recall = np.linspace(1, 100, 200)
    axes.grid(False)
    for f1 in (20, 40, 60, 80):
        with np.errstate(divide="ignore"):
            precision = f1 * recall / (2 * recall - f1)
        seen = (precision > 0) & (precision <= 100)
        axes.plot(recall[seen], precision[seen], color="#c9ced6", lw=0.8, ls=":", zorder=0)
        axes.annotate(f"F1 {f1}", (99, f1 * 99 / (198 - f1)), color=GREY, fontsize=7, ha="right")


def _band(axes: Axes, truth: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> None:
    """Of many labels the median, and what lies between the tenth and the ninetieth of a hundred."""
    grid = np.linspace(0, 1, _CURVE_POINTS)
    precisions = []
    for label in range(truth.shape[1]):
        of = counts[:, label]
        precision, recall, _ = precision_recall_curve(truth[of, label], scores[of, label])
        # The first cut, from the strictest on, that reaches the recall.
        precisions.append(precision[np.searchsorted(-recall, -grid, side="right") - 1])
    low, median, high = np.percentile(precisions, [10, 50, 90], axis=0) * 100
    name = f"80 % of {len(precisions)} labels"
    axes.fill_between(100 * grid, low, high, color=GREY, alpha=0.18, lw=0, label=name)
    axes.plot(100 * grid, median, color=GREY, lw=1.6, label="their median")


def _curve(axes: Axes, truth: np.ndarray, scores: np.ndarray, **style: Any) -> None:
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    # Evenly along the recall, where a curve of many images has most of its points at its start.
    places = np.searchsorted(-recall, -np.linspace(1, 0, _CURVE_POINTS)).clip(0, len(recall) - 1)
    keep = np.unique(places)
    axes.plot(100 * recall[keep], 100 * precision[keep], drawstyle="steps-post", **style)


# ------------------------------------------------------------------------------------- calibration


def reliability(series: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """How often a label with a probability is true, against that probability.

    Args:
      series: name -> probabilities float[M] and whether they are of a true label, bool[M].
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 3)), label="as probable as said")
        looks = (BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":")
        for (name, (probabilities, right)), (colour, marker, line) in zip(
            series.items(), looks, strict=False
        ):
            mean, share, count = reliability_bins(probabilities, right)
            axes.plot(mean, share, line, color=colour, lw=1.5, label=name)
            area = 12 + 60 * np.sqrt(count / count.max())
            axes.scatter(mean, share, area, colour, marker=marker, ec="white", zorder=3)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability", ylabel="share true")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return chart(draw, (4.7, 3.9))


# -------------------------------------------------------------------------------- other charts


def grouped_bars(
    groups: Sequence[str],
    series: dict[str, Sequence[float | None]],
    axis: str,
    counts: Sequence[int],
) -> str:
    """Figures in percent for each group, with the group's count below its name."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(series)
        looks = (BLUE, ""), (ORANGE, "////"), (GREEN, "....")
        for place, ((name, values), (colour, hatch)) in enumerate(
            zip(series.items(), looks, strict=False)
        ):
            left = np.arange(len(groups)) + (place - (len(series) - 1) / 2) * width
            heights = np.array([np.nan if value is None else value for value in values], float)
            axes.bar(left, heights, width, color=colour, hatch=hatch, ec="white", label=name)
        names = [f"{group}\n{count}" for group, count in zip(groups, counts, strict=True)]
        axes.set_xticks(range(len(groups)), names, fontsize=9 if len(groups) < 9 else 7)
        axes.set(ylim=(0, 100), xlabel=axis, ylabel="%")
        axes.grid(False, axis="x")
        if len(series) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)

    return chart(draw)


def set_sizes(predicted: Sequence[int], true: Sequence[int]) -> str:
    """How many images have 0, 1, 2 … labels."""

    def draw(axes: Axes) -> None:
        for counts, place, colour, hatch, name in (
            (predicted, -0.2, BLUE, "", "predicted"),
            (true, 0.2, ORANGE, "////", "true"),
        ):
            left = np.arange(len(counts)) + place
            axes.bar(left, counts, 0.4, color=colour, hatch=hatch, ec="white", label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="labels of the image", ylabel="images")
        axes.grid(False, axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return chart(draw)


def order_against_frequency(position: np.ndarray, images: np.ndarray, emitted: np.ndarray) -> str:
    """The mean position at which each label is predicted, against how often it is true.

    Args:
      position: float[L], from 1; images: int[L], at least 1; emitted: int[L], how often.
    """

    def draw(axes: Axes) -> None:
        area = 14 + 120 * emitted / emitted.max()
        axes.scatter(images, position, area, BLUE, alpha=0.65, ec="white")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set(xlabel="images where the label is true", ylabel="mean position")
        axes.set_ylim(max(position.max() + 0.5, 2), 0.5)  # the first on top

    return chart(draw)


def co_occurrence(share: np.ndarray, names: Sequence[str]) -> str:
    """A square of shares: of the images with the row's label, those that have the column's too.

    Args:
      share: float[L,L], fractions of 1, nan where there is no such image; names: L.
    """
    short = [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…" for name in names]
    families = list(fonts.families("".join(short)))
    short = [fonts.legible(name) for name in short]

    def draw(axes: Axes) -> None:
        shown = np.ma.masked_invalid(np.where(np.eye(len(names), dtype=bool), np.nan, 100 * share))
        colours = matplotlib.colormaps["cividis"].with_extremes(bad="#e3e6ea")
        mesh = axes.imshow(shown, cmap=colours, vmin=0, vmax=100)
        axes.set_xticks(range(len(short)), short, rotation=90, fontsize=8, fontfamily=families)
        axes.set_yticks(range(len(short)), short, fontsize=8, fontfamily=families)
        axes.grid(False)
        axes.figure.colorbar(mesh, ax=axes, shrink=0.7, label="%")

    return chart(draw, (5.0, 4.6))
