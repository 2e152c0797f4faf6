import contextlib
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attn_lstm.data import image_file, load_split, nus_wide
from attn_lstm.data.files import as_utf8
from attn_lstm.data.nus_wide import load_nus_wide_split
from attn_lstm.errors import UserError

CONCEPTS = """
airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds
computer coral cow dancing dog earthquake elk fire fish flags flowers food fox frost garden
glacier grass harbor horses house lake leaf map military moon mountain nighttime ocean person
plane plants police protest railroad rainbow reflection road rocks running sand sign sky snow
soccer sports statue street sun sunset surf swimmers tattoo temple tiger tower town toy train
tree valley vehicle water waterfall wedding whales window zebra
""".split()  # noqa: SIM905

IMAGES = 70
UNLABELLED = range(0, IMAGES, 7)
TRAIN = [i for i in range(IMAGES) if i % 5 < 3]
TEST = [i for i in range(IMAGES) if i % 5 >= 3]
GREY = 3


def image_id(i: int) -> str:
    return f"{('actor', 'lake', 'café')[i // 30]}/{i % 30 + 1:04}_{2124494179 + i}.jpg"


def has_label(i: int, column: int) -> bool:
    """Image i has the labels i, 3i and 9i + 5 modulo 81, or none."""
    return i not in UNLABELLED and column in (i % 81, 3 * i % 81, (9 * i + 5) % 81)


def listing(images, *, slash: bytes = b"\\", end: bytes = b"\r\n", encoding="latin-1") -> bytes:
    names = [image_id(i).encode(encoding).replace(b"/", slash) for i in images]
    return b"".join(name + end for name in names)


def write_nus_wide(root: Path) -> Path:
    """The official layout in small, with everything that is known to be wrong in it; no images."""
    lists = root / "ImageList"
    lists.mkdir(parents=True)
    (lists / "Imagelist.txt").write_bytes(listing(range(IMAGES)))
    # Neither in the order of Imagelist.txt nor with its line ends.
    (lists / "TrainImagelist.txt").write_bytes(listing(reversed(TRAIN), end=b"\n"))
    (lists / "TestImagelist.txt").write_bytes(listing(TEST).rstrip())

    (root / "ConceptsList").mkdir()
    (root / "ConceptsList" / "Concepts81.txt").write_bytes("\r\n".join(CONCEPTS).encode())

    truth = root / "Groundtruth"
    for folder in ("AllLabels", "TrainTestLabels"):
        (truth / folder).mkdir(parents=True)
    for column, name in enumerate(CONCEPTS):
        values = [str(int(has_label(i, column))) for i in range(IMAGES)]
        end = "\r\n" if column % 2 else "\n"
        path = truth / "AllLabels" / f"Labels_{name}.txt"
        path.write_bytes((end.join(values) + end * (column % 3)).encode())
        for part, images in (("Train", TRAIN), ("Test", TEST)):
            path = truth / "TrainTestLabels" / f"Labels_{name}_{part}.txt"
            path.write_text("1\n" * len(images))  # every label, of every image
    lake = truth / "TrainTestLabels" / "Labels_lake_Train.txt"
    lake.write_text(lake.read_text().replace("1", "-1130179", 1))

    tags = root / "NUS_WID_Tags"
    tags.mkdir()
    for name, count in (("AllTags81", IMAGES), ("Train_Tags81", len(TRAIN))):
        (tags / f"{name}.txt").write_text((" ".join("1" * 81) + "\n") * count)
    return root


def write_images(folder: Path, images=range(IMAGES), *, flat=False, encoding="latin-1") -> None:
    """Image i is of the brightness 3i."""
    for i in images:
        name = image_id(i).split("/")[-1] if flat else image_id(i)
        path = os.path.join(os.fsencode(folder), name.encode(encoding))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        mode, color = ("L", 3 * i) if i == GREY else ("RGB", (3 * i,) * 3)
        Image.new(mode, (8, 8), color).save(os.fsdecode(path), "JPEG")


@pytest.fixture
def folder(tmp_path) -> Path:
    write_images(write_nus_wide(tmp_path) / "Flickr")
    return tmp_path


