"""MobileNetV2 from the file that Keras writes: the features that Keras computes."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attn_lstm import keras_file, weights
from attn_lstm.errors import UserError
from attn_lstm.models.mobilenet import MobileNetV2

IMAGES = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A file with random weights, classifier included, and the features of `IMAGES`."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    from keras.src.legacy.saving import legacy_h5_format

    model = keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for variable in layer.weights:  # of batch norms too, which begin as if they were not there
            shape = tuple(variable.shape)
            if variable.name in ("gamma", "moving_variance"):
                variable.assign(rng.uniform(0.5, 1.5, shape))
            else:
                fan_in = np.prod(shape[:2]) * (1 if "depthwise" in variable.path else shape[-2:][0])
                variable.assign(rng.standard_normal(shape) / np.sqrt(fan_in))
    path = tmp_path_factory.mktemp("keras") / "mobilenet.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    features = keras.Model(model.input, model.get_layer("out_relu").output)(IMAGES)
    return path, keras.ops.convert_to_numpy(features)


@pytest.mark.slow
def test_the_features_are_those_of_keras(published):
    path, expected = published
    loaded = weights.read_mobilenet_v2(path)
    found = MobileNetV2().apply(loaded.variables, IMAGES)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert loaded.dropped == ("predictions/bias", "predictions/kernel")


@pytest.mark.slow
def test_layers_are_known_by_their_order(published, tmp_path):
    """As Keras loads such a file; Keras 2 put `:0` behind the names of weights."""
    path, renamed = published[0], tmp_path / "a.h5"
    with h5py.File(path) as given, h5py.File(renamed, "w") as file:
        names = given.attrs["layer_names"]
        file.attrs["layer_names"] = [f"layer_{i}".encode() for i in range(len(names))]
        for i, name in enumerate(names):
            group, layer = file.create_group(f"layer_{i}"), given[name]
            paths = [p if isinstance(p, str) else p.decode() for p in layer.attrs["weight_names"]]
            group.attrs["weight_names"] = [f"{p}:0".encode() for p in paths]
            for p in paths:
                group[f"{p}:0"] = layer[p][()]
    found, expected = (weights.read_mobilenet_v2(p).variables["params"] for p in (renamed, path))
    for layer, leaves in expected.items():
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(found[layer][name], leaf)


def write(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> None:
    """A file as Keras 2 wrote it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, parts in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in parts]
            for part, value in parts.items():
                group[f"{name}/{part}:0"] = value


def test_batch_norms_are_folded_as_torch_computes_them(tmp_path):
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)

    def norm() -> dict[str, np.ndarray]:
        return {name: drawn(4) for name in ("gamma", "beta", "moving_mean", "moving_variance")}

    pointwise, depthwise, norms = drawn(1, 1, 3, 4), drawn(3, 3, 4, 1), [norm(), norm()]
    write(tmp_path / "a.h5", {
        "input": {}, "a": {"kernel": pointwise}, "a_BN": norms[0],
        "b": {"depthwise_kernel": depthwise}, "b_BN": norms[1],
        "c": {"kernel": drawn(4, 2), "bias": drawn(2)},
    })  # fmt: skip
    folded = keras_file.read_folded((tmp_path / "a.h5").read_bytes(), 1e-3, 2**20)
    assert [kernel.shape for kernel, _ in folded] == [(1, 1, 3, 4), (3, 3, 1, 4), (4, 2)]
    # torch: (out, in, h, w)
    x = y = torch.tensor(drawn(2, 3, 5, 5))
    for (kernel, bias), given, parts in zip(
        folded, (pointwise, depthwise.swapaxes(2, 3)), norms, strict=False
    ):
        groups = x.shape[1] // kernel.shape[2]
        gamma, beta, mean, variance = map(torch.tensor, parts.values())
        own, theirs = (torch.tensor(k.transpose(3, 2, 0, 1).copy()) for k in (kernel, given))
        x = F.conv2d(x, own, torch.tensor(bias), groups=groups)
        y = F.conv2d(y, theirs, groups=groups)
        y = F.batch_norm(y, mean, variance, gamma, beta, eps=1e-3)
    torch.testing.assert_close(x, y)


def cut(path: Path) -> None:
    of_two_layers(path)
    path.write_bytes(path.read_bytes()[:3000])


def no_hdf5(path: Path) -> None:
    path.write_bytes(b"no HDF5")


def of_another_layout(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("layers")


def of_two_layers(path: Path) -> None:
    write(path, {name: {"kernel": np.zeros((3, 3, 3, 32))} for name in ("Conv1", "Conv2")})


def elsewhere(path: Path) -> None:
    of_two_layers(path)
    path.with_name("other").write_bytes(bytes(4))
    with h5py.File(path, "a") as file:
        del file["Conv1/Conv1/kernel:0"]
        external = [(str(path.with_name("other")), 0, 4)]
        file["Conv1/Conv1"].create_dataset("kernel:0", (1,), np.float32, external=external)


@pytest.mark.parametrize(("change", "complaint"), [
    (cut, "no file of Keras' weights"), (no_hdf5, "no file of Keras' weights"),
    (of_another_layout, "no file of Keras' weights"), (elsewhere, "lies in another file"),
    (of_two_layers, "Conv2, behind Conv1, has no gamma"),
])  # fmt: skip
def test_what_is_no_such_file_is_named(change, complaint, tmp_path):
    path = tmp_path / "a.h5"
    change(path)
    with pytest.raises(UserError, match=rf"a\.h5.*{complaint}"):
        weights.read_mobilenet_v2(path)


def test_it_is_refused_for_a_resnet(tmp_path):
    of_two_layers(tmp_path / "a.h5")
    with pytest.raises(UserError, match=r"\.h5 is read for MobileNetV2; give config.backbone.name"):
        weights.read_resnet(tmp_path / "a.h5", 18)
