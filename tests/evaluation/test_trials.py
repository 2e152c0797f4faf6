"""Settings that trials choose: the same points on every start, the best of them for the seeds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.evaluation import trials
from attn_lstm.evaluation.compare import compare
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import workdir


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-6, 1.0), st.floats(1.0, 1e6))
def test_a_place_is_between_the_ends_on_either_scale(place, low, high):
    for scale in (False, True):
        value = trials.Between(low, high, logarithmic=scale).at(place)
        assert 0.995 * low <= value <= 1.005 * high
    assert trials.OneOf((low, high)).at(place) == (low if place < 0.5 else high)


def test_the_middle_is_the_mean_of_the_ends_on_either_scale():
    assert trials.Between(1.0, 100.0).at(0.5) == 50.5
    assert trials.Between(1.0, 100.0, logarithmic=True).at(0.5) == 10.0


@pytest.mark.parametrize("method", ["order_free", "csra", "asl", "query2label"])
def test_points_begin_with_the_config_and_differ_in_every_field(tiny_config, method):
    config = tiny_config(method)
    tried = trials.points(config, 9)
    assert tried == trials.points(config, 9)
    assert tried[:5] == trials.points(config, 5)
    assert tried[0]["optimizer.learning_rate"] == config.optimizer.learning_rate
    assert {point["train.steps"] for point in tried} == {5, 10, 20}
    for name in tried[0]:
        assert len({point[name] for point in tried}) > 1, name
    assert len({point["optimizer.learning_rate"] for point in tried}) == 9


def test_a_row_that_learns_nothing_has_one_trial(tiny_config):
    assert trials.points(tiny_config("knn", **{"backbone.frozen": True}), 9) == [{}]


@pytest.mark.slow
def test_the_seeds_train_with_the_best_trial_and_a_second_start_tries_nothing(
    tiny_config, tmp_path, monkeypatch
):
    configs = {"resnet_baseline": tiny_config("resnet_baseline", **{"train.steps": 4})}
    mesh = make_mesh()
    assert compare(configs, tmp_path, 1, mesh, trials=3)
    done = json.loads((tmp_path / "resnet_baseline" / trials.TRIALS).read_text())
    assert [trial["fields"] for trial in done] == trials.points(configs["resnet_baseline"], 3)
    best = max(done, key=lambda trial: trial["mAP"])
    run = tmp_path / "resnet_baseline" / "seed-0"
    trained = workdir.load_config(run)
    assert trained.optimizer.learning_rate == best["fields"]["optimizer.learning_rate"]
    assert trained.train.steps == best["fields"]["train.steps"]
    assert (tmp_path / "table.md").exists()
    monkeypatch.setattr(trials, "train", None)
    assert compare(configs, tmp_path, 1, mesh, trials=3)
