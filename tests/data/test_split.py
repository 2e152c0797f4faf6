import dataclasses
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.data import FileSource, RecordSource, Split, holdout, load_split
from attn_lstm.errors import UserError


def make_split(n: int = 4) -> Split:
    labels = np.arange(2 * n).reshape(n, 2) % 3 == 0
    return Split(
        dataset="things",
        name="train",
        label_names=("a", "b"),
        image_ids=tuple(f"image{i}" for i in range(n)),
        labels=labels,
        images=FileSource("/nowhere", [f"{i}.jpg" for i in range(n)]),
        boxes=tuple(np.full((i, 5), i, np.float32) for i in range(n)),
    )


def test_importing_the_package_does_not_import_tensorflow():
    code = "import sys, attn_lstm.data; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_tensorflow_comes_without_keras_and_has_it_when_asked():
    code = (
        "import os, sys\nfrom attn_lstm.data.cpu_tensorflow import tf\n"
        "assert 'keras' not in sys.modules and 'TF_USE_LEGACY_KERAS' not in os.environ\n"
        "assert tf.keras.layers.Dense(3)(tf.zeros([2, 4])).shape == (2, 3)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@given(
    n=st.integers(0, 300),
    fraction=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**40),
)
def test_holdout_gives_each_index_to_one_side_and_repeats_itself(n, fraction, seed):
    train, validation = holdout(n, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))
    assert np.array_equal(train, np.sort(train))
    assert np.array_equal(validation, np.sort(validation))
    assert len(validation) == round(n * fraction)
    assert all(map(np.array_equal, (train, validation), holdout(n, fraction, seed)))


def test_holdout_depends_on_the_seed():
    assert not np.array_equal(holdout(100, 0.5, 0)[0], holdout(100, 0.5, 1)[0])


@pytest.mark.parametrize(
    ("n", "fraction", "seed"),
    [(-1, 0.1, 0), (10, -0.1, 0), (10, 1.0, 0), (10, float("nan"), 0), (10, 0.1, -1)],
)
def test_holdout_refuses_impossible_arguments(n, fraction, seed):
    with pytest.raises(UserError):
        holdout(n, fraction, seed)


def test_select_takes_every_field_along():
    split = make_split()
    chosen = split.select([2, 0])
    assert chosen.image_ids == ("image2", "image0")
    assert np.array_equal(chosen.labels, split.labels[[2, 0]])
    assert [len(boxes) for boxes in chosen.boxes] == [2, 0]
    assert chosen.known is None
    known = np.arange(8).reshape(4, 2) != 5
    whole = dataclasses.replace(split, labels=split.labels & known, known=known)
    assert np.array_equal(whole.select([2, 0]).known, known[[2, 0]])
    assert chosen.images.name(0) == "/nowhere/2.jpg"
    assert chosen.select([1]).images.name(0) == "/nowhere/0.jpg"


def test_the_fingerprint_sees_each_part_of_the_table():
    split = make_split()
    assert split.fingerprint == make_split().fingerprint
    assert len(split.fingerprint) == 64
    changed = [
        {"dataset": "other"},
        {"name": "test"},
        {"label_names": ("a", "c")},
        {"image_ids": ("image0", "image1", "image2", "x")},
        {"labels": ~split.labels},
        {"known": split.labels},
    ]
    prints = {dataclasses.replace(split, **change).fingerprint for change in changed}
    assert len(prints | {split.fingerprint}) == len(changed) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.zeros((4, 3), bool)},
        {"labels": np.zeros((4, 2), np.float32)},
        {"image_ids": ("a", "a", "b", "c")},
        {"boxes": ()},
        {"known": np.ones((4, 3), bool)},
        {"known": np.zeros((4, 2), bool)},
    ],
)
def test_a_split_whose_parts_disagree_cannot_be_made(change):
    with pytest.raises(ValueError):
        dataclasses.replace(make_split(), **change)


def read_all(source, indices):
    dataset = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64)).map(source.read)
    return list(dataset.as_numpy_iterator())


def test_files_are_read_by_index_eagerly_and_in_a_graph(tmp_path):
    for name in ("x", "y", "z"):
        (tmp_path / name).write_text(name * 3)
    source = FileSource(tmp_path, ["x", "y", "z"])
    assert read_all(source, [2, 0, 2]) == [b"zzz", b"xxx", b"zzz"]
    assert source.read(tf.constant(1, tf.int64)).numpy() == b"yyy"
    assert source.name(1) == str(tmp_path / "y")


def test_records_are_read_by_index_eagerly_and_in_a_graph():
    def example(value: bytes) -> bytes:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Example(
            features=tf.train.Features(feature={"image": feature})
        ).SerializeToString()

    source = RecordSource([example(b"p"), example(b"q")], "image")
    assert read_all(source, [1, 0, 1]) == [b"q", b"p", b"q"]
    assert source.read(tf.constant(0, tf.int64)).numpy() == b"p"


