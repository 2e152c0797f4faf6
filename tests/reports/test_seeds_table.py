import csv
import dataclasses
import io
import statistics

import pytest

from attn_lstm.measures.bootstrap import Difference
from attn_lstm.reports import seeds_table
from attn_lstm.reports.seeds_table import Compared, Finished
from attn_lstm.reports.tables import COLUMNS, PAPER_FIGURES


def run(method, seed, **figures):
    values = {**dict.fromkeys((*COLUMNS, "macro-F1"), 10.0), **figures}
    return Finished(
        method=method,
        seed=seed,
        figures=values,
        top3=dict.fromkeys(PAPER_FIGURES, 20.0),
        threshold=0.25,
        step=100,
        parameters={"backbone": 1_000, "head": 20_000},
        seconds=61.4,
    )


RUNS = [
    run("order_free", 0, **{"C-F1": 50.0, "O-F1": 60.0}),
    run("resnet_baseline", 0, **{"C-F1": 48.0, "O-F1": 61.0}),
    run("order_free", 1, **{"C-F1": 53.0, "O-F1": 62.0}),
    run("resnet_baseline", 1, **{"C-F1": 49.0, "O-F1": 60.0}),
]
PUBLISHED = {
    "order_free": dict(zip(PAPER_FIGURES, (71.6, 54.8, 62.1, 74.2, 62.2, None), strict=True))
}


ALONE = Compared("order_free", 500, {})
COMPARED = Compared(
    "order_free",
    500,
    {
        "resnet_baseline": {
            "C-F1": Difference(3.0, 0.52, 5.04),
            "O-F1": Difference(0.5, -1.0, 2.0),
            "mAP": Difference(-1.0, -1.96, -0.01),
        }
    },
)


def tables_of(page):
    """Each table of a page as {row: {column: cell}}."""
    found, lines = [], page.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("| --"):
            continue
        head = [c.strip() for c in lines[number - 1].strip("|").split("|")]
        rows = {}
        for row in lines[number + 1 :]:
            if not row.startswith("|"):
                break
            name, *cells = (c.strip() for c in row.strip("|").split("|"))
            rows[name] = dict(zip(head[1:], cells, strict=True))
        found.append(rows)
    return found


def test_figures_are_means_and_sample_deviations_with_the_best_in_bold():
    figures = tables_of(seeds_table.markdown(RUNS, {}, COMPARED))[0]
    assert list(figures) == ["order_free", "resnet_baseline"]
    deviation = statistics.stdev([50, 53])
    assert figures["order_free"]["C-F1"] == f"**51.5 ± {deviation:.1f}**"
    assert figures["resnet_baseline"]["C-F1"] == "48.5 ± 0.7"
    assert figures["order_free"]["C-P"] == figures["resnet_baseline"]["C-P"] == "**10.0 ± 0.0**"


def test_one_seed_has_no_deviation():
    assert (
        tables_of(seeds_table.markdown(RUNS[:1], {}, ALONE))[0]["order_free"]["O-F1"] == "**60.0**"
    )


def test_differences_are_taken_between_runs_of_one_seed():
    differences = tables_of(seeds_table.markdown(RUNS, {}, COMPARED))[3]
    assert differences["resnet_baseline"]["C-F1"] == "+3.0 ± 1.4"  # 2 and 4
    assert differences["resnet_baseline"]["O-F1"] == "+0.5 ± 2.1"  # -1 and 2


def test_a_row_without_a_common_seed_has_no_difference():
    runs = [run("order_free", 0), run("softmax", 1)]
    assert "less each other row" not in seeds_table.markdown(runs, {}, ALONE)


def test_intervals_that_exclude_nothing_are_in_bold():
    page = seeds_table.markdown(RUNS, {}, COMPARED)
    intervals = tables_of(page)[4]["resnet_baseline"]
    assert intervals == {
        "C-F1": "**+3.0 [+0.5, +5.0]**",
        "O-F1": "+0.5 [-1.0, +2.0]",
        "mAP": "**-1.0 [-2.0, -0.0]**",
    }
    assert "500 test images" in page and "not the randomness of the training" in page


def test_the_reference_is_order_free_or_the_best_by_both_f1():
    assert seeds_table.reference_of(RUNS) == "order_free"
    others = [run("knn", 0), run("q2l", 0, **{"O-F1": 10.5}), run("q2l", 1), run("warp", 0)]
    assert seeds_table.reference_of(others) == "q2l"


