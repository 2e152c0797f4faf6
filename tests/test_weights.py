"""Loading published weights: parity with PyTorch, and what is refused."""

import io
import logging
import os
import pickle
import re
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_lstm import weights
from attn_lstm.errors import UserError
from attn_lstm.models.mobilenet import MobileNetV2
from attn_lstm.models.resnet import ResNet
from attn_lstm.safe_pickle import read_state_dict
from tests.torch_resnet import TorchResNet, random_resnet

IMAGES = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)


def save_zip(state: dict, path: Path) -> None:
    torch.save(state, path)


def save_zip_protocol4(state: dict, path: Path) -> None:
    torch.save(state, path, pickle_protocol=4)


def save_legacy(state: dict, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_safetensors(state: dict, path: Path) -> None:
    safetensors.torch.save_file(state, path)


FORMATS = {
    "zip.pth": save_zip,
    "protocol4.pth": save_zip_protocol4,
    "legacy.pth": save_legacy,
    "some.safetensors": save_safetensors,
}


@pytest.fixture(scope="module")
def model() -> TorchResNet:
    return random_resnet(18)


@pytest.fixture(scope="module")
def features(model: TorchResNet) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def saved(state: dict, **options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def rewritten(data: bytes, change: Callable[[str, bytes], bytes], compression: int = 0) -> bytes:
    """A zip file with the content of each record changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


# ----------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_pytorchs_features(name, model, features, tmp_path):
    FORMATS[name](model.state_dict(), tmp_path / name)
    variables = weights.load_backbone(tmp_path / name, 18)
    ours = np.asarray(ResNet(18).apply(variables, IMAGES))
    assert np.linalg.norm(ours - features) < 1e-4 * np.linalg.norm(features)


def test_bfloat16_compute_follows_pytorchs_float32(model, features, tmp_path):
    save_zip(model.state_dict(), tmp_path / "a.pth")
    variables = weights.load_backbone(tmp_path / "a.pth", 18)
    ours = np.asarray(ResNet(18, dtype=jnp.bfloat16).apply(variables, IMAGES), np.float32)
    cosine = (ours * features).sum() / np.linalg.norm(ours) / np.linalg.norm(features)
    assert cosine > 0.999


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("zip.pth", torch.float16),
        ("zip.pth", torch.float64),
        *((name, torch.bfloat16) for name in FORMATS),
    ],
)
def test_other_storage_types_become_float32(name, dtype, model, tmp_path):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    FORMATS[name](state, tmp_path / name)
    variables = weights.load_backbone(tmp_path / name, 18)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    kernel = state["layer2.1.conv2.weight"].float().permute(2, 3, 1, 0).numpy()
    np.testing.assert_array_equal(variables["params"]["layer2_1"]["conv2"]["kernel"], kernel)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_a_shared_storage_are_read_through_their_strides(legacy):
    base = torch.arange(24.0)
    state = {"all": base, "turned": base.view(4, 6).T, "part": base[5:11:2], "one": base[7]}
    state["parameter"] = torch.nn.Parameter(base.view(2, 12))
    arrays = read_state_dict(saved(state, _use_new_zipfile_serialization=not legacy))
    for name, tensor in state.items():
        np.testing.assert_array_equal(arrays[name], tensor.detach().numpy())


def test_a_file_of_a_big_endian_machine_is_read():
    numbers = np.array([1.5, -2.0], np.float32)
    data = saved({"a": torch.from_numpy(numbers)})

    def swap(name: str, record: bytes) -> bytes:
        if name.endswith("/byteorder"):
            return b"big"
        return numbers.astype(">f4").tobytes() if "/data/" in name else record

    np.testing.assert_array_equal(read_state_dict(rewritten(data, swap))["a"], numbers)


def test_a_file_written_under_python_2_is_read():
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    header = [0x1950A86A20F9469CFC6C, 1001, system]
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x017U\x03cpuK\x02NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x02\x85K\x01\x85tR"
    state = b"\x80\x02ccollections\nOrderedDict\n]](U\x01a" + tensor + b"ea\x85R."
    data = b"".join(pickle.dumps(part, 2) for part in header)
    data += state + pickle.dumps(["7"], 2) + struct.pack("<q2f", 2, 1.5, -2)
    np.testing.assert_array_equal(read_state_dict(data)["a"], np.float32([1.5, -2]))


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["value", "beside", "metadata"])
def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(legacy, place, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {marker}",)

    state = torch.nn.Linear(2, 2).state_dict()
    if place == "value":
        state = {"conv1.weight": Evil()}
    elif place == "beside":
        state["conv1.weight"] = [Evil()]
    else:
        state._metadata[""] = Evil()
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        weights.load_backbone(tmp_path / "a.pth", 18)
    assert not marker.exists()


def test_a_bare_pickle_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"asks for os\.system"):
        weights.load_backbone(tmp_path / "a.pth", 18)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x03K\x04\x86", b"K\x7fK\x04\x86"),  # more rows than there are numbers
        (b"K\x04K\x01\x86", b"K\x04K\x02\x86"),  # a stride that steps over the end
        (b"QK\x00K\x03", b"QK\x01K\x03"),  # an offset
        (b"K\x03K\x04\x86", b"J\xff\xff\xff\xffK\x04\x86"),  # a negative side
        (b"K\x04K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86"),  # a negative stride
    ],
)
def test_a_view_beyond_its_storage_is_refused(old, new):
    def change(name: str, record: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return record
        assert record.count(old) == 1
        return record.replace(old, new)

    data = saved({"a": torch.arange(12.0).reshape(3, 4)})
    with pytest.raises(ValueError, match="'a'"):
        read_state_dict(rewritten(data, change))


def test_a_small_file_that_unpacks_to_a_large_one_is_refused():
    data = saved({"a": torch.zeros(100_000)})
    with pytest.raises(ValueError, match="more content"):
        read_state_dict(rewritten(data, lambda _, record: record, zipfile.ZIP_DEFLATED))


def test_storages_named_by_nested_tuples_do_not_crash_the_reader():
    state = saved({"a": torch.zeros(1)}, _use_new_zipfile_serialization=False)
    keys = state.rindex(b"\x80\x02]")
    nested = b"\x80\x02](" + b")" + b"\x85" * 200_000 + b"e."
    with pytest.raises(ValueError, match="no string"):
        read_state_dict(state[:keys] + nested)


def test_a_pickle_that_names_a_huge_memo_entry_needs_no_memory():
    data = saved({"a": torch.zeros(1)})

    def change(name: str, record: bytes) -> bytes:
        return record.replace(b"}q\x00", b"}r\xff\xff\xff\xff") if "data.pkl" in name else record

    assert list(read_state_dict(rewritten(data, change))) == ["a"]


def with_program(program: bytes, compression: int = 0) -> bytes:
    """A zip file of torch.save with one storage of two numbers, and `program` for its pickle."""
    return rewritten(
        saved({"a": torch.zeros(2)}),
        lambda name, record: b"\x80\x02" + program + b"." if name.endswith("data.pkl") else record,
        compression,
    )


FLOATS = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQ"
GROWING = {
    # A tuple of two tuples of two tuples ... as the name of a function, 2^60 of them in words.
    "a name": b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"h\x00h\x00\x93",
    # A shape of so many so large sides that their product would take hours.
    "a shape": b"\x8a\xff" + b"\x7f" * 255 + b"q\x00K\x00q\x01}U\x01a"
    + b"ctorch._utils\n_rebuild_tensor\n(" + FLOATS
    + b"K\x00(" + b"h\x00" * 200_000 + b"t(" + b"h\x01" * 200_000 + b"ttRs",
    # A long list of items, of which one dict after the other is made.
    "dicts": b"](" + b"".join(b"]U\x04%04da]a" % i for i in range(10_000)) + b"eq\x00"
    + b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R" * 20_000 + b"]",
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_a_small_program_takes_little_time_and_memory(name):
    data = with_program(GROWING[name])
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(ValueError):
            read_state_dict(data)
        assert time.monotonic() - start < 30
        assert tracemalloc.get_traced_memory()[1] < 100 * len(data) + 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_records_are_refused(compression):
    data = bytearray(saved({"a": torch.zeros(2)}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 10] = compression
    with pytest.raises(ValueError, match="a compressed record"):
        read_state_dict(bytes(data))


def test_what_is_no_file_of_weights_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    (tmp_path / "c.pth").touch()
    os.truncate(tmp_path / "c.pth", 9 * 10**9)
    for file, named in (
        (tmp_path / "a.pth", "pipe"),
        ("/dev/zero", "device"),
        (tmp_path, "direct"),
    ):
        with pytest.raises(UserError, match=named):
            weights.load_backbone(file, 18)
    with pytest.raises(UserError, match="9 GB, more than any backbone's"):
        weights.load_backbone(tmp_path / "c.pth", 18)


def saved_npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


SMALL = {"conv1.weight": torch.zeros(2, 3, dtype=torch.bfloat16), "bn1.bias": torch.ones(2)}
BROKEN = {
    "a.pth": saved(SMALL),
    "b.pth": saved(SMALL, _use_new_zipfile_serialization=False),
    "c.safetensors": safetensors.torch.save(SMALL),
    "d.npz": saved_npz(a=np.zeros((3, 3)), b=np.ones(2)),
}


def load(path: Path) -> None:
    if path.suffix == ".npz":
        weights.load_mobilenet_v2(path)
    else:
        weights.load_backbone(path, 18)


@pytest.mark.parametrize("name", BROKEN)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_the_users_error(name, data, tmp_path):
    content = bytearray(BROKEN[name])
    for position in data.draw(st.lists(st.integers(0, len(content) * 8 - 1), max_size=3)):
        content[position // 8] ^= 1 << position % 8
    start = data.draw(st.sampled_from([0, 0, 0, 1, 100]))
    content = content[start : data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


# Instructions of the pickle language that ours follows, with arguments.
INSTRUCTIONS = [
    *(bytes([code]) for code in b"N\x88\x89()]}.\x85\x86\x87tesuaRbQ\x93\x94"),
    *(b"K\x00", b"K\x02", b"J\xff\xff\xff\xff", b"U\x01a", b"X\x01\x00\x00\x00a", b"\x8c\x01b"),
    *(b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"ccollections\nOrderedDict\n", b"U\x07storage"),
    *(b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    b"ctorch._utils\n_rebuild_parameter\n",
]


@settings(max_examples=300)
@given(program=st.lists(st.sampled_from(INSTRUCTIONS), max_size=30))
def test_any_program_gives_tensors_or_a_value_error(program):
    original = saved({"a": torch.zeros(2)})

    def change(name: str, record: bytes) -> bytes:
        return b"\x80\x02" + b"".join(program) + b"." if name.endswith("data.pkl") else record

    try:
        arrays = read_state_dict(rewritten(original, change))
    except ValueError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


# ------------------------------------------------------------------------------ what does not fit


def refused(state: dict, tmp_path: Path, depth: int = 18) -> str:
    save_safetensors(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError) as caught:
        weights.load_backbone(tmp_path / "a.safetensors", depth)
    assert str(tmp_path / "a.safetensors") in str(caught.value)
    return str(caught.value)


def test_weights_of_another_depth_are_named(model, tmp_path):
    message = refused(model.state_dict(), tmp_path, depth=34)
    assert "layer1.2.bn1.running_mean is missing" in message and "choose depth 18" in message


def test_weights_of_a_deeper_network_are_named(tmp_path):
    with torch.device("meta"):
        empty = TorchResNet(34).state_dict()
    state = {name: torch.zeros(tensor.shape) for name, tensor in empty.items()}
    message = refused(state, tmp_path)
    assert "layer1.2.bn1.bias is unexpected" in message and "choose depth 34" in message


def test_a_missing_tensor_is_named(model, tmp_path):
    state = model.state_dict()
    del state["layer3.0.downsample.1.running_var"]
    assert "layer3.0.downsample.1.running_var is missing" in refused(state, tmp_path)


def test_an_unexpected_tensor_is_named(model, tmp_path):
    state = {**model.state_dict(), "layer5.weight": torch.zeros(2)}
    assert "layer5.weight is unexpected" in refused(state, tmp_path)


def test_a_wrong_shape_is_named(model, tmp_path):
    state = {**model.state_dict(), "bn1.bias": torch.zeros(65)}
    assert "bn1.bias has shape [65], not [64]" in refused(state, tmp_path)


@pytest.mark.parametrize("name", ["bn1.running_var", "bn1.weight"])
def test_impossible_numbers_are_refused(name, model, tmp_path):
    wrong = torch.full((64,), -1.0 if name == "bn1.running_var" else float("nan"))
    assert f"{name} holds impossible numbers" in refused(
        {**model.state_dict(), name: wrong}, tmp_path
    )


def test_integers_are_refused(model, tmp_path):
    state = {**model.state_dict(), "bn1.bias": torch.zeros(64, dtype=torch.int64)}
    assert "bn1.bias holds int64" in refused(state, tmp_path)


def test_a_checkpoint_that_wraps_the_state_dict_is_refused(model, tmp_path):
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"'state_dict' is no tensor.*save the state dict alone"):
        weights.load_backbone(tmp_path / "a.pth", 18)


def test_a_missing_file_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: No such file"):
        weights.load_backbone(tmp_path / "none.pth", 18)


def test_an_unknown_depth_is_answered_with_the_choices(tmp_path):
    with pytest.raises(UserError, match="20: 18, 34, 50, 101, 152"):
        weights.load_backbone(tmp_path / "none.pth", 20)


# ------------------------------------------------------------------------------------ the report


def test_the_report_says_what_was_loaded(model, tmp_path, caplog):
    save_zip(model.state_dict(), tmp_path / "a.pth")
    with caplog.at_level(logging.INFO, logger="absl"):
        weights.load_backbone(tmp_path / "a.pth", 18)
    assert re.search(
        r"a\.pth: 100 tensors, 11,176,512 parameters, sha256 [0-9a-f]{8}; "
        r"left out: fc\.bias, fc\.weight",
        caplog.text,
    )


@pytest.mark.parametrize("known", [False, True])
def test_the_sha256_in_a_files_name_is_checked(known, model, tmp_path, caplog):
    save_zip(model.state_dict(), tmp_path / "a.pth")
    sha256 = weights.read_resnet(tmp_path / "a.pth", 18).sha256
    assert "promises" not in caplog.text
    path = tmp_path / f"resnet18-{sha256[:8] if known else 'f37072fd'}.pth"
    (tmp_path / "a.pth").rename(path)
    weights.load_backbone(path, 18)
    assert ("promises a sha256 that begins with f37072fd" in caplog.text) is not known


def test_a_published_file_is_known_by_its_content(model, tmp_path, monkeypatch):
    save_zip(model.state_dict(), tmp_path / "a.pth")
    loaded = weights.read_resnet(tmp_path / "a.pth", 18)
    assert loaded.published is None
    name = f"resnet18-{loaded.sha256[:8]}.pth"
    monkeypatch.setattr(weights, "PUBLISHED", (*weights.PUBLISHED, name))
    assert weights.read_resnet(tmp_path / "a.pth", 18).published == name


# ----------------------------------------------------------------------------------- MobileNetV2


def mobilenet_arrays() -> dict[str, np.ndarray]:
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(MobileNetV2().init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(0)
    return {
        f"{layer}/{name}": rng.standard_normal(leaf.shape, np.float32)
        for layer, leaves in params.items()
        for name, leaf in leaves.items()
    }


def test_mobilenet_arrays_come_to_the_layers_of_their_names(tmp_path):
    arrays = mobilenet_arrays()
    classifier = {"predictions/kernel": np.zeros((2, 3)), "predictions/bias": np.zeros(3)}
    np.savez(tmp_path / "a.npz", **arrays, **classifier)
    loaded = weights.read_mobilenet_v2(tmp_path / "a.npz")
    for name, array in arrays.items():
        layer, leaf = name.split("/")
        np.testing.assert_array_equal(loaded.variables["params"][layer][leaf], array)
    assert loaded.dropped == ("predictions/bias", "predictions/kernel")
    assert "2,206,816 parameters" in str(loaded)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"Conv1/bias": None}, "Conv1/bias is missing"),
        ({"Conv1/bias": np.zeros(31)}, r"Conv1/bias has shape \[31\], not \[32\]"),
        ({"Conv2/bias": np.zeros(31)}, "Conv2/bias is unexpected"),
        ({"Conv1/bias": np.array([b"x" * 4] * 32)}, "Conv1/bias holds"),
        ({"Conv1/bias": np.array([{}] * 32)}, "Object arrays cannot be loaded"),
    ],
)
def test_mobilenet_arrays_that_do_not_fit_are_named(change, complaint, tmp_path):
    arrays = {k: v for k, v in {**mobilenet_arrays(), **change}.items() if v is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=f"a.npz.*{complaint}"):
        weights.load_mobilenet_v2(tmp_path / "a.npz")


def test_files_of_the_other_network_are_refused(model, tmp_path):
    np.savez(tmp_path / "a.npz", **mobilenet_arrays())
    with pytest.raises(UserError, match=r"a\.npz"):
        weights.load_backbone(tmp_path / "a.npz", 18)
    save_zip(model.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth"):
        weights.load_mobilenet_v2(tmp_path / "a.pth")
