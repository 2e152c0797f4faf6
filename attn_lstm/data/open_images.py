"""Open Images (Kuznetsova et al., 2020), V4 to V7: the labels of images that people have verified.

    oidv6-train-annotations-human-imagelabels.csv       ImageID,Source,LabelName,Confidence
    validation-annotations-human-imagelabels.csv        000026e7ee790996,verification,/m/07j7r,1
    test-annotations-human-imagelabels.csv
    class-descriptions.csv                              /m/07j7r,Tree
    train/   validation/   test/                        000026e7ee790996.jpg

as the archives name them, in the folder itself or in annotations/, with the images in a folder a
part or in images/; as FiftyOne downloads them (train/labels/classifications.csv,
train/metadata/classes.csv, train/data/); and as CVAT exports them. Any part may be left out, and
any rows: a subset's files list the images of the subset.

A label with confidence 1 is true. One with 0 was found to be absent. One that no row names was not
verified: it is not known (`Split.known`). Labels are the classes that are true somewhere in the
files, sorted by name. An image is named by its ImageID; rows are sorted by it. Where there is no
part for testing, 'validation' is tested on.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from attn_lstm.data.files import as_utf8, breaks_lines, empty_table, names_in, one_spelling, shown
from attn_lstm.data.split import SPLITS, Split
from attn_lstm.data.table import SPLIT_NAMES, Table, check_choice, combined, roles, split_of
from attn_lstm.errors import UserError
from attn_lstm.storage import read_file

_LABELS = re.compile(r"(human-imagelabels.*|classifications)\.csv$")
_NAMES = re.compile(r"(class-descriptions.*|classes)\.csv$")
_CONFIDENCE = {"1": True, "1.0": True, "0": False, "0.0": False}


def load_open_images_split(
    path: str | os.PathLike[str],
    split: str,
    *,
    drop_unlabelled: bool = False,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    on_missing: str = "error",
) -> Split:
    """Opens a split of Open Images.

    Args:
      path: the folder, see above.
      split: 'train', 'validation' or 'test'.
      drop_unlabelled: whether to leave out the images without any label.
      validation_fraction: the part of the training images that is held out as 'validation',
        unless there are files for validation and for testing.
      split_seed: which images are held out.
      on_missing: what an image that is listed but not on disk is: an 'error', or counted, logged
        and left out ('skip').

    Raises:
      UserError: anything missing or malformed, with the remedy.
    """
    check_choice("split of open_images", split, SPLITS)
    if not path:
        raise UserError("data.path is empty: set it to the folder that holds Open Images")
    table = read(path)
    if table is None:
        raise UserError(
            f"{path} holds no *-human-imagelabels.csv and no PART/labels/classifications.csv: set "
            "data.path to the folder of Open Images' label files"
        )
    return split_of(
        table,
        "open_images",
        split,
        drop_unlabelled=drop_unlabelled,
        on_missing=on_missing,
        validation_fraction=validation_fraction,
        split_seed=split_seed,
    )


def read(path: str | os.PathLike[str]) -> Table | None:
    """All parts of a folder; None where there is none.

    Raises:
      UserError: a file that cannot be read or is malformed, with its line.
    """
    root = Path(path)
    files = {part: file for file in _files(root, _LABELS) if (part := _part(file, root))}
    if not files:
        return None
    name_of: dict[str, str] = {}
    for file in _files(root, _NAMES):
        name_of.update(_read_names(file))
    role_of = roles(files.keys())
    rows_of = {part: _read_labels(files[part]) for part in role_of}
    true = {
        label
        for rows in rows_of.values()
        for verified in rows.values()
        for label, there in verified.items()
        if there
    }
    names = sorted(one_spelling(name_of.get(label, label) for label in true))
    return combined(
        root,
        [
            _table(root, files[part], rows_of[part], names, name_of, part, role_of[part])
            for part in role_of
        ],
    )


def _files(root: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files by name in the folder, in annotations/ and in the folders of parts, as FiftyOne's."""
    parts = [root / name for name in names_in(root) if name.lower() in SPLIT_NAMES]
    places = [root, root / "annotations", root / "metadata", *parts]
    places += [part / name for part in parts for name in ("labels", "metadata")]
    return sorted(
        place / name
        for place in places
        for name, is_file in names_in(place).items()
        if is_file and pattern.search(name)
    )


