import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_lstm import parallel
from attn_lstm.config import resolve
from attn_lstm.data import load_split
from attn_lstm.data.cpu_tensorflow import tf
from attn_lstm.data.feature_store import feature_eval_batches, feature_train_batches
from attn_lstm.data.pipeline import Augment, eval_batches, train_batches
from attn_lstm.errors import UserError
from attn_lstm.parallel import REPLICATED, SPLIT
from attn_lstm.rows import create_row
from attn_lstm.runs import features as module
from attn_lstm.runs.features import ensure_features
from attn_lstm.runs.state import create_state
from attn_lstm.training.optimizer import create_optimizer, create_schedule
from attn_lstm.training.step import make_train_step

HOST = {"process_index": 0, "process_count": 1}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "_SHARD_ROWS", 7)


class Run:
    """What a run with a frozen backbone holds when it asks for features."""

    def __init__(self, config):
        self.config = resolve(config)
        self.split = load_split(self.config.data, "train")
        self.row = create_row(self.config, 3)
        self.network = self.row.network
        optimizer = self.config.optimizer
        schedule = create_schedule(optimizer, 10)
        self.optimizer = create_optimizer(optimizer, schedule, joins_at=0, scale=1.0)
        self.state = jax.jit(self.create)()
        self.said = []
        self._encode = jax.jit(lambda v, x: self.network.apply(v, x, method="encode"))

    def create(self):
        names = self.row.objective.parts
        return create_state(self.network, self.optimizer, 32, 0, True, False, names)

    def ensure(self, root, views=1, **changes):
        arguments = {"config": self.config, "variables": self.state.variables, "split": self.split}
        return ensure_features(
            **{**arguments, **changes},
            network=self.network, root=root, views=views, say=self.said.append,
        )  # fmt: skip

    def changed(self, **fields):
        config = self.config.copy_and_resolve_references().unlock()
        config.update_from_flattened_dict(fields)
        return config.lock()

    def encode(self, images):
        return np.asarray(self._encode(self.state.variables, images))


@pytest.fixture
def run(tiny_config):
    return Run(tiny_config(**{"backbone.frozen": True, "data.augment.crop_min_area": 0.5}))


@pytest.fixture
def nothing_computed(monkeypatch):
    """Stores are filled as if no image could be read: for tests of keys alone."""
    monkeypatch.setattr(module, "_computed", lambda *_: itertools.repeat(None))


