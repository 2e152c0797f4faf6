import csv
import io
import itertools
import json
import os
import shutil
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn_lstm import data
from attn_lstm.data import folder
from attn_lstm.data.split import SPLITS
from attn_lstm.errors import UserError
from attn_lstm.methods import METHODS
from configs import folder as folder_config

# Not in the order of their names.
ROWS = [
    ("cats/1.jpg", ["sofa", "cat"], "train"),
    ("2.png", [], "train"),
    ("dogs/in/3.jpg", ["dog"], "test"),
    ("4.jpg", ["dog", "cat"], "val"),
]
NAMES = ("cat", "dog", "sofa")
LABELS = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]


def listed(rows) -> str:
    return "".join(
        f"{line}\n"
        for line in ["image,labels,split", *(f"{i},{'|'.join(n)},{s}" for i, n, s in rows)]
    )


def columns(rows) -> str:
    body = [[i, *(int(name in n) for name in NAMES), s] for i, n, s in rows]
    return "".join(",".join(map(str, line)) + "\n" for line in [["image", *NAMES, "split"], *body])


def jsonl(rows) -> str:
    return "".join(json.dumps({"image": i, "labels": n, "split": s}) + "\n" for i, n, s in rows)


FORMS = {"labels.csv": listed, "labels.jsonl": jsonl, "labels.csv ": columns}


def write(root: Path, name: str, content: str | bytes) -> Path:
    """Puts the label file in place of any other."""
    root.mkdir(exist_ok=True)
    for other in folder.LABEL_FILES:
        (root / other).unlink(missing_ok=True)
    file = root / name.strip()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def write_images(root: Path, image_ids) -> None:
    for i, image_id in enumerate(image_ids):
        (root / image_id).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, i, i)).save(root / image_id, quality=95)


@pytest.fixture
def root(tmp_path) -> Path:
    write_images(tmp_path, [image for image, _, _ in ROWS])
    return tmp_path


