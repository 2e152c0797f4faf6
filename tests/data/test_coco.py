import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn_lstm.data import coco, load_split
from attn_lstm.data.split import SPLITS
from attn_lstm.errors import UserError

# As in COCO: ids with gaps, and not in the order of the file.
CATEGORIES = [
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "indoor", "id": 90, "name": "toothbrush"},
]


def write_part(root: Path, part: str, ids, *, prefix: str = "", boxes: bool = True) -> Path:
    """COCO's layout: image i holds a dog, a person (crowd) too when odd, nothing when i % 5 = 0."""
    (root / part).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for i in ids:
        name = f"{prefix}{i:012}.jpg"
        Image.new("RGB", (20, 10), (i, i, i)).save(root / part / name)
        images.append({"id": i, "file_name": name, "width": 20, "height": 10, "license": 1})
        for category, crowd in [(18, 0)] + [(1, 1)] * (i % 2) if i % 5 else []:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": i,
                "category_id": category,
                "iscrowd": crowd,
                "segmentation": [],
                "area": 12.5,
            }
            if boxes:
                annotation["bbox"] = [5, 2.5, 10, 5]
            annotations.append(annotation)
    path = root / "annotations" / f"instances_{part}.json"
    tables = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps({"info": {"year": 2014}, "licenses": [], **tables}))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    write_part(tmp_path, "train2014", range(40, 0, -1), prefix="COCO_train2014_")
    write_part(tmp_path, "val2014", range(41, 52), prefix="COCO_val2014_")
    return tmp_path


# ------------------------------------------------------------------------------- what is read


def test_labels_follow_category_ids_and_rows_follow_image_ids(folder):
    split = coco.load_coco_split(folder, "test")
    assert (split.dataset, split.name) == ("coco", "test")
    assert split.label_names == ("person", "dog", "toothbrush")
    assert split.image_ids == tuple(map(str, range(41, 52)))
    expected = [[i % 2 == 1 and i % 5 > 0, i % 5 > 0, False] for i in range(41, 52)]
    np.testing.assert_array_equal(split.labels, expected)
    assert split.images.name(0) == str(folder / "val2014" / "COCO_val2014_000000000041.jpg")
    pixels = tf.io.decode_jpeg(split.images.read(tf.constant(0, tf.int64))).numpy()
    assert pixels.shape == (10, 20, 3) and abs(int(pixels.mean()) - 41) <= 2


def test_boxes_are_relative_corners(folder):
    boxes = coco.load_coco_split(folder, "test").boxes
    np.testing.assert_allclose(boxes[0], [[1, 0.25, 0.25, 0.75, 0.75], [0, 0.25, 0.25, 0.75, 0.75]])
    assert boxes[4].shape == (0, 5)
    assert boxes[0].dtype == boxes[4].dtype == np.float32


def test_train_and_validation_divide_the_training_images(folder):
    parts = [
        coco.load_coco_split(folder, name, validation_fraction=0.2, split_seed=3)
        for name in ("train", "validation")
    ]
    assert [len(part) for part in parts] == [32, 8]
    ids = [int(i) for part in parts for i in part.image_ids]
    assert sorted(ids) == list(range(1, 41))
    other = coco.load_coco_split(folder, "validation", validation_fraction=0.2, split_seed=4)
    assert other.image_ids != parts[1].image_ids
    for part in parts:
        row = len(part) - 1
        assert part.images.name(row).endswith(f"{int(part.image_ids[row]):012}.jpg")


@pytest.mark.parametrize("name", SPLITS)
def test_dropping_the_unlabelled_drops_nothing_else(folder, name):
    kept = coco.load_coco_split(folder, name, validation_fraction=0.5)
    dropped = coco.load_coco_split(folder, name, validation_fraction=0.5, drop_unlabelled=True)
    assert dropped.image_ids == tuple(i for i in kept.image_ids if int(i) % 5)
    assert dropped.labels.any(axis=1).all()


def test_the_evaluated_split_alone_is_enough(tmp_path):
    write_part(tmp_path, "val2017", range(3), boxes=False)
    split = coco.load_coco_split(tmp_path, "test")
    assert len(split) == 3
    assert split.boxes is None
    with pytest.raises(UserError, match=r"instances_train2017\.json is missing"):
        coco.load_coco_split(tmp_path, "train")


