"""τ and calibration from the validation split to the test split and to predictions."""

import json

import jax
import numpy as np
import pytest

from attn_lstm.errors import UserError
from attn_lstm.evaluation import evaluate
from attn_lstm.measures import summary, thresholds
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import tuned, workdir
from attn_lstm.serving.model import open_model
from attn_lstm.training.loop import train


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def trained(tiny_config, mesh, tmp_path_factory):
    """A run with 24 images held out."""
    directory = tmp_path_factory.mktemp("run")
    fields = {"train.steps": 4, "train.log_every": 4, "data.validation_fraction": 0.5}
    train(tiny_config(**fields), directory, mesh)
    return directory


def searching(directory, **fields):
    config = workdir.load_config(directory).unlock()
    config.search.update(fields)
    return config


def files(directory, split):
    path = directory / "eval" / f"{split}-4.json"
    return json.loads(path.read_text()), summary.read_npz(path.with_suffix(".npz"))


@pytest.mark.parametrize("kind", ["global", "micro"])
def test_the_tuned_cut_is_the_best_of_the_grid(trained, mesh, kind):
    config = searching(trained, decide="scores", scores="mean", thresholds=kind)
    evaluate.tune(config, trained, "best", "validation", mesh)
    found = evaluate.evaluate(config, trained, "best", "validation", mesh)
    assert found["threshold_origin"] == "tuned by eval.py --tune"
    names = ("O-F1",) if kind == "micro" else ("C-F1", "O-F1")
    _, (labels, scores, *_) = files(trained, "validation")
    np.testing.assert_array_equal(labels, scores >= np.float32(found["threshold"]))
    for tau in thresholds.GRID[::8]:
        config.search.threshold = float(tau)
        other = evaluate.evaluate(config, trained, "best", "validation", mesh)
        assert sum(other[n] for n in names) <= sum(found[n] for n in names) + 1e-6


def test_each_label_is_cut_at_its_own_tau(trained, mesh, coco_folder):
    config = searching(trained, decide="scores", thresholds="per_class")
    evaluate.tune(config, trained, "best", "validation", mesh)
    kept = tuned.load_threshold(trained, 4, config.search)
    evaluate.evaluate(config, trained, "best", "test", mesh)
    result, (labels, scores, *_) = files(trained, "test")
    tau = kept.of(["red", "green", "blue"])
    assert len({*tau}) > 1
    np.testing.assert_array_equal(labels, scores >= tau)
    assert result["threshold"] == kept.value
    assert result["threshold_origin"].endswith("3 labels have their own")
    assert [result["per_class"][name]["threshold"] for name in ("red", "green", "blue")] == [
        kept.by_label[name] for name in ("red", "green", "blue")
    ]

    model = open_model(config, trained, "best")
    assert "have their own" in model.threshold_origin
    fitted = tuned.load_calibration(trained, 4, config.search)
    paths = sorted((coco_folder / "val2014").iterdir())
    for i, prediction in enumerate(model.predict(paths)):
        names = {label.name: label for label in prediction.labels}
        assert {*names} == {model.label_names[label] for label in np.flatnonzero(labels[i])}
        for label, name in enumerate(model.label_names):
            if name in names:
                assert names[name].score == pytest.approx(scores[i, label], rel=1e-4)
                assert names[name].probability == pytest.approx(
                    fitted(scores[i, label]).item(), rel=1e-3
                )


def test_tuning_reports_how_far_scores_are_from_frequencies(trained, mesh, capsys):
    config = searching(trained, scores="map")
    before = evaluate.evaluate(config, trained, "best", "test", mesh)["calibration"]
    assert {*before} == {"error", "over_all_labels"}
    assert {*before["over_all_labels"]} == {"error"}
    evaluate.tune(config, trained, "best", "validation", mesh)
    after = evaluate.evaluate(config, trained, "best", "test", mesh)["calibration"]
    assert after["over_all_labels"]["error"] == before["over_all_labels"]["error"]
    assert {*after} == {"error", "calibrated_error", "slope", "bias", "over_all_labels"}
    assert "when calibrated on the validation split" in capsys.readouterr().out


def test_tuning_on_the_test_split_is_refused(trained, mesh):
    config = searching(trained, decide="scores")
    with pytest.raises(UserError, match="--split=validation"):
        evaluate.tune(config, trained, "best", "test", mesh)
