"""The tables of a comparison: every method over its seeds, beside the paper's. Pure functions."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attn_lstm.measures import bootstrap
from attn_lstm.measures.bootstrap import Difference
from attn_lstm.reports.tables import COLUMNS, PAPER_FIGURES, bold, cell, transpose
from attn_lstm.text import markdown_table

# Column -> where its figure stands in what `eval.py` writes; docs/figures.md says what it is.
LOOKING = {
    "Same peak": ("looking", "same_peak"),
    "Total variation": ("looking", "total_variation"),
    "In the box": ("pointing", "attention"),
    "CAM in it": ("pointing", "cam"),
    "Middle in it": ("pointing", "centre"),
    "Uniform in it": ("pointing", "uniform"),
    "Own fall": ("deletion", "own"),
    "Random fall": ("deletion", "random"),
    "Others' fall": ("deletion", "others"),
}


@dataclasses.dataclass(frozen=True)
class Finished:
    """One method, trained with one seed and evaluated on the test split."""

    method: str
    seed: int
    figures: Mapping[str, float]  # in percent, of `COLUMNS` and macro-F1
    top3: Mapping[str, float]  # the same of exactly three labels an image; without mAP
    threshold: float  # τ, that of labels without their own
    step: int  # of the checkpoint
    parameters: Mapping[str, int]  # 'backbone' and 'head'
    seconds: float  # of the updates, as `runs.workdir.load_seconds` has them
    # Of `LOOKING`, those that there are; none of a row that looks nowhere.
    looking: Mapping[str, float] = dataclasses.field(default_factory=dict)
    trained_as: str | None = None  # the row whose training of the same seed it shares


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over n seeds; None where one seed has none."""

    mean: float
    std: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class Compared:
    """One row less each other on the same test images."""

    reference: str  # the one row
    images: int
    differences: Mapping[str, Mapping[str, Difference]]  # other row -> figure -> difference


def looking_figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `LOOKING` that an evaluation has, from the dictionary of its JSON file."""
    return {
        column: result[section][name]
        for column, (section, name) in LOOKING.items()
        if name in result.get(section, {})
    }


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


def by_method(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The runs of each method, by seed; the methods in the order in which they come first."""
    methods = dict.fromkeys(run.method for run in runs)
    return {
        method: sorted((run for run in runs if run.method == method), key=lambda run: run.seed)
        for method in methods
    }


def reference_of(runs: Sequence[Finished]) -> str:
    """The row that others are compared with: order_free, or if it is not there the best by F1."""
    methods = by_method(runs)
    if "order_free" in methods:
        return "order_free"

    def f1(method: str) -> float:
        return statistics.fmean(r.figures["C-F1"] + r.figures["O-F1"] for r in methods[method])

    return max(methods, key=f1)


def markdown(
    runs: Sequence[Finished],
    published: Mapping[str, Mapping[str, float | None]],
    compared: Compared,
) -> str:
    """The comparison as a page of Markdown.

    Args:
      runs: at least one.
      published: the paper's figures of the data set by method; empty where it has none.
      compared: the reference less the other rows that share a seed with it.
    """
    methods = by_method(runs)
    several = any(len(of_method) > 1 for of_method in methods.values())
    over_seeds = ", mean ± standard deviation over seeds" if several else ", of one seed"
    parts = [
        f"Percent{over_seeds}; the best of a column in bold.",
        _figures_table(methods, lambda run: run.figures, COLUMNS),
        "Each image with exactly its three best labels:",
        _figures_table(methods, lambda run: run.top3, PAPER_FIGURES),
        *(
            [
                "Where the rows that attend look (docs/figures.md): the pairs of an image's labels "
                "whose maps share their peak, and the maps' total variation, 0 to 1; where there "
                "are boxes, the peaks in the label's box, beside M_map's class activation map, the "
                "middle of the image and an even map; and the points by which a label falls "
                "without the regions that it looked at, beside random ones and the image's other "
                "labels:",
                table,
            ]
            if (table := _looking_table(methods))
            else []
        ),
        "What each row took; training is the time of its updates, without what comes before the "
        "first of them is done, and without validations:",
        _cost_table(methods),
    ]
    if others := list(compared.differences):
        reference = compared.reference
        parts += [
            *(
                [
                    f"{reference} less each other row, mean ± standard deviation of the "
                    "differences between runs of the same seed:",
                    _difference_table(methods, reference, others),
                ]
                if several
                else []
            ),
            f"{reference} less each other row on the same images: the mean difference and its "
            f"{bootstrap.LEVEL} % interval over {bootstrap.RESAMPLES:,} paired bootstrap draws of "
            f"the {compared.images:,} test images, in bold where it excludes 0. It covers the "
            "choice of the test images and not the randomness of the training"
            + (", which is the ± above" if several else "; give --seeds for that")
            + ". Each interval stands for itself: of twenty rows that do not differ, about one "
            "has bold in a column.",
            _interval_table(compared.differences),
        ]
    if any(method in published for method in methods):
        parts += [
            "The paper's figures, and in brackets ours less the paper's. The backbone, its weights "
            "and the images differ unless the config says otherwise:",
            _published_table(methods, published),
        ]
    return "\n\n".join(parts) + "\n"


def table_csv(runs: Sequence[Finished]) -> str:
    """One line a run, a column a figure, of at least one run."""
    text = io.StringIO()
    lines = [_csv_line(run) for run in runs]
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_line(run: Finished) -> dict[str, Any]:
    return {
        "method": run.method,
        "seed": run.seed,
        **{name: run.figures[name] for name in (*COLUMNS, "macro-F1")},
        **{f"top-3 {name}": run.top3[name] for name in PAPER_FIGURES},
        "threshold": run.threshold,
        "step": run.step,
        **{f"{part} parameters": number for part, number in run.parameters.items()},
        "seconds": round(run.seconds, 1),
        "trained as": run.trained_as or run.method,
        **{column: run.looking.get(column) for column in LOOKING},
    }


