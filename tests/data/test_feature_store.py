import dataclasses
import functools
import itertools
import json
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn_lstm.data import FileSource, Split
from attn_lstm.data import feature_store as module
from attn_lstm.data.feature_store import (
    KEY,
    feature_eval_batches,
    feature_train_batches,
    open_store,
    pixel_digest,
)
from attn_lstm.data.pipeline import Augment, eval_batches, eval_steps, train_batches, view_batches
from attn_lstm.errors import UserError

SHAPE = (4, 6)
N = 30
KEY_OF_30 = {"images": N, "shape": list(SHAPE), "dtype": "float16", "shard_rows": 8, "view": 0}


def features_of(row: int, view: int = 0) -> np.ndarray:
    """Numbers that float16 holds, which tell the row and the view."""
    return np.full(SHAPE, row + 100 * view, np.float16) + np.arange(6, dtype=np.float16) / 16


def filled(root, view: int = 0, bad: tuple[int, ...] = (), **changes):
    """A complete store."""
    store = open_store(root, {**KEY_OF_30, "view": view, **changes})
    for shard in store.missing():
        rows = store.rows_of(shard)
        store.write(shard, [None if row in bad else features_of(row, view) for row in rows])
    return store


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Split:
    """Images of one value each, the number of their row."""
    folder = tmp_path_factory.mktemp("numbers")
    for i in range(N):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i}.png")
    return Split(
        dataset="numbers",
        name="train",
        label_names=("even", "any"),
        image_ids=tuple(f"number{i}" for i in range(N)),
        labels=np.array([[i % 2 == 0, True] for i in range(N)]),
        images=FileSource(folder, [f"{i}.png" for i in range(N)]),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    root = tmp_path_factory.mktemp("views")
    return [filled(root, view) for view in range(2)]


@pytest.fixture(scope="module")
def store_of(tmp_path_factory):
    """A function from a number of images to a store of them."""
    root = tmp_path_factory.mktemp("sizes")
    return functools.cache(lambda n: filled(root, images=n))


COMMON = {"batch_size": 4, "on_bad_image": "error", "process_index": 0, "process_count": 1}
IMAGES = {"image_size": 8, "resize": "squash"}


# -------------------------------------------------------------------------------------- on disk


def test_the_rows_come_back_in_any_order(store):
    rows = np.random.default_rng(0).integers(0, N, 50)
    features, good = store.read(rows)
    np.testing.assert_array_equal(features, [features_of(row) for row in rows])
    assert features.dtype == np.float16 and good.all()


def test_padding_is_zero_and_not_good(store):
    features, good = store.read(np.array([-1, 3, -1]))
    assert good.tolist() == [False, True, False]
    assert not features[[0, 2]].any()
    features, good = store.read(np.array([-1, -1]))
    assert not features.any() and not good.any()


@given(rows=st.integers(1, 3000), shard_rows=st.integers(1, 1000))
def test_each_row_lies_in_one_shard(rows, shard_rows):
    store = module.FeatureStore(None, rows, SHAPE, "float16", shard_rows)
    held = [row for shard in range(store.shards) for row in store.rows_of(shard)]
    assert held == list(range(rows))
    assert all(row // shard_rows == s for s in range(store.shards) for row in store.rows_of(s))


def test_float32_is_kept_to_the_bit(tmp_path):
    store = open_store(tmp_path, {**KEY_OF_30, "images": 3, "dtype": "float32"})
    values = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    store.write(0, list(values))
    features, _ = store.read(np.arange(3))
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, values)


def test_another_key_is_another_folder(tmp_path):
    changes = ({}, {"view": 1}, {"dtype": "float32"}, {"shape": [6, 4]}, {"more": None})
    stores = [open_store(tmp_path, {**KEY_OF_30, **change}) for change in changes]
    assert len({store.folder for store in stores}) == len(changes)
    assert all(store.folder.parent == tmp_path for store in stores)
    assert json.loads((stores[0].folder / KEY).read_text()) == KEY_OF_30
    shuffled = dict(reversed(KEY_OF_30.items()))
    assert open_store(tmp_path, shuffled) == stores[0]


def test_a_folder_of_another_key_is_refused(tmp_path):
    store = filled(tmp_path)
    (store.folder / KEY).write_text(json.dumps({**KEY_OF_30, "view": 1}))
    with pytest.raises(UserError, match=f"delete {store.folder}"):
        open_store(tmp_path, KEY_OF_30)


def test_what_is_missing_is_known_and_whole_shards_alone_are_there(tmp_path, monkeypatch):
    store = open_store(tmp_path, KEY_OF_30)
    assert store.missing() == [0, 1, 2, 3]
    store.write(2, [features_of(row) for row in store.rows_of(2)])
    assert store.missing() == [0, 1, 3]

    class Interrupted(module.ArrayRecordWriter):
        def close(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "ArrayRecordWriter", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(0, [features_of(row) for row in store.rows_of(0)])
    assert store.missing() == [0, 1, 3]
    assert sorted(path.name for path in store.folder.iterdir()) == sorted([KEY, store.path(2).name])


def test_a_shard_of_the_wrong_size_is_not_written(tmp_path):
    store = open_store(tmp_path, KEY_OF_30)
    with pytest.raises(ValueError, match="2 features"):
        store.write(0, [None, None])


def damage(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


def flipped(content):
    """The content with one bit of a feature turned over."""
    place = content.index(features_of(9).tobytes()) + 2
    content[place] ^= 1
    return content


@pytest.mark.parametrize("length", [0, 100, -10])
def test_a_truncated_shard_is_named_when_the_store_is_opened(tmp_path, length):
    store = filled(tmp_path)
    damage(store.path(1), lambda content: content[:length])
    with pytest.raises(UserError, match=f"{store.path(1)} is damaged .* delete it") as caught:
        store.missing()
    assert "\n" not in str(caught.value)


def test_the_rows_of_another_shard_or_store_are_named_when_the_store_is_opened(tmp_path):
    store, other = filled(tmp_path), filled(tmp_path, view=1)
    for wrong in (store.path(2), other.path(1)):
        shutil.copyfile(wrong, store.path(1))
        with pytest.raises(UserError, match=f"{store.path(1)} is damaged .*another shard"):
            store.missing()
    store.path(1).unlink()
    assert store.missing() == [1]


def test_a_shard_of_version_0_1_0_has_no_mark_and_is_read(tmp_path):
    store = filled(tmp_path)
    writer = ArrayRecordWriter(str(store.path(1)), "group_size:1,uncompressed")
    for row in store.rows_of(1):
        writer.write(features_of(row).tobytes())
    writer.close()
    assert store.missing() == []
    features, good = store.read(np.arange(N))
    assert good.all()
    np.testing.assert_array_equal(features, [features_of(row) for row in range(N)])


@pytest.mark.parametrize("change", [lambda content: content[:100], flipped, lambda content: b""])
def test_a_shard_that_is_damaged_later_is_named_by_reading(tmp_path, numbers, change):
    store = filled(tmp_path)
    damage(store.path(1), change)
    with pytest.raises(UserError, match=f"{store.path(1)} is damaged .* delete it") as caught:
        list(feature_eval_batches(numbers, store, **COMMON))
    assert "\n" not in str(caught.value)


def test_a_record_of_the_wrong_length_is_named(tmp_path):
    store = filled(tmp_path)
    narrow = dataclasses.replace(store, shape=(4, 5))
    narrow.write(3, [np.zeros((4, 5))] * 6)
    with pytest.raises(UserError, match=rf"{store.path(3)} is damaged \(row 25 has 40 bytes"):
        store.read(np.array([3, 25]))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"config\.cache\.path"):
        open_store(tmp_path / "file", KEY_OF_30)
    store = open_store(tmp_path, KEY_OF_30)
    gone = dataclasses.replace(store, folder=tmp_path / "gone")
    with pytest.raises(UserError, match=r"config\.cache\.path"):
        gone.write(0, [None] * 8)


def test_copies_with_other_pixels_have_another_digest(numbers, tmp_path):
    for i in range(N):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    smaller = FileSource(tmp_path, [f"{i}.png" for i in range(N)])
    copy = dataclasses.replace(numbers, images=smaller)
    assert pixel_digest(copy) != pixel_digest(numbers)
    assert copy.fingerprint == numbers.fingerprint
    assert pixel_digest(numbers.select(range(N))) == pixel_digest(numbers)
    assert len(pixel_digest(numbers.select([0]))) == 64
    (tmp_path / "0.png").unlink()
    assert len(pixel_digest(copy)) == 64


# -------------------------------------------------------------------------------------- batches


def assert_same_rows(batches, of_images):
    for batch, expected in zip(batches, of_images, strict=True):
        for field in ("labels", "mask", "image_id"):
            ours, theirs = getattr(batch, field), getattr(expected, field)
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("start", [0, 7, 10**9])
@pytest.mark.parametrize(("host", "hosts"), [(0, 1), (1, 2)])
def test_training_sees_the_rows_of_the_images_in_their_order(numbers, store, start, host, hosts):
    changes = {"process_index": host, "process_count": hosts}
    arguments = {**COMMON, "seed": 3, "start_step": start, **changes}
    ours = feature_train_batches(numbers, [store], **arguments)
    theirs = train_batches(numbers, augment=Augment(), **IMAGES, **arguments)
    assert_same_rows(itertools.islice(ours, 20), itertools.islice(theirs, 20))


def test_an_epoch_takes_its_view(numbers, two_views):
    batches = feature_train_batches(numbers, two_views, **COMMON, seed=0, start_step=0)
    position = 0
    for batch in itertools.islice(batches, 3 * N // 4):
        for row, features in zip(batch.image_id, batch.inputs, strict=True):
            view = position // N % 2
            np.testing.assert_array_equal(features, features_of(row, view))
            position += 1
    assert position > 2 * N


@given(n=st.integers(1, N), per_host=st.integers(1, 9), hosts=st.integers(1, 4))
@settings(max_examples=10)
def test_evaluation_sees_each_row_once_over_all_hosts(store_of, numbers, n, per_host, hosts):
    split, store = numbers.select(range(n)), store_of(n)
    seen = []
    for host in range(hosts):
        place = {"process_index": host, "process_count": hosts}
        arguments = {**COMMON, "batch_size": per_host * hosts, **place}
        batches = list(feature_eval_batches(split, store, **arguments))
        assert len(batches) == eval_steps(n, per_host * hosts)
        for batch in batches:
            rows = batch.image_id[batch.mask]
            seen += rows.tolist()
            assert batch.inputs.shape == (per_host, *SHAPE)
            for row, features in zip(rows, batch.inputs[batch.mask], strict=True):
                np.testing.assert_array_equal(features, features_of(row))
            assert (batch.image_id[~batch.mask] == -1).all()
            assert not batch.inputs[~batch.mask].any()
            assert not batch.labels[~batch.mask].any()
    assert sorted(seen) == list(range(n))


def test_evaluation_sees_the_rows_of_the_images_in_their_order(numbers, store):
    arguments = {**COMMON, "batch_size": 8}
    ours = feature_eval_batches(numbers, store, **arguments)
    assert_same_rows(ours, eval_batches(numbers, **IMAGES, **arguments))
    masked = dataclasses.replace(numbers, known=numbers.labels)
    for batch in feature_eval_batches(masked, store, **arguments):
        np.testing.assert_array_equal(batch.known, masked.known[np.maximum(batch.image_id, 0)])


def test_a_missing_image_is_masked_or_named(numbers, tmp_path):
    store = filled(tmp_path, bad=(5, 17))
    arguments = {**COMMON, "seed": 0, "start_step": 0, "on_bad_image": "skip"}
    batches = feature_train_batches(numbers, [store], **arguments)
    for batch in itertools.islice(batches, 16):
        np.testing.assert_array_equal(batch.mask, ~np.isin(batch.image_id, (5, 17)))
        np.testing.assert_array_equal(batch.labels, numbers.labels[batch.image_id])
        assert not batch.inputs[~batch.mask].any()
    assert set(batches.bad) == {5, 17}
    assert str(store.path(2)) in batches.bad[17]
    with pytest.raises(UserError, match=numbers.images.name(5)) as caught:
        list(feature_eval_batches(numbers, store, **COMMON))
    assert f"delete {store.path(0)}" in str(caught.value)
    assert "data.on_bad_image=skip" in str(caught.value)


def test_impossible_arguments_are_named(numbers, store):
    for change, named in (
        ({"batch_size": 5, "process_count": 2}, "batch_size"),
        ({"on_bad_image": "ignore"}, "error, skip"),
    ):
        with pytest.raises(UserError, match=named):
            feature_eval_batches(numbers, store, **{**COMMON, **change})


# ---------------------------------------------------------------------------------------- views


def test_a_view_shows_the_images_of_its_epoch(numbers, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")
    noise = FileSource(tmp_path, [f"{i}.png" for i in range(N)])
    split = dataclasses.replace(numbers, images=noise)
    arguments = {**IMAGES, "augment": Augment(flip=True, crop_scale=(0.3, 0.9)), "seed": 4,
                 "on_bad_image": "error"}  # fmt: skip
    place = {"process_index": 0, "process_count": 1}
    (epoch,) = itertools.islice(
        train_batches(split, batch_size=N, start_step=2, **arguments, **place), 1
    )
    rows = np.array([7, 3, 29, 0, 11])
    batches = list(view_batches(split, rows, batch_size=3, epoch=2, **arguments))
    ids = np.concatenate([batch.image_id for batch in batches])
    np.testing.assert_array_equal(ids, [*rows, -1])
    images = dict(zip(epoch.image_id.tolist(), epoch.inputs, strict=True))
    for row, image in zip(
        ids[:5].tolist(), np.concatenate([b.inputs for b in batches]), strict=False
    ):
        np.testing.assert_array_equal(image, images[row])
    assert not batches[-1].inputs[-1].any() and not batches[-1].mask[-1]


def test_the_plain_view_is_what_evaluation_sees(numbers):
    arguments = {**IMAGES, "batch_size": 8, "on_bad_image": "error"}
    plain = view_batches(numbers, np.arange(N), augment=Augment(), seed=0, epoch=0, **arguments)
    for batch, expected in zip(
        plain, eval_batches(numbers, **arguments, process_index=0, process_count=1), strict=True
    ):
        for field, other in zip(batch, expected, strict=True):
            np.testing.assert_array_equal(field, other)
