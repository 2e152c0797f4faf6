"""Reads PyTorch's files of tensors without PyTorch, and without running anything they say.

A `.pth` file describes its tensors in a pickle, a small program that may name any function for the
reader to call. Here a program is only followed as far as a state dict needs: it can build dicts,
lists, tuples, numbers and strings, and can describe tensors. Nothing it names is looked up, and
whatever else it asks for is refused. Python's own unpickler with a restricted `find_class` would
keep the names out too, but can be made to allocate gigabytes by a few bytes.
"""

import dataclasses
import io
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

_STORAGES = {
    "torch DoubleStorage": np.dtype(np.float64),
    "torch FloatStorage": np.dtype(np.float32),
    "torch HalfStorage": np.dtype(np.float16),
    "torch BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch LongStorage": np.dtype(np.int64),
    "torch IntStorage": np.dtype(np.int32),
}
_ORDERED_DICT = "collections OrderedDict"
_TENSOR_V2 = "torch._utils _rebuild_tensor_v2"
_TENSOR = "torch._utils _rebuild_tensor"
_PARAMETER = "torch._utils _rebuild_parameter"
_NAMES = {*_STORAGES, _ORDERED_DICT, _TENSOR_V2, _TENSOR, _PARAMETER}

_MOST_AXES = 8  # of a tensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# What the readers of zip archives and pickles raise on damage.
_DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,  # a zip feature that Python lacks
    RuntimeError,  # an encrypted record
    EOFError,
    IndexError,  # a pickle that takes more from its stack than there is
    KeyError,  # a record or a memo entry that does not exist
    OSError,
    OverflowError,
    TypeError,
    struct.error,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names, as "module name"; never the thing itself."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A run of numbers kept outside of the pickle."""

    dtype: np.dtype
    key: str
    numbers: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dict that `torch.save` wrote.

    Args:
      data: the whole file, in the zip format or in the one before PyTorch 1.6.

    Returns:
      read-only arrays in the types that were saved.

    Raises:
      ValueError: damaged, no state dict, or asking for anything but tensors.
    """
    try:
        return _read_zip(data) if data.startswith(b"PK") else _read_legacy(data)
    except _DAMAGE as error:
        raise ValueError(f"damaged: {type(error).__name__} {error}") from error


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        folders = [n.removesuffix("data.pkl") for n in names if n.endswith("/data.pkl")]
        if len(folders) != 1:
            raise ValueError("a zip file, but none of torch.save")
        folder = folders[0]

        # torch.save never compresses. A file whose records unpack to more than itself is an attack.
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > len(data):
            raise ValueError("a zip file with more content than it has room for")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("refused: a compressed record")

        def record(name: str) -> bytes:
            return archive.read(folder + name)

        state = _load(io.BytesIO(record("data.pkl")))
        big = folder + "byteorder" in names and record("byteorder") == b"big"
        return _arrays(state, lambda storage: record(f"data/{storage.key}"), ">" if big else "<")


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Pickles one after the other, then each storage: its length in int64, its numbers."""
    stream = io.BytesIO(data)
    if _load(stream) != _LEGACY_MAGIC or _load(stream) != _LEGACY_PROTOCOL:
        raise ValueError("no file of torch.save")
    system = _load(stream)
    order = "<" if system["little_endian"] else ">"
    state = _load(stream)
    keys = _load(stream)
    if not isinstance(state, dict) or not isinstance(keys, list):
        raise ValueError("no state dict")
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("damaged: the name of a storage is no string")
    # Their sizes are known from the tensors that view them.
    storages = {t.storage.key: t.storage for t in state.values() if isinstance(t, _Tensor)}
    records = {}
    for key in keys:
        (numbers,) = struct.unpack(order + "q", stream.read(8))
        if numbers != storages[key].numbers:
            raise ValueError(f"storage {key} has {numbers} numbers, not {storages[key].numbers}")
        records[key] = stream.read(numbers * storages[key].dtype.itemsize)
    return _arrays(state, lambda storage: records[storage.key], order)


def _arrays(state: Any, read: Callable[[_Storage], bytes], order: str) -> dict[str, np.ndarray]:
    """Gives each tensor its numbers; `read` fetches a storage's bytes, of byte order `order`."""
    if not isinstance(state, dict):
        raise ValueError("no state dict")
    storages: dict[_Storage, np.ndarray] = {}
    arrays = {}
    for name, tensor in state.items():
        if not isinstance(tensor, _Tensor):
            raise ValueError(f"no state dict: {name!r} is no tensor")
        storage = tensor.storage
        if storage not in storages:
            raw = read(storage)
            if len(raw) != storage.numbers * storage.dtype.itemsize:
                raise ValueError(f"damaged: {name!r} has lost a part of its numbers")
            storages[storage] = as_numbers(raw, storage.dtype, order)
        arrays[name] = _view(name, storages[storage], tensor)
    return arrays