def complaint(root: Path, split: str = "train", **options) -> str:
    with pytest.raises(UserError) as caught:
        folder.load_folder_split(root, split, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_splits(root, form):
    write(root, form, FORMS[form](ROWS))
    labels = folder.read_labels(root)
    assert labels.label_names == NAMES
    assert labels.image_ids == tuple(image for image, _, _ in ROWS)
    np.testing.assert_array_equal(labels.labels, LABELS)
    assert labels.splits == ("train", "train", "test", "validation")
    for name, rows in {"train": [0, 1], "test": [2], "validation": [3]}.items():
        split = folder.load_folder_split(root, name)
        assert (split.dataset, split.name, split.label_names) == ("folder", name, NAMES)
        assert split.image_ids == tuple(ROWS[row][0] for row in rows)
        np.testing.assert_array_equal(split.labels, np.array(LABELS)[rows])
        for i, row in enumerate(rows):
            assert Path(split.images.name(i)) == root / ROWS[row][0]
            encoded = split.images.read(tf.constant(i, tf.int64))
            assert abs(int(tf.io.decode_image(encoded).numpy().mean()) - row) <= 2


@pytest.mark.parametrize("form", FORMS)
def test_byte_order_marks_line_ends_blank_lines_and_spaces_change_nothing(root, form):
    write(root, form, FORMS[form](ROWS))
    want = folder.read_labels(root)
    content = FORMS[form](ROWS).replace("\n", "\r\n\r\n").rstrip()
    if form != "labels.jsonl":
        content = content.replace(",", " , ").replace("|", " | ")
    write(root, form, b"\xef\xbb\xbf" + content.encode())
    got = folder.read_labels(root)
    np.testing.assert_array_equal(got.labels, want.labels)
    for field in ("source", "label_names", "image_ids", "splits"):
        assert getattr(got, field) == getattr(want, field)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("form", ["labels.csv", "labels.jsonl"])
def test_files_that_windows_has_saved_are_read(root, form, encoding):
    rows = [(image, [f"é{label}" for label in labels], split) for image, labels, split in ROWS]
    write(root, form, FORMS[form](rows).replace("\n", "\r\n").encode(encoding))
    labels = folder.read_labels(root)
    assert labels.image_ids == tuple(image for image, _, _ in ROWS)
    assert all(name.startswith("é") for name in labels.label_names)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_tables_of_other_regions_are_read(root, delimiter):
    write(root, "labels.csv", listed(ROWS))
    want = folder.read_labels(root)
    write(root, "labels.csv", listed(ROWS).replace(",", delimiter).encode("utf-16"))
    np.testing.assert_array_equal(folder.read_labels(root).labels, want.labels)


@pytest.mark.parametrize("form", ["labels.csv", "labels.jsonl"])
def test_two_unicode_forms_of_a_label_are_one_and_of_an_image_lie_where_either_does(root, form):
    one, other = (unicodedata.normalize(name, "forêt") for name in ("NFC", "NFD"))
    rows = [(f"{one}.png", [one], "test"), ("2.png", [other], "test"), ("4.jpg", ["a"], "test")]
    write(root, form, FORMS[form](rows))
    write_images(root, [f"{other}.png"])
    split = folder.load_folder_split(root, "test")
    assert split.label_names == ("a", one)
    assert split.labels[:, 1].tolist() == [True, True, False]
    assert split.image_ids[0] == f"{one}.png"
    assert split.images.name(0) == str(root / f"{other}.png")
    write(root, form, FORMS[form]([*rows, (f"{other}.png", ["a"], "test")]))
    assert "already; give each image one row" in complaint(root)


def test_two_unicode_forms_of_a_column_are_one_too_many(root):
    one, other = (unicodedata.normalize(name, "forêt") for name in ("NFC", "NFD"))
    write(root, "labels.csv", f"image,{one},{other}\n2.png,1,0\n")
    assert "occurs twice" in complaint(root)


def test_columns_keep_the_order_of_the_header(root):
    write(root, "labels.csv", "sofa,image,cat\n1,4.jpg,0\n0,2.png,1\n")
    labels = folder.read_labels(root)
    assert labels.label_names == ("sofa", "cat")
    np.testing.assert_array_equal(labels.labels, [[1, 0], [0, 1]])


def test_cells_that_are_blank_or_minus_one_are_not_known(root):
    # As pandas writes columns of whole numbers, and those with blanks among them.
    write(root, "labels.csv", "image,sofa,cat,dog\n4.jpg,1,1.0,\n2.png,-1,0.0,-1.0\n")
    labels = folder.read_labels(root)
    np.testing.assert_array_equal(labels.labels, [[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(labels.known, [[1, 1, 0], [0, 1, 0]])
    write(root, "labels.csv", "image,sofa,cat\n4.jpg,1,0\n2.png,0,1\n")
    assert folder.read_labels(root).known is None


def test_quotes_protect_commas_quotes_and_bars_in_a_column(root):
    write(root, "labels.csv", 'image,"a, ""b""",c|d\n"x, y.jpg",1,0\n')
    labels = folder.read_labels(root)
    assert (labels.label_names, labels.image_ids) == (('a, "b"', "c|d"), ("x, y.jpg",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "image,labels\n4.jpg,cat|dog| cat\n"),
        ("labels.jsonl", '{"image": "4.jpg", "labels": ["cat", "dog", "cat"]}'),
    ],
)
def test_a_label_given_twice_counts_once(root, name, content):
    write(root, name, content)
    labels = folder.read_labels(root)
    assert labels.label_names == ("cat", "dog")
    np.testing.assert_array_equal(labels.labels, [[1, 1]])


def test_any_script_may_name_labels_and_images(root):
    # A macOS screenshot's narrow space, a Persian joiner, an emoji.
    image, names = "Shot 9.00\u202fAM.png", ["می\u200cشود", "猫", "🐕"]
    write(root, "labels.jsonl", json.dumps({"image": image, "labels": names}))
    write_images(root, [image])
    split = folder.load_folder_split(root, "train", validation_fraction=0, test_fraction=0)
    assert split.image_ids == (image,) and split.label_names == tuple(sorted(names))


def test_backslashes_and_detours_name_the_same_file(root):
    write(
        root, "labels.csv", "image,labels,split\n.\\dogs\\in\\\\3.jpg,dog,test\n./2.png,cat,test\n"
    )
    split = folder.load_folder_split(root, "test")
    assert split.image_ids == ("dogs/in/3.jpg", "2.png")
    assert len(split.images.read(tf.constant(0, tf.int64)).numpy()) > 100


def test_roboflows_labels_of_whole_images_are_read(tmp_path):
    for part, names in {"train": "abcd", "valid": "ef", "test": "gh"}.items():
        write_images(tmp_path, [f"{part}/{name}.jpg" for name in names])
        rows = [f"{name}.jpg, 1, {i % 2}" for i, name in enumerate(names)]
        table = "\n".join(["filename, cat, dog", *rows])
        (tmp_path / part / "_classes.csv").write_text(table)
    assert ids(tmp_path) == {
        "train": ("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
        "validation": ("e.jpg", "f.jpg"),
        "test": ("g.jpg", "h.jpg"),
    }
    split = folder.load_folder_split(tmp_path, "test")
    assert split.label_names == ("cat", "dog")
    np.testing.assert_array_equal(split.labels, [[1, 0], [1, 1]])
    assert split.images.name(1) == str(tmp_path / "test" / "h.jpg")
    (tmp_path / "test" / "_classes.csv").write_text("filename, cat, dog\ng.jpg, 2, 0")
    assert "_classes.csv, line 2: label 'cat' is '2'; write 1 or 0" in complaint(tmp_path)


# ------------------------------------------------------------------- a folder for each label


def test_folders_of_images_are_labels(tmp_path):
    write_images(tmp_path, ["dog/1.jpg", "dog/deep/2.JPEG", "cat/1.jpg", "Été/x.png"])
    for name in ("notes.txt", "cat/.hidden.jpg", "__MACOSX/cat.jpg", ".git/dog.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    table = folder.read_labels(tmp_path)
    assert table.label_names == ("cat", "dog", "Été")
    assert table.image_ids == ("cat/1.jpg", "dog/1.jpg", "dog/deep/2.JPEG", "Été/x.png")
    np.testing.assert_array_equal(table.labels, np.eye(3)[[0, 1, 1, 2]])
    assert table.splits is None


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "testing")])
def test_folders_of_splits_hold_folders_of_labels(tmp_path, names):
    write_images(tmp_path, [f"{part}/{label}/{part}.jpg" for part in names for label in "ab"])
    assert ids(tmp_path) == {
        split: (f"{part}/a/{part}.jpg", f"{part}/b/{part}.jpg")
        for split, part in zip(SPLITS, names, strict=True)
    }
    shutil.rmtree(tmp_path / names[2])
    parts = ids(tmp_path, validation_fraction=0.5)
    assert parts["test"] == (f"{names[1]}/a/{names[1]}.jpg", f"{names[1]}/b/{names[1]}.jpg")
    assert len(parts["train"]) == len(parts["validation"]) == 1


def test_an_image_in_several_folders_has_the_label_of_each(tmp_path):
    write_images(tmp_path, ["dog/1.jpg", "cat/2.jpg", "cow/3.jpg"])
    shutil.copy(tmp_path / "dog" / "1.jpg", tmp_path / "cat" / "1.jpg")
    os.link(tmp_path / "dog" / "1.jpg", tmp_path / "cow" / "1.jpg")
    shutil.copy(tmp_path / "cat" / "2.jpg", tmp_path / "cow" / "another_name.jpg")
    table = folder.read_labels(tmp_path)
    assert table.image_ids == ("cat/1.jpg", "cat/2.jpg", "cow/3.jpg", "cow/another_name.jpg")
    np.testing.assert_array_equal(table.labels, [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]])


def test_folders_that_say_nothing_of_labels_are_not_taken_for_them(tmp_path):
    write_images(tmp_path, ["images/1.jpg", "images/2.jpg"])
    assert "holds neither labels.csv nor labels.jsonl, and its images do not" in complaint(tmp_path)
    write_images(tmp_path, ["others/1.jpg", "stray.png"])
    assert "holds neither labels.csv nor labels.jsonl, and its images do not" in complaint(tmp_path)
    (tmp_path / "stray.png").unlink()
    assert folder.read_labels(tmp_path).label_names == ("images", "others")


# -------------------------------------------------------------------------------- the splits


def many(root: Path, splits, count: int = 50) -> Path:
    header = "image,labels,split" if splits else "image,labels"
    rows = [
        ",".join(
            [f"{i}.jpg", "red" if i % 5 else "", *([splits[i % len(splits)]] if splits else [])]
        )
        for i in range(count)
    ]
    write_images(root, [f"{i}.jpg" for i in range(count)])
    return write(root, "labels.csv", "\n".join([header, *rows]))


def ids(root: Path, **options) -> dict[str, tuple[str, ...]]:
    return {name: folder.load_folder_split(root, name, **options).image_ids for name in SPLITS}


def test_without_a_split_column_all_three_are_drawn(tmp_path):
    many(tmp_path, None)
    drawn = ids(tmp_path, test_fraction=0.2, validation_fraction=0.25)
    assert {name: len(part) for name, part in drawn.items()} == {
        "train": 30,
        "validation": 10,
        "test": 10,
    }
    assert sorted(itertools.chain(*drawn.values())) == sorted(f"{i}.jpg" for i in range(50))
    for part in drawn.values():
        assert list(part) == sorted(part, key=lambda name: int(name[:-4]))  # the file's order
    assert ids(tmp_path, test_fraction=0.2, validation_fraction=0.25) == drawn


def test_the_seed_draws_another_validation_but_never_another_test(tmp_path):
    many(tmp_path, None)
    one, other = ids(tmp_path, split_seed=0), ids(tmp_path, split_seed=1)
    assert one["validation"] != other["validation"]
    assert one["test"] == other["test"]
    assert ids(tmp_path, validation_fraction=0.5)["test"] == one["test"]


def test_validation_is_held_out_of_the_marked_training_rows(tmp_path):
    many(tmp_path, ["train", "test"])
    drawn = ids(tmp_path, validation_fraction=0.2)
    assert [len(drawn[name]) for name in SPLITS] == [20, 5, 25]
    assert drawn["test"] == tuple(f"{i}.jpg" for i in range(1, 50, 2))
    assert not {*drawn["validation"]} & {*drawn["train"], *drawn["test"]}


def test_marked_validation_rows_are_taken_as_they_are(tmp_path):
    many(tmp_path, ["train", "validation", "val", "test", "train"])
    drawn = ids(tmp_path, validation_fraction=0.5, test_fraction=0.5)
    assert [len(drawn[name]) for name in SPLITS] == [20, 20, 10]


@pytest.mark.parametrize("splits", [None, ["train", "test"]])
def test_dropping_the_unlabelled_drops_nothing_else(tmp_path, splits):
    many(tmp_path, splits)
    kept, dropped = ids(tmp_path), ids(tmp_path, drop_unlabelled=True)
    for name in SPLITS:
        assert dropped[name] == tuple(i for i in kept[name] if int(i[:-4]) % 5)
        assert len(dropped[name]) < len(kept[name]) or name == "validation"


def test_the_config_reaches_the_reader(tmp_path):
    many(tmp_path, None)
    options = {
        "drop_unlabelled": True,
        "validation_fraction": 0.5,
        "test_fraction": 0.4,
        "split_seed": 3,
        "on_missing": "skip",
        "separator": ",",
    }
    (tmp_path / "7.jpg").unlink()
    config = SimpleNamespace(name="folder", path=str(tmp_path), **options)
    for name in SPLITS:
        want = folder.load_folder_split(tmp_path, name, **options)
        assert data.load_split(config, name).fingerprint == want.fingerprint
    config.test_fraction = 0.0
    with pytest.raises(UserError, match=r"test split of folder .* holds no image"):
        data.load_split(config, "test")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_config(method):
    config = folder_config.get_config(method)
    assert (config.data.name, config.method) == ("folder", method)


# -------------------------------------------------------------------------------- the images


def test_missing_images_are_counted_and_the_first_named(tmp_path, caplog):
    from absl import logging

    logging.get_absl_logger().propagate = True
    file = many(tmp_path, ["train", "test"])
    want = ids(tmp_path)
    gone = want["test"][:4]
    for name in gone:
        (tmp_path / name).unlink()
    message = complaint(tmp_path, "test")
    assert message.startswith(f"{file.parent} lacks 4 of the 25 images")
    assert "'1.jpg', '3.jpg', '5.jpg', ...;" in message and "data.on_missing=skip" in message
    assert len(folder.load_folder_split(tmp_path, "train")) == len(want["train"])
    with caplog.at_level("WARNING"):
        assert ids(tmp_path, on_missing="skip") == {**want, "test": want["test"][4:]}
    assert [r.getMessage().rpartition("; ")[2] for r in caplog.records] == [
        "they are left out, 21 images remain"
    ]


def test_a_folder_is_no_image(root):
    write(root, "labels.csv", "image,labels,split\ndogs/in,dog,test\n2.png/3.jpg,dog,test\n")
    assert "lacks 2 of the 2 images" in complaint(root, "test")


@pytest.mark.parametrize(
    "path", ["../2.png", "/etc/2.png", "a/../../2.png", "C:\\2.png", "c:2.png", "\\2.png", "..\\x"]
)
@pytest.mark.parametrize("form", [listed, jsonl])
def test_no_path_leaves_the_folder(root, form, path):
    name = "labels.csv" if form is listed else "labels.jsonl"
    write(root, name, form([ROWS[0], (path, ["cat"], "train")]))
    line = 3 if form is listed else 2
    assert f"{name}, line {line}: image {path!r} leaves the folder" in complaint(root)


# --------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "line 1: the header is ''"),
        ("\n\nimage\na.jpg\n", "line 3: the header is 'image'"),
        ("image,split\na.jpg,train\n", "line 1: the header is 'image,split'"),
        ("file,labels\na.jpg,cat\n", "line 1: the header is 'file,labels'"),
        ("image:labels\na.jpg:cat\n", "line 1: the header is 'image:labels'"),
        (",image,cat\n0,a.jpg,1\n", "line 1: an empty label name"),
        ("image,cat,cat\na.jpg,1,1\n", "line 1: column 'cat' occurs twice"),
        ("image,image,cat\na.jpg,a.jpg,1\n", "line 1: column 'image' occurs twice"),
        ("image,labels,cat\na.jpg,cat,1\n", "line 1: column 'cat' stands beside 'labels'"),
        ('image,"a\nb"\na.jpg,1\n', r"line 1: label 'a\\nb' holds control characters"),
        ("image,labels\n", r"labels\.csv lists no image"),
        ("image,labels\na.jpg,\n", "gives no image a label"),
        ("image,cat\na.jpg,0\n", "gives no image a label"),
        ("image,labels\n\na.jpg,cat,dog\n", "line 3: 3 cells under a header of 2"),
        ("image,labels,split\na.jpg,cat\n", "line 2: 2 cells under a header of 3"),
        ("image,labels\n,cat\n", "line 2: no image"),
        ("image,labels\n.,cat\n", "line 2: no image"),
        ("image,labels\na.jpg,cat||dog\n", "line 2: an empty label name"),
        ("image,labels\na.jpg,cat|\n", "line 2: an empty label name"),
        ("image,labels\na.jpg,c\x00t\n", r"line 2: label 'c\\x00t' holds control"),
        ("image,labels\na\x00.jpg,cat\n", r"line 2: image 'a\\x00.jpg' holds control"),
        ("image,labels\nb.jpg,cat\na.jpg,cat\n\n./a.jpg,dog\n", "line 5: image 'a.jpg' .* line 3"),
        ("image,labels,split\na.jpg,cat,Train\n", "line 2: split 'Train' is none of train, val"),
        ("image,labels,split\na.jpg,cat,\n", "line 2: split '' is none of"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,0,yes\n", "line 3: label 'dog' is 'yes'; write 1 or 0"),
        ("image,cat\na.jpg,0.5\n", "line 2: label 'cat' is '0.5'"),
        ("image,cat\na.jpg,\n", "gives no image a label"),
        ('image,labels\n"a.jpg",cat\n"b.jpg,cat\nc.jpg,cat\n', "line 3: not CSV"),
        ('image,labels\n"a"b.jpg,cat\n', "line 2: not CSV"),
        ("image,labels\n" + "x" * 200_000 + ",cat\n", "line 2: not CSV"),
        (b"image,labels\na.jpg,cat\nb.jpg,caf\xe9\n", "line 3: not UTF-8"),
        ("image,labels\na.jpg,cat\n".encode("utf-16")[:-1], "line 2: not UTF-8"),
    ],
)
def test_a_malformed_csv_is_named_with_its_line(tmp_path, content, named):
    file = write(tmp_path, "labels.csv", content)
    with pytest.raises(UserError, match=named) as caught:
        folder.read_labels(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(file)) and len(message.splitlines()) == 1
    assert len(message) < len(str(file)) + 250


