"""Files that are not as they should be, wherever a reader meets them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from attn_lstm.data import files
from attn_lstm.data.coco import load_coco_split
from attn_lstm.data.folder import load_folder_split
from attn_lstm.data.nus_wide import load_nus_wide_split
from attn_lstm.data.pipeline import eval_batches
from attn_lstm.errors import UserError
from tests.conftest import write_coco
from tests.data import test_nus_wide as nus


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


def test_only_files_are_present(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "link.jpg").symlink_to("a/1.jpg")
    names = ["a/1.jpg", "a/b", "link.jpg", "a", "1.jpg", "none/1.jpg", "a/1.jpg/2.jpg", "a/x/", ""]
    present = files.are_present(tmp_path, [*names, "x" * 5000, "y" * 300 + "/z.jpg"[:-1]])
    np.testing.assert_array_equal(present, [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])


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
