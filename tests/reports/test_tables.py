import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.reports import tables

ORDER_FREE = {"C-P": 59.44, "C-R": 50.7, "C-F1": 54.7, "O-P": 69.0, "O-R": 71.4, "O-F1": 70.2}


def cells(line):
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


@pytest.mark.parametrize("figures", [{}, {"mAP": None}, {"mAP": math.nan}])
def test_a_missing_figure_is_a_dash(figures):
    table = tables.figures_table({"order_free": ORDER_FREE | figures})
    assert cells(table.splitlines()[-1])[-2:] == ["70.2", "-"]


def test_table_is_aligned():
    rows = {"knn": {"C-P": 100.0}, "order_free": {"C-P": 9.96, "mAP": 5}}
    assert tables.figures_table(rows, ["C-P", "mAP"]) == "\n".join(
        [
            "| Method     |   C-P |  mAP |",
            "| ---------- | ----: | ---: |",
            "| knn        | 100.0 |    - |",
            "| order_free |  10.0 |  5.0 |",
        ]
    )


def test_a_bar_in_a_name_does_not_end_its_cell():
    assert r"| a\|b   |" in tables.figures_table({"a|b": {}}, ["mAP"])


@given(
    st.dictionaries(
        st.text("abcdefgh_", min_size=1, max_size=20),
        st.dictionaries(st.sampled_from(tables.COLUMNS), st.none() | st.floats(0, 100), max_size=7),
        max_size=5,
    ),
)
def test_every_line_of_a_table_has_one_width_and_the_cells_of_its_row(rows):
    lines = tables.figures_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert cells(lines[0]) == ["Method", *tables.COLUMNS]
    assert [cells(line) for line in lines[2:]] == [
        [name, *(tables.cell(figures.get(column)) for column in tables.COLUMNS)]
        for name, figures in rows.items()
    ]


@pytest.mark.parametrize("dataset", tables.PUBLISHED)
def test_published_f1_is_the_harmonic_mean_of_its_neighbours(dataset):
    """A slip of the pen in the data would show here; the paper rounds to one decimal."""
    for method, figures in tables.PUBLISHED[dataset].items():
        for prefix in ("C", "O"):
            precision, recall = figures[f"{prefix}-P"], figures[f"{prefix}-R"]
            if precision is not None and recall is not None:
                f1 = 2 * precision * recall / (precision + recall)
                assert figures[f"{prefix}-F1"] == pytest.approx(f1, abs=0.7), method


def test_published_tables_hold_the_paper_s_rows():
    nus_wide, coco = tables.PUBLISHED["nus_wide"], tables.PUBLISHED["coco"]
    assert set(nus_wide) - set(coco) == {"knn"}
    assert len(nus_wide) == 9
    assert nus_wide["resnet_baseline"]["C-F1"] == 47.1
    assert nus_wide["resnet_baseline"]["O-F1"] is None
    assert coco["order_free"] == {
        "C-P": 71.6,
        "C-R": 54.8,
        "C-F1": 62.1,
        "O-P": 74.2,
        "O-R": 62.2,
        "O-F1": 67.7,
    }