GOOD = '{"image": "a.jpg", "labels": ["cat"]}\n'


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", r"labels\.jsonl lists no image"),
        (GOOD + "{", "line 2: not JSON"),
        (GOOD + "\n" + GOOD.strip() * 2, "line 3: not JSON"),
        (GOOD + "[" * 100_000, "line 2: not JSON"),
        (GOOD + "1" * 5000, "line 2: not JSON"),
        ("[]", r"line 1: \[\] is no object"),
        ('{"labels": []}', "line 1: image is missing"),
        ('{"image": "a.jpg"}', "line 1: labels is missing"),
        ('{"image": "a.jpg", "labels": [], "Split": "test"}', "line 1: unknown key 'Split'"),
        ('{"image": 3, "labels": []}', "line 1: image is 3; make it a string"),
        ('{"image": "a.jpg", "labels": "cat"}', "labels is 'cat'; make it a list of strings"),
        ('{"image": "a.jpg", "labels": [1]}', "line 1: label 1 is not a string"),
        ('{"image": "a.jpg", "labels": [" "]}', "line 1: an empty label name"),
        ('{"image": "a.jpg", "labels": ["\\ud800"]}', "line 1: label .* holds control characters"),
        ('{"image": "\\ud800.jpg", "labels": []}', "line 1: image .* holds control characters"),
        ('{"image": "a.jpg", "labels": [], "split": null}', "split is None; make it a string"),
        (
            GOOD.replace("}", ', "split": "test"}') + GOOD.replace("a.jpg", "b.jpg"),
            "line 2: no split, where other lines have one",
        ),
        (GOOD.replace("}", ', "split": "eval"}'), "line 1: split 'eval' is none of"),
        (GOOD + GOOD, "line 2: image 'a.jpg' stands in line 1 already"),
        (GOOD.encode() + b"\xff", "line 2: not UTF-8"),
    ],
)
def test_a_malformed_jsonl_is_named_with_its_line(tmp_path, content, named):
    file = write(tmp_path, "labels.jsonl", content)
    with pytest.raises(UserError, match=named) as caught:
        folder.read_labels(tmp_path)
    assert str(caught.value).startswith(str(file)) and len(str(caught.value).splitlines()) == 1