def table_json(
    runs: Sequence[Finished],
    published: Mapping[str, Mapping[str, float | None]],
    compared: Compared,
) -> dict[str, Any]:
    """Everything in the tables, unrounded: 'methods' by name, 'bootstrap', and the list 'runs'."""
    return {
        "methods": {
            method: {
                "figures": {
                    name: dataclasses.asdict(spread([run.figures[name] for run in of_method]))
                    for name in (*COLUMNS, "macro-F1")
                },
                "looking": {
                    column: dataclasses.asdict(spread(values))
                    for column, values in _looked(of_method).items()
                },
                "seconds": dataclasses.asdict(spread([run.seconds for run in of_method])),
                "parameters": dict(of_method[0].parameters),
                "published": dict(published.get(method, {})),
            }
            for method, of_method in by_method(runs).items()
        },
        "bootstrap": {
            "reference": compared.reference,
            "images": compared.images,
            "resamples": bootstrap.RESAMPLES,
            "level": bootstrap.LEVEL,
            "differences": {
                other: {
                    name: dataclasses.asdict(value) | {"excludes_zero": value.excludes_zero}
                    for name, value in differences.items()
                }
                for other, differences in compared.differences.items()
            },
        },
        "runs": [dataclasses.asdict(run) for run in runs],
    }


def _figures_table(
    methods: Mapping[str, Sequence[Finished]],
    figures: Callable[[Finished], Mapping[str, float]],
    columns: Sequence[str],
) -> str:
    cells = [
        [_with_spread(spread([figures(run)[column] for run in runs])) for column in columns]
        for runs in methods.values()
    ]
    return _table(methods, columns, transpose(map(bold, transpose(cells))))


def _looked(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """Column -> the figures of the runs that have it, of those that one has."""
    figures = {
        column: [run.looking[column] for run in runs if column in run.looking] for column in LOOKING
    }
    return {column: values for column, values in figures.items() if values}


def _looking_table(methods: Mapping[str, Sequence[Finished]]) -> str | None:
    """None where no row attends."""
    rows = {name: looked for name, runs in methods.items() if (looked := _looked(runs))}
    columns = [column for column in LOOKING if any(column in looked for looked in rows.values())]
    if not rows:
        return None

    def text(column: str, values: Sequence[float] | None) -> str:
        if values is None:
            return cell(None)
        return _with_spread(spread(values), digits=2 if column == "Total variation" else 1)

    cells = [[text(column, looked.get(column)) for column in columns] for looked in rows.values()]
    return _table(rows, columns, cells)


def _cost_table(methods: Mapping[str, Sequence[Finished]]) -> str:
    cells = [
        [
            str(len(runs)),
            f"{runs[0].parameters['head']:,}",
            f"{runs[0].parameters['backbone']:,}",
            _with_spread(spread([run.seconds for run in runs]), digits=0)
            + (f" (that of {runs[0].trained_as})" if runs[0].trained_as else ""),
            " ".join(f"{run.threshold:.3g}" for run in runs),
        ]
        for runs in methods.values()
    ]
    head = ["Seeds", "Head parameters", "Backbone parameters", "Training, s", "τ by seed"]
    return _table(methods, head, cells)


def _difference_table(
    methods: Mapping[str, Sequence[Finished]], method: str, others: Sequence[str]
) -> str:
    cells = []
    for other in others:
        pairs = shared(methods, method, other)
        differences = [
            spread([ours.figures[name] - theirs.figures[name] for ours, theirs in pairs])
            for name in bootstrap.FIGURES
        ]
        cells.append([_with_spread(d, sign="+") for d in differences])
    return _table(others, bootstrap.FIGURES, cells)


def _interval_table(rows: Mapping[str, Mapping[str, Difference]]) -> str:
    def text(value: Difference) -> str:
        plain = f"{value.mean:+.1f} [{value.low:+.1f}, {value.high:+.1f}]"
        return f"**{plain}**" if value.excludes_zero else plain

    cells = [[text(row[name]) for name in bootstrap.FIGURES] for row in rows.values()]
    return _table(rows, bootstrap.FIGURES, cells)


def shared(
    methods: Mapping[str, Sequence[Finished]], first: str, second: str
) -> list[tuple[Finished, Finished]]:
    """The pairs of runs with the same seed."""
    seconds = {run.seed: run for run in methods[second]}
    return [(run, seconds[run.seed]) for run in methods[first] if run.seed in seconds]


def _published_table(
    methods: Mapping[str, Sequence[Finished]],
    published: Mapping[str, Mapping[str, float | None]],
) -> str:
    rows = {}
    for method in methods:
        if method not in published:
            continue
        means = {
            column: spread([run.figures[column] for run in methods[method]]).mean
            for column in PAPER_FIGURES
        }
        rows[method] = [
            cell(figure) if figure is None else f"{cell(figure)} ({means[column] - figure:+.1f})"
            for column, figure in published[method].items()
        ]
    return _table(rows, PAPER_FIGURES, list(rows.values()))


def _table(
    names: Sequence[str] | Mapping[str, Any],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
) -> str:
    rows = [[name, *row] for name, row in zip(names, cells, strict=True)]
    return markdown_table(["Method", *columns], rows)


def _with_spread(value: Spread, digits: int = 1, sign: str = "") -> str:
    mean = f"{value.mean:{sign}.{digits}f}"
    return mean if value.std is None else f"{mean} ± {value.std:.{digits}f}"
