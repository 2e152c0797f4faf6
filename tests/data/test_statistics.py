"""Label statistics: worked by hand, against counting one by one, and as a command."""

import json
from collections import Counter
from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.data import Split, statistics
from attn_lstm.ordering import frequency_rank
from tests.programs import assert_mistake, run

COMMAND = ("-m", "attn_lstm.data.statistics")
NAMES = ("cat", "dog", "sofa")
LABELS = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)


def split(name="train", labels=LABELS, names=NAMES):
    return Split("toy", name, names, tuple(map(str, range(len(labels)))), labels, None)


def test_statistics_worked_by_hand():
    assert statistics.label_statistics(split()) == {
        "dataset": "toy",
        "split": "train",
        "images": 4,
        "labels": 3,
        "unlabelled_images": 1,
        "labels_an_image": {"mean": 1.5, "max": 3, "images": [1, 1, 1, 1]},
        "frequencies": [
            {"label": "cat", "rank": 1, "images": 3, "share": 0.75},
            {"label": "sofa", "rank": 2, "images": 2, "share": 0.5},
            {"label": "dog", "rank": 3, "images": 1, "share": 0.25},
        ],
        "pairs": [
            {"labels": ["cat", "sofa"], "images": 2, "share": 0.5},
            {"labels": ["cat", "dog"], "images": 1, "share": 0.25},
            {"labels": ["dog", "sofa"], "images": 1, "share": 0.25},
        ],
    }


def test_no_image_has_no_mean_and_no_shares():
    counts = statistics.count_labels(NAMES, np.zeros((0, 3), bool))
    assert counts["labels_an_image"] == {"mean": None, "max": 0, "images": []}
    assert counts["frequencies"][0] == {"label": "cat", "rank": 1, "images": 0, "share": None}
    assert counts["pairs"] == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 15), st.floats(0, 0.5))
def test_counts_are_those_of_counting_one_by_one(seed, images, labels, density):
    table = np.random.default_rng(seed).random((images, labels)) < density
    names = [f"l{i}" for i in range(labels)]
    counts = statistics.count_labels(names, table)
    assert json.loads(json.dumps(counts, allow_nan=False)) == counts
    sets = [[name for name, on in zip(names, row, strict=True) if on] for row in table]
    assert {line["label"]: line["images"] for line in counts["frequencies"]} == {
        name: sum(name in labels for labels in sets) for name in names
    }
    for size, number in enumerate(counts["labels_an_image"]["images"]):
        assert number == sum(len(labels) == size for labels in sets)
    pairs = Counter(pair for labels in sets for pair in combinations(labels, 2))
    assert [pair["images"] for pair in counts["pairs"]] == sorted(pairs.values(), reverse=True)[:10]
    for pair in counts["pairs"]:
        assert pairs[tuple(pair["labels"])] == pair["images"]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_ranks_are_those_of_the_training_orders(counts):
    table = np.arange(5)[:, None] < counts
    ranks = {
        line["label"]: line["rank"]
        for line in statistics.count_labels(range(len(counts)), table)["frequencies"]
    }
    expected = np.asarray(frequency_rank(jnp.asarray(counts))) + 1
    assert [ranks[label] for label in range(len(counts))] == expected.tolist()


def test_the_text_has_one_table_of_splits_and_two_tables_for_each():
    alone = split("test", np.eye(3, dtype=bool)[:2])
    text = statistics.describe([statistics.label_statistics(s) for s in (split(), alone)])
    assert text == (
        "toy: 3 labels\n\n"
        "split  images  without a label  labels an image  at most\n"
        "train       4                1             1.50        3\n"
        "test        2                0             1.00        1\n\n"
        "--config.decoder.max_labels=3 is enough for all of them.\n\n"
        "Labels of train\n"
        "label  rank  images  share\n"
        "cat       1       3  75.0%\n"
        "sofa      2       2  50.0%\n"
        "dog       3       1  25.0%\n\n"
        "most often together  images  share\n"
        "cat + sofa                2  50.0%\n"
        "cat + dog                 1  25.0%\n"
        "dog + sofa                1  25.0%\n\n"
        "Labels of test\n"
        "label  rank  images  share\n"
        "cat       1       1  50.0%\n"
        "dog       2       1  50.0%\n"
        "sofa      3       0   0.0%\n\n"
        "No image has two labels."
    )


@pytest.fixture(scope="module")
def coco(coco_folder):
    return ("--config=configs/coco.py:order_free", f"--config.data.path={coco_folder}")


def test_the_command_prints_all_splits(coco):
    done = run(*COMMAND, *coco)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("coco: 3 labels\n\nsplit ")
    for name in ("train", "validation", "test"):
        assert f"\nLabels of {name}\nlabel " in done.stdout


def test_the_command_reads_only_the_split_that_is_asked_for(coco, coco_folder, tmp_path):
    for part in ("val2014", "annotations/instances_val2014.json"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).symlink_to(coco_folder / part)
    coco = (coco[0], f"--config.data.path={tmp_path}")
    done = run(*COMMAND, *coco, "--split=test")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nLabels of test\n" in done.stdout and "train" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--config=configs/coco.py:order_free", "--config.data.path=nowhere"), "nowhere"),
        (("--config=configs/coco.py:order_free", "--split=half"), "half"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, part):
    done = run(*COMMAND, *flags)
    assert done.stdout == ""
    assert_mistake(done, part)
