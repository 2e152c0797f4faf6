"""Pascal VOC as its archives unpack, in small, and what tools write in its layout."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn_lstm.data import check, voc
from attn_lstm.data.split import SPLITS
from attn_lstm.errors import UserError

# As in VOC2007's own file 000005.xml, with the parts that its person layout task adds.
XML = """<annotation>
	<folder>VOC2007</folder>
	<filename>{name}.jpg</filename>
	<source><database>The VOC2007 Database</database><image>flickr</image></source>
	<owner><flickrid>Fried Camels</flickrid><name>Jinky the Fruit Bat</name></owner>
	<size><width>20</width><height>10</height><depth>3</depth></size>
	<segmented>0</segmented>
{objects}</annotation>
"""
OBJECT = """	<object>
		<name>{label}</name>
		<pose>Unspecified</pose>
		<truncated>1</truncated>
		<difficult>{difficult}</difficult>
		<bndbox><xmin>6</xmin><ymin>3</ymin><xmax>15</xmax><ymax>8</ymax></bndbox>
		<part><name>head</name>
			<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
	</object>
"""


def annotate(root: Path, name: str, objects, suffix=".jpg", text=XML) -> None:
    """An image and its annotation, with objects (label, difficult)."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    number = int("".join(c for c in name if c.isdigit()) or 0) % 200
    Image.new("RGB", (20, 10), (number,) * 3).save(root / "JPEGImages" / f"{name}{suffix}")
    written = "".join(OBJECT.format(label=label, difficult=d) for label, d in objects)
    (root / "Annotations" / f"{name}.xml").write_text(text.format(name=name, objects=written))


def listed(root: Path, name: str, ids) -> None:
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


def make(root: Path, test: bool = True) -> Path:
    """Images 1 to 8 for training, of which 5 to 8 in val, and 9 to 12 for testing."""
    ids = [f"{i:06}" for i in range(1, 13)]
    for i, name in enumerate(ids, start=1):
        objects = [("dog", 0), ("dog", 1)] + [("person", 1)] * (i % 2) + [("cat", 0)] * (i % 3 == 0)
        annotate(root, name, objects)
    listed(root, "train", ids[:4])
    listed(root, "val", ids[4:8])
    listed(root, "trainval", ids[:8])
    if test:
        listed(root, "test", ids[8:])
    for label in ("dog", "person"):  # a list a class, which is not needed
        (root / "ImageSets" / "Main" / f"{label}_train.txt").write_text(
            f"{ids[0]}  1\n{ids[1]} -1\n"
        )
    return root


def load(root: Path, split: str, **options):
    return voc.load_voc_split(root, split, **{"validation_fraction": 0.25, **options})


@pytest.mark.parametrize("place", ["", "VOC2007", "VOCdevkit/VOC2007"])
def test_2007_is_trained_on_trainval_and_tested_on_test(tmp_path, place):
    make(tmp_path / place)
    splits = {name: load(tmp_path, name) for name in SPLITS}
    assert [len(splits[name]) for name in SPLITS] == [6, 2, 4]
    assert sorted(splits["train"].image_ids + splits["validation"].image_ids) == [
        f"{i:06}" for i in range(1, 9)
    ]
    test = splits["test"]
    assert (test.dataset, test.name, test.label_names) == ("voc", "test", voc.NAMES)
    assert test.image_ids == ("000009", "000010", "000011", "000012")
    names = [{voc.NAMES[c] for c in np.flatnonzero(row)} for row in test.labels]
    assert names == [{"dog", "person", "cat"}, {"dog"}, {"dog", "person"}, {"dog", "cat"}]
    box = [0.2, 0.25, 0.8, 0.75]  # top, left, bottom, right: pixels count from 1
    np.testing.assert_allclose(test.boxes[1], [[voc.NAMES.index("dog"), *box]] * 2, atol=1e-6)
    pixels = tf.io.decode_jpeg(test.images.read(tf.constant(0, tf.int64))).numpy()
    assert abs(int(pixels.mean()) - 9) <= 2


def test_difficult_objects_are_labels_absent_or_unknown(tmp_path):
    make(tmp_path)
    kept, left, unsaid = (load(tmp_path, "test", difficult=value) for value in voc.DIFFICULT)
    person, dog = voc.NAMES.index("person"), voc.NAMES.index("dog")
    assert kept.labels[:, person].tolist() == [True, False, True, False]
    assert not left.labels[:, person].any()
    assert left.labels[:, dog].all()  # beside a difficult one there is another
    assert len(left.boxes[1]) == 1 and len(kept.boxes[1]) == 2
    assert left.label_names == kept.label_names
    np.testing.assert_array_equal(unsaid.labels, left.labels)
    np.testing.assert_array_equal(unsaid.known, kept.labels == left.labels)
    assert kept.known is None and left.known is None


def test_2012_is_tested_on_val_for_the_annotations_of_its_test_were_never_published(tmp_path):
    make(tmp_path, test=False)
    sizes = {"train": 3, "validation": 1, "test": 4}
    assert {name: len(load(tmp_path, name)) for name in SPLITS} == sizes
    listed(tmp_path, "test", ["2008_000001", "2008_000004"])
    assert {name: len(load(tmp_path, name)) for name in SPLITS} == sizes
    assert load(tmp_path, "test").image_ids == tuple(f"{i:06}" for i in range(5, 9))