def test_a_folder_with_both_years_is_read_as_2014_throughout(folder):
    write_part(folder, "val2017", range(3))
    assert len(coco.load_coco_split(folder, "test")) == 11
    (folder / "annotations" / "instances_val2014.json").unlink()
    with pytest.raises(UserError, match="instances_val2014"):
        coco.load_coco_split(folder, "test")


def test_the_config_reaches_the_reader(folder):
    config = SimpleNamespace(
        name="coco",
        path=str(folder),
        drop_unlabelled=True,
        validation_fraction=0.5,
        test_fraction=0.2,
        split_seed=1,
        on_missing="error",
        download=False,
    )
    want = coco.load_coco_split(
        folder, "validation", drop_unlabelled=True, validation_fraction=0.5, split_seed=1
    )
    assert load_split(config, "validation").fingerprint == want.fingerprint
    config.validation_fraction = 0.0
    with pytest.raises(UserError, match="holds no image"):
        load_split(config, "validation")


def test_a_set_that_is_nearly_the_published_one_is_measured_against_it(folder, monkeypatch, caplog):
    def warnings():
        caplog.clear()
        with caplog.at_level("WARNING"):
            coco.load_coco_split(folder, "test")
        return [record.getMessage() for record in caplog.records]

    from absl import logging

    logging.get_absl_logger().propagate = True
    monkeypatch.setitem(coco.PUBLISHED, ("val", 2014), (11, 9))
    assert warnings() == []
    monkeypatch.setitem(coco.PUBLISHED, ("val", 2014), (11, 11))
    assert warnings() == ["COCO val2014 holds 9 images with a label, -2 from the published 11"]
    monkeypatch.setitem(coco.PUBLISHED, ("val", 2014), (10, None))
    assert warnings() == ["COCO val2014 holds 11 images, +1 from the published 10"]
    monkeypatch.setitem(coco.PUBLISHED, ("val", 2014), (12, 9))  # 11 is a chosen subset
    assert warnings() == []


# --------------------------------------------------------------------------------- mistakes


def complaint(path, split="test", **options) -> str:
    with pytest.raises(UserError) as caught:
        coco.load_coco_split(path, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_folders_are_named_with_both_layouts(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        message = complaint(path)
        assert str(path) in message
        assert "instances_*.json" in message and "coco/2014" in message
        assert "data.download=true" in message
    assert "data.path" in complaint("")
    (tmp_path / "annotations").mkdir()
    assert "annotations/instances_*.json" in complaint(tmp_path)
    assert "train, validation, test" in complaint(tmp_path, "val")


def test_missing_images_are_counted_and_named(folder):
    for i in range(41, 46):
        (folder / "val2014" / f"COCO_val2014_{i:012}.jpg").unlink()
    message = complaint(folder)
    assert "lacks 5 of the 11 images" in message
    assert len(coco.load_coco_split(folder, "test", on_missing="skip")) == 6
    assert "COCO_val2014_000000000041.jpg" in message
    assert "000000000045" not in message
    for file in (folder / "val2014").iterdir():
        file.unlink()
    (folder / "val2014").rmdir()
    assert str(folder / "val2014") in complaint(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}"])
def test_what_is_not_json_is_named(tmp_path, text):
    path = tmp_path / "instances_val2014.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not JSON") as caught:
        coco.read_instances(path)
    assert str(path) in str(caught.value)
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UserError, match="is not JSON"):
        coco.read_instances(path)
    with pytest.raises(UserError, match="cannot be read"):
        coco.read_instances(tmp_path)


VALID = {
    "images": [
        {"id": 7, "file_name": "7.jpg", "width": 4, "height": 2},
        {"id": 8, "file_name": "8.jpg", "width": 4, "height": 2},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 2, 1]},
        {"id": 2, "image_id": 8, "category_id": 18, "bbox": [1, 1, 2, 1]},
    ],
    "categories": CATEGORIES,
}


