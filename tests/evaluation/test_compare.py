"""compare.py's work on real runs: finished ones are kept, one cache serves all, tables agree."""

import csv
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from attn_lstm.errors import UserError
from attn_lstm.evaluation import compare
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import tuned as tuned_files
from attn_lstm.runs import workdir
from attn_lstm.training import metrics_log

METHODS = ("resnet_baseline", "order_free")


@pytest.fixture(scope="module")
def configs(tiny_config):
    return {m: tiny_config(m, **{"train.steps": 3, "train.eval_every": 3}) for m in METHODS}


@pytest.fixture(scope="module")
def table(configs, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("table")
    assert compare.compare(configs, directory, 2, make_mesh())
    return directory


def rows(table: Path) -> list[dict[str, str]]:
    with (table / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_method_is_run_with_every_seed_and_all_tables_agree_with_eval(table):
    found = {(row["method"], row["seed"]): row for row in rows(table)}
    assert list(found) == [(m, s) for s in "01" for m in METHODS]
    means = json.loads((table / "table.json").read_text())["methods"]
    page = (table / "table.md").read_text()
    for method in METHODS:
        maps = []
        for seed in "01":
            (path,) = (table / method / f"seed-{seed}" / "eval").glob("test-*.json")
            result = json.loads(path.read_text())
            assert result["config"]["seed"] == int(seed)
            assert float(found[method, seed]["mAP"]) == result["mAP"]
            maps.append(result["mAP"])
        assert means[method]["figures"]["mAP"]["mean"] == pytest.approx(sum(maps) / 2)
        assert f"| {method}" in page
    assert "71.6 (" in page  # the paper's C-P of order_free on COCO


def test_tau_is_tuned_where_the_row_leaves_it_open(table):
    tuned = [m for m in METHODS if (table / m / "seed-0" / tuned_files.THRESHOLDS).exists()]
    assert tuned == ["order_free"]


def test_started_again_it_goes_on_with_what_is_missing(table, configs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(table, again)
    (again / "order_free" / "seed-1" / compare.ROW).unlink()
    untouched = again / "order_free" / "seed-0" / metrics_log.METRICS
    before = untouched.stat().st_mtime_ns
    assert compare.compare(configs, again, 2, make_mesh())
    assert untouched.stat().st_mtime_ns == before

    def figures(directory: Path) -> list[dict[str, str]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(directory)]

    assert figures(again) == figures(table)


def test_a_row_that_differs_in_its_search_alone_is_not_trained_again(
    table, configs, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(compare, "train", None)  # whoever trains fails
    plus = tiny_config("order_free_plus", **{"train.steps": 3, "train.eval_every": 3})
    again = tmp_path / "again"
    shutil.copytree(table, again)
    both = {**configs, "order_free_plus": plus}
    assert compare.compare(both, again, 1, make_mesh())
    of_plus = [row for row in rows(again) if row["method"] == "order_free_plus"]
    assert [(row["trained as"], row["step"]) for row in of_plus] == [("order_free", "3")]
    # A work directory of its own, whose row is evaluated again as ever.
    run = again / "order_free_plus" / "seed-0"
    config = workdir.load_config(run)
    assert (config.method, config.search.decide) == ("order_free_plus", "scores")
    shutil.rmtree(again / "order_free")
    evaluated = compare.evaluate.evaluate(config, run, "best", "test", make_mesh())
    assert evaluated["mAP"] == float(of_plus[0]["mAP"])


def test_a_shared_training_goes_on_where_it_was_killed(table, tiny_config, tmp_path):
    source, run = table / "order_free" / "seed-0", tmp_path / "order_free_plus" / "seed-0"
    (run / "checkpoints" / "best").mkdir(parents=True)
    compare._share(source, run, tiny_config("order_free_plus"))
    for kind in ("best", "latest"):
        steps = {path.name for path in (run / "checkpoints" / kind).iterdir()}
        assert steps == {path.name for path in (source / "checkpoints" / kind).iterdir()}


def test_what_rows_learn_is_all_but_their_name_and_their_search(tiny_config):
    learned = compare._training_of
    first = learned(tiny_config())
    assert learned(tiny_config("order_free_plus")) == first
    assert learned(tiny_config("order_free_ranked")) != first
    assert learned(tiny_config(seed=1)) != first


def test_a_signal_between_two_runs_stops_behind_the_row_that_is_evaluated(
    table, configs, tmp_path, monkeypatch, capsys
):
    again = tmp_path / "again"
    shutil.copytree(table, again)
    for method in METHODS:
        (again / method / "seed-0" / compare.ROW).unlink()
    real = compare.evaluate.evaluate

    def interrupted(*args):
        signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(compare.evaluate, "evaluate", interrupted)
    assert not compare.compare(configs, again, 2, make_mesh())
    assert "stopped between two runs" in capsys.readouterr().out
    written = [(again / method / "seed-0" / compare.ROW).exists() for method in METHODS]
    assert written == [True, False]
    assert len(rows(again)) == 1


def test_the_bootstrap_compares_runs_of_one_seed_on_the_same_images(table):
    found = json.loads((table / "table.json").read_text())
    assert found["bootstrap"]["images"] == 10
    assert found["bootstrap"]["reference"] == "order_free"
    (other,) = found["bootstrap"]["differences"]
    assert other == "resnet_baseline"
    means = {m: found["methods"][m]["figures"]["mAP"]["mean"] for m in METHODS}
    difference = found["bootstrap"]["differences"][other]["mAP"]
    assert difference["mean"] == pytest.approx(means["order_free"] - means[other], abs=1e-3)
    assert difference["low"] <= difference["high"]


def test_another_row_can_be_the_reference(table, configs):
    assert compare.compare(configs, table, 2, make_mesh(), reference="resnet_baseline")
    found = json.loads((table / "table.json").read_text())["bootstrap"]
    assert found["reference"] == "resnet_baseline" and [*found["differences"]] == ["order_free"]
    with pytest.raises(UserError, match=r"--reference=knn.*resnet_baseline, order_free"):
        compare.compare(configs, table, 2, make_mesh(), reference="knn")
    assert compare.compare(configs, table, 2, make_mesh())


def test_a_run_whose_predictions_are_gone_is_evaluated_again(table, configs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(table, again)
    (path,) = (again / "order_free" / "seed-1" / "eval").glob("test-*.npz")
    before = path.read_bytes()
    path.unlink()
    assert compare.compare(configs, again, 2, make_mesh())
    assert path.read_bytes() == before


def test_predictions_of_another_evaluation_are_not_taken_for_the_row(table, configs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(table, again)
    (path,) = (again / "order_free" / "seed-1" / "eval").glob("test-*.npz")
    with np.load(path) as kept:
        arrays = dict(kept)
    np.savez(path, **{**arrays, "labels": ~arrays["labels"]})
    with pytest.raises(UserError, match=r"another evaluation.*remove .*row\.json"):
        compare.compare(configs, again, 2, make_mesh())
    np.savez(path, **{**arrays, "truth": ~arrays["truth"]})
    with pytest.raises(UserError, match=r"other test images.*remove .*row\.json"):
        compare.compare(configs, again, 2, make_mesh())


def test_another_config_in_the_directory_is_refused_before_training(table, configs, tiny_config):
    changed = {**configs, "order_free": tiny_config(**{"decoder.hidden": 17})}
    with pytest.raises(UserError, match=r"decoder\.hidden"):
        compare.compare(changed, table, 3, make_mesh())
    assert not (table / "resnet_baseline" / "seed-2").exists()