def test_exactly_one_label_file_is_wanted(root):
    assert "is not a folder" in complaint(root / "none")
    assert "data.path is empty" in complaint("")
    assert "holds neither labels.csv nor labels.jsonl" in complaint(root)
    write(root, "labels.csv", listed(ROWS))
    assert "is not a folder" in complaint(root / "labels.csv")
    (root / "labels.jsonl").write_text(jsonl(ROWS))
    assert "holds both labels.csv and labels.jsonl" in complaint(root)


@pytest.mark.parametrize(
    ("split", "options", "named"),
    [
        ("dev", {}, "choose from train, validation, test"),
        ("train", {"on_missing": "ignore"}, "data.on_missing of folder is 'ignore'"),
        ("train", {"test_fraction": 1.0}, "test_fraction is 1.0"),
        ("train", {"test_fraction": float("nan")}, "test_fraction is nan"),
        ("train", {"validation_fraction": -0.1}, "validation_fraction is -0.1"),
    ],
)
def test_options_out_of_range_are_refused(root, split, options, named):
    write(root, "labels.csv", "image,labels\n2.png,cat\n")
    assert named in complaint(root, split, **options)


# ------------------------------------------------------------------------------ any content


WORDS = ["image", "labels", "split", "cat", "dog", "cat|dog", "0", "1", "train", "val", "a.jpg"]
ODD = ["b/c.jpg", "..", "", " ", '"', "|", "\x00", "\r", "\n", "\u2028", "\ufeff", "é", "a" * 300]
CELLS = st.sampled_from([*WORDS, *ODD]) | st.text(max_size=5)
LINES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=5)
# Sound lines first, so that what is odd is met at any depth.
SOUND = [
    ["image,labels", "d.jpg,cat|dog", "e.jpg,"],
    ["image,labels,split", "d.jpg,cat,train", "e.jpg,,test"],
    ["split,dog,image,cat", "val,1,d.jpg,0"],
]
CSV = st.tuples(st.sampled_from([[], *SOUND]), LINES).map(
    lambda parts: "\n".join([*parts[0], *parts[1]])
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | CELLS | st.just("\ud800"),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "labels", "split", "x"]), values, max_size=3)
    ),
    max_leaves=6,
)
RECORDS = VALUES | st.fixed_dictionaries(
    {"image": CELLS, "labels": st.lists(CELLS, max_size=3)}, optional={"split": CELLS}
)
JSONL = st.lists(RECORDS.map(json.dumps) | st.text(max_size=9), max_size=5).map("\n".join)