def changed(path: tuple, value) -> dict:
    content = copy.deepcopy(VALID)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "an object is expected, not list"),
        (changed(("images",), KeyError), "'images' is missing"),
        (changed(("annotations",), {}), "'annotations' must be a list, not dict"),
        (changed(("categories",), []), "'categories' is empty"),
        (changed(("images", 1), "x"), r"images\[1\] must be an object"),
        (changed(("images", 1, "id"), 7), "id in 'images' 7 occurs twice"),
        (changed(("images", 1, "id"), "8"), r"'id' of images\[1\] must be int, not str"),
        (changed(("images", 1, "id"), True), "must be int, not bool"),
        (changed(("images", 0, "file_name"), KeyError), "image 7 lacks 'file_name'"),
        (changed(("images", 0, "file_name"), "8.jpg"), "'8.jpg' occurs twice"),
        (changed(("images", 0, "file_name"), "../8.jpg"), "'8.jpg' occurs twice"),
        (changed(("images", 0, "file_name"), "C:\\x\\8.jpg"), "'8.jpg' occurs twice"),
        (changed(("images", 0, "file_name"), "x/.."), "names no file"),
        (changed(("images", 0, "file_name"), ""), "not a printable name"),
        (changed(("images", 0, "width"), -1), "impossible height or width"),
        (changed(("images", 0, "width"), 10**400), "impossible height or width"),
        (changed(("images", 0, "width"), 0.5), "impossible height or width"),
        (changed(("categories", 1, "id"), 18), "id in 'categories' 18 occurs twice"),
        (changed(("categories", 1, "name"), "dog"), "category name 'dog' occurs twice"),
        (changed(("categories", 1, "name"), "a\nb"), "not a printable name"),
        (changed(("annotations", 0, "image_id"), 9), r"annotations\[0\] belongs to image 9"),
        (changed(("annotations", 1, "category_id"), 2), r"annotations\[1\] has category 2"),
        (changed(("annotations", 1, "category_id"), 1.0), "must be int, not float"),
        (changed(("annotations", 1, "id"), 1), "annotation id 1 occurs twice"),
        (changed(("annotations", 1, "id"), []), "annotation id must be"),
        (changed(("annotations", 1, "bbox"), [0, 0, 1]), r"'bbox' of annotations\[1\]"),
        (changed(("annotations", 1, "bbox"), [0, 0, 1, float("nan")]), "'bbox'"),
    ],
)
def test_what_is_not_instances_is_named(tmp_path, content, named):
    path = tmp_path / "instances_val2014.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=named) as caught:
        coco.read_instances(path)
    assert str(caught.value).startswith(f"{path} is not COCO's instances: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_of_unicode_is_read(tmp_path, encoding):
    # A macOS screenshot's narrow space, and a name outside of ASCII.
    content = changed(("images", 0, "file_name"), "Shot 9.00\u202fAM.png")
    content["categories"][0]["name"] = "猫"
    path = tmp_path / "instances_val2014.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    instances = coco.read_instances(path)
    assert instances.file_names[0] == "Shot 9.00\u202fAM.png" and "猫" in instances.label_names
    path.write_bytes("é".encode("latin-1").join(json.dumps(content).encode().split(b"Shot")))
    with pytest.raises(UserError, match="is not JSON"):
        coco.read_instances(path)


@pytest.mark.parametrize("name", ["x" * 10**6 + "\n", "../" * 10**6, "x" * 10**6])
def test_long_names_give_short_messages(folder, name):
    path = folder / "annotations" / "instances_val2014.json"
    path.write_text(json.dumps(changed(("images", 0, "file_name"), name)))
    assert len(complaint(folder)) < 2 * len(str(path)) + 600


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([7, 8, 1, 18, 10**400, -1, float("nan"), float("inf"), 1e308])
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", "..", "a/../b", "\x00", "7.jpg"]),
    lambda values: (
        st.lists(values, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "file_name", "image_id", "category_id", "bbox", "name", "width"]
            ),
            values,
            max_size=5,
        )
    ),
    max_leaves=8,
)
PLACES = [(key,) for key in VALID] + [
    (key, i, *field)
    for key, records in VALID.items()
    for i, record in enumerate(records)
    for field in [(), *((name,) for name in record)]
]


