"""Whatever a file holds, the answer is what it stands for or one line; never much memory.

Label files are covered beside their readers, in tests/data, and state dicts in test_weights.py.
"""

import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from attn_lstm import weights
from attn_lstm.data import coco, folder, image_file, preprocess
from attn_lstm.errors import UserError


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Checks what Python and NumPy take meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 10**6
    finally:
        tracemalloc.stop()


@st.composite
def damaged(draw: Callable, contents: list[bytes]) -> bytes:
    """One of the contents with bits flipped and a part cut out, put in or doubled."""
    content = bytearray(draw(st.sampled_from(contents)))
    # Half of them near the start, where the sizes are.
    places = st.integers(0, 8 * min(len(content), 40) - 1) | st.integers(0, 8 * len(content) - 1)
    for place in draw(st.lists(places, max_size=4)):
        content[place // 8] ^= 1 << place % 8
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    new = draw(
        st.sampled_from([bytes(content[start:end])] * 3 + [b"", 2 * bytes(content[start:end])])
    )
    return bytes(content[:start]) + new + bytes(content[end:])


def one_line(error: Exception) -> None:
    assert str(error).strip() and len(str(error).splitlines()) == 1


# -------------------------------------------------------------------------------------- images


def pictures() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8))
    notes = Image.Exif()
    notes[ExifTags.Base.Orientation] = 8
    saved = []
    for form in image_file.FORMATS:
        for mode in ("RGB", "L", "P", "CMYK", "RGBA", "I;16"):
            options = {} if form in ("BMP", "GIF") or mode == "P" else {"exif": notes.tobytes()}
            for chosen in ({}, options, {"progressive": True}):
                out = io.BytesIO()
                try:
                    image = noise.convert("L") if mode == "I;16" else noise
                    image.convert(mode).save(out, form, **chosen)
                except (OSError, ValueError):
                    continue
                saved.append(out.getvalue())
    return saved


PICTURES = pictures()
MAGIC = [content[:30] for content in PICTURES]
CONTENTS = damaged(PICTURES) | st.builds(
    bytes.__add__, st.sampled_from([b"", *MAGIC]), st.binary(max_size=80)
)
MOST = 5000  # pixels; there are 391


@given(content=CONTENTS)
@settings(max_examples=300)
def test_any_bytes_are_a_picture_or_one_line(content):
    with at_most(10):
        try:
            pixels = image_file.decode(content, MOST)
        except ValueError as error:
            one_line(error)
        else:
            check_picture(pixels)


@given(content=CONTENTS)
@settings(max_examples=100)
def test_any_bytes_are_a_picture_or_an_error_of_tensorflow(content):
    try:
        check_picture(preprocess.decode(tf.constant(content), 16, "crop", MOST).numpy())
    except tf.errors.InvalidArgumentError as error:
        one_line(error.message.split("\n")[0])


def check_picture(pixels: np.ndarray) -> None:
    height, width, channels = pixels.shape
    assert pixels.dtype == np.uint8 and channels == 3 and 1 <= height * width <= MOST


@pytest.mark.slow
@given(contents=st.lists(CONTENTS, min_size=1, max_size=8))
@settings(max_examples=10)
def test_bad_pictures_do_not_disturb_good_ones(tmp_path_factory, contents):
    from attn_lstm.data import FileSource, Split
    from attn_lstm.data.pipeline import eval_batches

    root = tmp_path_factory.mktemp("mixed")
    names = tuple(f"{i}.jpg" for i in range(2 * len(contents)))
    for name, content in zip(names[::2], contents, strict=True):
        (root / name).write_bytes(content)
    for name in names[1::2]:
        Image.new("RGB", (9, 5), (99, 99, 99)).save(root / name, "PNG")
    labels = np.ones((len(names), 1), bool)
    split = Split("any", "test", ("label",), names, labels, FileSource(root, names))
    batches = eval_batches(
        split,
        batch_size=len(names),
        image_size=8,
        resize="crop",
        on_bad_image="skip",
        process_index=0,
        process_count=1,
        max_pixels=MOST,
    )
    batch = next(batches)
    assert batch.mask[1::2].all() and (batch.inputs[1::2] == 99).all()
    assert {*batches.bad} == {*np.flatnonzero(~batch.mask)}
    for why in batches.bad.values():
        assert len(why.splitlines()) == 1


# ------------------------------------------------------------------------------------- weights


def refused(name: str, content: bytes, tmp_path_factory) -> None:
    """No small file holds the weights of a network."""
    path = tmp_path_factory.getbasetemp() / f"fuzzed{name}"
    path.write_bytes(content)
    read = weights.read_mobilenet_v2 if name == ".npz" else lambda p: weights.read_resnet(p, 18)
    with at_most(50), pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    one_line(caught.value)


