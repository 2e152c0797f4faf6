"""predict.py: what it finds, what it writes, and what it does with files that are not images."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn_lstm import load_model
from attn_lstm.errors import UserError
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import workdir
from attn_lstm.serving import command
from attn_lstm.serving.lines import csv_writer
from attn_lstm.training.loop import train
from tests.programs import ROOT, assert_mistake, run


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """A run that predicts every label of every image, in orders that differ."""
    directory = tmp_path_factory.mktemp("run")
    fields = {"search.threshold": 0.0, "train.steps": 2, "train.log_every": 2}
    train(tiny_config(**fields), directory, make_mesh())
    return directory


@pytest.fixture
def pictures(coco_folder, tmp_path, monkeypatch):
    """The folder 'pictures' in the current one: photographs, a bad file and what is no image."""
    monkeypatch.chdir(tmp_path)
    for i, path in enumerate(sorted((coco_folder / "val2014").iterdir())):
        folder = Path("pictures", *["a", "b"][: i % 3])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{i}.{'JPG' if i == 4 else 'jpg'}")
    Path("pictures/a/3.5.jpg").write_bytes(b"this is no picture")
    Path("pictures/notes.txt").write_text("no image")
    Path("pictures/.hidden.jpg").write_text("no image")
    return [str(p) for p in sorted(Path("pictures").rglob("[0-9]*"), key=str)]


def predict(trained, *arguments, form="jsonl", output=None, overlays=None, **overrides):
    config = workdir.load_config(trained)
    config.update_from_flattened_dict(overrides)
    command.predict_images(
        config, trained, "best", arguments, batch_size=4, form=form, output=output,
        overlays=overlays,
    )  # fmt: skip


def read_jsonl(text):
    return [json.loads(line) for line in text.splitlines()]


def type_in(monkeypatch, content: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_folder_gives_a_line_an_image_in_order_also_where_one_is_bad(trained, pictures, capsys):
    predict(trained, "pictures")
    out, err = capsys.readouterr()
    lines = read_jsonl(out)
    assert len(lines) == 11
    assert [line["image"] for line in lines] == pictures
    bad = [line for line in lines if "error" in line]
    assert [sorted(line) for line in bad] == [["error", "image"]]
    assert bad[0]["image"] == "pictures/a/3.5.jpg" and "not an image" in bad[0]["error"]
    assert "1 of 11 images could not be read" in err

    good = [line for line in lines if "labels" in line]
    expected = load_model(trained).predict([line["image"] for line in good])
    for line, prediction in zip(good, expected, strict=True):
        assert [label["name"] for label in line["labels"]] == [p.name for p in prediction.labels]
        assert [label["step"] for label in line["labels"]] == [1, 2, 3]
        for label, p in zip(line["labels"], prediction.labels, strict=True):
            assert label["probability"] == pytest.approx(p.probability, rel=1e-4)


def test_images_are_found_in_the_order_of_the_arguments(pictures, monkeypatch):
    type_in(monkeypatch, "x y.jpg\r\n\nno/ü.jpg\n".encode())
    Path("[1].jpg").touch()
    found, total = command.find_images(["pictures/a/b", "-", "[1].jpg", "pictures/**/[01].jpg"])
    assert total is None
    below = [name for name in pictures if name.startswith("pictures/a/b")]
    assert list(found) == [
        *below, "x y.jpg", "no/ü.jpg", "[1].jpg", "pictures/0.jpg", "pictures/a/1.jpg",
    ]  # fmt: skip
    found, total = command.find_images(["pictures", "pictures/notes.txt"])
    assert list(found) == [*pictures, "pictures/notes.txt"]
    assert total == 12


def test_a_folder_in_a_pattern_is_meant_by_its_name_if_it_is_there(tmp_path):
    folder = tmp_path / "my [2024] *data"
    folder.mkdir()
    for name in ("p1.jpg", "p2.jpg", "p3.jpg"):
        (folder / name).touch()
    found, total = command.find_images([f"{folder}/p[13].jpg"])
    assert [*found] == [f"{folder}/p1.jpg", f"{folder}/p3.jpg"] and total == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_that_windows_has_saved_is_read(pictures, monkeypatch, encoding):
    type_in(monkeypatch, "é.jpg\r\n猫.png\r\n".encode(encoding))
    images, total = command.find_images(["-"])
    assert ([*images], total) == (["é.jpg", "猫.png"], None)


def test_pictures_of_every_suffix_are_found_in_a_folder(tmp_path):
    for name in ("a.jpg", "b.JFIF", "c.jpe", "d.heic", "e.avif"):
        (tmp_path / name).touch()
    Image.new("RGB", (4, 4)).save(tmp_path / "f", "PNG")
    (tmp_path / "notes.txt").touch()
    images, total = command.find_images([str(tmp_path)])
    assert [Path(image).name[0] for image in images] == [*"abcdef"] and total == 6


@pytest.mark.parametrize("argument", ["none.jpg", "pictures/*.gif", "empty", "none/"])
def test_an_argument_without_images_is_a_mistake_before_anything_is_computed(pictures, argument):
    Path("empty").mkdir()
    with pytest.raises(UserError, match=f"^{argument.replace('*', '.')} "):
        command.find_images(["pictures", argument])


def test_no_argument_is_a_mistake():
    with pytest.raises(UserError, match="no images"):
        command.find_images([])


def test_names_that_are_no_text_pass_from_stdin_to_both_formats(
    trained, pictures, monkeypatch, capsys
):
    name = b"caf\xe9.jpg"
    os.rename(b"pictures/0.jpg", name)
    for form in ("jsonl", "csv"):
        type_in(monkeypatch, name + b"\n")
        predict(trained, "-", form=form, output=Path(f"out/lines.{form}"))
    (line,) = read_jsonl(Path("out/lines.jsonl").read_text())
    assert os.fsencode(line["image"]) == name and line["labels"]
    assert Path("out/lines.csv").read_bytes().splitlines()[1].startswith(name)
    assert capsys.readouterr().out == ""


def test_csv_says_the_same_and_parses_back(trained, pictures, capsys):
    odd = 'pictures/a "quoted", name.jpg'
    shutil.copy("pictures/0.jpg", odd)
    predict(trained, "pictures")
    lines = read_jsonl(capsys.readouterr().out)
    predict(trained, "pictures", form="csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert odd in [row["image"] for row in rows]
    for row, line in zip(rows, lines, strict=True):
        assert row["image"] == line["image"]
        assert row["error"] == line.get("error", "")
        fields = zip(
            row["labels"].split("|"), row["probabilities"].split("|"), row["steps"].split("|"),
            strict=True,
        )  # fmt: skip
        labels = [
            {"name": name, "probability": float(probability), "step": int(step)}
            for name, probability, step in fields
            if name
        ]
        assert labels == line.get("labels", [])


def test_csv_refuses_names_that_it_cannot_join():
    with pytest.raises(UserError, match=r"'this\|that'.*jsonl"):
        csv_writer(io.StringIO(), ["plain", "this|that"])


def test_every_readable_image_gets_a_picture_of_its_maps(trained, pictures, capsys):
    Path("pictures/b").mkdir()
    shutil.copy("pictures/3.jpg", "pictures/b/0.jpg")
    shutil.copy("pictures/3.jpg", "pictures/b/0.JPG")
    predict(trained, "pictures", overlays=Path("maps"))
    lines = read_jsonl(capsys.readouterr().out)
    drawn = [line["overlay"] for line in lines if "labels" in line]
    assert len(set(drawn)) == 12
    assert sorted(map(str, Path("maps").iterdir())) == sorted(drawn)
    assert {"maps/0.jpg.png", "maps/0.JPG-2.png", "maps/0.jpg-3.png"} <= set(drawn)
    assert not any("overlay" in line for line in lines if "error" in line)
    sheet = np.asarray(Image.open("maps/0.jpg.png").convert("RGB"))
    assert sheet.shape == (398, 4 * 368 + 8, 3)
    image, *maps = (sheet[30:390, x : x + 360].astype(int) for x in range(8, 1480, 368))
    for one in maps:
        assert np.abs(one - image).mean() > 5


def test_a_row_that_looks_nowhere_has_no_pictures(trained, pictures, tiny_config, tmp_path):
    fields = {"train.steps": 1, "train.batch_size": 4}
    train(tiny_config("resnet_baseline", **fields), tmp_path / "run", make_mesh())
    with pytest.raises(UserError, match="'resnet_baseline' has no attention"):
        predict(tmp_path / "run", "pictures", overlays=Path("maps"))
    assert not Path("maps").exists()


def test_fields_of_the_config_can_be_overridden(trained, pictures, capsys):
    predict(trained, "pictures/0.jpg", **{"search.threshold": 1.0})
    (line,) = read_jsonl(capsys.readouterr().out)
    assert line == {"image": "pictures/0.jpg", "labels": []}


def test_not_one_image_that_could_be_read_is_a_mistake(trained, pictures, monkeypatch, capsys):
    with pytest.raises(UserError, match=r"none of 2 images.*notes\.txt"):
        predict(trained, "pictures/notes.txt", "pictures/a/3.5.jpg")
    assert len(read_jsonl(capsys.readouterr().out)) == 2
    type_in(monkeypatch, b"\n")
    with pytest.raises(UserError, match="names no image"):
        predict(trained, "-")


def test_places_that_cannot_be_written_are_mistakes(trained, pictures):
    Path("file").touch()
    with pytest.raises(UserError, match="file cannot be written"):
        predict(trained, "pictures", overlays=Path("file"))
    with pytest.raises(UserError, match=r"file/lines\.jsonl cannot be written"):
        predict(trained, "pictures", output=Path("file/lines.jsonl"))
    if os.path.exists("/dev/full"):
        with pytest.raises(UserError, match="No space left"):
            predict(trained, "pictures/0.jpg", output=Path("/dev/full"))


def test_the_command_writes_its_lines_to_stdout_and_nothing_else(trained, pictures):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    del environment["TF_CPP_MIN_LOG_LEVEL"]  # users have not set it
    done = subprocess.run(
        [sys.executable, ROOT / "predict.py", pictures[0], f"--workdir={trained}",
         "--batch_size=4", "-", "--format=jsonl", "--config.search.threshold=0.0"],
        input="pictures/a/3.5.jpg\n", capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line["image"] for line in read_jsonl(done.stdout)] == [
        pictures[0], "pictures/a/3.5.jpg",
    ]  # fmt: skip
    *doing, last = done.stderr.splitlines()
    assert last == "1 of 2 images could not be read; their lines say why"
    assert all(re.match("starting|reading the checkpoint|predicting", line) for line in doing)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--workdir={}", "none.jpg"], "none.jpg"),
        (["--workdir={}"], "no images"),
        (["--workdir=none", "pictures"], "--workdir=none is no work directory"),
        (["pictures"], "--workdir"),
        (["--workdir={}", "pictures", "--step=77"], "77"),
        (["--workdir={}", "pictures", "--format=xml"], "xml"),
        (["--workdir={}", "pictures", "--batch_size=0"], "batch_size"),
        (["--workdir={}", "pictures", "--config.search.beam=3"], "config.search.beam"),
    ],
)
def test_mistakes_are_one_line(trained, pictures, flags, part):
    done = run("predict.py", *(flag.format(trained) for flag in flags), cwd=".")
    assert done.stdout == ""
    assert_mistake(done, part)


def test_a_reader_that_leaves_early_ends_it_quietly(trained, pictures):
    command = (
        f"yes {pictures[0]} | head -n 200 | '{sys.executable}' '{ROOT}/predict.py' "
        f"--workdir='{trained}' --batch_size=4 - | head -n 1; echo ${{PIPESTATUS[2]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    line, status = done.stdout.splitlines()
    assert json.loads(line)["labels"]
    assert status == "0"
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full at once")
def test_a_full_disk_behind_stdout_is_one_line(trained, pictures):
    command = [sys.executable, ROOT / "predict.py", f"--workdir={trained}", pictures[0]]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"
