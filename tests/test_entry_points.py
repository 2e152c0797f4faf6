"""train.py and eval.py as users start them: exit codes, one clear line, files written."""

import json
import shutil

import pytest

from tests.programs import assert_mistake, run


@pytest.fixture(scope="module")
def small_flags(coco_folder):
    fields = {
        "data.path": coco_folder,
        "data.image_size": 32,
        "backbone.name": "small",
        "backbone.frozen": False,
        "decoder.hidden": 16,
        "decoder.max_labels": 3,
        "train.batch_size": 8,
        "train.steps": 4,
        "train.log_every": 2,
        "eval.batch_size": 8,
    }
    return [f"--config.{name}={value}" for name, value in fields.items()]


@pytest.fixture(scope="module")
def trained(small_flags, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    done = run("train.py", "--config=configs/coco.py:order_free", f"--workdir={directory}",
               *small_flags)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return directory


def test_training_then_evaluation_gives_the_figures_of_the_table(trained):
    tuned = run("eval.py", f"--workdir={trained}", "--tune")
    assert tuned.returncode == 0, tuned.stderr
    evaluated = run("eval.py", f"--workdir={trained}")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "| order_free " in evaluated.stdout
    assert "top-3" in evaluated.stdout
    result = json.loads((trained / "eval" / "test-4.json").read_text())
    for figure in ("C-P", "C-R", "C-F1", "O-P", "O-R", "O-F1", "mAP"):
        assert 0 <= result[figure] <= 100
    assert result["images"] == 10
    assert list(result["per_class"]) == ["red", "green", "blue"]
    assert result["threshold_origin"].startswith("tuned")
    assert result["pointing"]["labels"] >= 0
    assert result["deletion"]["images"] <= 10


def test_evaluation_equals_the_validation_of_the_loop(trained):
    evaluated = run("eval.py", f"--workdir={trained}", "--split=validation",
                    "--config.search.threshold=0.5")  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads((trained / "eval" / "validation-4.json").read_text())
    records = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
    (logged,) = (r for r in records if r["kind"] == "validation")
    for name in ("C-F1", "O-F1", "mAP", "loss"):
        assert result[name] == pytest.approx(logged[name], rel=1e-5)


def test_evaluation_needs_only_the_evaluated_split(trained, coco_folder, tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2014.json").symlink_to(
        coco_folder / "annotations/instances_val2014.json"
    )
    (tmp_path / "val2014").symlink_to(coco_folder / "val2014")
    evaluated = run("eval.py", f"--workdir={trained}", f"--config.data.path={tmp_path}")
    assert evaluated.returncode == 0, evaluated.stderr


def test_a_report_and_figures_are_written(trained):
    done = run("eval.py", f"--workdir={trained}", "--figures=2", "--report")
    assert done.returncode == 0, done.stderr
    assert "order_free" in (trained / "eval/test-4.html").read_text()
    assert (trained / "figures/test-4/overview.png").stat().st_size > 0
    assert_mistake(run("eval.py", f"--workdir={trained}", "--figure_ids=nobody"), "nobody")


def test_training_again_in_a_finished_directory_changes_nothing(trained, small_flags):
    before = (trained / "metrics.jsonl").read_text()
    again = run("train.py", "--config=configs/coco.py:order_free", f"--workdir={trained}",
                *small_flags)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "going on from step 4" in again.stdout
    assert (trained / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config=configs/digits.py:order_freee"], ["order_freee", "order_free"]),
        (["--config=configs/none.py"], ["none.py"]),
        ([], ["--config"]),
        (["--config=configs/digits.py", "--config.decoder.hiden=3"], ["hiden", "decoder.hidden"]),
        (["--config=configs/digits.py", "--config.train.steps=many"], ["many"]),
        (["--config=configs/digits.py", "--config.train.steps=0", "--config.train.keep", "some",
          "--config.decoder.hiden=3", "--noconfig.data.augment.flip", "--config.search.stop=stpe",
          "--config.method=softmax"],
         ["train.steps=0", "train.keep=some", "mean config.decoder.hidden", "mean step?",
          "config.method is the name of the row", "--config=FILE:ROW"]),
        (["--config=configs/digits.py", "--cofnig.seed=1"], ["cofnig"]),
        (["--config=configs/digits.py", "stray"], ["stray"]),
        (["--config=configs/coco.py"], ["data.path", "backbone.weights"]),
        (["--config=configs/coco.py", "--config.data.path=/no/such/folder",
          "--config.backbone.frozen=False"], ["/no/such/folder"]),
    ],
)  # fmt: skip
def test_mistakes_of_flags_and_config_are_one_line(flags, parts, tmp_path):
    assert_mistake(run("train.py", f"--workdir={tmp_path / 'run'}", *flags), *parts)