@pytest.mark.parametrize("name", [".pth", ".safetensors", ".npz"])
@given(
    content=st.binary(max_size=100),
    magic=st.sampled_from([b"", b"PK\3\4", b"\x80\2", b"\x93NUMPY"]),
)
@settings(max_examples=50)
def test_any_bytes_are_no_weights(tmp_path_factory, name, content, magic):
    refused(name, magic + content, tmp_path_factory)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=(1, 0), allow_pickle=True)
    return out.getvalue()


FIRST, SECOND = "Conv1/kernel.npy", "Conv1/bias.npy"  # of MobileNetV2, as the reader wants them
ARRAYS = [
    npy(np.zeros((3, 3, 3, 32), kind))
    for kind in ("f4", ">f8", "f2", "g", "i4", "c8", "S3", "U2", "V5", "M8[s]", "?", "O", "f4,f4")
]
HEADERS = st.sampled_from(
    [b"(", b"{'descr': [('a', '<f4', (10**9,))], ", b"'" * 3, b"9" * 99, b"O"]
)


@st.composite
def members(draw: Callable) -> bytes:
    content = draw(damaged(ARRAYS) | st.sampled_from(ARRAYS) | st.binary(max_size=40))
    at = draw(st.integers(0, 120))
    return draw(
        st.just(content) | HEADERS.map(lambda new: content[:at] + new + content[at + len(new) :])
    )


@pytest.mark.slow
@given(first=members(), second=members())
@settings(max_examples=100)
def test_any_arrays_are_no_mobilenet(tmp_path_factory, first, second):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(FIRST, first)
        archive.writestr(SECOND, second)
    refused(".npz", out.getvalue(), tmp_path_factory)


def test_a_small_npz_that_unpacks_to_a_large_one_is_refused(tmp_path_factory):
    out = io.BytesIO()
    archive = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED)
    with archive, archive.open(FIRST, "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    refused(".npz", out.getvalue(), tmp_path_factory)


TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "BOOL", "I64", "X"]) | st.integers(),
        "shape": st.lists(st.integers(-1, 2**64) | st.sampled_from([0, 1, 2, 64]), max_size=4),
        "data_offsets": st.lists(st.integers(0, 20) | st.just(2**63), max_size=3),
    },
)


@pytest.mark.slow
@given(
    header=st.dictionaries(st.sampled_from(["conv1.weight", "bn1.bias", "__metadata__"]), TENSOR),
    size=st.just(None) | st.integers(0, 2**64 - 1) | st.integers(0, 200),
    data=st.binary(max_size=20),
)
@settings(max_examples=100)
def test_any_header_of_safetensors_is_no_resnet(tmp_path_factory, header, size, data):
    text = json.dumps(header).encode()
    start = struct.pack("<Q", len(text) if size is None else size)
    refused(".safetensors", start + text + data, tmp_path_factory)


# --------------------------------------------------------------------------------- label files


@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")])
def test_no_depth_of_json_is_too_much(tmp_path, brackets):
    opening, closing = brackets
    for depth in [*range(700, 1100), 10**5]:
        text = opening * depth + ("1" if closing == "}" else "") + closing * depth
        (tmp_path / "labels.jsonl").write_text(text)
        (tmp_path / "instances.json").write_text(f'{{"images": [{text}]}}')
        for read in (folder.read_labels, lambda root: coco.read_instances(root / "instances.json")):
            with pytest.raises(UserError) as caught:
                read(tmp_path)
            one_line(caught.value)


LONG = 10**6


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "image,labels\n" + "x" * LONG + ",cat\n"),
        ("labels.csv", "image,labels\n" + "x," * LONG + "cat\n"),
        ("labels.csv", "image,labels\n" + "../" * 30_000 + "x,cat\n"),
        ("labels.csv", "image," + ",".join(map(str, range(LONG // 4))) + "\n"),
        ("labels.csv", "image," + "cat," * (LONG // 4) + "\n"),
        ("labels.csv", "image,labels\na.jpg," + "c" * 100_000 + "\x00\n"),
        ("labels.jsonl", '{"image": "' + "x/" * LONG + '..", "labels": ["cat"]}'),
        ("labels.jsonl", '{"image": "x", "labels": ["' + "c" * LONG + '\\u0000"]}'),
        ("labels.jsonl", "\n".join([json.dumps({"image": "x" * LONG, "labels": ["cat"]})] * 2)),
        ("labels.jsonl", '{"image": "x", "' + "y" * LONG + '": 1}'),
        ("labels.jsonl", "x" * LONG),
    ],
)
def test_huge_lines_give_short_messages(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with at_most(300), pytest.raises(UserError) as caught:
        folder.load_folder_split(tmp_path, "train")
    one_line(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 400
