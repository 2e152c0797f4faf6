import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
from absl import logging as absl_logging
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn_lstm.data import FileSource, Split
from attn_lstm.data.pipeline import (
    Augment,
    eval_batches,
    eval_steps,
    host_rows,
    train_batches,
    training_rows,
)
from attn_lstm.errors import UserError
from tests.programs import run

SIZE = 8


def write_split(folder, n: int, bad: tuple[int, ...] = ()) -> Split:
    """n images, image i all of the value i; those in `bad` are no images."""
    for i in range(n):
        path = folder / f"{i}.png"
        if i in bad:
            path.write_bytes(b"not found")
        else:
            Image.new("RGB", (SIZE, SIZE), (i, i, i)).save(path)
    return Split(
        dataset="numbers",
        name="train",
        label_names=("even", "third", "any"),
        image_ids=tuple(f"number{i}" for i in range(n)),
        labels=np.array([[i % 2 == 0, i % 3 == 0, True] for i in range(n)]),
        images=FileSource(folder, [f"{i}.png" for i in range(n)]),
    )


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Split:
    return write_split(tmp_path_factory.mktemp("numbers"), 30)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Split:
    split = write_split(tmp_path_factory.mktemp("damaged"), 30, bad=(3, 17))
    missing = split.images.name(25)
    (tmp_path_factory.getbasetemp() / missing).unlink()
    return split


def train(split: Split, **changes):
    arguments = {
        "batch_size": 4,
        "image_size": SIZE,
        "resize": "squash",
        "augment": Augment(),
        "seed": 0,
        "start_step": 0,
        "on_bad_image": "error",
        "process_index": 0,
        "process_count": 1,
    }
    return train_batches(split, **{**arguments, **changes})


def evaluate(split: Split, **changes):
    arguments = {
        "batch_size": 4,
        "image_size": SIZE,
        "resize": "squash",
        "on_bad_image": "error",
        "process_index": 0,
        "process_count": 1,
    }
    return eval_batches(split, **{**arguments, **changes})


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for field, other_field in zip(batch, other, strict=True):
            np.testing.assert_array_equal(field, other_field)


# ------------------------------------------------------------------------------------ the order


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 10**6),
)
@settings(max_examples=15)
def test_every_epoch_is_a_permutation_of_the_rows(n, batch_size, seed, epoch):
    first, last = epoch * n // batch_size, ((epoch + 1) * n - 1) // batch_size
    rows = [training_rows(n, batch_size, seed, step) for step in range(first, last + 1)]
    start = epoch * n - first * batch_size
    assert sorted(np.concatenate(rows)[start : start + n]) == list(range(n))