def contents(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def test_features_are_those_of_the_network_within_float16(run, tmp_path):
    (store,) = run.ensure(tmp_path)
    data = {"batch_size": 8, "on_bad_image": "error", **HOST}
    images = eval_batches(run.split, image_size=32, resize="squash", **data)
    for batch, expected in zip(feature_eval_batches(run.split, store, **data), images, strict=True):
        np.testing.assert_array_equal(batch.image_id, expected.image_id)
        features = run.encode(expected.inputs)[expected.mask]
        assert features.max() > 0.1
        np.testing.assert_allclose(batch.inputs[batch.mask], features, rtol=2**-10, atol=1e-5)
    assert "43 of 43 images" in run.said[0]


def test_float32_features_are_the_network_s_own(run, tmp_path):
    (store,) = run.ensure(tmp_path, config=run.changed(**{"cache.dtype": "float32"}))
    images = next(eval_batches(run.split, batch_size=8, image_size=32, resize="squash",
                               on_bad_image="error", **HOST)).inputs  # fmt: skip
    features, _ = store.read(np.arange(8))
    np.testing.assert_allclose(features, run.encode(images), rtol=1e-5, atol=1e-6)


def test_a_view_holds_the_features_of_the_epoch_it_stands_for(run, tmp_path):
    stores = run.ensure(tmp_path, views=3)
    data = {"batch_size": 11, "seed": 0, "on_bad_image": "error", **HOST}
    augment = Augment.from_config(run.config.data.augment)
    assert augment != Augment()
    for start in (4, 8):  # epochs 1 and 2 of 43 images in batches of 11
        ours = feature_train_batches(run.split, stores, start_step=start, **data)
        theirs = train_batches(run.split, image_size=32, resize="squash", augment=augment,
                               start_step=start, **data)  # fmt: skip
        for batch, expected in itertools.islice(zip(ours, theirs, strict=True), 2):
            np.testing.assert_array_equal(batch.image_id, expected.image_id)
            np.testing.assert_allclose(
                batch.inputs, run.encode(expected.inputs), rtol=2**-10, atol=1e-5
            )


def test_without_augmentation_all_views_are_one(run, tmp_path, nothing_computed):
    config = run.changed(**{"data.augment.crop_min_area": 1.0, "data.augment.flip": False})
    assert run.ensure(tmp_path, views=3, config=config) == run.ensure(tmp_path)


def test_an_interrupted_writing_goes_on_to_the_same_bytes(run, tmp_path, monkeypatch):
    (whole,) = run.ensure(tmp_path / "whole")
    assert whole.shards == 7

    def interrupted(features, *_):
        yield from itertools.islice(features, 17)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_reported", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.ensure(tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setattr(module, "_SHARD_ROWS", 7)
    (folder,) = (tmp_path / "parts").iterdir()
    assert len(list(folder.iterdir())) == 1 + 2
    (parts,) = run.ensure(tmp_path / "parts")
    assert "29 of 43 images" in run.said[-1]
    assert contents(whole) == contents(parts)


def test_a_shard_that_was_deleted_is_computed_alone(run, tmp_path):
    (store,) = run.ensure(tmp_path)
    before = contents(store)
    store.path(3).unlink()
    run.ensure(tmp_path)
    assert "7 of 43 images" in run.said[-1]
    assert contents(store) == before


def test_a_second_start_computes_nothing(run, tmp_path, monkeypatch):
    stores = run.ensure(tmp_path, views=2)
    run.said.clear()
    monkeypatch.setattr(module, "_computed", None)
    assert run.ensure(tmp_path, views=2) == stores
    assert run.ensure(tmp_path) == stores[:1]
    assert run.said == []


def moved(variables, collection, amount):
    """The variables with one number of the backbone changed."""
    leaves, structure = jax.tree.flatten(variables[collection]["backbone"])
    leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].add(amount)
    backbone = jax.tree.unflatten(structure, leaves)
    return {**variables, collection: {**variables[collection], "backbone": backbone}}


def test_whatever_the_features_depend_on_makes_a_new_store(run, tmp_path, nothing_computed):
    variables = run.state.variables
    changes = [
        {},
        {"split": load_split(run.config.data, "validation")},
        {"split": run.split.select(range(40))},
        {"variables": moved(variables, "params", 1e-3)},
        {"variables": moved(variables, "batch_stats", 1e-3)},
        {"config": run.changed(**{"data.image_size": 40})},
        {"config": run.changed(**{"data.resize": "pad"})},
        {"config": run.changed(**{"cache.dtype": "float32"})},
    ]
    stores = [run.ensure(tmp_path, **change)[0] for change in changes]
    views = [{"seed": 0}, {"seed": 1}, {"data.augment.flip": False}]
    stores += [run.ensure(tmp_path, 2, config=run.changed(**view))[1] for view in views]
    assert len({store.folder for store in stores}) == len(changes) + len(views)


def test_the_head_and_the_plain_view_s_seed_do_not_matter(run, tmp_path, nothing_computed):
    (store,) = run.ensure(tmp_path)
    config = run.changed(
        **{"seed": 5, "data.augment.flip": False, "decoder.hidden": 99, "train.steps": 3}
    )
    backbone = {"backbone": run.state.params["backbone"]}
    variables = {**run.state.variables, "params": backbone}
    assert run.ensure(tmp_path, variables=variables, config=config) == (store,)