def test_unknown_data_sets_and_splits_are_answered_with_the_choices():
    config = types.SimpleNamespace(name="imagenet", path="")
    with pytest.raises(UserError, match="coco, digits"):
        load_split(config, "train")
    config.name = "digits"
    with pytest.raises(UserError, match="train, validation, test"):
        load_split(config, "testing")


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_split_without_any_label_is_refused_before_anything_is_computed(tmp_path, name):
    rows = [f"{i}.jpg,{'' if part == name else 'cat'},{part}"
            for i, part in enumerate(("train", "validation", "test"))]  # fmt: skip
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels,split", *rows]))
    for i in range(3):
        (tmp_path / f"{i}.jpg").touch()
    config = types.SimpleNamespace(
        name="folder", path=str(tmp_path), drop_unlabelled=False, on_missing="error",
        validation_fraction=0.1, test_fraction=0.2, split_seed=0, separator="",
    )  # fmt: skip
    for other in {"train", "validation", "test"} - {name}:
        assert len(load_split(config, other)) == 1
    with pytest.raises(UserError, match=f"the {name} split .* has no label in any of its 1 images"):
        load_split(config, name)


def test_what_is_not_known_is_masked_or_absent_as_the_config_has_it(tmp_path):
    rows = [f"{i}.jpg,1,{'' if i % 2 else 0},{part}"
            for part in ("train", "validation", "test") for i in range(2)]  # fmt: skip
    rows = [f"{part}{row}" for part, row in zip("aabbcc", rows, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,cat,dog,split", *rows]))
    for row in rows:
        (tmp_path / row.partition(",")[0]).touch()
    config = types.SimpleNamespace(
        name="folder", path=str(tmp_path), drop_unlabelled=False, on_missing="error",
        validation_fraction=0.1, test_fraction=0.2, split_seed=0, separator="", unknown="mask",
    )  # fmt: skip
    masked = load_split(config, "train")
    assert masked.known.tolist() == [[True, True], [True, False]]
    config.unknown = "negative"
    absent = load_split(config, "train")
    assert absent.known is None and np.array_equal(absent.labels, masked.labels)
    assert absent.fingerprint != masked.fingerprint
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(text.replace(",0,", ",-1,"))
    assert load_split(config, "test").known is None
    config.unknown = "mask"
    with pytest.raises(
        UserError, match=r"says of no label that an image lacks it.*unknown=negative"
    ):
        load_split(config, "test")


def test_labels_that_a_split_lacks_are_known_for_none_where_some_are_not():
    known = np.array([[True, False], [True, True], [True, True], [True, True]])
    split = make_split()
    split = dataclasses.replace(split, labels=split.labels & known, known=known, boxes=None)
    moved = split.with_labels(("c", "b", "a"), "the checkpoint")
    assert np.array_equal(moved.known, np.column_stack([np.zeros(4, bool), known[:, ::-1]]))


def test_columns_follow_other_names_whatever_their_order_and_unicode_form():
    split = dataclasses.replace(make_split(), label_names=("caf\u00e9", "b"), boxes=None)
    moved = split.with_labels(("x", "b", "cafe\u0301"), "the checkpoint")
    assert moved.label_names == ("x", "b", "cafe\u0301")
    np.testing.assert_array_equal(moved.labels[:, [2, 1]], split.labels)
    assert not moved.labels[:, 0].any()
    boxed = dataclasses.replace(split, boxes=tuple(np.eye(2, 5, dtype=np.float32) for _ in "1234"))
    for box in boxed.with_labels(("b", "caf\u00e9"), "x").boxes:
        np.testing.assert_array_equal(box[:, 0], [0, 1])  # columns 1 and 0 before
    assert split.with_labels(split.label_names, "x") is split


def test_a_label_that_others_lack_is_an_error_only_where_an_image_has_it(caplog):
    from absl import logging

    logging.get_absl_logger().propagate = True
    split = dataclasses.replace(make_split(), label_names=("dog", "cat"), boxes=None)
    with pytest.raises(UserError, match=r"label 'dog', of 2 images of the train split.*'dogs'"):
        split.with_labels(("dogs", "cat"), "the checkpoint")
    split.labels[:, 0] = False
    with caplog.at_level("WARNING"):
        kept = split.with_labels(("dogs", "cat"), "the checkpoint")
    np.testing.assert_array_equal(kept.labels[:, 1], split.labels[:, 1])
    assert "1 of the 2 labels of the checkpoint are unknown to the train split" in caplog.text
    assert "'dogs'" in caplog.text
    with pytest.raises(UserError, match="is none of the 1 labels"):
        split.with_labels(("bird",), "the checkpoint")