@pytest.mark.parametrize("name", folder.LABEL_FILES)
@given(content=st.data())
@settings(max_examples=300)
def test_whatever_a_file_holds_the_answer_is_a_split_or_one_line(tmp_path_factory, name, content):
    base = tmp_path_factory.getbasetemp() / f"fuzzed_{name}"
    text = CSV if name == "labels.csv" else JSONL
    write(base, name, content.draw(text.map(str.encode) | st.binary(max_size=60)))
    try:
        labels = folder.read_labels(base)
        split = folder.load_folder_split(base, "train", on_missing="skip")
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert labels.labels.shape == (len(labels.image_ids), len(labels.label_names))
        assert labels.labels.any() and len({*labels.image_ids}) == len(labels.image_ids)
        root = os.path.realpath(base)
        assert all(os.path.realpath(base / i).startswith(root + os.sep) for i in labels.image_ids)
        assert len(split) == 0 and split.label_names == labels.label_names


NAME = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="|"), min_size=1)
PATH = NAME.filter(lambda text: not {*text} & {*'/\\:"'} and text.strip(".") == text)


@given(rows=st.dictionaries(PATH, st.lists(NAME, max_size=4), min_size=1))
@settings(max_examples=100)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, rows):
    base = tmp_path_factory.getbasetemp() / "written"
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("image", "labels"), *((i, "|".join(n)) for i, n in rows.items())])
    write(base, "labels.csv", out.getvalue())
    if not any(rows.values()):
        assert "gives no image a label" in complaint(base)
        return
    labels = folder.read_labels(base, "|")  # whatever it looks like
    got = {
        image: {labels.label_names[column] for column in np.flatnonzero(row)}
        for image, row in zip(labels.image_ids, labels.labels, strict=True)
    }
    assert got == {image: {*names} for image, names in rows.items()}
    assert list(got) == list(rows) and list(labels.label_names) == sorted(
        set().union(*got.values())
    )


# -------------------------------------------------------------------------------- real pictures


REAL = os.environ.get("ATTN_LSTM_DATA")


@pytest.mark.skipif(not REAL, reason="ATTN_LSTM_DATA names no folder")
def test_corel5k_is_read_whole():
    root = Path(REAL) / "corel5k"
    splits = {name: folder.load_folder_split(root, name) for name in SPLITS}
    assert len(splits["train"]) + len(splits["validation"]) == 4500
    assert len(splits["validation"]) == 450 and len(splits["test"]) == 499
    labels = np.concatenate([split.labels for split in splits.values()])
    assert labels.shape == (4999, 260) and labels.any(axis=0).all()
    assert round(labels.sum() / len(labels), 1) == 3.4