def as_numbers(raw: bytes | bytearray, dtype: np.dtype, order: str = "<") -> np.ndarray:
    """Bytes of byte order `order` ('<' or '>') as numbers of `dtype`, one-dimensional."""
    words = np.frombuffer(raw, f"{order}u{dtype.itemsize}")
    return words.astype(f"=u{dtype.itemsize}", copy=False).view(dtype)


def _view(name: str, numbers: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """The tensor's numbers, once it is sure that they lie inside of its storage."""
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    integers = isinstance(shape, tuple) and isinstance(strides, tuple)
    integers = integers and all(type(n) is int for n in (offset, *shape, *strides))
    sides = len(shape) if integers and len(shape) == len(strides) else _MOST_AXES + 1
    # Also that many: the product of a million sides would take for ever.
    if sides > _MOST_AXES or not all(1 <= n <= numbers.size for n in shape):
        raise ValueError(f"damaged: {name!r} has no valid shape")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    inside = min(offset, *strides, 0) >= 0 and last < numbers.size
    if not inside or math.prod(shape) > numbers.size:
        raise ValueError(f"damaged: {name!r} reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(
        numbers[offset:],
        shape,
        [stride * numbers.itemsize for stride in strides],
        writeable=False,
    )


# ---------------------------------------------------------------------------- the pickle's program


def _load(stream: BinaryIO) -> Any:
    """Follows one pickle and leaves the stream behind it.

    Raises:
      ValueError: it asks for something that a state dict does not need.
      IndexError, KeyError, TypeError: it is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    arg: Any  # of the type that its opcode asks for
    for op, arg, _ in pickletools.genops(stream):
        match op.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1":
                stack.append(arg)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(arg)
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(op.name[-1])
                if len(stack) < size:
                    raise IndexError("a tuple of nothing")
                stack[-size:] = [tuple(stack[-size:])]
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS":
                items = since_mark()
                _extend(stack[-1], items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = since_mark()
                _update(stack[-1], items)
            case "GLOBAL":
                stack.append(_name(arg))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                # Others cannot be put into words: a few tuples of tuples stand for 2^60.
                if not isinstance(name, str) or not isinstance(module, str):
                    raise TypeError("a name that is no string")
                stack.append(_name(f"{module} {name}"))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(_call(function, args))
            case "BUILD":  # a state dict's `_metadata`, which only torch needs
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise ValueError("refused: it sets attributes of an object")
            case other:
                raise ValueError(f"refused: the pickle instruction {other}")
    raise EOFError("a pickle without an end")


def _name(name: str) -> _Name:
    if name not in _NAMES:
        raise ValueError(f"refused: it asks for {name.replace(' ', '.')}, which is no tensor's")
    return _Name(name)


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise TypeError("items for what is no list")
    target.extend(items)


def _update(target: Any, items: list[Any]) -> None:
    """Adds keys and values in turn. Keys are strings: hashing a deeply nested one would crash."""
    keys, values = items[::2], items[1::2]
    if not isinstance(target, dict) or len(keys) != len(values):
        raise TypeError("items for what is no dict")
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("no state dict: a key is no string")
    target.update(zip(keys, values, strict=True))


def _storage(reference: Any) -> _Storage:
    """From ('storage', type, key, device, numbers), in the legacy format with a view of it."""
    kind, dtype, key, _, numbers, *view = reference
    known = kind == "storage" and isinstance(dtype, _Name) and dtype.name in _STORAGES
    if not known or type(key) is not str or type(numbers) is not int or view not in ([], [None]):
        raise ValueError("refused: it refers to something other than a plain storage")
    return _Storage(_STORAGES[dtype.name], key, numbers)


def _call(function: Any, args: Any) -> Any:
    """What the few functions that may be named give; they are ours, whatever their names."""
    if not isinstance(function, _Name) or not isinstance(args, tuple):
        raise TypeError("a call of what is no function")
    name = function.name
    if name == _ORDERED_DICT and len(args) <= 1:
        result: dict[str, Any] = {}
        if args:  # Python 2 gives the items at once
            items = args[0]
            if not isinstance(items, list):
                raise TypeError("items that are no list")
            for key, value in items:
                _update(result, [key, value])
            # Made once: many dicts of the same long list would take memory out of all proportion.
            items.clear()
        return result
    if name in (_TENSOR, _TENSOR_V2) and isinstance(args[0], _Storage):
        return _Tensor(*args[:4])
    if name == _PARAMETER and isinstance(args[0], _Tensor):
        return args[0]
    raise ValueError(f"refused: a call of {name.replace(' ', '.')}")
