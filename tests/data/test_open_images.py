"""Open Images' label files in small, as its archives, FiftyOne and CVAT write them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn_lstm.data import check
from attn_lstm.data.open_images import load_open_images_split
from attn_lstm.data.split import SPLITS
from attn_lstm.errors import UserError

NAMES = "/m/07j7r,Tree\n/m/01g317,Person\n/m/0199g,Bicycle\n/m/0cgh4,Building\n"
HEADER = "ImageID,Source,LabelName,Confidence\n"


def labels(ids) -> str:
    """Each has a tree, odd ones a person, no one a bicycle; of buildings nothing is verified.

    Nor is it of persons where 4 divides the number.
    """
    rows = []
    for i in ids:
        rows.append(f"{i:016x},verification,/m/07j7r,1")
        if i % 4:
            rows.append(f"{i:016x},crowdsource-verification,/m/01g317,{i % 2}")
        rows.append(f"{i:016x},verification,/m/0199g,0")
    return HEADER + "\n".join(rows) + "\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def images(folder: Path, ids, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in ids:
        Image.new("RGB", (4, 4)).save(folder / f"{i:016x}{suffix}")


PARTS = {"train": range(8), "validation": range(20, 23), "test": range(30, 34)}


def archives(root: Path) -> None:
    """The names of V6 for training, of V5 for the rest, and of V7's boxable labels for none."""
    for part, ids in PARTS.items():
        prefix = "oidv6-" if part == "train" else ""
        write(root / f"{prefix}{part}-annotations-human-imagelabels.csv", labels(ids))
        write(root / f"{part}-annotations-machine-imagelabels.csv", HEADER + "x,machine,y,0.7\n")
        write(root / f"{part}-annotations-bbox.csv", "ImageID\n")
        images(root / part, ids)
    write(root / "oidv7-class-descriptions.csv", f"LabelName,DisplayName\n{NAMES}")


def fiftyone(root: Path) -> None:
    for part, ids in PARTS.items():
        write(root / part / "labels" / "classifications.csv", labels(ids))
        write(root / part / "labels" / "detections.csv", "ImageID\n")
        write(root / part / "metadata" / "classes.csv", NAMES)
        images(root / part / "data", ids)


def cvat(root: Path) -> None:
    for part, ids in PARTS.items():
        name = f"{part.capitalize()}-annotations-human-imagelabels.csv"
        write(root / "annotations" / name, labels(ids))
        images(root / "images" / part.capitalize(), ids, ".png")
    write(root / "annotations" / "class-descriptions.csv", NAMES)


@pytest.mark.parametrize("layout", [archives, fiftyone, cvat])
def test_every_layout_gives_the_same_splits(tmp_path, layout, capsys):
    layout(tmp_path)
    for name in SPLITS:
        split = load_open_images_split(tmp_path, name)
        assert (split.dataset, split.name) == ("open_images", name)
        assert split.label_names == ("Person", "Tree")  # no more is true anywhere
        assert split.image_ids == tuple(f"{i:016x}" for i in PARTS[name])
        np.testing.assert_array_equal(split.labels, [[i % 2, 1] for i in PARTS[name]])
        np.testing.assert_array_equal(split.known, [[i % 4 > 0, 1] for i in PARTS[name]])
        assert all(Path(split.images.name(row)).is_file() for row in range(len(split)))
    assert check.check(str(tmp_path)) == 0
    assert "15 images, 2 labels, read by data.name=open_images" in capsys.readouterr().out


def test_without_a_part_for_testing_validation_is_tested_on(tmp_path):
    archives(tmp_path)
    (tmp_path / "test-annotations-human-imagelabels.csv").unlink()
    sizes = [len(load_open_images_split(tmp_path, n, validation_fraction=0.25)) for n in SPLITS]
    assert sizes == [6, 2, 3]


def test_images_that_are_not_there_are_left_out_where_asked(tmp_path):
    archives(tmp_path)
    for file in sorted((tmp_path / "test").iterdir())[1:]:
        file.unlink()
    with pytest.raises(UserError, match="lacks 3 of the 4 images"):
        load_open_images_split(tmp_path, "test")
    assert len(load_open_images_split(tmp_path, "test", on_missing="skip")) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the header is ''"),
        ("ImageID,LabelName\n", "the header is 'ImageID,LabelName'; it must have ImageID"),
        (HEADER, "lists no image"),
        (HEADER + "a,b,c\n", "line 2: 3 cells, not 4"),
        (HEADER + "../a,b,c,1\n", "line 2: .* names no image or no label"),
        (HEADER + "a,b,,1\n", "line 2: .* names no image or no label"),
        (HEADER + "a,machine,c,0.7\n", "confidence '0.7' is neither 0 nor 1; give the labels that"),
        (HEADER + '"a"b,c,d,1\n', "is no CSV"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, text, named):
    archives(tmp_path)
    file = tmp_path / "test-annotations-human-imagelabels.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=named) as caught:
        load_open_images_split(tmp_path, "test")
    assert str(caught.value).startswith(str(file)) and len(str(caught.value).splitlines()) == 1


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no \*-human-imagelabels.csv"):
        load_open_images_split(tmp_path, "test")
    with pytest.raises(UserError, match=r"data\.path is empty"):
        load_open_images_split("", "test")
    archives(tmp_path)
    write(tmp_path / "class-descriptions.csv", "/m/07j7r\n")
    with pytest.raises(UserError, match=r"class-descriptions\.csv, line 1: .* is no LabelName"):
        load_open_images_split(tmp_path, "test")
