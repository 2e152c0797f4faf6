"""What is exported, read by programs that have nothing of ours."""

import dataclasses
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors import safe_open

import attn_lstm
from attn_lstm import storage
from attn_lstm.config import resolve
from attn_lstm.data import load_split
from attn_lstm.data.images import read_picture
from attn_lstm.data.resizing import resize
from attn_lstm.errors import UserError
from attn_lstm.export import bundle
from attn_lstm.export import program as programs
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.measures import summary
from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.predictions import Predictions
from attn_lstm.measures.thresholds import Threshold
from attn_lstm.parallel import make_mesh
from attn_lstm.rows import create_row
from attn_lstm.runs import workdir
from attn_lstm.runs.opened import Opened, open_checkpoint
from attn_lstm.serving.command import predict_images
from attn_lstm.serving.model import load_model
from tests.programs import ROOT, assert_mistake, run
from tests.small_run import train_with_sets_of_any_size

COMMAND = ("-m", "attn_lstm.export")


@pytest.fixture(scope="module")
def files(coco_folder) -> list[str]:
    """Test images, and photographs where there are some."""
    found = sorted((coco_folder / "val2014").iterdir())
    if "ATTN_LSTM_DATA" in os.environ:
        photographs = Path(os.environ["ATTN_LSTM_DATA"], "coco2014_subset", "val2014")
        found += sorted(photographs.glob("*.jpg"))[:6]
    return [str(path) for path in found]


@pytest.fixture(scope="module")
def trained(tiny_config, files, tmp_path_factory):
    """A run, and a threshold under which label sets differ in size."""
    directory = tmp_path_factory.mktemp("run")
    fields = {"search.stop": "step", "train.steps": 4, "train.log_every": 4}
    train_with_sets_of_any_size(tiny_config(**fields), directory, files)
    write_evaluation(directory)
    return directory


def write_evaluation(directory: Path) -> None:
    """As `eval.py` writes it, of predictions that are made up."""
    config, table = workdir.load_config(directory), workdir.load_labels(directory)
    split = load_split(config.data, "test")
    sequence = np.tile(np.array([0, 1, -1], np.int32), (len(split), 1))
    predictions = Predictions(
        labels=np.tile(np.arange(3) < 2, (len(split), 1)),
        scores=np.tile(np.array([0.9, 0.8, 0.1], np.float32), (len(split), 1)),
        sequence=sequence, probabilities=np.where(sequence < 0, 0, 0.8).astype(np.float32),
        peaks=np.zeros_like(sequence), losses={}, truth=split.labels,
        image_id=np.arange(len(split), dtype=np.int32), regions=16,
    )  # fmt: skip
    result = {"split": "test", "step": 4, "threshold": 0.25, "fingerprint": split.fingerprint,
              **summary.report(predictions, split, table.counts),
              "config": config.to_dict()}  # fmt: skip
    storage.write_json(directory / "eval/test-4.json", result)


def export(directory, output):
    bundle.export_run(workdir.load_config(directory), directory, "best", output)
    return output


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def pixels(files):
    return np.stack([resize(read_picture(path), 32, "squash") for path in files])


# Neither this package nor what it is built on may be imported.
READER = """
import sys
sys.modules.update(dict.fromkeys(["attn_lstm", "flax", "tensorflow"]))
import numpy as np
from jax import export
model = export.deserialize(bytearray(open("model.jax_export", "rb").read()))
pixels = np.load(sys.argv[1])
found = model.call(pixels)
first = model.call(pixels[:3])
np.savez(sys.argv[2], **found, **{"first_" + name: value for name, value in first.items()})
"""


def read_elsewhere(folder, pixels, tmp_path):
    """What a program in another process, which knows the folder alone, makes of the images."""
    np.save(tmp_path / "pixels.npy", pixels)
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", READER, tmp_path / "pixels.npy", tmp_path / "found.npz"],
        cwd=folder, env={**keep, "TF_CPP_MIN_LOG_LEVEL": "2"}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(np.load(tmp_path / "found.npz"))