def test_adding_zero_to_the_parameters_does_not_matter(run, tmp_path, nothing_computed):
    negative = {**run.state.variables}
    negative["batch_stats"] = jax.tree.map(lambda x: jnp.where(x == 0, -0.0, x),
                                           negative["batch_stats"])  # fmt: skip
    assert run.ensure(tmp_path, variables=negative) == run.ensure(tmp_path)


def test_an_image_that_cannot_be_read_is_named_or_kept_as_absent(run, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"no image")
    images = run.split.images

    class Damaged:
        def read(self, index):
            return tf.cond(index == 9, lambda: tf.io.read_file(str(path)),
                           lambda: images.read(index))  # fmt: skip

        def name(self, index):
            return str(path) if index == 9 else images.name(index)

    split = dataclasses.replace(run.split, images=Damaged())
    with pytest.raises(UserError, match=r"bad\.jpg .*on_bad_image=skip"):
        run.ensure(tmp_path / "features", split=split)
    config = run.changed(**{"data.on_bad_image": "skip"})
    (store,) = run.ensure(tmp_path / "features", split=split, config=config)
    features, good = store.read(np.arange(43))
    assert np.flatnonzero(~good).tolist() == [9]
    assert not features[9].any()


def test_features_beyond_float16_are_refused(run, tmp_path):
    params = jax.tree.map(lambda x: 1e4 * x, run.state.params)
    large = {**run.state.variables, "params": params}
    with pytest.raises(UserError, match=r"config\.cache\.dtype=float32"):
        run.ensure(tmp_path, variables=large)


def test_a_disk_that_is_too_small_is_named_before_the_work(run, tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=0)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"GB left.*config\.cache\.path"):
        run.ensure(tmp_path)
    assert run.said == []


def test_hosts_compute_their_own_shards_and_no_others(run, tmp_path, monkeypatch):
    (whole,) = run.ensure(tmp_path / "one")
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    from jax.experimental import multihost_utils

    shards = []

    def gather(message):
        shards.append({p.name for p in (tmp_path / "three").glob("*/features*")})
        return np.stack([message] * 3)

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    for host in range(3):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        if host < 2:
            with pytest.raises(UserError, match="one folder that all hosts share"):
                run.ensure(tmp_path / "three")
        else:
            (three,) = run.ensure(tmp_path / "three")
    # Hosts meet when they have written, and when they have looked for what others wrote.
    assert [len(s) for s in shards] == [3, 3, 5, 5, 7, 7]
    assert contents(three) == contents(whole)


def test_a_step_on_features_is_the_step_on_images(run, tmp_path):
    """But for float16; what rests, rests to the bit."""
    config = run.changed(**{"decoder.dropout": 0.0})
    (store,) = run.ensure(tmp_path)
    data = {"batch_size": 8, "seed": 0, "start_step": 0, "on_bad_image": "error", **HOST}
    batches = {
        "images": next(train_batches(run.split, image_size=32, resize="squash",
                                     augment=Augment(), **data)),
        "features": next(feature_train_batches(run.split, [store], **data)),
    }  # fmt: skip
    mesh = parallel.make_mesh()
    steps = {
        name: parallel.map_over_devices(
            make_train_step(
                config, dataclasses.replace(run.row, encoded=name == "features"), run.optimizer,
                frozen=True,
            ),
            mesh, in_specs=(REPLICATED, SPLIT, REPLICATED), out_specs=REPLICATED,
        )
        for name in batches
    }  # fmt: skip
    state = parallel.replicate(run.state, mesh)
    after = {
        name: steps[name](state, parallel.shard_batch(batch, mesh), jnp.arange(3))
        for name, batch in batches.items()
    }
    for name, value in after["images"].totals.items():
        np.testing.assert_allclose(after["features"].totals[name], value, rtol=1e-3)
    for name in ("params", "batch_stats"):
        before, now = (s.variables[name]["backbone"] for s in (run.state, after["features"]))
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, now)))
    assert jax.tree.structure(after["features"]) == jax.tree.structure(after["images"])
    before, now = (s.params["decoder"] for s in (run.state, after["features"]))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, before, now)))