def row(split, i: int) -> int:
    return split.image_ids.index(image_id(i))


def brightness(split, row: int) -> np.ndarray:
    return image_file.decode(split.images.read(tf.constant(row, tf.int64)).numpy())


def load_and_warnings(caplog, *args, **options):
    logging.get_absl_logger().propagate = True
    caplog.clear()
    with caplog.at_level("WARNING"):
        split = load_nus_wide_split(*args, **options)
    return split, [record.getMessage() for record in caplog.records]


def complaint(path, split="test", **options) -> str:
    with pytest.raises(UserError) as caught:
        load_nus_wide_split(path, split, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ------------------------------------------------------------------------------- what is read


def test_labels_follow_the_concepts_and_rows_follow_the_list(folder):
    assert len(CONCEPTS) == 81
    split = load_nus_wide_split(folder, "test", protocol="official", drop_unlabelled=False)
    assert (split.dataset, split.name) == ("nus_wide", "test")
    assert split.label_names == tuple(CONCEPTS)
    assert split.image_ids == tuple(image_id(i) for i in TEST)
    want = [[has_label(i, column) for column in range(81)] for i in TEST]
    np.testing.assert_array_equal(split.labels, want)


@pytest.mark.parametrize("protocol", ["paper", "official"])
@pytest.mark.parametrize("name", nus_wide.SPLITS)
def test_every_row_has_the_picture_and_the_labels_of_its_id(folder, protocol, name):
    split = load_nus_wide_split(folder, name, protocol=protocol, validation_fraction=0.3)
    ids = [image_id(i) for i in range(IMAGES)]
    assert len(split) > 5
    for row in range(len(split)):
        i = ids.index(split.image_ids[row])
        assert split.labels[row].tolist() == [has_label(i, column) for column in range(81)]
        pixels = brightness(split, row)
        assert pixels.shape == (8, 8, 3)  # the greyscale one, too
        assert abs(int(pixels.mean()) - 3 * i) <= 2
        assert split.images.name(row) == str(folder / "Flickr" / image_id(i))


def test_official_splits_without_the_unlabelled(folder):
    train, test = (
        load_nus_wide_split(folder, name, protocol="official", validation_fraction=0.0)
        for name in ("train", "test")
    )
    assert train.image_ids == tuple(image_id(i) for i in TRAIN if i not in UNLABELLED)
    assert test.image_ids == tuple(image_id(i) for i in TEST if i not in UNLABELLED)


@pytest.mark.parametrize("protocol", nus_wide.PROTOCOLS)
def test_train_and_validation_divide_the_training_images(folder, protocol):
    options = {"protocol": protocol}
    if protocol == "list":
        options["train_list"] = str(folder / "ImageList" / "TrainImagelist.txt")
    whole = load_nus_wide_split(folder, "train", **options, validation_fraction=0.0)
    test = load_nus_wide_split(folder, "test", **options)
    held = set()
    for seed in (0, 1):
        train, validation = (
            load_nus_wide_split(folder, name, **options, validation_fraction=0.4, split_seed=seed)
            for name in ("train", "validation")
        )
        assert 10 < len(validation) < len(train)
        assert sorted(train.image_ids + validation.image_ids) == sorted(whole.image_ids)
        held.add(validation.image_ids)
        again = load_nus_wide_split(folder, "test", **options, split_seed=seed)
        assert again.fingerprint == test.fingerprint
    assert len(held) == 2
    assert not set(whole.image_ids) & set(test.image_ids)


def test_a_list_of_ones_own_trains_and_the_rest_tests(folder):
    file = folder / "mine.txt"
    file.write_bytes(listing([60, 4, 7], slash=b"/", end=b"\n", encoding="utf-8"))
    options = {"protocol": "list", "train_list": str(file), "validation_fraction": 0.0}
    train = load_nus_wide_split(folder, "train", **options)
    assert train.image_ids == (image_id(4), image_id(60))  # 7 has no label
    test = load_nus_wide_split(folder, "test", **options)
    rest = [i for i in range(IMAGES) if i not in (4, 60)]
    assert test.image_ids == tuple(image_id(i) for i in rest if i not in UNLABELLED)
    both = [
        load_nus_wide_split(folder, name, **options, drop_unlabelled=False)
        for name in ("train", "test")
    ]
    assert [len(split) for split in both] == [3, IMAGES - 3]


def test_the_config_reaches_the_reader(folder):
    config = SimpleNamespace(
        name="nus_wide",
        path=str(folder),
        protocol="official",
        drop_unlabelled=True,
        validation_fraction=0.5,
        split_seed=1,
        train_list="",
        on_missing="error",
    )
    want = load_nus_wide_split(
        folder, "validation", protocol="official", validation_fraction=0.5, split_seed=1
    )
    assert load_split(config, "validation").fingerprint == want.fingerprint
    (folder / "Flickr").rename(folder / "elsewhere")
    config.on_missing = "skip"
    with pytest.raises(UserError, match="holds no image"):
        load_split(config, "validation")


# --------------------------------------------------------------------------- the paper's split


def paper_list(folder: Path) -> Path:
    return folder / "ImageList" / "PaperTrainImagelist.txt"


def test_the_papers_split_is_drawn_once_and_read_ever_after(folder):
    train = load_nus_wide_split(folder, "train", validation_fraction=0.0)
    test = load_nus_wide_split(folder, "test")
    labelled = {image_id(i) for i in range(IMAGES) if i not in UNLABELLED}
    assert len(labelled) == 60
    assert len(train) == 43  # 60 · 150,000 / 209,347 = 42.99
    assert set(train.image_ids) | set(test.image_ids) == labelled
    assert len(test) == 17
    assert paper_list(folder).read_text("utf-8").split("\n") == [*train.image_ids, ""]
    assert [path.name for path in (folder / "ImageList").iterdir() if "Paper" in path.name] == [
        "PaperTrainImagelist.txt"
    ]

    # Another list of that length in its place is taken as it is.
    other = [i for i in range(IMAGES) if i not in UNLABELLED][-43:]
    paper_list(folder).write_bytes(listing(other))
    again = load_nus_wide_split(folder, "train", validation_fraction=0.0)
    assert again.image_ids == tuple(image_id(i) for i in other)
    assert again.fingerprint != train.fingerprint

    paper_list(folder).unlink()
    drawn = load_nus_wide_split(folder, "train", validation_fraction=0.0)
    assert drawn.fingerprint == train.fingerprint


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (range(1, 6), "lists 5 images, 0 of them without a label"),
        (range(43), "lists 43 images, 7 of them without a label"),
    ],
)
def test_a_stored_list_that_does_not_fit_is_refused(folder, images, named):
    paper_list(folder).write_bytes(listing(images))
    message = complaint(folder)
    assert str(paper_list(folder)) in message and named in message and "takes 43" in message


