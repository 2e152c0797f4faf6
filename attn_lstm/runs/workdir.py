"""The small files of a work directory that every command reads: config, label table, times."""

import contextlib
import dataclasses
import fcntl
import functools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from attn_lstm import __version__
from attn_lstm.config import CHANGEABLE
from attn_lstm.errors import UserError
from attn_lstm.fields import flatten, nested
from attn_lstm.runs.upgrade import upgrade
from attn_lstm.storage import LOCK as LOCK
from attn_lstm.storage import damaged, is_number, read_json, write_json, writing

CONFIG, LABELS, STATISTICS, SECONDS = (
    "config.json",
    "labels.json",
    "statistics.json",
    "seconds.json",
)
TRAINED_AS = "trained_as.json"  # of a run that another has trained: where that one lies
_VERSION = "version"  # of this program, which wrote a config; beside the fields


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """What a trained model must know of the labels it was trained on."""

    dataset: str
    names: tuple[str, ...]  # C, in the order of the label vector
    counts: tuple[int, ...]  # C, training images that have the label
    images: int  # in the training split
    partial: bool = False  # some of its labels are not known


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[Callable[[], None]]:
    """Makes a work directory and keeps other processes that ask for it out while the block runs.

    The kernel ends the lock with the process, however that ends: the file that stays behind says
    who had the directory last, and blocks nobody.

    Yields:
      What raises `UserError` when the directory has been deleted or moved away since: whoever wrote
      on would make it anew, with nothing in it of what was there.

    Raises:
      UserError: another process has the directory, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((workdir / LOCK).open("a+", errors="replace"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = " ".join(file.read(300).split()) or "another process"
            raise UserError(
                f"{workdir} is in use by {owner}: wait until that has ended or end it, or give "
                "another --workdir"
            ) from None
        except OSError:
            pass  # a network file system without locks is no reason not to train
        with writing(workdir):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        try:
            yield functools.partial(_check_held, workdir, file.fileno())
        finally:
            if not (workdir / LOCK).exists():
                _remove_empty(workdir)


def _check_held(workdir: Path, fd: int) -> None:
    try:
        # Of a directory that was emptied the hidden file of the lock may be left.
        held = (workdir / CONFIG).exists() and os.path.samestat(
            os.fstat(fd), (workdir / LOCK).stat()
        )
    except FileNotFoundError:
        held = False
    except OSError as error:
        raise UserError(f"{workdir} can be reached no more: {error.strerror}") from error
    if not held:
        raise UserError(
            f"{workdir} is no longer the folder that this run writes to: it was deleted, emptied "
            "or moved away; put it back and start again to go on from the last checkpoint in it"
        )


def _remove_empty(workdir: Path) -> None:
    """Takes away what Orbax has made anew of a directory that vanished while it saved."""
    for name in ("checkpoints/latest", "checkpoints/best", "checkpoints", ""):
        with contextlib.suppress(OSError):
            (workdir / name).rmdir()


def save_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Keeps the resolved config, or checks that the one kept before is the same.

    Raises:
      UserError: the directory belongs to another config; names the fields that differ.
    """
    path = workdir / CONFIG
    if not path.exists():
        write_json(path, {_VERSION: __version__, **config.to_dict()})
        return
    kept, asked = dict(flatten(load_config(workdir))), dict(flatten(config))
    different = [
        f"{name} ({kept[name]!r} there, {asked[name]!r} now)"
        for name in sorted({*asked} - {*CHANGEABLE})
        if kept[name] != asked[name]
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run of another config: {', '.join(different)}; a run goes on with "
            "the config that it began with (its learning rate falls towards its own train.steps): "
            "give what is there, or take another --workdir"
        )


def is_learned(field: str) -> bool:
    """Whether the parameters of a run depend on a field: not on its row's name or its search."""
    return field != "method" and not field.startswith("search.")


def check_config(workdir: Path, saved: Mapping[str, Any] | None) -> None:
    """Compares the config of a run with the one that a checkpoint of it was saved with.

    Args:
      workdir: of the run.
      saved: fields by name; None in checkpoints of a version that did not keep them.

    Raises:
      UserError: `config.json` has been changed; names the fields that differ.
    """
    if saved is None:
        return
    here, there = dict(flatten(load_config(workdir))), upgrade(saved)
    shared = (workdir / TRAINED_AS).exists()
    different = [
        f"{name} ({there[name]!r} then, {here[name]!r} now)"
        for name in sorted({*here} - {*CHANGEABLE})
        if here[name] != there[name] and not (shared and not is_learned(name))
    ]
    if different:
        raise UserError(
            f"{workdir / CONFIG} has changed since its run was saved: {', '.join(different)}; put "
            "back what was there, and give other values as flags"
        )


def load_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a run, locked, as this version has it.

    Raises:
      UserError: there is none, it is damaged, or another version has written it, and this one lacks
        what that run does.
    """
    path = workdir / CONFIG
    values = read_json(path)
    if not isinstance(values, dict):
        raise damaged(path, "an object of config fields is expected")
    version = values.pop(_VERSION, "a version before 0.2.0")
    try:
        return nested(upgrade(dict(flatten(values)))).lock()
    except UserError as error:
        raise UserError(
            f"{path} was written by {version} and does not fit {__version__}, this version: "
            f"{error}; use the version that wrote it or, if the file is damaged, a whole copy of it"
        ) from None
    except RecursionError:
        raise damaged(path, "not a config") from None


def save_labels(workdir: Path, table: LabelTable) -> None:
    """Keeps the label table of a run."""
    write_json(workdir / LABELS, dataclasses.asdict(table))


def load_labels(workdir: Path) -> LabelTable:
    """Raises `UserError` when the run has no readable label table."""
    path = workdir / LABELS
    values = read_json(path)
    try:
        table = LabelTable(
            values["dataset"],
            tuple(values["names"]),
            tuple(values["counts"]),
            values["images"],
            values.get("partial", False),  # of versions that knew all labels
        )
    except (KeyError, TypeError, AttributeError):
        raise damaged(path, "not a label table of this program") from None
    if (
        not all(isinstance(value, str) for value in (table.dataset, *table.names))
        or not all(isinstance(value, int) for value in (table.images, *table.counts))
        or not isinstance(table.partial, bool)
        or len(table.names) != len(table.counts)
        or not all(0 <= count <= table.images for count in table.counts)
    ):
        raise damaged(path, "not a label table of this program")
    return table


def add_seconds(workdir: Path, seconds: float) -> None:
    """Adds a stretch to the time that the run has trained."""
    write_json(workdir / SECONDS, {"training": load_seconds(workdir) + seconds})


def load_seconds(workdir: Path) -> float:
    """Seconds of the updates in all stretches that ended on their own or by a signal.

    What comes before the second update of a stretch is not counted, nor are checkpoints and
    validations.
    """
    path = workdir / SECONDS
    if not path.exists():
        return 0.0
    kept = read_json(path)
    if not isinstance(kept, dict) or not is_number(kept.get("training")) or kept["training"] < 0:
        raise damaged(path, "an object with the number 'training' is expected")
    return kept["training"]
