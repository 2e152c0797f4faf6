"""Files, read where they are files and written whole or not at all, and errors that name them."""

import contextlib
import errno
import json
import math
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from attn_lstm.errors import UserError

LOCK = ".lock"  # the file in a work directory that says who has it


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to read that this program may not have written.

    Raises:
      OSError: it cannot be opened, or is a pipe or a device, of which no end may ever come.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "a pipe or a device, no file", os.fspath(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    # Else a pipe is waited for that nobody writes to. Windows has neither.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of what `open_file` opens."""
    with open_file(path) as file:
        return file.read()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system says of a file or folder into a `UserError`."""
    try:
        yield
    except OSError as error:
        where = "" if error.filename in (None, str(path)) else f" ({error.filename})"
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}{where}; put that right, or give "
            "another folder"
        ) from error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another path to write, which takes the place of `path` where the block ends well.

    Several processes, also of several hosts, may do so at once.

    Raises:
      OSError: the folder cannot be written, or its disk is full.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # else the rename may reach the disk before the content
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file or none, also when the process or the machine dies on the way.

    Raises:
      UserError: the folder cannot be made or written, or its disk is full.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as draft:
            draft.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text whose numbers are finite and fit into 64 bits.

    Raises:
      ValueError: it is no JSON, or a number in it is none that arrays and clocks can hold.
      RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_int64)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is not finite")
    return value


def _int64(text: str) -> int:
    # Python itself refuses to read thousands of digits, with an advice for programmers.
    value = int(text) if len(text) < 20 else None
    if value is None or not -(2**63) <= value < 2**63:
        raise ValueError(f"the number {text[:20]}{'...' * (len(text) > 20)} is too large")
    return value


def read_json(path: Path) -> Any:
    """Raises `UserError` when the file is missing or not as `parse_json` has it."""
    try:
        return parse_json(read_file(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is this the work directory of a run?") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON: {error}") from None


def damaged(path: Path, reason: str) -> UserError:
    """What to raise for a file of a work directory that is not as this program wrote it."""
    return UserError(
        f"{path} is damaged ({reason}): put a whole copy in its place, or delete it and run the "
        "command that wrote it again"
    )


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
