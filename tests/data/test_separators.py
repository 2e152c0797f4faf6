import csv
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.data import folder
from attn_lstm.data.separators import divide, question
from attn_lstm.errors import UserError
from tests.programs import assert_mistake, run

CHECK = ("-m", "attn_lstm.data.check")

NAMES = (
    "person;bicycle;car;motorcycle;airplane;bus;train;truck;boat;traffic light;fire hydrant;"
    "stop sign;parking meter;bench;bird;cat;dog;horse;sheep;cow;elephant;bear;zebra;giraffe;"
    "backpack;umbrella;handbag;tie;suitcase;frisbee;skis;snowboard;sports ball;kite;baseball bat;"
    "baseball glove;skateboard;surfboard;tennis racket;bottle;wine glass;cup;fork;knife;spoon;bowl;"
    "banana;apple;sandwich;orange;broccoli;carrot;hot dog;pizza;donut;cake;chair;couch;"
    "potted plant;bed;dining table;toilet;tv;laptop;mouse;remote;keyboard;cell phone;microwave;"
    "oven;toaster;sink;refrigerator;book;clock;vase;scissors;teddy bear;hair drier;toothbrush"
)
COCO = NAMES.split(";")
SYNSETS = [
    "tench, Tinca tinca",
    "goldfish, Carassius auratus",
    "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias",
    "tiger shark, Galeocerdo cuvieri",
    "hammerhead, hammerhead shark",
    "electric ray, crampfish, numbfish, torpedo",
    "stingray",
    "cock",
]
SETS = [["red"], ["red", "blue"], ["green"], ["blue"], ["red", "green", "blue"], ["green", "blue"]]


@pytest.mark.parametrize("mark", [",", ", ", ";", " ; ", " ", "/", "+", " & ", ":"])
def test_labels_that_are_joined_by_something_else_than_bars_are_asked_about(mark):
    asked = question(mark.join(names) for names in SETS)
    shortest = mark.strip() or " "
    assert f"data.separator='{shortest}'" in asked and "data.separator='|'" in asked
    assert re.search("6 labels become 3: 'blue', 'green', 'red'", asked)
    assert len(asked.splitlines()) == 1


@pytest.mark.parametrize(
    "write",
    [str, lambda x: str(tuple(x)), lambda x: str(np.array(x)), lambda x: str(set(x)),
     lambda x: f"[{', '.join(x)}]"],
)  # fmt: skip
def test_lists_as_python_writes_them_are_asked_about_and_divided(write):
    texts = [write(names) for names in SETS]
    assert "data.separator=list" in question(texts)
    for text, names in zip(texts, SETS, strict=True):
        assert sorted(divide(text, "list")) == sorted(names)


def test_lists_keep_quotes_and_commas_inside_of_names():
    assert divide(str(["a, b", "it's", 'say "x"']), "list") == ["a, b", "it's", 'say "x"']
    assert divide("[]", "list") == divide(" ", "list") == divide("", ",") == []
    assert divide("red", "list") == ["red"]


@pytest.mark.parametrize(
    "labels",
    [
        COCO,
        ["dog", "hot dog", "cat"],
        SYNSETS,
        ["tv/monitor", "cup", "sofa", "dining table"],
        [f"{a} {b}" for a in ("red", "blue", "green") for b in ("car", "bus", "bike")],
        [f"{a}_{b}" for a in ("hair", "dress") for b in ("long", "short")],
        ["Human face", "Human arm", "Human hand", "Car", "Car wheel", "Vehicle registration plate"],
        ["person (standing)", "person (sitting)", "(unknown)"],
        ["red", "blue", "red|blue"],
        ["US$ to A$", "=1+1", "</b>", "红色 汽车", "سيارة"],
        [],
    ],
)  # fmt: skip
def test_names_that_hold_such_marks_are_not(labels):
    assert question(labels) is None


@given(
    st.lists(
        st.lists(
            st.sampled_from(["tree", "lake", "sky", "dog"]), min_size=1, max_size=4, unique=True
        ),
        min_size=1,
    ),
    st.sampled_from([",", ";", ", ", " "]),
)
def test_all_sets_of_few_labels_are_asked_about_at_once(sets, mark):
    """Joined texts of all pairs beside them: nothing that is drawn hides it."""
    pairs = [list(pair) for pair in itertools.permutations(["tree", "lake", "sky", "dog"], 2)]
    assert question(mark.join(names) for names in [*sets, *pairs])


def write(root, texts):
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("image", "labels"), *((f"{i}.jpg", t) for i, t in enumerate(texts))]
        )
    return root


@pytest.mark.parametrize(
    ("join", "separator"),
    [
        (", ".join, ","),
        (";".join, ";"),
        (" ".join, " "),
        ("  ".join, " "),
        (str, "list"),
    ],
)
def test_the_answer_divides_them(tmp_path, join, separator):
    write(tmp_path, [join(names) for names in SETS])
    with pytest.raises(UserError, match=r"labels\.csv: labels look joined") as caught:
        folder.read_labels(tmp_path)
    shown = separator if separator == "list" else f"'{separator}'"
    assert f"data.separator={shown}" in str(caught.value)
    assert_mistake(run(*CHECK, tmp_path), f"data.separator={shown}")
    table = folder.read_labels(tmp_path, separator)
    assert table.label_names == ("blue", "green", "red")
    np.testing.assert_array_equal(table.labels, [[n in s for n in table.label_names] for s in SETS])
    kept = folder.read_labels(tmp_path, "|")
    assert len(kept.label_names) == len(SETS)
    assert "6 images, 3 labels" in run(*CHECK, tmp_path, f"--separator={separator}").stdout


def test_texts_in_a_list_of_json_are_asked_about_too(tmp_path):
    rows = "".join(
        f'{{"image": "{i}.jpg", "labels": ["{", ".join(names)}"]}}\n'
        for i, names in enumerate(SETS)
    )
    (tmp_path / "labels.jsonl").write_text(rows)
    with pytest.raises(UserError, match=r"labels\.jsonl: labels look joined"):
        folder.read_labels(tmp_path)
    assert folder.read_labels(tmp_path, ",").label_names == ("blue", "green", "red")
