"""Files that are not as they should be, wherever a reader meets them."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from attn_lstm.data import files
from attn_lstm.data.coco import load_coco_split
from attn_lstm.data.folder import load_folder_split
from attn_lstm.data.nus_wide import load_nus_wide_split
from attn_lstm.data.pipeline import eval_batches
from attn_lstm.errors import UserError
from tests.data import test_nus_wide as nus
from tests.patches import write_coco


def write_folder(root: Path) -> Path:
    write_coco(root, {"val2014": 4})
    rows = [f"val2014/COCO_val2014_{i:012}.jpg,red,test" for i in range(4)]
    (root / "labels.csv").write_text("\n".join(["image,labels,split", *rows]))
    return root


def write_nus_wide(root: Path) -> Path:
    nus.write_images(nus.write_nus_wide(root) / "Flickr")
    return root


# How each data set is written, and read; what its test split reads.
READERS = {
    "folder": (write_folder, load_folder_split, ["labels.csv"], "val2014"),
    "coco": (
        lambda root: write_coco(root, {"val2014": 4}),
        load_coco_split,
        ["annotations/instances_val2014.json", "annotations"],
        "val2014",
    ),
    "nus_wide": (
        write_nus_wide,
        load_nus_wide_split,
        [
            "ImageList/Imagelist.txt",
            "ImageList",
            "ConceptsList/Concepts81.txt",
            "Groundtruth/AllLabels/Labels_cat.txt",
        ],
        "Flickr/actor",
    ),
}


def images(split):
    return eval_batches(
        split,
        batch_size=len(split),
        image_size=8,
        resize="squash",
        on_bad_image="skip",
        process_index=0,
        process_count=1,
    )


def closed(path: Path):
    """Takes all permissions away; gives them back in the end."""

    class Closed:
        def __enter__(self):
            self.mode = path.stat().st_mode
            path.chmod(0)

        def __exit__(self, *_):
            path.chmod(self.mode)

    return Closed()


@pytest.mark.parametrize("name", READERS)
def test_what_may_not_be_read_is_named(unprivileged, name):
    write, load, label_files, folder = READERS[name]
    root = write(unprivileged / "data")
    split = load(root, "test")
    for file in label_files:
        with closed(root / file), pytest.raises(UserError) as caught:
            load(root, "test")
        message = str(caught.value)
        assert str(root / file) in message and "Permission denied" in message
        assert len(message.splitlines()) == 1
    for place in (root, root.parent):
        with closed(place), pytest.raises(UserError, match=r"set data\.path|make it readable"):
            load(root, "test")
    with closed(root / folder), pytest.raises(UserError, match="cannot be listed"):
        load(root, "test")
    image = Path(split.images.name(2))
    with closed(image):
        batches = images(load(root, "test"))
        assert next(batches).mask.sum() == len(split) - 1
    assert "Permission denied" in batches.bad[2]


@pytest.mark.parametrize("name", READERS)
def test_pipes_and_links_to_nothing_are_missing_images(tmp_path, name):
    write, load, _, _ = READERS[name]
    root = write(tmp_path / "data")
    first, second, third = (Path(load(root, "test").images.name(i)) for i in range(3))
    for image in (first, second, third):
        image.unlink()
    os.mkfifo(first)  # to read it would never end
    second.symlink_to(tmp_path / "nowhere")
    third.symlink_to(third.name)  # to itself
    with pytest.raises(UserError, match="lacks 3 of the") as caught:
        load(root, "test")
    assert first.name in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_links_are_followed_also_out_of_the_folder(tmp_path, name):
    write, load, _, folder = READERS[name]
    root = write(tmp_path / "data")
    shutil.move(root / folder, tmp_path / "elsewhere")
    (root / folder).symlink_to(tmp_path / "elsewhere")
    image = Path(load(root, "test").images.name(0))
    shutil.move(image, tmp_path / "image")
    image.symlink_to(tmp_path / "image")
    assert next(images(load(root, "test"))).mask.all()


def test_only_files_are_located(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "link.jpg").symlink_to("a/1.jpg")
    names = ["a/1.jpg", "a/b", "link.jpg", "a", "1.jpg", "none/1.jpg", "a/1.jpg/2.jpg", "a/x/", ""]
    found = files.locate(tmp_path, [*names, "x" * 5000, "y" * 300 + "/z.jpg"[:-1], "z/" * 10**5])
    assert found == ["a/1.jpg", None, "link.jpg", *[None] * 9]


FORMS = [unicodedata.normalize(form, "Été/Forêt n° 1.jpg") for form in ("NFC", "NFD")]


@pytest.mark.parametrize("on_disk", FORMS)
@pytest.mark.parametrize("written", FORMS)
def test_a_name_is_found_in_every_unicode_form_and_with_either_slash(tmp_path, on_disk, written):
    (tmp_path / on_disk).parent.mkdir()
    (tmp_path / on_disk).touch()
    for name in (written, f"./{written}", written.replace("/", "\\"), written.replace("/", "//")):
        assert files.locate(tmp_path, [name]) == [on_disk]


def test_a_file_whose_own_name_has_a_backslash_comes_before_one_in_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jpg").touch()
    assert files.locate(tmp_path, ["a\\b.jpg"]) == ["a/b.jpg"]
    (tmp_path / "a\\b.jpg").touch()
    assert files.locate(tmp_path, ["a\\b.jpg"]) == ["a\\b.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_is_read_as_its_byte_order_mark_says(encoding):
    text = "image,labels\né.jpg,猫\n"
    assert files.as_utf8(text.encode(encoding)) == text.encode()
    for big_endian, mark in (("utf-16-be", b"\xfe\xff"), ("utf-32-be", b"\0\0\xfe\xff")):
        assert files.as_utf8(mark + text.encode(big_endian)) == text.encode()


def test_pictures_are_known_by_the_end_of_their_names_or_by_their_first_bytes(tmp_path):
    picture = Image.new("RGB", (4, 4))
    for name, form in (("a.JPG", "JPEG"), ("b.jfif", "JPEG"), ("c.JPE", "JPEG"), ("d", "JPEG"),
                       ("e.jpg_large", "PNG"), ("f.part", "GIF"), ("g", "BMP"), ("h", "WEBP"),
                       ("i.dat", "TIFF")):  # fmt: skip
        picture.save(tmp_path / name, form)
    for name in ("j.heic", "k.AVIF", "l.tif"):  # which do not decode, and are heard of
        (tmp_path / name).touch()
    for name in ("labels.csv", "BMW.txt", "RIFF", "empty", ".hidden.jpg"):
        (tmp_path / name).write_text(name[:4] + " of no picture")
    os.mkfifo(tmp_path / "pipe")
    found = sorted(os.path.relpath(path, tmp_path) for path in files.images_in(tmp_path))
    assert "".join(name[0] for name in found) == "abcdefghijkl"


def test_what_is_quoted_is_short_however_long_and_deep_it_is():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, "x\n" * 10**6, 10**4000, deep, {"a": deep}, [["y" * 10**6] * 9] * 9):
        shown = files.shown(value)
        assert len(shown) < 1000 and "\n" not in shown
    assert files.shown("..\\x") == repr("..\\x")
    listed = files.first_shown(["a" * 1000, "b", "c", "d"])
    assert listed.endswith(", 'b', 'c', ...") and len(listed) < 300


def test_a_table_of_labels_has_a_size_that_a_data_set_may_have():
    assert files.empty_table(3, 2).tolist() == [[False, False]] * 3
    with pytest.raises(ValueError, match="table of 100 GB"):
        files.empty_table(10**6, 10**5)