def test_mistakes_of_eval_are_one_line(trained, tmp_path):
    assert_mistake(run("eval.py"), "--workdir")
    assert_mistake(run("eval.py", f"--workdir={tmp_path}"), "config.json")
    assert_mistake(run("eval.py", f"--workdir={trained}", "--step=77"), "77", "--step=best")
    assert_mistake(run("eval.py", f"--workdir={trained}", "--tune", "--split=test"), "validation")
    assert_mistake(
        run("eval.py", f"--workdir={trained}", "--config.decoder.hidden=8"),
        "another network", "decoder",
    )  # fmt: skip


def test_a_row_of_fixed_size_is_evaluated_and_not_tuned(small_flags, tmp_path):
    flags = [f for f in small_flags if "decoder" not in f]
    trained = run("train.py", "--config=configs/coco.py:softmax", f"--workdir={tmp_path}",
                  *flags, "--config.search.top_k=2")  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert_mistake(run("eval.py", f"--workdir={tmp_path}", "--tune"), "top_k=2")
    evaluated = run("eval.py", f"--workdir={tmp_path}")
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads((tmp_path / "eval" / "test-4.json").read_text())
    assert result["set_size"]["predicted"] == 2.0


def test_another_config_in_the_same_directory_is_one_line(trained, small_flags):
    finished = run("train.py", "--config=configs/coco.py:order_free", f"--workdir={trained}",
                   *small_flags, "--config.seed=5")  # fmt: skip
    assert_mistake(finished, "seed (0 there, 5 now)", "--workdir")


def test_a_picture_that_does_not_decode_is_named_or_skipped(small_flags, coco_folder, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(coco_folder, folder)
    for path in sorted((folder / "train2014").iterdir())[:2]:
        path.write_bytes(b"this is no picture")
    flags = ["--config=configs/coco.py:order_free", *small_flags, f"--config.data.path={folder}",
             "--config.train.steps=6"]  # fmt: skip
    failed = run("train.py", f"--workdir={tmp_path / 'a'}", *flags)
    assert_mistake(failed, "COCO_train2014_0000000000", "on_bad_image")
    skipped = run("train.py", f"--workdir={tmp_path / 'b'}", *flags,
                  "--config.data.on_bad_image=skip")  # fmt: skip
    assert skipped.returncode == 0, skipped.stderr
    assert "COCO_train2014_000000000000.jpg" in skipped.stderr


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config=configs/digits.py:softmax"], ["--methods"]),
        (["--config=configs/digits.py", "--methods=softmax,sofmax"], ["'sofmax'", "softmax"]),
        (["--config=configs/digits.py", "--config.decoder.hiden=3", "--config.method=softmax"],
         ["decoder.hidden", "--methods=ROW"]),
        (["--config=configs/digits.py", "--seeds=0"], ["seeds"]),
        (["--config=configs/coco.py"], ["data.path"]),
    ],
)  # fmt: skip
def test_mistakes_of_compare_are_one_line(flags, parts, tmp_path):
    assert_mistake(run("compare.py", f"--workdir={tmp_path / 'table'}", *flags), *parts)
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize("script", ["train.py", "eval.py", "compare.py", "predict.py"])
def test_help_reads_well(script):
    finished = run(script, "--help")
    assert finished.returncode == 0
    text, _, listed = finished.stdout.partition("\nFlags:\n")
    assert "python " + script in text
    assert "--workdir" in listed and "(required)" in listed
    assert "--config.FIELD=VALUE" in listed
    assert ("--coordinator_address" in listed) == (script != "predict.py")
    assert "absl" not in listed and "/" not in listed.replace("docs/config.md", "")
