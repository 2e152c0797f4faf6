"""Published weights of the backbones -> Flax variables.

Files are checked name by name and shape by shape against the network they are for, and no code
that they may contain is run.
"""

import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from absl import logging

from attn_lstm import keras_file, tensor_names
from attn_lstm.downloads import PUBLISHED, stated_sha256
from attn_lstm.errors import UserError
from attn_lstm.models import convnext
from attn_lstm.models.mobilenet import MobileNetV2
from attn_lstm.models.presets import PRESETS
from attn_lstm.models.resnet import DEPTHS, ResNet
from attn_lstm.models.vit import Architecture
from attn_lstm.safe_pickle import as_numbers, read_state_dict
from attn_lstm.storage import read_file


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Weights and where they come from.

    Attributes:
      variables: nested dicts of float32 arrays for the backbone's `apply`.
      path: the file.
      sha256: of the file, in hexadecimal digits.
      dropped: names in the file that the backbone has no use for: the classifier's.
      published: the name of torchvision's file with this very sha256, if it is one.
    """

    variables: dict[str, Any]
    path: Path
    sha256: str
    dropped: tuple[str, ...]
    published: str | None = None

    def __str__(self) -> str:
        leaves = jax.tree.leaves(self.variables)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        source = f", torchvision's {self.published}" if self.published else ""
        dropped = f"; left out: {', '.join(self.dropped)}" if self.dropped else ""
        return (
            f"{self.path}: {len(leaves)} tensors, {parameters:,} parameters, "
            f"sha256 {self.sha256[:8]}{source}{dropped}"
        )


def load_backbone(path: str | Path, depth: int) -> dict[str, Any]:
    """Variables for `ResNet(depth)`: `read_resnet`, with its report in the log."""
    loaded = read_resnet(path, depth)
    logging.info("%s", loaded)
    return loaded.variables


def load_mobilenet_v2(path: str | Path) -> dict[str, Any]:
    """Variables for `MobileNetV2()`: `read_mobilenet_v2`, with its report in the log."""
    loaded = read_mobilenet_v2(path)
    logging.info("%s", loaded)
    return loaded.variables


def load_preset(path: str | Path, preset: str) -> dict[str, Any]:
    """Variables for the backbone of a preset: `read_preset`, with its report in the log."""
    loaded = read_preset(path, preset)
    logging.info("%s", loaded)
    return loaded.variables


def read_resnet(path: str | Path, depth: int) -> Loaded:
    """A ResNet from a state dict with torchvision's names.

    Args:
      path: a `.safetensors` file, or one of `torch.save` (`.pth`). If its name ends as torchvision
        names its files (`-394f9c45.pth`), a file with another sha256 is warned of in the log.
      depth: 18, 34, 50, 101 or 152.

    Raises:
      UserError: no such file, damaged, asking to run code, or not the weights of that ResNet.
    """
    if depth not in DEPTHS:
        raise UserError(f"unknown ResNet depth {depth!r}: {', '.join(map(str, DEPTHS))}")
    path, data, sha256 = _read(path)
    if path.suffix in (".npz", ".h5"):
        raise UserError(
            f"{path} is no file of a ResNet: {path.suffix} is read for MobileNetV2; give "
            "config.backbone.name=mobilenet_v2, or a .pth or .safetensors of torchvision"
        )
    tensors = _tensors(path, data)
    expected = _expected_resnet(depth)
    tensors = {name: tensor for name, tensor in tensors.items() if not _COUNTER.fullmatch(name)}
    try:
        variables = _assign(tensors, expected, _CLASSIFIER, kernel_axes=(2, 3, 1, 0))
    except ValueError as error:
        raise UserError(
            f"{path} does not fit ResNet-{depth}: {error}; {_advice(tensors)}"
        ) from error
    published = next((name for name in PUBLISHED if stated_sha256(name) == sha256[:8]), None)
    return Loaded(
        variables,
        path,
        sha256,
        tuple(sorted(_CLASSIFIER & tensors.keys())),
        published,
    )


def read_mobilenet_v2(path: str | Path) -> Loaded:
    """MobileNetV2 from Keras' own file, or from an `.npz` with batch norm folded into its layers.

    Args:
      path: `.h5` as Keras publishes it, with or without its classifier; or `.npz` of arrays
        `<layer>/kernel` float[h,w,in,out] (depthwise float[3,3,1,C]) and `<layer>/bias`.

    Raises:
      UserError: no such file, damaged, or not the weights of that network.
    """
    path, data, sha256 = _read(path)
    arrays = _parse(path, data, _read_keras if path.suffix == ".h5" else _read_npz)
    expected = _expected_mobilenet_v2()
    dropped = {name for name in arrays if name.startswith("predictions/")}
    try:
        variables = _assign(arrays, expected, dropped)
    except ValueError as error:
        raise UserError(
            f"{path} does not fit MobileNetV2: {error}; give Keras' MobileNetV2 of width 1.0, "
            "its .h5, or an .npz with batch norm folded into <layer>/kernel and <layer>/bias"
        ) from error
    return Loaded(variables, path, sha256, tuple(sorted(dropped)))


def read_preset(path: str | Path, preset: str) -> Loaded:
    """A vision transformer or ConvNeXt from a state dict with transformers' names or with timm's.

    Of a file that holds more, such as CLIP's text encoder, the image's part is taken.

    Args:
      path: a `.safetensors` file, or one of `torch.save` (`.bin`, `.pth`).
      preset: a key of `models.presets.PRESETS`.

    Raises:
      UserError: no such file, damaged, asking to run code, or not weights of that architecture.
    """
    path, data, sha256 = _read(path)
    every = _tensors(path, data)
    tower = tensor_names.tower(every)
    tensors = {n.removeprefix(tower): x for n, x in every.items() if n.startswith(tower)}
    architecture, origin = PRESETS[preset].architecture, " or ".join(PRESETS[preset].files)
    style = tensor_names.find_style(tensors)
    if style is None:
        raise UserError(
            f"{path} has neither transformers' names nor timm's, but {_some(every)}: give "
            f"model.safetensors of https://huggingface.co/{origin}"
        )
    try:
        leaves = _fitted(tensors, architecture, style)
    except ValueError as error:
        advice = f"give the file of {origin}"
        fitting = _presets_of(tensors, style)
        if fitting and preset not in fitting:
            advice = f"it fits config.backbone.preset={' or '.join(fitting)}"
        raise UserError(f"{path} does not fit {preset}: {tower}{error}; {advice}") from error
    params = flax.traverse_util.unflatten_dict(leaves)
    dropped = {n for n in every if not n.startswith(tower)}
    dropped |= {tower + n for n in tensors if tensor_names.is_unused(style, n)}
    return Loaded({"params": params}, path, sha256, tuple(sorted(dropped)))


# ---------------------------------------------------------------------------------- reading files

# Of a file of weights, nearly twice the largest network; and of what an .npz holds packed.
_MOST_BYTES = 2**33
_MOST_UNPACKED = 2**28


def _read(path: str | Path) -> tuple[Path, bytes, str]:
    """The file's bytes and sha256, after a look at the one in its name."""
    path = Path(path)
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise UserError(
                f"the weights {path} have {size / 1e9:.0f} GB, more than any backbone's: "
                "give the file of the backbone alone"
            )
        data = read_file(path)
    except OSError as error:
        raise UserError(
            f"cannot read the weights {path}: {error.strerror}; give the file's path, "
            "or by their name what torchvision publishes, such as resnet152-394f9c45"
        ) from error
    sha256 = hashlib.sha256(data).hexdigest()
    prefix = stated_sha256(path.name)
    if prefix is not None and prefix != sha256[:8]:
        logging.warning(
            "%s: its name promises a sha256 that begins with %s, but it begins with %s: "
            "the file is damaged or another one; download it again",
            path,
            prefix,
            sha256[:8],
        )
    return path, data, sha256