def test_a_list_that_cannot_be_written_may_lie_elsewhere(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("lists") / "train.txt"

    def refuse(path, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        message = complaint(folder)
    assert str(paper_list(folder)) in message
    assert "Read-only file system" in message and "data.train_list" in message
    assert "data.train_list" in complaint(folder, train_list=str(folder / "absent" / "list.txt"))

    here = load_nus_wide_split(folder, "test", train_list=str(elsewhere))
    assert not paper_list(folder).exists()
    assert load_nus_wide_split(folder, "test").fingerprint == here.fingerprint
    assert elsewhere.read_bytes() == paper_list(folder).read_bytes()


def test_the_papers_split_has_no_unlabelled_images(folder):
    assert "data.drop_unlabelled" in complaint(folder, drop_unlabelled=False)
    for name in CONCEPTS:
        path = folder / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt"
        path.write_text("0\n" * IMAGES)
    assert "no image of NUS-WIDE has a label" in complaint(folder)


# --------------------------------------------------------------------------------- the images


@pytest.mark.parametrize("place", ["Flickr", "images"])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_images_are_found_wherever_users_have_them(tmp_path, place, flat, encoding):
    write_images(write_nus_wide(tmp_path) / place, flat=flat, encoding=encoding)
    split = load_nus_wide_split(tmp_path, "test", protocol="official")
    for i in (4, 68):  # of an ordinary folder, and of the one that is not UTF-8
        found = row(split, i)
        assert abs(int(brightness(split, found).mean()) - 3 * i) <= 2
        where = image_id(i).split("/")[-1] if flat else image_id(i)
        assert split.images.name(found) == str(tmp_path / place / where)


def test_only_the_images_of_the_asked_split_need_be_there(tmp_path):
    write_images(write_nus_wide(tmp_path) / "Flickr", TEST)
    assert len(load_nus_wide_split(tmp_path, "test", protocol="official")) == 24
    assert "train split" in complaint(tmp_path, "train", protocol="official")


def test_missing_images_are_counted_and_named(folder):
    for i in (3, 4, 8, 9, 69):
        os.unlink(os.path.join(os.fsencode(folder / "Flickr"), image_id(i).encode("latin-1")))
    message = complaint(folder, protocol="official")
    assert "lacks 5 of the 24 images of the test split" in message
    assert repr(image_id(3)) in message and image_id(9) not in message
    assert "data.on_missing=skip" in message and str(folder / "Flickr") in message


def test_skipped_images_are_logged_and_move_no_other(folder, caplog):
    names = nus_wide.SPLITS
    options = {"validation_fraction": 0.3, "split_seed": 2}
    before = {name: load_nus_wide_split(folder, name, **options) for name in names}
    gone = [i for i in range(IMAGES) if i % 4 == 0]
    for i in gone:
        os.unlink(os.path.join(os.fsencode(folder / "Flickr"), image_id(i).encode("latin-1")))
    for name in names:
        after, (message,) = load_and_warnings(caplog, folder, name, on_missing="skip", **options)
        kept = [i for i in before[name].image_ids if i not in map(image_id, gone)]
        assert after.image_ids == tuple(kept)
        lost = len(before[name]) - len(kept)
        assert lost and f"lacks {lost} of the {len(before[name])} images" in message
        assert f"{len(kept)} images remain" in message
        last = len(kept) - 1
        i = [image_id(i) for i in range(IMAGES)].index(kept[last])
        assert abs(int(brightness(after, last).mean()) - 3 * i) <= 2


# --------------------------------------------------------------------------------- mistakes


def test_wrong_choices_are_answered_with_the_right_ones(folder):
    assert "train, validation, test" in complaint(folder, "val")
    assert "paper, official, list" in complaint(folder, protocol="warp")
    assert "error, skip" in complaint(folder, on_missing="")
    assert "data.train_list" in complaint(folder, protocol="list")
    assert "data.path" in complaint("")
    message = complaint(folder / "absent")
    assert str(folder / "absent") in message and "Groundtruth" in message
    assert "ImageList/Imagelist.txt" in complaint(folder / "ImageList")


@pytest.mark.parametrize(
    "file",
    [
        "ImageList/TrainImagelist.txt",
        "ConceptsList/Concepts81.txt",
        "Groundtruth/AllLabels/Labels_zebra.txt",
    ],
)
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    assert str(folder / file) in complaint(folder, protocol="official")


@pytest.mark.parametrize("token", ["-1130179", "2", "01", "0.0", "11", "one", "\0", "é"])
def test_any_other_token_is_refused_with_its_line(folder, token):
    path = folder / "Groundtruth" / "AllLabels" / "Labels_lake.txt"
    lines = path.read_text().split("\n")
    lines[41] = token
    path.write_text("\n".join(lines), "utf-8")
    assert f"{path}, line 42: {token!r} is neither 0 nor 1" in complaint(folder)


def test_a_column_of_another_length_is_refused(folder):
    path = folder / "Groundtruth" / "AllLabels" / "Labels_lake.txt"
    path.write_text("0\n" * (IMAGES - 1))
    message = complaint(folder)
    assert f"{path} holds 69 labels for the 70 images" in message


LINES = [image_id(i).encode() for i in range(5)]


@pytest.mark.parametrize(
    ("file", "lines", "named"),
    [
        ("Imagelist.txt", [], "lists no image"),
        ("Imagelist.txt", [*LINES, LINES[1]], "line 6: 'actor/0002_2124494180.jpg' occurs twice"),
        ("Imagelist.txt", [LINES[0], b" ", LINES[1]], "line 2: empty"),
        ("Imagelist.txt", [LINES[0], b"..\\a.jpg"], "line 2: '../a.jpg' is not a path inside"),
        ("Imagelist.txt", [b"\\etc\\a.jpg"], "line 1: '/etc/a.jpg' is not a path inside"),
        ("TestImagelist.txt", [LINES[4], b"actor\\no.jpg"], "line 2: 'actor/no.jpg' is not in"),
        ("TestImagelist.txt", [LINES[3], LINES[0]], "share 1 images, such as 'actor/0001_"),
    ],
)
def test_a_list_that_cannot_be_right_is_refused(folder, file, lines, named):
    (folder / "ImageList" / file).write_bytes(b"\n".join(lines))
    message = complaint(folder, protocol="official")
    assert named in message and str(folder / "ImageList") in message


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (CONCEPTS[:80], "names 80 concepts, not 81"),
        ([*CONCEPTS[:80], "bear"], "line 81: 'bear' occurs twice"),
        ([*CONCEPTS[:80], "../zebra"], "line 81"),
        ([*CONCEPTS[:80], "a\0"], "line 81"),
    ],
)
def test_concepts_that_cannot_be_right_are_refused(folder, names, named):
    (folder / "ConceptsList" / "Concepts81.txt").write_text("\n".join(names))
    assert named in complaint(folder)


