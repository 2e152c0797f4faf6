"""NUS-WIDE (Chua et al., 2009): 269,648 Flickr images, 81 concepts labelled by hand.

The folder is what the official archives unpack to:

    ImageList/Imagelist.txt  TrainImagelist.txt  TestImagelist.txt
    ConceptsList/Concepts81.txt
    Groundtruth/AllLabels/Labels_<concept>.txt
    Flickr/<folder>/<image>.jpg                        or all images in Flickr/, or in images/

Labels are read from AllLabels, whose lines follow Imagelist.txt. Nothing else is: line 78,372 of
TrainTestLabels/Labels_lake_Train.txt is damaged, and NUS_WID_Tags holds what users wrote, not the
ground truth. An image is known by its path in the lists, whichever slashes, line ends and encoding
these have, and so are the members of a split. Rows keep the order of Imagelist.txt.

Three protocols say what is for training; 'validation' is held out of it.

    paper     the images with a label: 150,000 for training, the rest for testing. The authors'
              list was never published: ours is drawn once, written beside Imagelist.txt and read
              from there ever after. Any list of that length may be put in its place.
    official  TrainImagelist.txt and TestImagelist.txt.
    list      a file of image paths for training, the rest for testing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from attn_lstm.data.files import as_utf8, first_shown, names_in, one_form, shown
from attn_lstm.data.split import SPLITS, FileSource, Split, holdout
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file, replaced

PROTOCOLS = ("paper", "official", "list")
ON_MISSING = ("error", "skip")
NUM_LABELS = 81

PUBLISHED = {
    "images": 269_648,
    "images with a label": 209_347,
    "official training images with a label": 125_449,
    "official test images with a label": 83_898,
}
PAPER_IMAGES = 209_347  # with a label
PAPER_TRAIN_IMAGES = 150_000
PAPER_LIST = "PaperTrainImagelist.txt"
# Not a setting: what a checkpoint is tested on must not change with what it was validated on.
_PAPER_SEED = 2018
_NEARLY_FULL = 0.95  # of the published images: a smaller set is taken for a chosen subset

_IMAGE_FOLDERS = (b"Flickr", b"images")


def load_nus_wide_split(
    path: str | os.PathLike[str],
    split: str,
    *,
    protocol: str = "paper",
    drop_unlabelled: bool = True,
    validation_fraction: float = 0.05,
    split_seed: int = 0,
    train_list: str = "",
    on_missing: str = "error",
) -> Split:
    """Opens a split of NUS-WIDE.

    Which split an image belongs to depends neither on the images that are missing nor, but for
    the protocol 'paper', on `drop_unlabelled`.

    Args:
      path: the folder in the official layout. Only the images of the asked split need be there.
      split: 'train', 'validation' or 'test'.
      protocol: 'paper', 'official' or 'list'; see above.
      drop_unlabelled: whether to leave out the images without any label; 'paper' always does.
      validation_fraction: the part of the training images that is held out as 'validation'.
      split_seed: which part. It has no influence on what is for testing.
      train_list: with 'list' the file of training images, one path a line as in Imagelist.txt;
        with 'paper' where to keep the drawn list, if not in ImageList/.
      on_missing: what an image that is listed but not on disk is: an 'error', or counted, logged
        and left out ('skip').

    Raises:
      UserError: anything missing or malformed, with the remedy.
    """
    _check_choice("split", split, SPLITS)
    _check_choice("data.protocol", protocol, PROTOCOLS)
    _check_choice("data.on_missing", on_missing, ON_MISSING)
    if not path:
        raise UserError("data.path is empty: set it to the folder that holds NUS-WIDE")
    if protocol == "paper" and not drop_unlabelled:
        raise UserError(
            "data.drop_unlabelled=False contradicts data.protocol='paper', which removes images "
            "without any label: set it to True, or data.protocol to 'official'"
        )
    if protocol == "list" and not train_list:
        raise UserError("data.protocol='list' needs data.train_list: a file of image paths")

    root = Path(path)
    labels_of = read_labels(root)
    labelled = np.asarray(labels_of.labels.any(axis=1))
    train, test = _divide(root, labels_of.image_ids, labelled, protocol, train_list)
    _compare_with_published(labelled, train, test, protocol)

    rows = test
    if split != "test":
        train_rows, validation_rows = holdout(len(train), validation_fraction, split_seed)
        rows = train[train_rows if split == "train" else validation_rows]
    if drop_unlabelled:
        rows = rows[labelled[rows]]

    files = find_images(root, [labels_of.image_ids[row] for row in rows])
    present = np.array([file is not None for file in files], bool)
    if not present.all():
        missing = [labels_of.image_ids[row] for row in rows[~present]]
        _report_missing(root, split, missing, len(rows), on_missing)
    rows = rows[present]
    return Split(
        dataset="nus_wide",
        name=split,
        label_names=labels_of.label_names,
        image_ids=tuple(labels_of.image_ids[row] for row in rows),
        labels=labels_of.labels[rows],
        images=_FilesOfAnyName(root, [file for file in files if file is not None]),
    )


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{field} of nus_wide is {value!r}: choose from {', '.join(choices)}")


def _compare_with_published(
    labelled: np.ndarray, train: np.ndarray, test: np.ndarray, protocol: str
) -> None:
    """Warns of a set that is nearly, but not exactly, the published one."""
    if len(labelled) < _NEARLY_FULL * PUBLISHED["images"]:
        return
    counts = {"images": len(labelled), "images with a label": int(labelled.sum())}
    if protocol == "official":
        counts["official training images with a label"] = int(labelled[train].sum())
        counts["official test images with a label"] = int(labelled[test].sum())
    for what, count in counts.items():
        if count != PUBLISHED[what]:
            logging.warning(
                "NUS-WIDE holds %d %s, %+d from the published %d",
                count,
                what,
                count - PUBLISHED[what],
                PUBLISHED[what],
            )


# --------------------------------------------------------------------------------- the labels


class Labels(NamedTuple):
    """The ground truth: N images in the order of Imagelist.txt, C = 81 concepts."""

    label_names: tuple[str, ...]
    image_ids: tuple[str, ...]  # paths with forward slashes: 'actor/0001_2124494179.jpg'
    labels: np.ndarray  # bool[N,C]


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """Reads and checks the lists and AllLabels of a folder in the official layout; no images.

    Raises:
      UserError: a file that is missing or malformed, with its line.
    """
    root = Path(path)
    image_list = root / "ImageList" / "Imagelist.txt"
    if not os.path.isfile(image_list):
        names_in(image_list.parent)  # complains if that is why it is not seen
        is_there = os.path.isdir(root)
        found = f"lacks {image_list.relative_to(root)}" if is_there else "cannot be entered"
        raise UserError(
            f"{root} {found}: set data.path to the folder that holds NUS-WIDE's own "
            "ImageList, ConceptsList, Groundtruth and Flickr"
        )
    image_ids = read_image_list(image_list)
    if not image_ids:
        raise UserError(f"{image_list} lists no image: unpack NUS-WIDE's ImageList anew")
    names = _read_concepts(root / "ConceptsList" / "Concepts81.txt")
    labels = np.empty((len(image_ids), len(names)), bool)
    for column, name in enumerate(names):
        file = root / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt"
        values = read_column(file)
        if len(values) != len(image_ids):
            raise UserError(
                f"{file} holds {len(values)} labels for the {len(image_ids)} images of "
                f"{image_list}: take both from the same distribution"
            )
        labels[:, column] = values
    return Labels(names, tuple(image_ids), labels)


def _read(path: Path) -> bytes:
    try:
        return as_utf8(read_file(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): unpack NUS-WIDE anew") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): unpack NUS-WIDE completely, or correct "
            "the path"
        ) from error


def _text(name: bytes) -> str:
    """A name in one spelling, whatever encoded it in a list or on the disk."""
    try:
        return one_form(name.decode())
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _lines(path: Path) -> list[str]:
    content = _read(path).rstrip()
    return [_text(line.strip()) for line in content.split(b"\n")] if content else []


def read_image_list(path: str | os.PathLike[str]) -> list[str]:
    """Reads a list of image paths: one a line, with backslashes or slashes.

    Returns:
      The paths with slashes, in the order of the file, each once.

    Raises:
      UserError: a file that cannot be read, a line that is empty, leaves the image folder or
        repeats another.
    """
    names = [line.replace("\\", "/") for line in _lines(Path(path))]
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name:
            raise UserError(f"{path}, line {number}: empty; remove the line")
        if name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise UserError(
                f"{path}, line {number}: {shown(name)} is not a path inside the image folder"
            )
        if name in seen:
            raise UserError(f"{path}, line {number}: {shown(name)} occurs twice; list it once")
        seen.add(name)
    return names


def _read_concepts(path: Path) -> tuple[str, ...]:
    names = _lines(path)
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or not name.isprintable() or "/" in name:
            raise UserError(f"{path}, line {number}: {shown(name)} is not the name of a concept")
        if name in seen:
            raise UserError(f"{path}, line {number}: {shown(name)} occurs twice; list it once")
        seen.add(name)
    if len(names) != NUM_LABELS:
        raise UserError(
            f"{path} names {len(names)} concepts, not {NUM_LABELS}: unpack NUS-WIDE's "
            "ConceptsList anew"
        )
    return tuple(names)


_BLANK, _DIGIT = 1, 2
_KINDS = np.zeros(256, np.uint8)
_KINDS[list(b"\t\n\v\f\r ")] = _BLANK  # what bytes.split() takes for blank
_KINDS[list(b"01")] = _DIGIT


def read_column(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a file of AllLabels: zeros and ones, one a line.

    Returns:
      bool[N], in the order of the file.

    Raises:
      UserError: a file that cannot be read, or any other token, with its line.
    """
    content = _read(Path(path))
    characters = np.frombuffer(content, np.uint8)
    kinds = _KINDS[characters]
    is_digit = kinds == _DIGIT
    if not kinds.all() or (is_digit[1:] & is_digit[:-1]).any():
        raise UserError(f"{path}, {_first_bad_token(content)} is neither 0 nor 1: restore the file")
    return characters[is_digit] == ord("1")