def _tensors(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dict by their names."""
    safe = path.suffix == ".safetensors"
    return _parse(path, data, _read_safetensors if safe else read_state_dict)


def _parse(
    path: Path, data: bytes, parser: Callable[[bytes], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    try:
        return parser(data)
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]  # it may quote the file
        raise UserError(
            f"{path}: {reason}; download it again, or save the state dict alone with "
            "safetensors.torch.save_file(state_dict, path)"
        ) from error


_SAFETENSORS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"damaged: {error}") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{name!r} has the unsupported type {entry['dtype']}")
        numbers = as_numbers(entry["data"], _SAFETENSORS[entry["dtype"]])
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors


# As Keras' applications.MobileNetV2 names its layers, in its order.
_KERAS_LAYERS = (
    *("Conv1", "expanded_conv_depthwise", "expanded_conv_project"),
    *(f"block_{i}_{part}" for i in range(1, 17) for part in ("expand", "depthwise", "project")),
    *("Conv_1", "predictions"),
)
_KERAS_EPSILON = 1e-3  # of its batch norms


def _read_keras(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`; the layers are known by their order, as to Keras itself."""
    layers = keras_file.read_folded(data, _KERAS_EPSILON, _MOST_UNPACKED)
    if len(layers) > len(_KERAS_LAYERS):
        raise ValueError(f"it has {len(layers)} layers")
    return {
        f"{name}/{part}": array
        for name, layer in zip(_KERAS_LAYERS, layers, strict=False)
        for part, array in zip(("kernel", "bias"), layer, strict=True)
    }


def _read_npz(data: bytes) -> dict[str, np.ndarray]:
    if not data.startswith(b"PK"):
        raise ValueError("no .npz file")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if sum(info.file_size for info in archive.zip.infolist()) > _MOST_UNPACKED:
                raise ValueError("it unpacks to more than any weights")
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # on damaged files NumPy's reader raises of every kind
        raise ValueError(f"damaged: {type(error).__name__} {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy hands on what it does not know as bytes
            raise ValueError(f"damaged: {name!r} is no array")
    return arrays


# --------------------------------------------------------------------------- fitting into networks

# In torchvision's files: the last layer, and how often a normalisation was updated.
_CLASSIFIER = frozenset({"fc.weight", "fc.bias"})
_COUNTER = re.compile(r".+\.num_batches_tracked")

_Keys = tuple[str, ...]  # where a leaf is in the variables
_Expected = Mapping[str, tuple[_Keys, tuple[int, ...]]]  # name in the file -> keys, shape there


def _shapes(module: nn.Module) -> dict[_Keys, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return {keys: leaf.shape for keys, leaf in flax.traverse_util.flatten_dict(variables).items()}


@functools.cache
def _expected_resnet(depth: int) -> _Expected:
    """torchvision's names and shapes: kernels are [out,in,h,w] there."""
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    leaves |= {"mean": "running_mean", "var": "running_var"}
    expected = {}
    for keys, shape in _shapes(ResNet(depth)).items():
        *modules, leaf = keys[1:]
        name = ".".join(modules)
        name = re.sub(r"layer(\d)_(\d+)", r"layer\1.\2", name)
        name = name.replace("downsample_conv", "downsample.0").replace(
            "downsample_bn", "downsample.1"
        )
        if leaf == "kernel":
            shape = tuple(shape[i] for i in (3, 2, 0, 1))
        expected[f"{name}.{leaves[leaf]}"] = (keys, shape)
    return expected


@functools.cache
def _expected_mobilenet_v2() -> _Expected:
    """The names and shapes of Keras' layers, which are those of ours."""
    return {"/".join(keys[1:]): (keys, shape) for keys, shape in _shapes(MobileNetV2()).items()}


_Architecture = Architecture | convnext.Architecture
_Style = tensor_names.Style | tensor_names.ConvStyle


def _fitted(
    tensors: Mapping[str, np.ndarray], architecture: _Architecture, style: _Style
) -> dict[_Keys, np.ndarray]:
    """The parameters of a preset's backbone. Raises `ValueError` as `_assign` does."""
    leaves: dict[_Keys, np.ndarray] = {}
    expected = _expected_of_preset(tensors, architecture, style)
    if expected is None:
        raise ValueError(f"{style.patches}.weight is unexpected")
    for tensor in expected:
        leaves |= tensor.leaves(_checked(tensors, tensor.name, tensor.shape))
    used = {tensor.name for tensor in expected}
    _check_unexpected(n for n in tensors.keys() - used if not tensor_names.is_unused(style, n))
    found = tensor_names.assembled(leaves)
    return {keys: np.ascontiguousarray(leaf) for keys, leaf in found.items()}


def _expected_of_preset(
    tensors: Mapping[str, np.ndarray], architecture: _Architecture, style: _Style
) -> list[tensor_names.Tensor] | None:
    """What a file of these names holds; None where they are those of another kind of network."""
    if isinstance(architecture, convnext.Architecture):
        if isinstance(style, tensor_names.Style):
            return None
        return [*tensor_names.expected_convnext(architecture, style)]
    if isinstance(style, tensor_names.ConvStyle):
        return None
    positions = tensors.get(style.positions)
    plain = positions is not None and positions.shape[-2:-1] == (architecture.grid**2,)
    has_class = architecture.class_token and not plain
    return [*tensor_names.expected(architecture, style, has_class)]


def _presets_of(tensors: Mapping[str, np.ndarray], style: _Style) -> list[str]:
    """Which presets have tensors of these names and shapes."""

    def fits(architecture: _Architecture) -> bool:
        tensors_of = _expected_of_preset(tensors, architecture, style) or []
        expected = {tensor.name: tensor.shape for tensor in tensors_of}
        found = {n: x.shape for n, x in tensors.items() if not tensor_names.is_unused(style, n)}
        return expected == found

    return [name for name, preset in PRESETS.items() if fits(preset.architecture)]


def _some(names: Collection[str]) -> str:
    """A few of them, for a message."""
    first = sorted(names)[:3]
    return ", ".join(name[:80] for name in first) + (", …" if len(names) > len(first) else "")


def _advice(tensors: Mapping[str, np.ndarray]) -> str:
    """What to do about a state dict that does not fit."""
    for depth in DEPTHS:
        expected = _expected_resnet(depth)
        if expected.keys() == tensors.keys() - _CLASSIFIER and all(
            tensors[n].shape == s for n, (_, s) in expected.items()
        ):
            return f"these are the weights of ResNet-{depth}: choose depth {depth}"
    return "give the state dict of torchvision's ResNet of that depth"


def _assign(
    tensors: Mapping[str, np.ndarray],
    expected: _Expected,
    dropped: Collection[str],
    kernel_axes: tuple[int, ...] = (0, 1, 2, 3),
) -> dict[str, Any]:
    """Puts each tensor in its place, in float32.

    Args:
      dropped: names that need not be there, and are not used if they are.
      kernel_axes: the axes of the file's kernels that are [h,w,in,out].

    Raises:
      ValueError: on the first name, shape, type or value that is not as it should be.
    """
    leaves = {}
    for name, (keys, shape) in expected.items():
        array = _checked(tensors, name, shape)
        if keys[-1] == "var" and array.min() < 0:
            raise ValueError(f"{name} holds impossible numbers: the file is damaged")
        kernel = array.ndim == 4
        leaves[keys] = np.ascontiguousarray(array.transpose(kernel_axes)) if kernel else array
    _check_unexpected(tensors.keys() - expected.keys() - set(dropped))
    return flax.traverse_util.unflatten_dict(leaves)


def _checked(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name in float32, finite and of that shape, or a `ValueError`."""
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    tensor = tensors[name]
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{name} holds {tensor.dtype}, not floating-point numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        array = tensor.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds impossible numbers: the file is damaged")
    return array


def _check_unexpected(names: Iterable[str]) -> None:
    if unexpected := min(names, default=""):
        raise ValueError(f"{unexpected} is unexpected")
