"""Results as text: rows and tables in Markdown, beside the paper's published figures."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

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


def figure_row(
    name: str, figures: Mapping[str, float | None], columns: Sequence[str] = COLUMNS
) -> str:
    """One row of a Markdown table: `| order_free | 59.4 | 50.7 | ...`, to one decimal.

    A figure that is missing, None or nan becomes '-'.
    """
    return _line([_escape(name), *(_cell(figures.get(column)) for column in columns)])


def markdown_table(
    rows: Mapping[str, Mapping[str, float | None]],
    columns: Sequence[str] = COLUMNS,
    bold_best: bool = False,
) -> str:
    """A Markdown table with one line for each row, its columns aligned, without a final newline.

    Args:
      rows: the figures of each method, in percent, by column.
      columns: the figures to show, in this order; one that a row lacks becomes '-'.
      bold_best: set the highest figure of each column in bold, and all that read the same.
    """
    names = ["Method", *map(_escape, rows)]
    figures = [_column(rows, column, bold_best) for column in columns]
    widths = [max(map(len, cells)) for cells in (names, *figures)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [name.ljust(widths[0]), *(map(str.rjust, cells, widths[1:]))]
        for name, *cells in zip(names, *figures, strict=True)
    ]
    return "\n".join(map(_line, [lines[0], rule, *lines[1:]]))


def _column(
    rows: Mapping[str, Mapping[str, float | None]], column: str, bold_best: bool
) -> list[str]:
    """The head and the cells of one column, none narrower than 4, the room of '59.4'."""
    cells = [_cell(figures.get(column)) for figures in rows.values()]
    best = max((cell for cell in cells if cell != "-"), key=float, default=None)
    if bold_best:
        cells = [f"**{cell}**" if cell == best else cell for cell in cells]
    return [column.rjust(4), *cells]


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def _escape(name: str) -> str:
    """A bar would end the cell."""
    return name.replace("|", r"\|")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
