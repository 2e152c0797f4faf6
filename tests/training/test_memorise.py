"""The row knn from train.py's call to eval.py's, against scikit-learn on the same features."""

import json
import shutil

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from attn_lstm import metrics
from attn_lstm.data import load_split
from attn_lstm.data.pipeline import eval_batches
from attn_lstm.errors import UserError
from attn_lstm.evaluation import evaluate
from attn_lstm.models.knn import CANDIDATES
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import workdir
from attn_lstm.runs.opened import open_checkpoint
from attn_lstm.training import loop, memorise, metrics_log

TOP_K = 2  # of 3 labels


@pytest.fixture(scope="module")
def knn_config(tiny_config):
    def create(**overrides):
        fields = {"backbone.frozen": True, "search.top_k": TOP_K, "cache.dtype": "float32"}
        return tiny_config("knn", **{**fields, **overrides})

    return create


@pytest.fixture(scope="module")
def mesh():
    return make_mesh()


@pytest.fixture(scope="module")
def whole(knn_config, tmp_path_factory, mesh):
    directory = tmp_path_factory.mktemp("knn")
    assert loop.train(knn_config(), directory, mesh)
    return directory


def records(directory):
    return [json.loads(line) for line in (directory / metrics_log.METRICS).read_text().splitlines()]


def evaluated(directory, mesh, split="test", step="best", **overrides):
    config = workdir.load_config(directory).unlock()
    config.update_from_flattened_dict(overrides)
    evaluate.evaluate(config.lock(), directory, step, split, mesh)
    return json.loads((directory / "eval" / f"{split}-1.json").read_text())


def memory_of(directory, mesh, step="best"):
    opened = open_checkpoint(workdir.load_config(directory), directory, step, mesh)
    return opened, jax.device_get(opened.variables["memory"]["neighbours"])


def f1(result):
    return (result["C-F1"] + result["O-F1"]) / 2


def test_one_pass_leaves_a_validation_line_and_both_checkpoints(whole, mesh, capsys):
    (record,) = records(whole)
    assert (record["kind"], record["step"]) == ("validation", 1)
    for folder in ("latest", "best"):
        assert [p.name for p in (whole / "checkpoints" / folder).iterdir()] == ["1"]
    assert workdir.load_labels(whole).images == 43


def test_a_second_start_finds_it_done(knn_config, whole, mesh, monkeypatch):
    before = (whole / metrics_log.METRICS).read_text()
    monkeypatch.setattr(memorise.Memory, "__call__", None)
    assert loop.train(knn_config(), whole, mesh)
    assert (whole / metrics_log.METRICS).read_text() == before


def test_a_run_killed_before_its_validation_makes_up_for_it(knn_config, whole, mesh, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/best")
    (tmp_path / metrics_log.METRICS).unlink()
    assert loop.train(knn_config(), tmp_path, mesh)
    assert records(tmp_path) == records(whole)
    assert [p.name for p in (tmp_path / "checkpoints/best").iterdir()] == ["1"]


def test_evaluation_equals_the_validation_of_the_run(whole, mesh, capsys):
    (record,) = records(whole)
    result = evaluated(whole, mesh, "validation", "latest")
    for name in ("C-F1", "O-F1", "mAP"):
        assert result[name] == pytest.approx(record[name], rel=1e-6)
    assert result["set_size"]["predicted"] == TOP_K
    assert "| knn " in capsys.readouterr().out


def test_the_chosen_k_has_the_best_validation_figures(whole, mesh):
    _, memory = memory_of(whole, mesh)
    counts = sorted({min(count, 43) for count in CANDIDATES})
    assert memory["count"] in counts
    figures = [
        f1(evaluated(whole, mesh, "validation", **{"knn.neighbours": count})) for count in counts
    ]
    assert len(set(figures)) > 1
    assert f1(evaluated(whole, mesh, "validation")) == pytest.approx(max(figures))


def test_figures_of_the_test_split_are_scikit_learn_s(whole, mesh):
    opened, memory = memory_of(whole, mesh)
    encode = jax.jit(lambda v, x: opened.row.network.apply(v, x, method="encode"))
    described, splits = {}, {}
    for name in ("train", "test"):
        split = splits[name] = load_split(opened.config.data, name)
        (batch,) = eval_batches(split, batch_size=len(split), image_size=32, resize="squash",
                                on_bad_image="error", process_index=0, process_count=1)  # fmt: skip
        described[name] = np.asarray(encode(opened.variables, batch.inputs)).mean(1)
    truth = splits["test"].labels

    def shares(count, weights):
        model = KNeighborsRegressor(count, metric="cosine", algorithm="brute", weights=weights)
        model.fit(described["train"], splits["train"].labels.astype(float))
        return model.predict(described["test"])

    count = 7
    tie = shares(43, lambda distance: np.exp(1 - distance))
    scores = (count * shares(count, "uniform") + tie) / (count + 1)
    result = evaluated(whole, mesh, **{"knn.neighbours": count})
    expected = metrics.multilabel_metrics(metrics.top_k(scores, TOP_K), truth)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value), name
    assert result["mAP"] == pytest.approx(metrics.mean_average_precision(scores, truth))
    np.testing.assert_array_equal(memory["labels"], splits["train"].labels)
    norms = np.linalg.norm(described["train"], axis=1, keepdims=True)
    np.testing.assert_allclose(memory["features"], described["train"] / norms, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("views", [0, 3])
def test_one_device_remembers_and_predicts_what_four_do(knn_config, whole, mesh, tmp_path, views):
    # Without the cache the backbone runs inside; augmented views are not for this row.
    one = make_mesh(jax.devices()[:1])
    assert loop.train(knn_config(**{"cache.views": views}), tmp_path, one)
    assert len(list((tmp_path / "features").glob("*"))) == (2 if views else 0)
    _, ours = memory_of(tmp_path, one)
    _, theirs = memory_of(whole, mesh)
    np.testing.assert_allclose(ours.pop("features"), theirs.pop("features"), rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert records(tmp_path)[0] == pytest.approx(records(whole)[0])
    first, second = evaluated(tmp_path, one), evaluated(whole, mesh)
    for name in ("C-F1", "O-F1", "mAP"):
        assert first[name] == pytest.approx(second[name])


def test_images_that_cannot_be_read_carry_no_labels(knn_config, coco_folder, tmp_path, mesh):
    folder = tmp_path / "data"
    shutil.copytree(coco_folder, folder)
    config = knn_config(**{"data.path": str(folder), "data.on_bad_image": "skip",
                           "knn.neighbours": 5})  # fmt: skip
    split = load_split(config.data, "train")
    bad = [0, 20, 42]
    for row in bad:
        (folder / "train2014" / split.images.name(row)).write_bytes(b"this is no picture")
    assert loop.train(config, tmp_path / "run", mesh)
    _, memory = memory_of(tmp_path / "run", mesh)
    assert np.flatnonzero(~memory["known"]).tolist() == bad
    assert memory["count"] == 5
    for path in (folder / "train2014").iterdir():
        path.write_bytes(b"this is no picture")
    with pytest.raises(UserError, match="none of the 43 images of coco train"):
        loop.train(config, tmp_path / "none", mesh)