def _part(file: Path, root: Path) -> str | None:
    words = re.split(r"[^a-z]+", str(file.relative_to(root)).lower())
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _table(
    root: Path,
    file: Path,
    rows: dict[str, dict[str, bool]],
    names: Sequence[str],
    name_of: dict[str, str],
    part: str,
    role: str,
) -> Table:
    column_of = {name: column for column, name in enumerate(names)}
    ids = sorted(rows)
    try:
        labels, known = (empty_table(len(ids), len(names)) for _ in range(2))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    for row, image_id in enumerate(ids):
        for label, there in rows[image_id].items():
            column = column_of.get(name_of.get(label, label))
            if column is not None:
                labels[row, column] |= there
                known[row, column] = True
    folder, stems = _images(root, part, ids)
    paths = tuple(stems.get(image_id, f"{image_id}.jpg") for image_id in ids)
    splits = (role,) * len(ids)
    return Table(file, folder, tuple(names), tuple(ids), paths, labels, splits, known=known)


def _images(root: Path, part: str, ids: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """The folder with the most of the images of a part, and its files by their names' stems."""
    parts = [name for name in names_in(root) if SPLIT_NAMES.get(name.lower()) == part]
    inner = [n for n in names_in(root / "images") if SPLIT_NAMES.get(n.lower()) == part]
    places = [root / name / deeper for name in parts for deeper in ("data", "images", "")]
    places += [root / "images" / name for name in inner]
    places += [root / "images", root / "data", root]
    wanted, best = {*ids}, places[0]
    stems: dict[str, str] = {}
    for place in places:
        found = {os.path.splitext(n)[0]: n for n, is_file in names_in(place).items() if is_file}
        found = {stem: name for stem, name in found.items() if stem in wanted}
        if len(found) > len(stems):
            best, stems = place, found
    return best, stems


# ------------------------------------------------------------------------------------ the files


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        text = as_utf8(read_file(file)).decode()
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for record in reader:
            if any(cell.strip() for cell in record):
                yield reader.line_num, [cell.strip() for cell in record]
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): make it readable") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is no CSV in UTF-8 ({error}): download it again") from error


def _read_names(file: Path) -> dict[str, str]:
    """The names of the classes; a header may stand above them."""
    names = {}
    for line, cells in _records(file):
        if len(cells) != 2 or not all(cells) or any(map(breaks_lines, cells)):
            raise UserError(f"{file}, line {line}: {shown(cells)} is no LabelName,DisplayName")
        if cells != ["LabelName", "DisplayName"]:
            names[cells[0]] = cells[1]
    return names


def _read_labels(file: Path) -> dict[str, dict[str, bool]]:
    """The classes that were verified, by image, and whether one of its rows found them there."""
    rows: dict[str, dict[str, bool]] = {}
    records = _records(file)
    line, header = next(records, (1, []))
    columns = ("ImageID", "LabelName", "Confidence")
    if not {*columns} <= {*header}:
        raise UserError(
            f"{file}, line {line}: the header is {shown(','.join(header))}; it must have "
            f"{', '.join(columns)}"
        )
    image_at, label_at, confidence_at = map(header.index, columns)
    for line, cells in records:
        if len(cells) != len(header):
            raise UserError(f"{file}, line {line}: {len(cells)} cells, not {len(header)}")
        image_id, label, confidence = cells[image_at], cells[label_at], cells[confidence_at]
        if not re.fullmatch(r"[^/\\\x00-\x1f]+", image_id) or not label or breaks_lines(label):
            raise UserError(f"{file}, line {line}: {shown(cells)} names no image or no label")
        if confidence not in _CONFIDENCE:
            raise UserError(
                f"{file}, line {line}: confidence {shown(confidence)} is neither 0 nor 1; give the "
                "labels that people have verified, not a machine's"
            )
        of_image = rows.setdefault(image_id, {})
        of_image[label] = of_image.get(label, False) or _CONFIDENCE[confidence]
    if not rows:
        raise UserError(f"{file} lists no image")
    return rows