def read_or_refuse(path: Path) -> None:
    try:
        instances = coco.read_instances(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert instances.labels.shape == (len(instances.image_ids), len(instances.label_names))
        assert len(instances.file_names) == len(set(instances.image_ids))
        if instances.boxes is not None:
            for box in np.concatenate([*instances.boxes, np.zeros((1, 5))]):
                assert ((box[1:] >= 0) & (box[1:] <= 1)).all()


@given(place=st.sampled_from(PLACES), value=JSON)
@settings(max_examples=300)
def test_whatever_a_file_holds_the_answer_is_a_table_or_one_line(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(changed(place, value)))
    read_or_refuse(path)


@given(
    st.binary(max_size=60)
    | st.builds(
        lambda at, length, new: (
            (text := json.dumps(VALID).encode())[: at % len(text)]
            + new
            + text[at % len(text) + length :]
        ),
        st.integers(0, 10**4),
        st.integers(0, 20),
        st.binary(max_size=3),
    )
)
@settings(max_examples=200)
def test_whatever_bytes_a_file_holds_the_answer_is_a_table_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(content)
    read_or_refuse(path)


# ---------------------------------------------------------------------- what tools export


def exported(file: Path, ids, name=lambda i: f"{i}.jpg", at=None, categories=None, **more) -> dict:
    """An annotation file as tools write it, and its images: image i holds a dog, odd ones a cat.

    Args:
      file: the annotation file.
      ids: of the images.
      name: the `file_name` of an image.
      at: where the image lies from the folder of the file; as `name` says unless given.
      categories: in COCO's form; a dog and a cat unless given.
      more: other keys of the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    categories = categories or [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    id_of = {category["name"]: category["id"] for category in categories}
    images, annotations = [], []
    for i in ids:
        image = file.parent / (at or name)(i)
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (i, i, i)).save(image, "JPEG")
        images.append({"id": i, "file_name": name(i), "width": 20, "height": 10})
        for label in ["dog", "cat"][: 1 + i % 2]:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": i,
                    "category_id": id_of[label],
                    "bbox": [5.0, 2.5, 10.0, 5.0],
                    "area": 50.0,
                    "iscrowd": 0,
                    "segmentation": [],
                    "ignore": 0,
                }
            )
    content = {"images": images, "annotations": annotations, "categories": categories, **more}
    file.write_text(json.dumps(content))
    return content


def check_splits(root: Path, expected: dict[str, list[str]], names=("dog", "cat")) -> None:
    """Which images are in the splits, with the right labels, boxes and pixels."""
    for split_name, image_ids in expected.items():
        split = coco.load_coco_split(root, split_name, validation_fraction=0.25)
        assert (split.dataset, split.name, split.label_names) == ("coco_format", split_name, names)
        assert list(split.image_ids) == image_ids
        for row, image_id in enumerate(image_ids):
            i = int(Path(image_id).stem.rpartition("-")[2])
            assert split.labels[row, names.index("dog")]
            assert split.labels[row, names.index("cat")] == i % 2
            np.testing.assert_allclose(split.boxes[row][0, 1:], [0.25, 0.25, 0.75, 0.75])
            pixels = tf.io.decode_jpeg(split.images.read(tf.constant(row, tf.int64))).numpy()
            assert abs(int(pixels.mean()) - i) <= 2


def named(ids) -> list[str]:
    return [f"{i}.jpg" for i in ids]


HEADING = {"id": 0, "name": "pets", "supercategory": "none"}


@pytest.mark.parametrize("heading", ["pets", "dog"])
@pytest.mark.parametrize("folder_name", ["", "images/"])
def test_roboflows_three_folders_are_read_and_its_heading_is_no_obstacle(
    tmp_path, heading, folder_name
):
    categories = [
        {"id": 0, "name": heading, "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": heading},
        {"id": 2, "name": "dog", "supercategory": heading},
    ]
    for part, ids in {"train": range(8), "valid": range(20, 24), "test": range(30, 33)}.items():
        file = tmp_path / part / "_annotations.coco.json"
        exported(file, ids, at=lambda i: f"{folder_name}{i}.jpg", categories=categories)
    names = ("pets", "cat", "dog") if heading == "pets" else ("cat", "dog")
    expected = {"train": named(range(8)), "validation": named(range(20, 24))}
    check_splits(tmp_path, expected | {"test": named(range(30, 33))}, names)


def test_without_a_part_for_testing_the_validation_part_is_tested_on(tmp_path):
    for part, ids in {"train": range(8), "valid": range(20, 24)}.items():
        exported(tmp_path / part / "_annotations.coco.json", ids)
    check_splits(tmp_path, {"test": named(range(20, 24))})
    parts = [coco.load_coco_split(tmp_path, name).image_ids for name in ("train", "validation")]
    assert sorted(sum(parts, ())) == named(range(8))
    (tmp_path / "valid" / "_annotations.coco.json").unlink()
    message = complaint(tmp_path)
    assert "holds train/_annotations.coco.json, and nothing for test" in message


@pytest.mark.parametrize(
    ("file_name", "lies_at"),
    [
        ("images/{}", "images/{}"),
        ("images\\{}", "images/{}"),  # written on Windows
        ("{}", "images/{}"),
        ("..\\..\\label-studio\\media\\upload\\4\\{}", "images/{}"),
        ("/data/local-files/?d=photos/2024/{}", "images/{}"),
        ("https://host/data/upload/4/{}", "images/{}"),
    ],
)
def test_label_studios_one_file_is_divided_at_random(tmp_path, file_name, lies_at):
    name = "cb0618f6-{}.jpg"
    exported(
        tmp_path / "result.json",
        range(20),
        name=lambda i: file_name.format(name.format(i)),
        at=lambda i: lies_at.format(name.format(i)),
        info={"contributor": "Label Studio"},
    )
    ids = [coco.load_coco_split(tmp_path, name).image_ids for name in SPLITS]
    assert [len(part) for part in ids] == [15, 1, 4]
    assert len({*sum(ids, ())}) == 20
    check_splits(tmp_path, {"test": list(ids[2])})


@pytest.mark.parametrize("images", ["images/{}/", "images/"])
def test_cvats_subsets_are_the_splits(tmp_path, images):
    for part, ids in {"Train": range(8), "Validation": range(20, 24), "Test": [30]}.items():
        place = images.format(part)
        exported(
            tmp_path / "annotations" / f"instances_{part}.json",
            ids,
            at=lambda i, place=place: f"../{place}{i}.jpg",
        )
    check_splits(
        tmp_path,
        {"train": named(range(8)), "validation": named(range(20, 24)), "test": ["30.jpg"]},
    )


def test_cvats_task_without_subsets_is_divided_at_random(tmp_path):
    file = tmp_path / "annotations" / "instances_default.json"
    exported(file, range(10), at=lambda i: f"../images/default/{i}.jpg")
    assert [len(coco.load_coco_split(tmp_path, name)) for name in SPLITS] == [8, 0, 2]


def test_fiftyones_export_is_read_with_and_without_splits(tmp_path):
    exported(tmp_path / "one" / "labels.json", range(10), at=lambda i: f"data/{i}.jpg")
    assert len(coco.load_coco_split(tmp_path / "one", "test")) == 2
    for part, ids in {"train": range(4), "validation": [20], "test": [30]}.items():
        exported(tmp_path / "all" / part / "labels.json", ids, at=lambda i: f"data/{i}.jpg")
    check_splits(
        tmp_path / "all", {"train": named(range(4)), "validation": ["20.jpg"], "test": ["30.jpg"]}
    )


@pytest.mark.parametrize("place", ["", "annotations"])
def test_lvis_is_read_by_its_addresses(tmp_path, place):
    """LVIS v1: no file_name, images of COCO's folders, and what was checked in each image."""
    categories = [
        {"id": 1, "name": "cat", "frequency": "f", "synset": "cat.n.01", "image_count": 4},
        {"id": 2, "name": "dog", "frequency": "f", "synset": "dog.n.01", "image_count": 8},
        {"id": 3, "name": "zebra", "frequency": "r", "synset": "zebra.n.01", "image_count": 1},
    ]
    for part, ids in {"train": range(8), "val": range(20, 24)}.items():
        file = tmp_path / place / f"lvis_v1_{part}.json"
        up = "../" if place else ""
        folder = {0: "train2017", 1: "val2017"}
        at = lambda i: f"{up}{folder[i % 2]}/{i}.jpg"  # noqa: B023, E731  val lies in both
        content = exported(file, ids, at=at, categories=categories)
        for image in content["images"]:
            i = image["id"]
            del image["file_name"]
            image["coco_url"] = f"http://images.cocodataset.org/{folder[i % 2]}/{i}.jpg"
            image["neg_category_ids"], image["not_exhaustive_category_ids"] = [3], [2]
        file.write_text(json.dumps(content))
    ids = ["train2017/20.jpg", "val2017/21.jpg", "train2017/22.jpg", "val2017/23.jpg"]
    check_splits(tmp_path, {"test": ids}, ("cat", "dog", "zebra"))
    split = coco.load_coco_split(tmp_path, "test")
    # Nobody looked for what is neither annotated nor listed; 2 is annotated, if not everywhere.
    np.testing.assert_array_equal(split.known, split.labels | [False, False, True])
    content["images"][0]["neg_category_ids"] = [4]
    file.write_text(json.dumps(content))
    assert "'neg_category_ids' of image 20 has 4, which is not in 'categories'" in complaint(
        tmp_path
    )


def test_files_of_any_name_are_taken_where_their_parts_are_clear(tmp_path):
    exported(tmp_path / "annotations" / "train.json", range(4), at=lambda i: f"../images/{i}.jpg")
    exported(tmp_path / "annotations" / "test.json", [30], at=lambda i: f"../images/{i}.jpg")
    check_splits(tmp_path, {"test": ["30.jpg"]})
    (tmp_path / "annotations" / "my_test.json").write_text("{}")
    message = complaint(tmp_path)
    assert "my_test.json" in message and "may both be the annotations for test" in message


def test_images_that_are_nowhere_are_looked_for_in_all_places(tmp_path):
    exported(tmp_path / "train" / "_annotations.coco.json", range(3), at=lambda i: f"x/y/{i}.jpg")
    message = complaint(tmp_path, "train")
    assert "none of the 3 images" in message
    assert f"lies in {tmp_path / 'train'}, nor in images, data: " in message


def test_sizes_may_be_missing_and_boxes_too(tmp_path):
    file = tmp_path / "result.json"
    content = exported(file, range(10))
    for image in content["images"]:
        image["width"], image["height"] = None, 0
    file.write_text(json.dumps(content))
    check_splits(tmp_path, {"test": list(coco.load_coco_split(tmp_path, "test").image_ids)})
    content["annotations"][0]["bbox"] = []  # as of a label of the whole image
    file.write_text(json.dumps(content))
    assert coco.load_coco_split(tmp_path, "test").boxes is None


def test_categories_of_two_files_are_matched_by_name(tmp_path):
    """Of the same names with other ids, in another order, and without one that is not used."""
    files = {part: tmp_path / part / "_annotations.coco.json" for part in ("train", "valid")}
    exported(files["train"], range(8), categories=[
        {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}
    ])  # fmt: skip
    exported(files["valid"], range(20, 24), categories=[
        {"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}
    ])  # fmt: skip
    names = coco.load_coco_split(tmp_path, "train").label_names
    test = coco.load_coco_split(tmp_path, "test").with_labels(names, "the checkpoint")
    np.testing.assert_array_equal(test.labels, [[i % 2, 1, 0] for i in range(20, 24)])
    assert [box[:, 0].tolist() for box in test.boxes] == [[1], [1, 0], [1], [1, 0]]


# -------------------------------------------------------------------------------- TFDS' layout


class Coco(tfds.core.GeneratorBasedBuilder):
    """TFDS' COCO 2014 in small: its names, features and splits."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2014", version="1.1.0")]  # noqa: RUF012
    code_path = None

    def _info(self):
        objects = {
            "id": np.int64,
            "area": np.int64,
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["person", "dog", "toothbrush"]),
            "is_crowd": np.bool_,
        }
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(1, 41)),
            "validation": self._generate_examples(range(41, 52)),
        }

    def _generate_examples(self, ids):
        for i in ids:
            box = tfds.features.BBox(ymin=0.25, xmin=0.25, ymax=0.75, xmax=0.75)
            objects = [
                {"id": i, "area": 50, "bbox": box, "label": label, "is_crowd": label == 0}
                for label in ([1] + [0] * (i % 2) if i % 5 else [])
            ]
            yield (
                i,
                {
                    "image": np.full((10, 20, 3), i, np.uint8),
                    "image/filename": f"{i}.jpg",
                    "image/id": i,
                    "objects": objects,
                },
            )


@pytest.mark.parametrize("name", SPLITS)
def test_both_layouts_give_the_same_split(folder, tmp_path_factory, name):
    prepared = tmp_path_factory.mktemp("tfds")
    Coco(data_dir=prepared, file_format="array_record").download_and_prepare()
    options = {"validation_fraction": 0.25, "drop_unlabelled": True}
    want = coco.load_coco_split(folder, name, **options)
    for _ in range(2):  # the second time with the labels kept from the first
        got = coco.load_coco_split(prepared, name, **options)
        assert got.fingerprint == want.fingerprint
        for boxes, expected in zip(got.boxes, want.boxes, strict=True):
            np.testing.assert_allclose(boxes, expected)
        for row in (0, len(got) - 1):
            pixels = tf.io.decode_jpeg(got.images.read(tf.constant(row, tf.int64))).numpy()
            assert abs(int(pixels.mean()) - int(got.image_ids[row])) <= 2


def test_files_without_random_access_are_answered_with_the_remedy(tmp_path):
    Coco(data_dir=tmp_path, file_format="tfrecord").download_and_prepare()
    message = complaint(tmp_path)
    version = tmp_path / "coco" / "2014" / "1.1.0"
    assert f"tfds convert_format --dataset_version_dir={version}" in message
    assert "--out_file_format=array_record" in message


def test_damaged_files_of_tfds_are_named_with_the_remedy(tmp_path):
    Coco(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    version = tmp_path / "coco" / "2014" / "1.1.0"
    for file in (
        "dataset_info.json",
        "features.json",
        "coco-validation.array_record-00000-of-00001",
    ):
        content = (version / file).read_bytes()
        for damage in (b"", b"[]", content[: len(content) // 2]):
            (version / file).write_bytes(damage)
            message = complaint(tmp_path)
            assert f"{version} is damaged" in message and "prepare the data set again" in message
        (version / file).write_bytes(content)
    assert len(coco.load_coco_split(tmp_path, "test")) == 11


def test_an_unfinished_preparation_is_named(tmp_path):
    (tmp_path / "coco" / "2014" / "1.1.0.incompleteX").mkdir(parents=True)
    assert "data.download=true" in complaint(tmp_path)


# -------------------------------------------------------------------------------- real pictures


REAL = os.environ.get("ATTN_LSTM_DATA")


@pytest.mark.skipif(not REAL, reason="ATTN_LSTM_DATA names no folder")
def test_real_annotations_are_read_whole():
    root = Path(REAL)
    subset = {n: coco.load_coco_split(root / "coco2014_subset", n) for n in SPLITS}
    assert len(subset["train"]) + len(subset["validation"]) == 4948
    assert len(subset["test"]) == 720
    for split in subset.values():
        assert len(split.label_names) == 80 and split.label_names[0] == "person"
        assert split.labels.any(axis=1).all() and split.boxes is None
    boxes = {n: coco.load_coco_split(root / "coco_boxes", n) for n in SPLITS}
    assert len(boxes["train"]) + len(boxes["validation"]) == 83
    assert len(boxes["test"]) == 214
    assert sum(len(rows) for split in boxes.values() for rows in split.boxes) == 2254
    with np.load(root / "coco2014_labels.npz") as table:
        assert tuple(table["names"].tolist()) == subset["test"].label_names
        labels = np.unpackbits(table["val_labels"], axis=1, count=80).astype(bool)
        row_of = {str(i): row for row, i in enumerate(table["val_ids"].tolist())}
        known = [row for row, i in enumerate(subset["test"].image_ids) if i in row_of]
        assert len(known) > 600
        want = labels[[row_of[subset["test"].image_ids[row]] for row in known]]
        np.testing.assert_array_equal(subset["test"].labels[known], want)