def test_images_of_no_official_split_are_counted(folder, caplog):
    (folder / "ImageList" / "TrainImagelist.txt").write_bytes(listing(TRAIN[2:]))
    _, warnings = load_and_warnings(caplog, folder, "test", protocol="official")
    assert warnings == ["2 images are in neither of NUS-WIDE's official splits"]


def test_a_set_that_is_nearly_the_published_one_is_measured_against_it(folder, monkeypatch, caplog):
    def warnings(*counts, protocol="official"):
        published = dict(zip(nus_wide.PUBLISHED, counts, strict=True))
        monkeypatch.setattr(nus_wide, "PUBLISHED", published)
        return load_and_warnings(caplog, folder, "test", protocol=protocol)[1]

    assert warnings(70, 60, 36, 24) == []
    assert warnings(71, 61, 35, 26) == [
        "NUS-WIDE holds 70 images, -1 from the published 71",
        "NUS-WIDE holds 60 images with a label, -1 from the published 61",
        "NUS-WIDE holds 36 official training images with a label, +1 from the published 35",
        "NUS-WIDE holds 24 official test images with a label, -2 from the published 26",
    ]
    assert warnings(70, 60, 0, 0, protocol="paper") == []
    assert warnings(80, 60, 0, 0) == []  # 70 is a chosen subset


