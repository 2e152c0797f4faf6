import filecmp
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from attn_lstm.data import digits
from attn_lstm.errors import UserError
from tests.programs import start

SMALL = {"train": 400, "validation": 60, "test": 120}


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "SCENES", SMALL)
        for split in SMALL:
            digits.load_digits_split(folder, split)
    return folder


@pytest.fixture(scope="module")
def splits(small_folder):
    return {name: digits.load_digits_split(small_folder, name) for name in SMALL}


def test_each_split_has_its_scenes_and_labels(splits):
    for name, split in splits.items():
        assert len(split) == SMALL[name]
        assert split.label_names == tuple("0123456789")
        per_scene = split.labels.sum(axis=1)
        assert per_scene.min() >= 1 and per_scene.max() <= 4
    ids = [image_id for split in splits.values() for image_id in split.image_ids]
    assert len(set(ids)) == len(ids)


def test_boxes_hold_the_labelled_digits_apart_from_each_other(splits):
    for row, boxes in enumerate(splits["train"].boxes):
        assert boxes.dtype == np.float32
        assert sorted(boxes[:, 0]) == np.flatnonzero(splits["train"].labels[row]).tolist()
        pixels = np.round(boxes[:, 1:] * digits.CANVAS).astype(int)
        cover = np.zeros((digits.CANVAS, digits.CANVAS), int)
        for top, left, bottom, right in pixels:
            assert 0 <= top < bottom <= digits.CANVAS and 0 <= left < right <= digits.CANVAS
            cover[top:bottom, left:right] += 1
        assert cover.max() == 1
    heights = np.concatenate([b[:, 3] - b[:, 1] for b in splits["train"].boxes]) * digits.CANVAS
    assert heights.min() <= 14 and heights.max() >= 37


def test_ink_lies_inside_the_boxes(splits):
    split = splits["validation"]
    for row in range(20):
        image = tf.io.decode_jpeg(split.images.read(tf.constant(row, tf.int64))).numpy()
        light = image.max(axis=-1) > 190
        inside = np.zeros_like(light)
        for top, left, bottom, right in np.round(split.boxes[row][:, 1:] * 64).astype(int):
            assert light[top:bottom, left:right].any()
            inside[top:bottom, left:right] = True
        assert light[~inside].mean() < 0.01


def test_labels_have_a_long_tail_as_the_themes_say():
    assert np.isclose(sum(share for share, _ in digits.THEMES), 1)
    expected = np.zeros(10)
    for share, chances in digits.THEMES:
        assert len(chances) <= 4 and max(chances.values()) == 1
        for digit, chance in chances.items():
            expected[digit] += share * chance
    assert 0.04 <= expected.min() <= 0.06
    assert 0.45 <= expected.max() <= 0.55
    rng = np.random.default_rng(0)
    counts = np.zeros(10)
    for _ in range(4000):
        counts[digits.draw_labels(rng)] += 1
    np.testing.assert_allclose(counts / 4000, expected, atol=0.03)


def test_no_handwritten_sample_is_in_two_splits(small_folder):
    builder = digits.DigitScenes(data_dir=small_folder, file_format="array_record")
    target = load_digits().target
    used = {}
    for name in SMALL:
        source = builder.as_data_source(name, decoders={"image": tfds.decode.SkipDecoding()})
        objects = [example["objects"] for example in source]
        for scene in objects:
            np.testing.assert_array_equal(target[scene["sample"]], scene["label"])
        used[name] = set(np.concatenate([scene["sample"] for scene in objects]).tolist())
    pools = digits.sample_pools(target)
    for name, samples in used.items():
        assert samples <= set(np.concatenate(pools[name]).tolist())
    assert sorted(np.concatenate([np.concatenate(pool) for pool in pools.values()])) == list(
        range(1797)
    )
    for pool in pools.values():
        assert all(len(rows) >= 10 for rows in pool)


PREPARE = """
import sys
from attn_lstm.data import digits
digits.SCENES = {"train": 40, "validation": 6, "test": 12}
digits.load_digits_split(sys.argv[1], "test")
"""


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_two_processes_prepare_the_same_bytes(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    runs = [start("-c", PREPARE, folder) for folder in folders]
    assert [run.wait().returncode for run in runs] == [0, 0]
    assert files(folders[0]) == files(folders[1]) != []
    match, mismatch, errors = filecmp.cmpfiles(*folders, files(folders[0]), shallow=False)
    assert (mismatch, errors) == ([], [])
    assert sum("array_record" in str(path) for path in match) == 3


@pytest.mark.slow
def test_processes_that_prepare_one_folder_at_once_do_not_fail(tmp_path):
    runs = [start("-c", PREPARE, tmp_path) for _ in range(2)]
    assert [run.wait().returncode for run in runs] == [0, 0]
    assert len(digits.load_digits_split(tmp_path, "train")) == 40


def test_what_an_interruption_leaves_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 20, "validation": 3, "test": 6})
    draw_scene, drawn = digits.draw_scene, []

    def interrupted(*arguments):
        drawn.append(1)
        if len(drawn) == 22:
            raise KeyboardInterrupt
        return draw_scene(*arguments)

    monkeypatch.setattr(digits, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        digits.load_digits_split(tmp_path, "test")
    assert len(digits.load_digits_split(tmp_path, "test")) == 6
    assert len(drawn) == 22 + 29


def test_labels_come_out_the_same_without_the_kept_table(small_folder):
    first = digits.load_digits_split(small_folder, "validation")
    (table,) = small_folder.rglob("*.validation.labels.npz")
    for content in (None, b"damaged"):
        table.unlink()
        if content:
            table.write_bytes(content)
        again = digits.load_digits_split(small_folder, "validation")
        assert again.fingerprint == first.fingerprint
        assert all(map(np.array_equal, again.boxes, first.boxes))


def test_missing_files_and_unknown_splits_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 4, "validation": 2, "test": 2})
    with pytest.raises(UserError, match="train, validation, test"):
        digits.load_digits_split(tmp_path, "dev")
    digits.load_digits_split(tmp_path, "train")
    next(tmp_path.rglob("*train.array_record*")).unlink()
    with pytest.raises(UserError, match="is damaged"):
        digits.load_digits_split(tmp_path, "train")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.path"):
        digits.load_digits_split(tmp_path / "file" / "below", "train")
