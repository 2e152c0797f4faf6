import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from attn_lstm.data import check, folder, preprocess
from attn_lstm.data.split import SPLITS
from attn_lstm.data.table import Table, divide
from attn_lstm.errors import UserError
from tests.data.test_coco import exported

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 32, 3), np.uint8)


def encoded(form: str, mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(out, form, **options)
    return out.getvalue()


def make(root: Path, rows: list[str], header: str = "image,labels,split") -> Path:
    """A folder whose images differ in their colour, by the number that they begin with."""
    (root / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    for row in rows:
        image = root / row.split(",")[0]
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (int(image.stem), 0, 0)).save(image)
    return root


@pytest.fixture
def good(tmp_path) -> Path:
    return make(
        tmp_path,
        [
            "a/1.png,cat|sofa,train",
            "a/2.png,cat,train",
            "3.png,,validation",
            "4.png,cat|dog|sofa,test",
        ],
    )


def table(out: str, first: str) -> list[list[str]]:
    """The cells of the printed table whose heading begins with `first`."""
    block = next(part for part in out.split("\n\n") if part.startswith(first))
    return [line.split("  ") for line in block.splitlines()]


def cells(out: str, first: str) -> list[list[str]]:
    return [[cell.strip() for cell in line if cell.strip()] for line in table(out, first)]


def test_the_report_on_a_good_folder(good, capsys):
    assert check.check(str(good)) == 2  # for want of labels to validate on
    captured = capsys.readouterr()
    out = captured.out
    assert captured.err == ""
    assert out.startswith(f"{good / 'labels.csv'}: 4 images, 3 labels, read by data.name=folder\n")
    assert cells(out, "split") == [
        ["split", "images", "without a label", "labels an image", "at most"],
        ["train", "2", "0", "1.50", "2"],
        ["validation", "1", "1", "0.00", "0"],
        ["test", "1", "0", "3.00", "3"],
        ["all", "4", "1", "1.50", "3"],
    ]
    assert "1.50 on average, 3 at most" in out and "--config.decoder.max_labels=3 " in out
    assert cells(out, "label ") == [
        ["label", "images", "share", "train", "validation", "test"],
        ["cat", "3", "75.0%", "2", "0", "1"],
        ["sofa", "2", "50.0%", "1", "0", "1"],
        ["dog", "1", "25.0%", "0", "0", "1"],
    ]
    assert cells(out, "most often") == [
        ["most often together", "images", "share"],
        ["cat + sofa", "2", "50.0%"],
        ["cat + dog", "1", "25.0%"],
        ["dog + sofa", "1", "25.0%"],
    ]
    for block in ("split", "label ", "most often"):
        assert len({len("  ".join(line)) for line in table(out, block)}) == 1
    assert out.count(": 0\n") == 4
    assert out.splitlines()[-1].startswith("Not usable as it is: no label in the validation split")


def test_a_split_without_any_label_is_an_obstacle(tmp_path, capsys):
    make(tmp_path, ["1.png,cat,train", "2.png,,validation", "3.png,,validation", "4.png,,test"])
    assert check.check(str(tmp_path)) == 2
    last = capsys.readouterr().out.splitlines()[-1]
    assert "no label in the validation split, of 2 images (mark other rows" in last
    assert "no label in the test split, of 1 image (" in last
    make(tmp_path, [f"{i}.png,cat,{part}" for i, part in enumerate(("train", "val", "test"))])
    assert check.check(str(tmp_path)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Usable. To be looked at: 2 images that no row lists."


def test_what_a_tool_has_exported_is_checked_as_it_is(tmp_path, capsys):
    for part, ids in {"train": range(4), "valid": [4], "test": [5, 6]}.items():
        exported(tmp_path / part / "_annotations.coco.json", ids)
    (tmp_path / "train" / "2.jpg").unlink()
    (tmp_path / "valid" / "x.jfif").touch()
    assert check.check(str(tmp_path)) == 2
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}: 7 images, 2 labels, read by data.name=coco\nSplits as they")
    assert [line[:2] for line in cells(out, "split")[1:]] == [
        ["train", "4"], ["validation", "1"], ["test", "2"], ["all", "7"]
    ]  # fmt: skip
    assert "Missing images: 1\n  'train/2.jpg'\n" in out
    assert "no row lists: 1\n  'valid/x.jfif'\n" in out


def test_what_is_wrong_with_the_images_is_counted_and_named(good, capsys):
    (good / "3.png").unlink()
    (good / "4.png").write_bytes((good / "4.png").read_bytes()[:40])
    (good / "extra").mkdir()
    (good / "extra" / "9.JPG").write_bytes(b"not listed")
    (good / ".thumbnails").mkdir()
    (good / ".thumbnails" / "1.png").write_bytes(b"hidden")
    (good / "notes.txt").write_text("no image")
    assert check.check(str(good)) == 2
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\nMissing images: 1\n  '3.png'\n" in "\n" + captured.out
    assert "\nImages that do not decode: 1\n  '4.png': " in captured.out
    assert "no row lists: 1\n  'extra/9.JPG'\n" in captured.out
    last = captured.out.splitlines()[-1]
    assert last.startswith("Not usable as it is: 1 missing image (")
    assert "1 broken image (" in last
    assert "data.on_missing=skip" in last and "data.on_bad_image=skip" in last


def test_the_same_content_in_two_splits_is_named_but_no_obstacle(tmp_path, capsys):
    rows = [f"{i}.png,cat,{'train' if i < 6 else 'val' if i < 8 else 'test'}" for i in range(10)]
    make(tmp_path, rows)
    same = (tmp_path / "1.png").read_bytes()
    for name in ("2.png", "9.png"):  # beside the one in train there is one in test
        (tmp_path / name).write_bytes(same)
    (tmp_path / "4.png").write_bytes((tmp_path / "3.png").read_bytes())  # both in train
    assert check.check(str(tmp_path)) == 0
    assert (
        "several splits: 1\n  '1.png' (train) = '2.png' (train) = '9.png' (test)\n"
        in capsys.readouterr().out
    )


def test_many_files_under_one_heading_are_cut_but_counted(tmp_path, capsys):
    make(tmp_path, [f"{i}.png,cat,test" for i in range(30)])
    for i in range(25):
        (tmp_path / f"{i}.png").unlink()
    assert check.check(str(tmp_path)) == 2
    out = capsys.readouterr().out
    assert "Missing images: 25\n" in out and "  ... and 5 more\n" in out
    assert "'19.png'" in out and "'20.png'" not in out


def test_splits_that_are_drawn_are_those_of_the_reader(tmp_path, capsys):
    make(tmp_path, [f"{i}.png,cat" for i in range(50)], header="image,labels")
    assert check.check(str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "drawn as by default" in out and "No image has two labels." in out
    sizes = [str(len(folder.load_folder_split(tmp_path, name))) for name in SPLITS]
    assert [line[1] for line in cells(out, "split")[1:4]] == sizes == ["36", "4", "10"]


def test_training_rows_without_validation_are_an_obstacle_and_test_rows_alone_are_none(
    tmp_path, capsys
):
    make(tmp_path, ["1.png,cat,train", "2.png,cat,test"])
    assert check.check(str(tmp_path)) == 2
    assert "no validation image" in capsys.readouterr().out.splitlines()[-1]
    make(tmp_path, ["1.png,cat,test", "2.png,cat,test"])
    assert check.check(str(tmp_path)) == 0


@pytest.mark.parametrize("mistake", ["folder", "file", "content"])
def test_a_mistake_in_the_path_or_the_label_file_is_one_line(good, capsys, mistake):
    if mistake == "file":
        (good / "labels.csv").unlink()
    if mistake == "content":
        (good / "labels.csv").write_text("image,labels\n1.png,cat||dog\n")
    with pytest.raises(UserError) as caught:
        check.check(str(good / "none" if mistake == "folder" else good))
    assert capsys.readouterr().out == ""
    assert str(caught.value).startswith(str(good)) and len(str(caught.value).splitlines()) == 1


def test_pairs_and_counts_agree_with_counting_one_by_one():
    labels = RNG.random((200, 12)) < 0.3
    names = tuple(f"l{i:02}" for i in range(12))
    ids = tuple(map(str, range(200)))
    whole = Table(Path("labels.csv"), Path(), names, ids, ids, labels, None)
    out = check.describe_labels(whole, divide(None, 200))
    want = sorted(
        (
            (-sum(bool(row[i] and row[j]) for row in labels), f"{names[i]} + {names[j]}")
            for i in range(12)
            for j in range(i + 1, 12)
        ),
    )[:10]
    got = cells(out, "most often")[1:]
    assert [(-int(line[1]), line[0]) for line in got] == want
    counts = {line[0]: [int(c) for c in (line[1], *line[3:])] for line in cells(out, "label ")[1:]}
    for column, name in enumerate(names):
        assert counts[name][0] == sum(counts[name][1:]) == sum(map(bool, labels[:, column]))


JPEG = encoded("JPEG")
VARIANTS = {
    "jpeg": JPEG,
    "grey jpeg": encoded("JPEG", "L"),
    "cmyk jpeg": encoded("JPEG", "CMYK"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "jpeg with two pictures": encoded(
        "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]
    ),
    "png": encoded("PNG"),
    "palette png": encoded("PNG", "P"),
    "transparent png": encoded("PNG", "RGBA"),
    "grey transparent png": encoded("PNG", "LA"),
    "16 bit png": encoded("PNG", "I;16") if "I;16" in Image.MODES else encoded("PNG", "I"),
    "bilevel png": encoded("PNG", "1"),
    "bmp": encoded("BMP"),
    "gif": encoded("GIF"),
    "tiff": encoded("TIFF"),
    "ppm": encoded("PPM"),
    "webp": encoded("WEBP"),
    "truncated jpeg": JPEG[: len(JPEG) // 2],
    "truncated png": encoded("PNG")[:200],
    "head of a jpeg": JPEG[:20],
    "text": b"<html>404 Not Found</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_verdict_is_that_of_the_pipeline(tmp_path, variant):
    (tmp_path / "1.jpg").write_bytes(VARIANTS[variant])
    broken = check.examine(tmp_path, ["1.jpg"], ["train"]).broken

    def shown(encoded):
        return preprocess.decode(encoded, 8, "squash")

    try:
        [_] = tf.data.Dataset.from_tensors(VARIANTS[variant]).map(shown)
        decodes = True
    except tf.errors.InvalidArgumentError:
        decodes = False
    assert bool(broken) != decodes
    assert all(len(why.splitlines()) == 1 for _, why in broken)


def test_the_command_needs_no_tensorflow_and_survives_any_terminal(tmp_path):
    make(tmp_path, ["1.png,cat,test"])
    (tmp_path / "labels.csv").write_text("image,labels,split\n1.png,猫,test\n", encoding="utf-8")
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('attn_lstm.data.check', run_name='__main__')\n"
        "finally:\n    assert not {'tensorflow', 'jax'} & {*sys.modules}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("next: ") and done.stderr.count("\n") == 1
    assert "\\u732b" in done.stdout


def test_labels_that_differ_in_spelling_alone_stand_in_the_last_line(tmp_path, capsys):
    make(tmp_path, ["1.png,Water,train", "2.png,water|sky,train", "3.png,wa-ter,validation",
                    "4.png,sky,test"])  # fmt: skip
    assert check.check(str(tmp_path)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Usable. To be looked at: labels that differ in their spelling alone (")
    assert "'Water'" in last and "'water'" in last and "'wa-ter'" in last and "sky" not in last


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["cat", "dog", "c++", "c#", "+", "#"], [("c++", "c#")]),
        (["Caf\u00e9", "cafe\u0301"], [("Caf\u00e9", "cafe\u0301")]),
        (["traffic light", "Traffic_Light", "traffic"], [("traffic light", "Traffic_Light")]),
    ],
)
def test_near_equal_labels_are_those_that_a_hasty_reader_takes_for_one(names, groups):
    assert check.near_equal(names) == groups


REAL = os.environ.get("ATTN_LSTM_DATA")


@pytest.mark.skipif(not REAL, reason="ATTN_LSTM_DATA names no folder")
def test_the_report_on_corel5k(capsys):
    assert check.check(os.path.join(REAL, "corel5k")) == 0
    out = capsys.readouterr().out
    assert "4,999 images, 260 labels" in out and "3.40 on average, 5 at most" in out
    assert out.count(": 0\n") == 4


def test_the_report_says_of_how_much_nothing_is_known(tmp_path, capsys):
    make(tmp_path, ["a/1.png,cat,train"])
    rows = ["image,cat,dog,split", "a/1.png,1,,train", "a/1b.png,0,1,train"]
    rows += [f"{i}.png,1,{cell},{part}" for i, part, cell in ((3, "val", "0"), (4, "test", "-1"))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    for name in ("a/1b.png", "3.png", "4.png"):
        Image.effect_noise((4, 4), len(name) * 9).save(tmp_path / name)
    assert check.check(str(tmp_path)) == 2
    out = capsys.readouterr().out
    assert "\nOf 25.0% of all labels of all images nothing is known: they teach nothing" in out
    assert cells(out, "label ")[1:] == [
        ["cat", "3", "75.0%", "1", "1", "1", "4"],
        ["dog", "1", "50.0%", "1", "0", "0", "2"],
    ]
    assert out.splitlines()[-1].startswith(
        "Not usable as it is: no label that is known to be absent in the test split"
    )