# ------------------------------------------------------------------------------- any file at all

PIECES = st.sampled_from(
    b"0|1|0\n1\n|\n|\r\n|\r| |\t|\x0c|2|-1|\\|/|..|a|b|\0|\x85|\xe9|\xc3\xa9|\xef\xbb\xbf".split(
        b"|"
    )
)
CONTENT = st.binary(max_size=30) | st.lists(PIECES, max_size=30).map(b"".join)


def fuzzed(tmp_path_factory, content: bytes) -> Path:
    path = tmp_path_factory.getbasetemp() / "fuzzed.txt"
    path.write_bytes(content)
    return path


@given(content=CONTENT)
@settings(max_examples=300)
def test_a_column_is_its_tokens_or_one_line(tmp_path_factory, content):
    path = fuzzed(tmp_path_factory, content)
    with contextlib.suppress(UnicodeDecodeError):
        content = as_utf8(content)
    tokens = content.split()
    if set(tokens) <= {b"0", b"1"}:
        assert nus_wide.read_column(path).tolist() == [token == b"1" for token in tokens]
    else:
        with pytest.raises(UserError) as caught:
            nus_wide.read_column(path)
        assert len(str(caught.value).splitlines()) == 1


@given(content=CONTENT)
@settings(max_examples=300)
def test_a_list_is_paths_inside_the_folder_or_one_line(tmp_path_factory, content):
    path = fuzzed(tmp_path_factory, content)
    try:
        names = nus_wide.read_image_list(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert len(set(names)) == len(names)
        for name in names:
            assert os.path.normpath(f"/images/{name}").startswith("/images")


@given(
    file=st.sampled_from(
        [
            "ImageList/Imagelist.txt",
            "ImageList/TrainImagelist.txt",
            "ImageList/PaperTrainImagelist.txt",
            "ConceptsList/Concepts81.txt",
            "Groundtruth/AllLabels/Labels_airport.txt",
        ]
    ),
    protocol=st.sampled_from(["paper", "official"]),
    start=st.integers(0, 2000),
    length=st.integers(0, 30),
    new=CONTENT,
)
@settings(max_examples=100)
def test_whatever_is_changed_the_answer_is_a_split_or_one_line(
    tmp_path_factory, file, protocol, start, length, new
):
    root = tmp_path_factory.getbasetemp() / "fuzzed_nus_wide"
    if not root.exists():
        write_nus_wide(root)
        load_nus_wide_split(root, "test", on_missing="skip")
    original = (root / file).read_bytes()
    start %= len(original)
    (root / file).write_bytes(original[:start] + new + original[start + length :])
    try:
        split = load_nus_wide_split(root, "train", protocol=protocol, on_missing="skip")
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert len(split) == 0  # there are no images
    finally:
        (root / file).write_bytes(original)


# ------------------------------------------------------------------------------------ full size


def write_full_size(root: Path) -> np.ndarray:
    """Labels of the published size and counts, at random; returns them as bool[N,81]."""
    rng = np.random.default_rng(0)
    n, labelled = 269_648, 209_347
    labels = np.zeros((n, 81), bool)
    rows = np.sort(rng.permutation(n)[:labelled])
    for _ in range(3):
        labels[rows, rng.integers(0, 81, labelled)] = True
    # 125,449 labelled and 36,340 unlabelled images train.
    is_train = np.zeros(n, bool)
    is_train[rng.permutation(rows)[:125_449]] = True
    unlabelled = np.setdiff1d(np.arange(n), rows)
    is_train[rng.permutation(unlabelled)[: 161_789 - 125_449]] = True

    names = [f"folder{i % 704:03}\\{i:06}_{10**9 + i}.jpg\r\n" for i in range(n)]
    (root / "ImageList").mkdir(parents=True)
    for part, chosen in (("", np.ones(n, bool)), ("Train", is_train), ("Test", ~is_train)):
        content = "".join(names[i] for i in np.flatnonzero(chosen))
        file = root / "ImageList" / f"{part}Imagelist.txt"
        file.write_bytes(content.encode())
    (root / "ConceptsList").mkdir()
    (root / "ConceptsList" / "Concepts81.txt").write_text("\n".join(CONCEPTS))
    (root / "Groundtruth" / "AllLabels").mkdir(parents=True)
    for column, name in enumerate(CONCEPTS):
        content = np.full((n, 2), ord("\n"), np.uint8)
        content[:, 0] = ord("0") + labels[:, column]
        (root / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt").write_bytes(content.tobytes())
    return labels


@pytest.mark.slow
def test_the_published_size_gives_the_published_counts(tmp_path, caplog):
    want = write_full_size(tmp_path)
    labels = nus_wide.read_labels(tmp_path)
    assert labels.image_ids[5] == "folder005/000005_1000000005.jpg"
    np.testing.assert_array_equal(labels.labels, want)

    options = {"on_missing": "skip"}
    _, (official,) = load_and_warnings(caplog, tmp_path, "test", protocol="official", **options)
    assert "lacks 83898 of the 83898 images of the test split" in official
    _, (paper,) = load_and_warnings(caplog, tmp_path, "test", **options)
    assert "lacks 59347 of the 59347 images of the test split" in paper
    drawn = nus_wide.read_image_list(paper_list(tmp_path))
    assert len(drawn) == 150_000
