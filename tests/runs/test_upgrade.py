"""Work directories of other versions: `version_0_1_0` holds two that version 0.1.0 has written."""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attn_lstm
from attn_lstm import storage
from attn_lstm.errors import UserError
from attn_lstm.evaluation.evaluate import evaluate
from attn_lstm.fields import FIELDS, flatten
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import tuned, workdir
from attn_lstm.runs.upgrade import BEFORE, RETIRED, upgrade
from attn_lstm.serving.model import open_model
from attn_lstm.training.loop import train
from configs import digits, folder

KEPT = Path(__file__).with_name("version_0_1_0")

# What version 0.1.0 said of its own runs, on four CPU devices: the figures of the best checkpoint
# on the test split, the labels of the last images, what the one was started with, and what it
# logged when it went on.
FIGURES = {
    "order_free": {"C-P": 100.0, "C-R": 67.593, "O-P": 100.0, "O-R": 66.667, "mAP": 94.674,
                   "threshold": 0.6, "step": 30},
    "knn": {"C-P": 56.25, "C-R": 100.0, "O-P": 56.25, "O-R": 100.0, "mAP": 93.329,
            "threshold": 0.0, "step": 1},
}  # fmt: skip
LABELS = {
    "order_free": [
        {"green": 0.80347}, {"blue": 0.76092}, {"red": 0.85106}, {"blue": 0.81508},
        {"red": 0.62886}, {"red": 0.83174, "green": 0.78882}, {"blue": 0.8079},
        {"green": 0.80155},
    ],
    "knn": [
        {"green": 0.9588, "blue": 0.59856, "red": 0.50738},
        {"blue": 0.96288, "red": 0.50735, "green": 0.50371},
        {"red": 0.78126, "green": 0.59458, "blue": 0.1428},
        {"blue": 0.96384, "green": 0.50371, "red": 0.41587},
        {"blue": 0.96322, "green": 0.59492, "red": 0.41632},
        {"red": 0.68996, "green": 0.68611, "blue": 0.14284},
        {"blue": 0.96357, "green": 0.59488, "red": 0.41601},
        {"green": 0.68595, "red": 0.59847, "blue": 0.32522},
    ],
}  # fmt: skip
GIVEN = {
    "data.image_size": 32, "data.augment.flip": False, "backbone.name": "small",
    "backbone.frozen": False, "backbone.unfreeze_step": 1000, "decoder.hidden": 4,
    "decoder.attention": 4, "decoder.max_labels": 3, "decoder.dropout": 0.1,
    "search.beam_size": 2, "optimizer.learning_rate": 3e-2, "optimizer.warmup_steps": 3,
    "train.batch_size": 8, "train.steps": 60, "train.log_every": 5, "train.eval_every": 30,
    "train.checkpoint_every": 30, "train.keep": 1, "eval.batch_size": 8,
}  # fmt: skip
LOSSES = {35: 2.41762, 40: 2.34482, 45: 2.12551, 50: 2.30304, 55: 2.28369, 60: 2.06897}
VALIDATION = {"C-F1": 81.481, "O-F1": 80.0, "mAP": 93.722, "loss": 2.1573}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Coloured patches, drawn without random numbers: the same pixels whatever draws them."""
    root = tmp_path_factory.mktemp("pictures")
    rows, columns = np.indices((40, 40))
    lines = [("image", "labels", "split")]
    for n, split in enumerate(["train"] * 24 + ["validation"] * 8 + ["test"] * 16):
        pixels = np.repeat((110 + (rows * 7 + columns * 13 + n * 5) % 23)[..., None], 3, axis=-1)
        labels = []
        for channel, name in enumerate(("red", "green", "blue")):
            if 1 + n * 3 % 7 >> channel & 1:
                y, x = (n * 11 + channel * 9) % 21, (n * 5 + channel * 13) % 21
                pixels[y : y + 16, x : x + 16] = 255 * (np.arange(3) == channel)
                labels.append(name)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{n:02}.png")
        lines.append((f"{n:02}.png", "|".join(labels), split))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


def unpacked(row: str, root: Path) -> Path:
    with tarfile.open(KEPT / f"{row}.tar.xz") as archive:
        archive.extractall(root, filter="data")
    return root / row


def opened(run: Path, pictures: Path, **fields):
    config = workdir.load_config(run).unlock()
    config.update_from_flattened_dict({"data.path": str(pictures), **fields})
    return config.lock()


@pytest.mark.parametrize("row", FIGURES)
def test_a_run_of_the_version_before_has_the_figures_and_labels_of_then(row, pictures, tmp_path):
    run = unpacked(row, tmp_path)
    for batch_size in (8, 6):  # the latter divides over no 4 devices
        config = opened(run, pictures, **{"eval.batch_size": batch_size, "train.batch_size": 7})
        found = evaluate(config, run, "best", "test", make_mesh())
        assert {name: found[name] for name in FIGURES[row]} == pytest.approx(FIGURES[row], abs=1e-3)
    # Then a label had its step's probability, also where the scores were calibrated.
    (run / tuned.CALIBRATION).unlink(missing_ok=True)
    said = open_model(config, run, "best").predict(sorted(pictures.glob("4*.png")))
    for image, labels in zip(said, LABELS[row], strict=True):
        assert {x.name: x.probability for x in image.labels} == pytest.approx(labels, abs=1e-3)


def test_a_run_of_the_version_before_is_trained_on_as_it_would_have_been(pictures, tmp_path):
    run = unpacked("order_free", tmp_path)
    config = folder.get_config("order_free").unlock()
    config.update_from_flattened_dict({"data.path": str(pictures), **GIVEN})
    assert train(config.lock(), run, make_mesh())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    later = [line for line in lines if line["step"] > 31]
    losses = {line["step"]: line["loss"] for line in later if line["kind"] == "train"}
    assert losses == pytest.approx(LOSSES, rel=1e-3)
    (validation,) = [line for line in later if line["kind"] == "validation"]
    assert {name: validation[name] for name in VALIDATION} == pytest.approx(VALIDATION, rel=1e-3)


def saved(tmp_path: Path, **changed) -> Path:
    """A directory with a config of digits in which fields are changed, or lack where None."""
    workdir.save_config(tmp_path, digits.get_config())
    path = tmp_path / workdir.CONFIG
    content = json.loads(path.read_text())
    for name, value in changed.items():
        *groups, last = name.split(".")
        group = content
        for part in groups:
            group = group[part]
        group[last] = value
        if value is None:
            del group[last]
    storage.write_json(path, content)
    return tmp_path


def test_the_version_is_written_beside_the_fields(tmp_path):
    content = json.loads((saved(tmp_path) / workdir.CONFIG).read_text())
    assert content.pop("version") == attn_lstm.__version__
    assert dict(flatten(content)) == dict(flatten(digits.get_config()))


def test_a_field_that_is_lacking_has_the_value_of_the_versions_that_lacked_it(tmp_path):
    lacking = dict.fromkeys(["data.max_pixels", "search.scores"])
    config = workdir.load_config(saved(tmp_path, **lacking))
    assert config.data.max_pixels == 178_956_970  # there was no limit but the decoders' own
    assert config.search.scores == "last_step"


def test_a_retired_field_that_changed_nothing_is_dropped(tmp_path):
    config = workdir.load_config(saved(tmp_path, **RETIRED))
    assert dict(flatten(config)) == dict(flatten(digits.get_config()))


@pytest.mark.parametrize(("start", "share"), [(0, 0.0), (1, 1.0), (1201, 100 / 1300)])
def test_an_average_from_an_update_on_is_one_of_the_last_share(start, share, tmp_path):
    config = workdir.load_config(saved(tmp_path, **{"swa.share": None, "swa.start_step": start}))
    assert config.train.steps == 1300
    assert config.swa.share == share


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"decoder.heads": 4}, "config.decoder.heads=4 is no more, only 1 is left"),
        ({"swa.start_step": 1301}, "config.swa.start_step=1301 is no more, only 0 is left"),
        ({"decoder.gone": 1}, "unknown config field config.decoder.gone"),
        ({"train.steps": None}, "config.train.steps is missing"),
    ],
)
@pytest.mark.parametrize("version", ["0.7.0", None])
def test_what_this_version_lacks_is_named_with_file_and_versions(
    changed, problem, version, tmp_path
):
    run = saved(tmp_path, version=version, **changed)
    with pytest.raises(UserError) as caught:
        workdir.load_config(run)
    for part in (
        problem, str(run / workdir.CONFIG), version or "before 0.2.0", attn_lstm.__version__
    ):  # fmt: skip
        assert part in str(caught.value)


def test_a_new_field_has_a_value_for_the_configs_that_lack_it():
    always = {name: field.default for name, field in FIELDS.items() if name not in BEFORE}
    assert upgrade(always) == {**always, **BEFORE}
    assert not {*RETIRED} & {*FIELDS}
    with tarfile.open(KEPT / "order_free.tar.xz") as archive:
        upgrade(dict(flatten(json.load(archive.extractfile("order_free/config.json")))))