def test_published_figures_stand_with_ours_less_theirs():
    published = tables_of(seeds_table.markdown(RUNS, PUBLISHED, COMPARED))[-1]
    assert list(published) == ["order_free"]
    assert published["order_free"]["C-F1"] == "62.1 (-10.6)"
    assert published["order_free"]["O-F1"] == "-"
    assert "paper's" not in seeds_table.markdown(RUNS, {}, COMPARED)


def test_cost_names_parameters_time_and_thresholds():
    cost = tables_of(seeds_table.markdown(RUNS, {}, COMPARED))[2]["order_free"]
    assert cost == {
        "Seeds": "2",
        "Head parameters": "20,000",
        "Backbone parameters": "1,000",
        "Training, s": "61 ± 0",
        "τ by seed": "0.25 0.25",
    }


def test_rows_that_attend_are_compared_by_where_they_look():
    looking = [
        {"Same peak": 40.0, "Total variation": 0.5, "Own fall": 12.0},
        {"Same peak": 42.0, "Total variation": 0.25, "Own fall": 13.0, "Others' fall": 3.0},
    ]
    runs = [
        dataclasses.replace(given, looking=looked)
        for given, looked in zip([RUNS[0], RUNS[2]], looking, strict=True)
    ]
    runs += [run("resnet_baseline", 0), dataclasses.replace(run("csra", 0), looking=looking[0])]
    (found,) = (
        t for t in tables_of(seeds_table.markdown(runs, {}, ALONE)) if "Same peak" in str(t)
    )
    assert found == {
        "order_free": {
            "Same peak": "41.0 ± 1.4",
            "Total variation": "0.38 ± 0.18",
            "Own fall": "12.5 ± 0.7",
            "Others' fall": "3.0",
        },
        "csra": {
            "Same peak": "40.0", "Total variation": "0.50", "Own fall": "12.0", "Others' fall": "-"
        },
    }  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(seeds_table.table_csv(runs))))
    assert [line["Own fall"] for line in lines] == ["12.0", "13.0", "", "12.0"]
    of_methods = seeds_table.table_json(runs, {}, ALONE)["methods"]
    assert of_methods["order_free"]["looking"]["Own fall"]["mean"] == 12.5
    assert of_methods["resnet_baseline"]["looking"] == {}
    assert "Where the rows" not in seeds_table.markdown(RUNS, {}, ALONE)


def test_the_figures_of_looking_are_those_that_an_evaluation_has():
    result = {"C-F1": 1.0, "looking": {"pairs": 2, "same_peak": 3.0}, "deletion": {"random": 4.0}}
    assert seeds_table.looking_figures(result) == {"Same peak": 3.0, "Random fall": 4.0}
    assert seeds_table.looking_figures({"C-F1": 1.0}) == {}


def test_a_row_that_another_has_trained_says_so():
    runs = [RUNS[0], dataclasses.replace(run("order_free_plus", 0), trained_as="order_free")]
    cost = tables_of(seeds_table.markdown(runs, {}, ALONE))[2]
    assert cost["order_free_plus"]["Training, s"] == "61 (that of order_free)"
    lines = csv.DictReader(io.StringIO(seeds_table.table_csv(runs)))
    assert [line["trained as"] for line in lines] == ["order_free", "order_free"]


def test_csv_has_a_line_for_each_run():
    lines = list(csv.DictReader(io.StringIO(seeds_table.table_csv(RUNS))))
    assert [(line["method"], line["seed"]) for line in lines] == [
        (r.method, str(r.seed)) for r in RUNS
    ]
    assert [float(line["C-F1"]) for line in lines] == [50.0, 48.0, 53.0, 49.0]
    assert lines[0]["top-3 C-P"] == "20.0"


def test_json_holds_means_deviations_and_every_run():
    table = seeds_table.table_json(RUNS, PUBLISHED, COMPARED)
    ours = table["methods"]["order_free"]["figures"]["C-F1"]
    assert ours == {"mean": 51.5, "std": pytest.approx(statistics.stdev([50, 53])), "n": 2}
    assert table["methods"]["order_free"]["published"]["C-F1"] == 62.1
    assert table["methods"]["resnet_baseline"]["published"] == {}
    assert [r["seed"] for r in table["runs"]] == [0, 0, 1, 1]
    assert table["bootstrap"]["reference"] == "order_free"
    assert table["bootstrap"]["differences"]["resnet_baseline"]["mAP"] == {
        "mean": -1.0, "low": -1.96, "high": -0.01, "excludes_zero": True
    }  # fmt: skip