def test_what_tools_export_in_its_layout_is_divided_at_random_where_they_do_not(tmp_path):
    """CVAT: default.txt for all images, names of one's own, PNG, no flag of difficulty."""
    for i in range(10):
        annotate(tmp_path, f"frame {i}", [("forklift", "")] + [("ladder", 0)] * (i % 2), ".png")
    (tmp_path / "ImageSets" / "Main" / "default.txt").write_text('"frame 0"\n')
    splits = [load(tmp_path, name) for name in SPLITS]
    assert [len(split) for split in splits] == [6, 2, 2]
    assert splits[0].label_names == ("forklift", "ladder")
    assert splits[0].images.name(0).endswith(".png")
    listed(tmp_path, "Train", [f"frame {i}" for i in range(6)])
    (tmp_path / "ImageSets" / "Main" / "Validation.txt").write_text('"frame 8"\n"frame 9"\n')
    assert load(tmp_path, "test").image_ids == ("frame 8", "frame 9")
    assert [len(load(tmp_path, name)) for name in SPLITS] == [4, 2, 2]


def test_the_check_reads_it(tmp_path, capsys):
    make(tmp_path)
    (tmp_path / "JPEGImages" / "000003.jpg").unlink()
    assert check.check(str(tmp_path)) == 2
    out = capsys.readouterr().out
    assert "12 images, 20 labels, read by data.name=voc" in out
    assert "Missing images: 1\n  'JPEGImages/000003.jpg'" in out


def complaint(root: Path, split: str = "test", **options) -> str:
    with pytest.raises(UserError) as caught:
        load(root, split, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    assert "holds no Annotations beside JPEGImages" in complaint(tmp_path)
    assert "data.path is empty" in complaint("")
    make(tmp_path / "VOC2007")
    make(tmp_path / "VOC2012")
    assert "holds VOC2007, VOC2012: set data.path to one of them" in complaint(tmp_path)
    root = tmp_path / "VOC2007"
    (root / "Annotations" / "000010.xml").unlink()
    assert "lacks those of 1 images in ImageSets/Main: '000010'" in complaint(root)
    (root / "JPEGImages" / "000001.jpg").unlink()
    root = tmp_path / "VOC2012"
    (root / "JPEGImages" / "000009.jpg").unlink()
    assert "lacks 1 of the 4 images" in complaint(root)
    assert len(load(root, "test", on_missing="skip")) == 3
    assert "choose from label, absent" in complaint(root, difficult="maybe")
    listed(root, "test", ["000009", "000001"])
    assert "lists 1 images for training and for testing, such as '000001'" in complaint(root)
    for line, named in (("../x", "is not the name"), ("000009", "occurs twice")):
        (root / "ImageSets" / "Main" / "test.txt").write_text(f"000009\n{line}\n")
        assert f"test.txt, line 2: {line!r} {named}" in complaint(root)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("</annotation>", "", "is not XML"),
        ("<width>20</width>", "<width>-1</width>", "size/width is '-1'"),
        ("<xmin>6</xmin>", "<xmin>left</xmin>", "bndbox/xmin is 'left', no number"),
        ("<xmin>6</xmin>", "<xmin>nan</xmin>", "bndbox/xmin is 'nan', no number"),
        ("<xmin>6</xmin>", "", "bndbox/xmin is '', no number"),
        ("<difficult>0<", "<difficult>yes<", "'difficult' of 'dog' is 'yes', neither 0 nor 1"),
        ("<name>dog</name>", "<name> </name>", "an object has the name ''"),
    ],
)
def test_a_malformed_annotation_is_named(tmp_path, old, new, named):
    make(tmp_path)
    file = tmp_path / "Annotations" / "000010.xml"
    file.write_text(file.read_text().replace(old, new))
    message = complaint(tmp_path)
    assert message.startswith(f"{file} is not") and named in message


def test_sizes_and_boxes_may_be_missing(tmp_path):
    make(tmp_path)
    file = tmp_path / "Annotations" / "000010.xml"
    text = file.read_text()
    file.write_text(text.replace("<width>20</width>", "<width></width>"))
    np.testing.assert_allclose(load(tmp_path, "test").boxes[1][0, 1:], [0.2, 0.25, 0.8, 0.75])
    file.write_text(text.replace("bndbox", "points"))
    assert load(tmp_path, "test").boxes is None


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=100)
def test_whatever_an_annotation_holds_the_answer_is_a_split_or_one_line(tmp_path_factory, content):
    root = tmp_path_factory.getbasetemp() / "fuzzed_voc"
    if not root.exists():
        make(root)
    xml = XML.format(name="x", objects=OBJECT.format(label="dog", difficult=0)).encode()
    for written in (content, xml.replace(b"dog", content), xml.replace(b"20", content)):
        (root / "Annotations" / "000010.xml").write_bytes(written)
        try:
            assert len(load(root, "test")) == 4
        except UserError as error:
            assert len(str(error).splitlines()) == 1
