"""What the readers of label files share: which images are there, and how to quote from a file."""

from __future__ import annotations

import errno
import functools
import os
import reprlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import AnyStr

import numpy as np

from attn_lstm.errors import UserError

# What counts as an image in a folder. Not all of these decode; but whoever has such files should
# hear of them, not miss them.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

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
    # Not str.isprintable: it refuses the narrow space in the names of macOS' screenshots, and the
    # joiners that some scripts are written with.
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)


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


def _kind(entry: os.DirEntry) -> bool | None:
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
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def are_present(root: str | os.PathLike[str], image_ids: Sequence[str]) -> np.ndarray:
    """Which images are files under `root`: bool[N], of N relative paths with slashes.

    Each folder is listed once: asking for each of many files takes minutes on a network disk.

    Raises:
        UserError: a folder that may not be listed.
    """
    listing = functools.cache(lambda folder: names_in(os.path.join(root, folder)))

    def is_present(image_id: str) -> bool:
        folder, _, name = image_id.rpartition("/")
        # Asked for by itself, as some disks write a name otherwise than they find it.
        return listing(folder).get(name, False) or os.path.isfile(os.path.join(root, image_id))

    return np.fromiter(map(is_present, image_ids), bool, len(image_ids))
