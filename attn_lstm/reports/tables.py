"""Results as text: rows and tables in Markdown, beside the paper's published figures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from attn_lstm import text

PAPER_FIGURES = ("C-P", "C-R", "C-F1", "O-P", "O-R", "O-F1")
COLUMNS = (*PAPER_FIGURES, "mAP")


def _published(*figures: float | None) -> Mapping[str, float | None]:
    return MappingProxyType(dict(zip(PAPER_FIGURES, figures, strict=True)))


# The tables of the paper (arXiv 1707.05495), in percent: data set, method, figure. None marks a
# cell that is not known to us.
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float | None]]] = MappingProxyType(
    {
        "nus_wide": MappingProxyType(
            {
                "knn": _published(32.6, 19.3, 24.3, 43.9, 53.4, 47.6),
                "softmax": _published(31.7, 31.2, 31.4, 47.8, 59.5, 53.0),
                "warp": _published(31.7, 35.6, 33.5, 48.6, 60.5, 53.9),
                "cnn_rnn": _published(None, None, 34.7, None, None, None),
                "resnet_baseline": _published(None, None, 47.1, None, None, None),
                "frequent_first": _published(48.9, 48.7, 48.8, 62.1, 69.4, 65.5),
                "rare_first": _published(53.9, 51.8, 52.8, 55.1, 65.2, 59.8),
                "order_free_no_attention": _published(60.8, 49.5, 54.5, 68.3, 72.4, 70.2),
                "order_free": _published(59.4, 50.7, 54.7, 69.0, 71.4, 70.2),
            }
        ),
        "coco": MappingProxyType(
            {
                "softmax": _published(59.0, 57.0, 58.0, 60.2, 62.1, 61.1),
                "warp": _published(59.3, 52.5, 55.7, 59.8, 61.4, 60.7),
                "cnn_rnn": _published(66.0, 55.6, 60.4, 69.2, 66.4, 67.8),
                "resnet_baseline": _published(58.3, 49.3, 53.4, 63.9, 58.4, 61.0),
                "frequent_first": _published(55.8, 54.7, 55.2, 61.4, 62.6, 62.0),
                "rare_first": _published(59.5, 56.5, 58.0, 57.3, 56.7, 57.0),
                "order_free_no_attention": _published(69.9, 52.6, 60.0, 73.4, 60.3, 66.2),
                "order_free": _published(71.6, 54.8, 62.1, 74.2, 62.2, 67.7),
            }
        ),
    }
)


def figures_table(
    rows: Mapping[str, Mapping[str, float | None]],
    columns: Sequence[str] = COLUMNS,
) -> str:
    """A Markdown table with one line for each row, to one decimal.

    Args:
      rows: the figures of each method, in percent, by column.
      columns: the figures to show, in this order; one that a row lacks becomes '-'.
    """
    lines = (
        [name, *(cell(figures.get(column)) for column in columns)] for name, figures in rows.items()
    )
    return text.markdown_table(["Method", *columns], lines)


def cell(value: float | None) -> str:
    """A figure to one decimal; '-' for one that is missing or nan."""
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def bold(column: Sequence[str]) -> list[str]:
    """A column of cells, each beginning with a figure, with the highest figure's in bold."""
    figures = [None if each == "-" else float(each.split()[0]) for each in column]
    best = max((figure for figure in figures if figure is not None), default=None)
    return [
        f"**{each}**" if figure is not None and figure == best else each
        for each, figure in zip(column, figures, strict=True)
    ]


def transpose(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Rows of equal length as columns."""
    return [list(column) for column in zip(*rows, strict=True)]
