"""What the readers of label files share: which images are there, and how to quote from a file.

Names are compared in one Unicode form (NFC): an é may be one character or two, and macOS, Windows
and annotation tools do not agree on which.
"""

from __future__ import annotations

import codecs
import errno
import functools
import os
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import AnyStr

import numpy as np

from attn_lstm.errors import UserError, is_control
from attn_lstm.storage import open_file

# What counts as an image in a folder, beside whatever begins like one. Not all of these decode; but
# whoever has such files should hear of them, not miss them.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".bmp", ".dib"),
    *(".gif", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl"),
)
# The first bytes of JPEG, PNG, GIF and of both kinds of TIFF.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_LISTED = 3  # missing images named in one message
_PATH = 200  # characters of each
_NO_SUCH_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_MOST_CELLS = 2**33  # of a table of labels; OpenImages has 5 * 10^9


def shown(value: object, most: int = 60) -> str:
    """What stands in a file, for a message: quoted, and without its middle if it is long."""
    short = reprlib.Repr()  # however deep lists and objects lie in each other
    short.maxstring = short.maxother = short.maxlong = most
    text = short.repr(value)
    return text if len(text) <= 2 * most else f"{text[: 2 * most]}..."


def first_shown(names: Sequence[str]) -> str:
    """The first few of many, for a message."""
    listed = ", ".join(shown(name, _PATH) for name in names[:_LISTED])
    return listed + (", ..." if len(names) > _LISTED else "")


def breaks_lines(name: str) -> bool:
    """Whether a name holds control characters, which no label or file should."""
    return any(map(is_control, name))


def one_form(name: str) -> str:
    """A name in the Unicode form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def one_spelling(names: Iterable[str]) -> list[str]:
    """Each name once, as it is written first, whatever Unicode form it has later."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(one_form(name), name)
    return list(first.values())


def as_utf8(content: bytes) -> bytes:
    """A text as UTF-8 without a byte order mark, whichever of UTF-8, 16 and 32 the mark says.

    Raises:
      UnicodeDecodeError: it is not what its mark says.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding).encode()
    return content


def empty_table(images: int, labels: int) -> np.ndarray:
    """bool[N,C] of False for N images and C labels.

    Raises:
      ValueError: a table that is larger than any data set's.
    """
    if images * labels > _MOST_CELLS:
        raise ValueError(
            f"{labels} labels for {images} images are a table of {images * labels / 1e9:.0f} GB; "
            "see that the labels are no file names or sentences"
        )
    return np.zeros((images, labels), bool)


def names_in(folder: AnyStr | os.PathLike[AnyStr]) -> dict[AnyStr, bool]:
    """What is in a folder: the name of each file (True) and folder (False), links followed.

    Empty where there is no folder. Pipes and devices are left out: reading one may never end.

    Raises:
      UserError: a folder that may not be listed.
    """
    try:
        with os.scandir(folder) as entries:
            kinds = {entry.name: _kind(entry) for entry in entries}
    except OSError as error:
        if error.errno in _NO_SUCH_FOLDER:
            return {}
        path = os.fsencode(folder).decode(errors="backslashreplace")[-_PATH:]
        raise UserError(
            f"{path} cannot be listed ({error.strerror}): make it readable, or correct the path"
        ) from error
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _kind(entry: os.DirEntry[AnyStr]) -> bool | None:
    try:
        return entry.is_file() or (False if entry.is_dir() else None)
    except OSError:  # a link to itself
        return None


def images_in(
    folder: str | os.PathLike[str], onerror: Callable[[OSError], None] | None = None
) -> Iterator[str]:
    """Paths of what looks like an image in and below `folder`, hidden files and folders left out.

    A folder that cannot be listed goes to `onerror`; without one it is passed over.
    """
    for place, folders, files in os.walk(folder, onerror=onerror):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(place, name)
            if looks_like_image(path):
                yield path


def looks_like_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file that is not hidden is an image by the end of its name, or its first bytes."""
    name = os.path.basename(path)
    if name.startswith("."):
        return False
    if name.lower().endswith(SUFFIXES):
        return True
    try:
        with open_file(path) as file:
            start = file.read(16)
    except OSError:
        return False
    return (
        start.startswith(_STARTS)
        or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")
        or (start[:2], start[6:10]) == (b"BM", bytes(4))
    )


def locate(root: str | os.PathLike[str], names: Sequence[str]) -> list[str | None]:
    """Where images lie under `root`, each as the disk spells its path; None for one that is absent.

    A name is looked for as it is written, then with slashes in the place of backslashes, and of
    each part of it every Unicode form. Each folder is listed once: asking for each of many files
    takes minutes on a network disk.

    Args:
      root: the folder.
      names: N relative paths.

    Raises:
      UserError: a folder that may not be listed.
    """

    @functools.cache
    def listing(folder: str) -> tuple[dict[str, bool], dict[str, str]]:
        kinds = names_in(os.path.join(root, folder))
        return kinds, {one_form(name): name for name in kinds}

    def spelled(folder: str, name: str, is_file: bool) -> str | None:
        kinds, spellings = listing(folder)
        for spelling in (name, spellings.get(one_form(name), name)):
            if kinds.get(spelling) is is_file:
                return f"{folder}/{spelling}" if folder else spelling
        return None

    @functools.cache
    def place(folder: str) -> str | None:
        within = ""
        for part in filter(None, folder.split("/")):
            deeper = spelled(within, part, False)
            if deeper is None:
                return None
            within = deeper
        return within

    def find(name: str) -> str | None:
        for path in dict.fromkeys((name, name.replace("\\", "/"))):
            path = str(PurePosixPath(path))
            folder, _, last = path.rpartition("/")
            within = place(folder)
            if within is not None and (found := spelled(within, last, True)):
                return found
            # Asked for by itself, as some disks write a name otherwise than they find it.
            if os.path.isfile(os.path.join(root, path)):
                return path
        return None

    return [find(name) for name in names]
