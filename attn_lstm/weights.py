"""Published weights of the backbones -> Flax variables.

Files are checked name by name and shape by shape against the network they are for, and no code
that they may contain is run.
"""

import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from absl import logging

from attn_lstm.errors import UserError
from attn_lstm.models.mobilenet import MobileNetV2
from attn_lstm.models.resnet import DEPTHS, ResNet
from attn_lstm.safe_pickle import as_numbers, read_state_dict
from attn_lstm.storage import read_file

# What torchvision offers at https://download.pytorch.org/models/; a name ends as the sha256 of its
# file begins.
PUBLISHED = (
    "resnet18-f37072fd.pth",
    "resnet34-b627a593.pth",
    "resnet50-0676ba61.pth",
    "resnet50-11ad3fa6.pth",
    "resnet101-63fe2227.pth",
    "resnet101-cd907fc2.pth",
    "resnet152-394f9c45.pth",
    "resnet152-f82ba261.pth",
)


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
    if path.suffix == ".npz":
        raise UserError(
            f"{path} is no file of a ResNet: .npz is read for MobileNetV2; give "
            "config.backbone.name=mobilenet_v2, or a .pth or .safetensors of torchvision"
        )
    if path.suffix == ".safetensors":
        tensors = _parse(path, data, _read_safetensors)
    else:
        tensors = _parse(path, data, read_state_dict)
    expected = _expected_resnet(depth)
    tensors = {name: tensor for name, tensor in tensors.items() if not _COUNTER.fullmatch(name)}
    try:
        variables = _assign(tensors, expected, _CLASSIFIER, kernel_axes=(2, 3, 1, 0))
    except ValueError as error:
        raise UserError(
            f"{path} does not fit ResNet-{depth}: {error}; {_advice(tensors)}"
        ) from error
    published = next((name for name in PUBLISHED if _prefix(name) == sha256[:8]), None)
    return Loaded(
        variables,
        path,
        sha256,
        tuple(sorted(_CLASSIFIER & tensors.keys())),
        published,
    )


def read_mobilenet_v2(path: str | Path) -> Loaded:
    """MobileNetV2 from an `.npz` of Keras' layers with batch norm folded into them.

    Args:
      path: arrays `<layer>/kernel` float[h,w,in,out] (depthwise float[3,3,1,C]) and `<layer>/bias`.

    Raises:
      UserError: no such file, damaged, or not the weights of that network.
    """
    path, data, sha256 = _read(path)
    arrays = _parse(path, data, _read_npz)
    expected = _expected_mobilenet_v2()
    dropped = {name for name in arrays if name.startswith("predictions/")}
    try:
        variables = _assign(arrays, expected, dropped)
    except ValueError as error:
        raise UserError(
            f"{path} does not fit MobileNetV2: {error}; give Keras' MobileNetV2 of width 1.0 "
            "with its batch norm folded into <layer>/kernel and <layer>/bias"
        ) from error
    return Loaded(variables, path, sha256, tuple(sorted(dropped)))


# ---------------------------------------------------------------------------------- reading files

# Of a file of weights, and of what an .npz holds packed: more than ten times the largest network.
_MOST_BYTES = 2**32
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
            f"cannot read the weights {path}: {error.strerror}; give the file's path "
            "(torchvision's ResNets: https://download.pytorch.org/models/)"
        ) from error
    sha256 = hashlib.sha256(data).hexdigest()
    prefix = _prefix(path.name)
    if prefix is not None and prefix != sha256[:8]:
        logging.warning(
            "%s: its name promises a sha256 that begins with %s, but it begins with %s: "
            "the file is damaged or another one; download it again",
            path,
            prefix,
            sha256[:8],
        )
    return path, data, sha256


def _prefix(name: str) -> str | None:
    """The 8 hexadecimal digits of the sha256 in a name such as resnet18-f37072fd.pth."""
    match = re.search(r"-([0-9a-f]{8})\.", name)
    return match and match[1]


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
        if name not in tensors:
            raise ValueError(f"{name} is missing")
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise ValueError(f"{name} holds {tensor.dtype}, not floating-point numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            array = tensor.astype(np.float32)
        if not np.isfinite(array).all() or (keys[-1] == "var" and array.min() < 0):
            raise ValueError(f"{name} holds impossible numbers: the file is damaged")
        kernel = array.ndim == 4
        leaves[keys] = np.ascontiguousarray(array.transpose(kernel_axes)) if kernel else array
    unexpected = tensors.keys() - expected.keys() - set(dropped)
    if unexpected:
        raise ValueError(f"{min(unexpected)} is unexpected")
    return flax.traverse_util.unflatten_dict(leaves)