def _first_bad_token(content: bytes) -> str:
    return next(
        f"line {number}: {_text(token[:20])!r}"
        for number, line in enumerate(content.split(b"\n"), start=1)
        for token in line.split()
        if token not in (b"0", b"1")
    )


# --------------------------------------------------------------------------------- the splits


def _divide(
    root: Path,
    image_ids: Sequence[str],
    labelled: np.ndarray,
    protocol: str,
    train_list: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows for training and those for testing, int64, sorted."""
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    lists = root / "ImageList"
    if protocol == "official":
        train_file, test_file = lists / "TrainImagelist.txt", lists / "TestImagelist.txt"
        train, test = _listed_rows(train_file, row_of), _listed_rows(test_file, row_of)
        in_both = np.intersect1d(train, test, assume_unique=True)
        if len(in_both):
            raise UserError(
                f"{train_file} and {test_file} share {len(in_both)} images, such as "
                f"{image_ids[in_both[0]]!r}: unpack NUS-WIDE's ImageList anew"
            )
        in_none = len(image_ids) - len(train) - len(test)
        if in_none:
            logging.warning("%d images are in neither of NUS-WIDE's official splits", in_none)
        return train, test
    if protocol == "list":
        candidates, train = np.arange(len(image_ids)), _listed_rows(Path(train_list), row_of)
    else:
        candidates = np.flatnonzero(labelled)
        file = Path(train_list) if train_list else lists / PAPER_LIST
        train = _paper_rows(file, candidates, image_ids, row_of)
    return train, np.setdiff1d(candidates, train, assume_unique=True)


def _listed_rows(path: Path, row_of: Mapping[str, int]) -> np.ndarray:
    names = read_image_list(path)
    for number, name in enumerate(names, start=1):
        if name not in row_of:
            raise UserError(
                f"{path}, line {number}: {shown(name)} is not in Imagelist.txt; give paths as they "
                "are there"
            )
    return np.sort(np.array([row_of[name] for name in names], np.int64))


def _paper_rows(
    file: Path, candidates: np.ndarray, image_ids: Sequence[str], row_of: Mapping[str, int]
) -> np.ndarray:
    """The training rows of the protocol 'paper': read from `file`, which is written if missing."""
    if not len(candidates):
        raise UserError("no image of NUS-WIDE has a label: unpack its Groundtruth anew")
    # Of a smaller set, the same share.
    count = min(PAPER_TRAIN_IMAGES, round(PAPER_TRAIN_IMAGES / PAPER_IMAGES * len(candidates)))
    if os.path.exists(file):
        rows = _listed_rows(file, row_of)
        unlabelled = len(rows) - int(np.isin(rows, candidates).sum())
        if len(rows) != count or unlabelled:
            raise UserError(
                f"{file} lists {len(rows)} images, {unlabelled} of them without a label, where "
                f"data.protocol='paper' takes {count} with one: remove it to have them drawn "
                "anew, or use it with data.protocol='list'"
            )
        return rows
    drawn, _ = holdout(len(candidates), 1 - count / len(candidates), _PAPER_SEED)
    rows = candidates[drawn]
    _write_list(file, [image_ids[row] for row in rows])
    logging.info("Wrote the %d training images of the protocol 'paper' to %s", count, file)
    return rows


def _write_list(file: Path, names: Sequence[str]) -> None:
    try:
        with replaced(file) as draft:
            draft.write_text("\n".join(names) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{file}, the list of training images that data.protocol='paper' draws, cannot be "
            f"written ({error.strerror}): set data.train_list to a file where it may be kept"
        ) from error


# --------------------------------------------------------------------------------- the images


class _FilesOfAnyName(FileSource):
    """Files whose names may be in any encoding: handed on as the bytes they are on the disk."""

    def __init__(self, root: Path, relative_paths: Sequence[bytes]) -> None:
        self._paths = tuple(os.path.join(os.fsencode(root), path) for path in relative_paths)

    def name(self, index: int) -> str:
        """The path as it is shown, readable whatever its encoding."""
        return _text(os.fsencode(self._paths[index]))


def find_images(root: str | os.PathLike[str], image_ids: Sequence[str]) -> list[bytes | None]:
    """Finds images under Flickr/ or images/, in the folders of the lists or all in one.

    Each folder is listed once: asking for each of 269,648 files takes minutes on a network disk.

    Args:
      root: the data set's folder.
      image_ids: N paths as `read_image_list` gives them.

    Returns:
      N paths relative to `root`, in the bytes of the disk; None where there is no such image.
    """
    top = os.fsencode(root)

    @functools.cache
    def listing(folder: bytes) -> dict[str, bytes]:
        names = names_in(os.path.join(top, folder))
        return {_text(name): os.path.join(folder, name) for name in names}

    def find(image_id: str) -> bytes | None:
        folder, _, name = image_id.rpartition("/")
        for place in map(listing, _IMAGE_FOLDERS):
            inside = listing(place[folder]) if folder in place else {}
            file = inside.get(name) or place.get(name)
            if file:
                return file
        return None

    return [find(image_id) for image_id in image_ids]


def _report_missing(
    root: Path, split: str, missing: Sequence[str], expected: int, on_missing: str
) -> None:
    lacks = (
        f"{root} lacks {len(missing)} of the {expected} images of the {split} split: "
        f"{first_shown(missing)}"
    )
    if on_missing == "error":
        raise UserError(
            f"{lacks}; put them under {root / 'Flickr'}, or leave them out with "
            "data.on_missing=skip"
        )
    logging.warning("%s; they are left out, %d images remain", lacks, expected - len(missing))