def assert_as_predict(trained, folder, found, files, tmp_path):
    """The outputs are what predict.py says of the same files, and what `Model` says beside it."""
    config = workdir.load_config(trained)
    predict_images(
        config, trained, "best", files, batch_size=None, form="jsonl",
        output=tmp_path / "lines.jsonl", overlays=None,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    names = json.loads((folder / "model.json").read_text())["label_names"]
    assert len({len(line["labels"]) for line in lines}) > 1
    for row, (line, prediction) in enumerate(
        zip(lines, load_model(trained).predict(files), strict=True)
    ):
        labels = found["labels"][row]
        count = (labels >= 0).sum()
        assert (labels[count:] == -1).all()
        assert [names[label] for label in labels[:count]] == [x["name"] for x in line["labels"]]
        assert found["steps"][row].tolist() == [*range(1, count + 1), *[0] * (3 - count)]
        np.testing.assert_allclose(
            found["probabilities"][row],
            [x["probability"] for x in line["labels"]] + [0.0] * (3 - count),
            atol=1e-5,
        )
        assert found["set"][row].tolist() == [label in labels for label in range(3)]
        np.testing.assert_allclose(found["scores"][row], prediction.scores, rtol=1e-5)
        for step, label in enumerate(prediction.labels):
            np.testing.assert_allclose(found["attention"][row, step], label.attention, atol=1e-6)
    for name in ("labels", "steps", "set"):
        np.testing.assert_array_equal(found[f"first_{name}"], found[name][:3])
    for name in ("probabilities", "scores", "attention"):
        np.testing.assert_allclose(found[f"first_{name}"], found[name][:3], atol=1e-6)


def test_jax_alone_gives_the_labels_of_predict(trained, exported, files, pixels, tmp_path):
    found = read_elsewhere(exported, pixels, tmp_path)
    assert_as_predict(trained, exported, found, files, tmp_path)


def test_the_description_is_that_of_the_program(trained, exported):
    description = json.loads((exported / "model.json").read_text())
    model = jax.export.deserialize(bytearray((exported / "model.jax_export").read_bytes()))
    assert list(model.platforms) == description["program"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert model.nr_devices == 1
    (image,) = model.in_avals
    assert [str(size) for size in image.shape] == ["b", "32", "32", "3"]
    assert description["input"]["image"]["shape"] == ["b", 32, 32, 3]
    outputs = jax.tree.unflatten(model.out_tree, model.out_avals)
    assert outputs.keys() == description["outputs"].keys()
    for name, array in outputs.items():
        said = description["outputs"][name]
        assert [str(size) for size in array.shape] == [str(size) for size in said["shape"]]
        assert array.dtype.name == said["dtype"]
    assert description["outputs"]["attention"]["shape"] == ["b", 3, 4, 4]
    assert description["search"]["threshold"] == load_model(trained).threshold
    assert description["search"]["threshold_origin"].startswith("tuned")
    assert description["resize"]["rule"] == "squash"
    assert description["versions"]["jax"] == version("jax")
    # Also in a checkout that is not installed, of which importlib.metadata knows nothing.
    assert description["versions"]["attn_lstm"] == attn_lstm.__version__


def test_weights_carry_their_names_and_those_of_the_labels(trained, exported):
    config = workdir.load_config(trained)
    opened = open_checkpoint(config, trained, "best", make_mesh(jax.devices()[:1]))
    with safe_open(exported / "model.safetensors", "numpy") as weights:
        assert json.loads(weights.metadata()["label_names"]) == ["red", "green", "blue"]
        found = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    expected = flatten_dict(jax.device_get(opened.variables), sep="/")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_card_is_filled_from_the_run(trained, exported, coco_folder):
    card = (exported / "README.md").read_text()
    evaluation = json.loads((trained / "eval/test-4.json").read_text())
    config, table = workdir.load_config(trained), workdir.load_labels(trained)
    data = load_split(config.data, "train")
    row = " | ".join(f"{evaluation[name]:.1f}" for name in ("C-P", "C-R", "C-F1", "O-P", "O-R"))
    assert f"| test | 10 | 0.250 | {row} |" in card
    assert "| test, the 3 best labels | 10 | - |" in card
    assert f"| red | {table.counts[0]} | {evaluation['per_class']['red']['precision']:.1f}" in card
    assert f"`{data.fingerprint}`" in card and f"`{evaluation['fingerprint']}`" in card
    assert "| training images | 43 |" in card and "| validation images | 5," in card
    assert "Never found on the test split: blue." in card
    assert "small, trained from random parameters" in card
    assert "tuned by eval.py --tune" in card
    assert '"hidden": 16' in card


def test_nothing_tells_where_it_was_made(exported, coco_folder):
    for path in exported.iterdir():
        content = path.read_bytes()
        for place in (str(coco_folder), str(ROOT), sys.prefix):
            assert place.encode() not in content, path.name


def test_a_run_that_nobody_has_evaluated_has_a_card_that_says_so(trained, tmp_path):
    opened = open_checkpoint(
        workdir.load_config(trained), trained, "best", make_mesh(jax.devices()[:1])
    )
    names = ("a|b", "<b>_*x*_`", "plain")
    opened = dataclasses.replace(
        opened, table=dataclasses.replace(opened.table, names=names, counts=(40, 3, 0))
    )
    program = programs.make_program(opened, 0.5)
    description = bundle.describe(opened, program, Threshold(0.5), "default")
    card = bundle.render_card(opened, description, tmp_path)
    assert "This checkpoint has not been evaluated" in card
    assert r"| a\|b | 40 | - | - | - |" in card
    assert r"Fewer than 20 training images show: \<b\>\_\*x\*\_\`, plain." in card


def test_sets_cut_from_scores_export_with_a_tau_a_label_and_their_calibration(tiny_config):
    fields = {"search.decide": "scores", "search.scores": "mean", "search.thresholds": "per_class"}
    opened = untrained(resolve(tiny_config(**fields)))
    tau = Threshold(0.5, {"red": 0.125, "blue": 0.0})
    fitted = Calibration(0.5, 0.25)
    program = programs.make_program(opened, tau.of(opened.table.names), fitted)
    description = bundle.describe(opened, program, tau, "tuned", fitted)
    assert description["search"] == {
        "threshold": 0.5, "threshold_origin": "tuned", "thresholds": [0.125, 0.5, 0.0],
        "scores": "mean",
    }  # fmt: skip
    calibration = description["calibration"]
    assert (calibration["slope"], calibration["bias"]) == (0.5, 0.25)
    found = program(np.zeros((2, 32, 32, 3), np.uint8))
    np.testing.assert_array_equal(found["set"], found["scores"] >= np.array([0.125, 0.5, 0.0]))
    assert found["attention"].shape == (2, 3, 4, 4)
    emitted = found["labels"] >= 0
    scores = np.take_along_axis(found["scores"], np.maximum(found["labels"], 0), axis=1)
    np.testing.assert_array_equal(found["label_scores"], np.where(emitted, scores, 0))
    expected = np.where(emitted, fitted(np.asarray(scores)), 0)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5)
    assert {*found} == {*description["outputs"]}


def test_damaged_files_of_the_run_are_named(trained, tmp_path):
    opened = open_checkpoint(
        workdir.load_config(trained), trained, "best", make_mesh(jax.devices()[:1])
    )
    program = programs.make_program(opened, 0.5)
    description = bundle.describe(opened, program, Threshold(0.5), "default")
    result = json.loads((trained / "eval/test-4.json").read_text())
    for broken, part in (
        ({}, "test-4.json is damaged"),
        ({**result, "pointing": {"attention": 1.0}}, "delete it"),
        ({**result, "images": "many"}, "delete it"),
    ):
        storage.write_json(tmp_path / "eval/test-4.json", broken)
        with pytest.raises(UserError, match=part):
            bundle.render_card(opened, description, tmp_path)


def test_weights_that_no_program_can_hold_are_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"load_model"):
        export(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(trained, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/model\.jax_export cannot be written"):
        export(trained, tmp_path / "file")


@pytest.mark.parametrize(
    ("method", "fields", "search"),
    [
        ("softmax", {}, {"top_k": 3}),
        ("resnet_baseline", {}, {"threshold": 0.5, "threshold_origin": ""}),
        ("knn", {}, {"top_k": 3}),
        ("cnn_rnn", {}, {"threshold": 0.5, "threshold_origin": "", "stop": "path", "beam_size": 2,
                         "max_labels": 3, "end_token": True}),
        ("order_free_no_attention", {"dtype": "bfloat16"}, None),
        ("csra", {}, {"threshold": 0.5, "threshold_origin": ""}),
    ],
)  # fmt: skip
def test_other_rows_export_as_they_are_searched(tiny_config, tmp_path, method, fields, search):
    opened = untrained(resolve(tiny_config(method, **fields)))
    program = programs.make_program(opened, 0.5)
    description = bundle.describe(opened, program, Threshold(0.5), "")
    assert ("attention" in description["outputs"]) == (method == "csra")
    assert search is None or description["search"] == search
    card = bundle.render_card(opened, description, tmp_path)
    assert f"# {method.replace('_', chr(92) + '_')} on coco, step 1" in card
    assert ("attention map" in card) == (method == "csra")
    assert ("Every image gets its 3 most" in card) == ("top_k" in description["search"])
    assert ("Beam search" in card) == ("beam_size" in description["search"])
    model = jax.export.deserialize(bytearray(programs.serialize(program, 32)))
    image = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    found = model.call(image)
    expected = jax.jit(opened.row.search)(opened.variables, image, 0.5)
    np.testing.assert_array_equal(found["labels"], expected.sequence)
    np.testing.assert_array_equal(found["set"], expected.labels)
    rtol = 1e-5 if opened.config.dtype == "float32" else 1e-2
    np.testing.assert_allclose(found["scores"], expected.scores, rtol=rtol)


def untrained(config) -> Opened:
    """A checkpoint with random parameters."""
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    row = create_row(config, 3, images=7)
    init = jax.jit(lambda key: row.network.init(key, images, emit_most_confident, steps=1))
    variables = {"batch_stats": {}, **init(jax.random.key(1))}
    table = workdir.LabelTable("coco", ("red", "green", "blue"), (3, 2, 1), images=7)
    return Opened(config, row, table, 1, variables, "fingerprint")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--workdir={}", "--format=tflite"], "tflite"),
        (["--workdir={}", "--format=saved_model"], "--format=stablehlo"),
        (["--workdir={}", "--step=77"], "77"),
        (["--workdir=none"], "--workdir=none is no work directory"),
        ([], "--workdir"),
    ],
)
def test_mistakes_are_one_line(trained, flags, part):
    done = run(*COMMAND, *(flag.format(trained) for flag in flags))
    assert_mistake(done, part)


def test_help_reads_well():
    done = run(*COMMAND, "--help")
    assert done.returncode == 0
    text, _, listed = done.stdout.partition("\nFlags:\n")
    assert "python -m attn_lstm.export" in text
    assert "--format" in listed and "--output" in listed


@pytest.mark.slow
def test_the_command_writes_into_the_work_directory(trained):
    done = run(*COMMAND, f"--workdir={trained}", "--config.search.threshold=0.125")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"written to {trained}/export" in done.stdout
    assert json.loads((trained / "export/model.json").read_text())["search"]["threshold"] == 0.125