def test_the_order_does_not_depend_on_the_batch_size():
    whole = training_rows(10, 60, 3, 0)
    parts = [training_rows(10, 6, 3, step) for step in range(10)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_no_two_epochs_or_seeds_share_an_order():
    epochs = training_rows(50, 50 * 600, 1, 0).reshape(600, 50)
    assert len(np.unique(epochs, axis=0)) == 600
    other = training_rows(50, 50, 2, 0)
    assert not (epochs == other).all(1).any()


def test_each_row_is_as_likely_at_each_place():
    n, epochs = 12, 500
    order = training_rows(n, n * epochs, 5, 0).reshape(epochs, n)
    counts = np.stack([np.bincount(order[:, place], minlength=n) for place in range(n)])
    chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum() / (n - 1) ** 2
    assert 0.6 < chi_square < 1.4


def test_the_order_is_the_one_that_older_checkpoints_continue():
    assert training_rows(10, 12, 0, 0).tolist() == GOLDEN


GOLDEN = [4, 9, 0, 3, 2, 1, 8, 6, 7, 5, 9, 4]


# ------------------------------------------------------------------------------------- training


def test_a_training_batch_holds_the_rows_of_its_step(numbers):
    for step, batch in enumerate(itertools.islice(train(numbers), 20)):
        rows = training_rows(len(numbers), 4, 0, step)
        np.testing.assert_array_equal(batch.image_id, rows)
        np.testing.assert_array_equal(batch.labels, numbers.labels[rows])
        np.testing.assert_array_equal(batch.inputs[:, 0, 0, 0], rows)
        assert batch.mask.all()
        assert [field.dtype for field in batch[:4]] == [np.uint8, np.float32, np.bool_, np.int32]
        assert batch.inputs.shape == (4, SIZE, SIZE, 3)


AUGMENT = Augment(flip=True, crop_scale=(0.3, 1.0), randaugment_layers=1, cutout=3)


def test_a_batch_says_which_labels_are_known_where_some_are_not(numbers):
    assert next(train(numbers)).known is None
    known = numbers.labels | [True, False, True]
    split = dataclasses.replace(numbers, known=known)
    batch = next(train(split))
    assert batch.known.dtype == bool
    np.testing.assert_array_equal(batch.known, known[batch.image_id])


def test_starting_late_is_the_same_as_coming_by(numbers):
    through = itertools.islice(train(numbers, augment=AUGMENT), 7, 12)
    started = itertools.islice(train(numbers, augment=AUGMENT, start_step=7), 5)
    assert_same(through, started)


def test_a_very_late_start_costs_nothing(numbers):
    batch = next(train(numbers, start_step=10**12))
    np.testing.assert_array_equal(batch.image_id, training_rows(30, 4, 0, 10**12))


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_together_hold_the_global_batch(numbers, hosts):
    augment = Augment(flip=True, crop_scale=(0.3, 1.0), cutout=3)
    one = itertools.islice(train(numbers, augment=augment), 9)
    parts = [
        itertools.islice(train(numbers, augment=augment, process_index=i, process_count=hosts), 9)
        for i in range(hosts)
    ]
    joined = [
        jax.tree.map(lambda *field: np.concatenate(field), *batches)
        for batches in zip(*parts, strict=True)
    ]
    assert_same(one, joined)


def test_augmentation_depends_on_seed_epoch_and_row_alone(numbers):
    patterned = write_patterns(numbers)

    def seen(batches, count):
        images = {}
        for step, batch in enumerate(itertools.islice(batches, count)):
            for place, (row, image) in enumerate(zip(batch.image_id, batch.inputs, strict=True)):
                images[(step * len(batch.mask) + place) // 30, int(row)] = image
        return images

    augment = Augment(crop_scale=(0.3, 0.8))
    small = seen(train(patterned, augment=augment, batch_size=5), 12)
    large = seen(train(patterned, augment=augment, batch_size=12), 5)
    assert small.keys() == large.keys()
    assert all(np.array_equal(small[key], large[key]) for key in small)
    changed = [not np.array_equal(small[0, row], small[1, row]) for row in range(30)]
    assert sum(changed) > 25
    other = seen(train(patterned, augment=augment, batch_size=5, seed=1), 6)
    assert sum(not np.array_equal(small[0, row], other[0, row]) for row in range(30)) > 25


def write_patterns(split: Split) -> Split:
    """The same split with noise for images, so that every crop looks different."""
    rng = np.random.default_rng(0)
    for i in range(len(split)):
        path = split.images.name(i).replace(".png", ".noise.png")
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    folder, _ = split.images.name(0).rsplit("/", 1)
    images = FileSource(folder, [f"{i}.noise.png" for i in range(len(split))])
    return Split(
        "noise", split.name, split.label_names, split.image_ids, split.labels, images, split.boxes
    )


# ----------------------------------------------------------------------------------- evaluation


@given(n=st.integers(1, 500), per_host=st.integers(1, 40), hosts=st.integers(1, 9))
def test_each_row_belongs_to_one_host_and_batch(n, per_host, hosts):
    batch_size = per_host * hosts
    parts = [host_rows(batch_size, i, hosts) for i in range(hosts)]
    rows = [
        row
        for step in range(eval_steps(n, batch_size))
        for part in parts
        for row in range(step * batch_size + part.start, step * batch_size + part.stop)
        if row < n
    ]
    assert rows == list(range(n))
    assert eval_steps(n, batch_size) == math.ceil(n / batch_size)


@pytest.mark.parametrize(
    ("n", "batch_size", "hosts"), [(30, 8, 1), (30, 8, 4), (29, 6, 3), (1, 4, 2), (30, 30, 2)]
)
def test_evaluation_sees_each_image_once_over_all_hosts(numbers, n, batch_size, hosts):
    split = numbers.select(range(n))
    seen, steps = [], set()
    for host in range(hosts):
        batches = list(
            evaluate(split, batch_size=batch_size, process_index=host, process_count=hosts)
        )
        steps.add(len(batches))
        for batch in batches:
            assert batch.inputs.shape == (batch_size // hosts, SIZE, SIZE, 3)
            rows = batch.image_id[batch.mask]
            seen += rows.tolist()
            np.testing.assert_array_equal(batch.inputs[batch.mask][:, 0, 0, 0], rows)
            np.testing.assert_array_equal(batch.labels[batch.mask], split.labels[rows])
            assert (batch.image_id[~batch.mask] == -1).all()
            assert not batch.inputs[~batch.mask].any()
            assert not batch.labels[~batch.mask].any()
    assert sorted(seen) == list(range(n))
    assert steps == {eval_steps(n, batch_size)}


# ----------------------------------------------------------------------------------- bad images


@pytest.mark.parametrize("batches", [train, evaluate])
def test_a_bad_image_is_named_with_the_remedy(damaged, batches):
    with pytest.raises(UserError) as caught:
        list(itertools.islice(batches(damaged), 8))
    message = str(caught.value)
    assert any(damaged.images.name(row) in message for row in (3, 17, 25))
    assert "data.on_bad_image=skip" in message
    assert "\n" not in message and "{{" not in message


def test_all_bad_images_of_a_batch_are_named_at_once(damaged):
    with pytest.raises(UserError) as caught:
        next(evaluate(damaged, batch_size=30))
    assert all(damaged.images.name(row) in str(caught.value) for row in (3, 17, 25))
    assert "No such file" in str(caught.value) and "not an image" in str(caught.value)


def test_skipping_masks_the_bad_images_and_moves_no_other(numbers, damaged, caplog):
    absl_logging.use_absl_handler()
    good, skipping = train(numbers), train(damaged, on_bad_image="skip")
    absl_logging.get_absl_logger().propagate = True
    with caplog.at_level("WARNING"):
        for batch, expected in itertools.islice(zip(skipping, good, strict=True), 24):
            np.testing.assert_array_equal(batch.image_id, expected.image_id)
            np.testing.assert_array_equal(batch.labels, expected.labels)
            bad = np.isin(batch.image_id, (3, 17, 25))
            np.testing.assert_array_equal(batch.mask, ~bad)
            np.testing.assert_array_equal(batch.inputs[~bad], expected.inputs[~bad])
            assert not batch.inputs[bad].any()
    assert set(skipping.bad) == {3, 17, 25}
    for row, count in zip(skipping.bad, (1, 2, 3), strict=True):
        lines = [
            r.getMessage() for r in caplog.records if damaged.images.name(row) in r.getMessage()
        ]
        assert len(lines) == 1
        assert f"{count} bad" in lines[0]


@pytest.mark.parametrize("batches", [train, evaluate])
def test_images_beyond_the_limit_of_pixels_are_bad_images(numbers, batches):
    assert next(batches(numbers, max_pixels=SIZE * SIZE)).mask.all()
    with pytest.raises(UserError, match=r"8 x 8 pixels are more than data\.max_pixels=63: .*skip"):
        next(batches(numbers, max_pixels=SIZE * SIZE - 1))
    skipping = batches(numbers, max_pixels=SIZE * SIZE - 1, on_bad_image="skip")
    assert not next(skipping).mask.any()
    assert len(skipping.bad) == 4


def test_bad_images_stay_black_under_augmentation(damaged):
    augment = Augment(randaugment_layers=2, randaugment_magnitude=30, cutout=4)
    for batch in itertools.islice(train(damaged, augment=augment, on_bad_image="skip"), 8):
        assert not batch.inputs[~batch.mask].any()


def test_good_splits_have_no_bad_images(numbers):
    batches = evaluate(numbers, on_bad_image="skip")
    assert sum(batch.mask.sum() for batch in batches) == 30
    assert batches.bad == {}


# -------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 5, "process_count": 2}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"image_size": 0}, "image_size"),
        ({"resize": "stretch"}, "squash, crop, pad"),
        ({"on_bad_image": "ignore"}, "error, skip"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
    ],
)
def test_impossible_arguments_are_named(numbers, change, named):
    with pytest.raises(UserError, match=named):
        train(numbers, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.8, 0.5)},
        {"crop_scale": (0.5, 1.1)},
        {"randaugment_layers": -1},
        {"randaugment_magnitude": 31},
        {"cutout": -1},
    ],
)
def test_impossible_augmentations_are_named(change):
    with pytest.raises(UserError, match=f"augment.{next(iter(change))}"):
        Augment(**change)


def test_an_empty_split_is_an_error(numbers):
    for batches in (train, evaluate):
        with pytest.raises(UserError, match="no image"):
            batches(numbers.select([]))


ABANDONING = """
import sys, time
from pathlib import Path
from attn_lstm.data import image_file
from tests.data.test_pipeline import train, write_split

read = image_file.read
def slow(content, max_pixels):
    time.sleep(0.2)
    return read(content, max_pixels)

image_file.read = slow
batches = train(write_split(Path(sys.argv[1]), 30))
print(next(batches).image_id.size)
{ending}
"""


@pytest.mark.parametrize("ending", ["del batches; print('on')", "sys.exit(3)"])
def test_batches_may_be_left_while_images_are_read(tmp_path, ending):
    # In a process of its own: what waits for ever cannot be interrupted.
    left = run("-c", ABANDONING.format(ending=ending), tmp_path, timeout=120)
    assert left.returncode == (3 if "exit" in ending else 0), left.stderr
    assert left.stdout.split() == (["4"] if "exit" in ending else ["4", "on"])
