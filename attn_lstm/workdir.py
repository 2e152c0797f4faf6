"""The small files of a work directory: config, label table, tuned thresholds, metrics log."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_collections

from attn_lstm.calibration import Calibration
from attn_lstm.config import CHANGEABLE, flatten
from attn_lstm.errors import UserError
from attn_lstm.thresholds import Threshold

CONFIG, LABELS, STATISTICS, THRESHOLDS, CALIBRATION, METRICS, SECONDS = (
    "config.json",
    "labels.json",
    "statistics.json",
    "thresholds.json",
    "calibration.json",
    "metrics.jsonl",
    "seconds.json",
)
LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """What a trained model must know of the labels it was trained on."""

    dataset: str
    names: tuple[str, ...]  # C, in the order of the label vector
    counts: tuple[int, ...]  # C, training images that have the label
    images: int  # in the training split


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Makes a work directory and keeps other processes that ask for it out while the block runs.

    The kernel ends the lock with the process, however that ends: the file that stays behind says
    who had the directory last, and blocks nobody.

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
        yield


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


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file or none, also when the process or the machine dies on the way.

    Raises:
      UserError: the folder cannot be made or written, or its disk is full.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else the rename may reach the disk before the content
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Raises `UserError` when the file is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
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


def save_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Keeps the resolved config, or checks that the one kept before is the same.

    Raises:
      UserError: the directory belongs to another config; names the fields that differ.
    """
    path = workdir / CONFIG
    if not path.exists():
        write_json(path, config.to_dict())
        return
    kept, asked = dict(flatten(load_config(workdir))), dict(flatten(config))
    missing = object()
    different = [
        f"{name} ({kept.get(name, 'absent')!r} there, {asked.get(name, 'absent')!r} now)"
        for name in sorted({*kept, *asked} - {*CHANGEABLE})
        if kept.get(name, missing) != asked.get(name, missing)
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run of another config: {', '.join(different)}; "
            "take another --workdir, or the config of that run"
        )


def load_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a run, locked. Raises `UserError` when there is none."""
    path = workdir / CONFIG
    values = read_json(path)
    if not isinstance(values, dict):
        raise damaged(path, "an object of config fields is expected")
    try:
        return ml_collections.ConfigDict(values).lock()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        # What ml_collections raises for names that cannot be fields.
        raise damaged(path, f"not a config: {error}") from None


def save_labels(workdir: Path, table: LabelTable) -> None:
    """Keeps the label table of a run."""
    write_json(workdir / LABELS, dataclasses.asdict(table))


def load_labels(workdir: Path) -> LabelTable:
    """Raises `UserError` when the run has no readable label table."""
    path = workdir / LABELS
    values = read_json(path)
    try:
        table = LabelTable(
            values["dataset"], tuple(values["names"]), tuple(values["counts"]), values["images"]
        )
    except (KeyError, TypeError):
        raise damaged(path, "not a label table of this program") from None
    if (
        not all(isinstance(value, str) for value in (table.dataset, *table.names))
        or not all(isinstance(value, int) for value in (table.images, *table.counts))
        or len(table.names) != len(table.counts)
    ):
        raise damaged(path, "not a label table of this program")
    return table


def save_threshold(
    workdir: Path, step: int, search: ml_collections.ConfigDict, tau: Threshold
) -> None:
    """Keeps τ for one checkpoint and one kind of decision: a number, or an object by label."""
    value = dataclasses.asdict(tau) if tau.by_label else tau.value
    kept = _kept(workdir / THRESHOLDS, _is_threshold)
    write_json(workdir / THRESHOLDS, {**kept, _decision_key(step, search): value})


def load_threshold(workdir: Path, step: int, search: ml_collections.ConfigDict) -> Threshold | None:
    """The τ that was tuned for this checkpoint and kind of decision, None if none was."""
    value = _kept(workdir / THRESHOLDS, _is_threshold).get(_decision_key(step, search))
    if value is None:
        return None
    return Threshold(**value) if isinstance(value, dict) else Threshold(value)


def save_calibration(
    workdir: Path, step: int, search: ml_collections.ConfigDict, fitted: Calibration
) -> None:
    """Keeps what was fitted to the scores of one kind of one checkpoint."""
    kept = _kept(workdir / CALIBRATION, _is_calibration)
    key = _score_key(step, search)
    write_json(workdir / CALIBRATION, {**kept, key: dataclasses.asdict(fitted)})


def load_calibration(
    workdir: Path, step: int, search: ml_collections.ConfigDict
) -> Calibration | None:
    """What was fitted to this checkpoint's scores, None if nothing was."""
    value = _kept(workdir / CALIBRATION, _is_calibration).get(_score_key(step, search))
    return None if value is None else Calibration(**value)


def _kept(path: Path, is_value: Callable[[Any], bool]) -> dict[str, Any]:
    """An object from a file, empty before the first entry."""
    kept = read_json(path) if path.exists() else {}
    if not isinstance(kept, dict) or not all(map(is_value, kept.values())):
        raise damaged(path, "not what eval.py --tune keeps there")
    return kept


def _is_threshold(value: Any) -> bool:
    if not isinstance(value, dict):
        return _is_number(value)
    by_label = value.get("by_label")
    return (
        value.keys() == {"value", "by_label"}
        and isinstance(by_label, dict)
        and all(map(_is_number, (value["value"], *by_label.values())))
    )


def _is_calibration(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"slope", "bias"}
        and all(map(_is_number, value.values()))
    )


def _decision_key(step: int, search: ml_collections.ConfigDict) -> str:
    """Names all that the best τ depends on."""
    if search.decide == "path":
        key = f"step={step} {_beam_key(search)}"
    else:
        key = f"{_score_key(step, search)} decide={search.decide}"
    return key if search.thresholds == "global" else f"{key} thresholds={search.thresholds}"


def _score_key(step: int, search: ml_collections.ConfigDict) -> str:
    """Names all that the scores depend on."""
    key = f"step={step} scores={search.scores}"
    return f"{key} {_beam_key(search)}" if search.scores == "beam" else key


def _beam_key(search: ml_collections.ConfigDict) -> str:
    return f"stop={search.stop} beam_size={search.beam_size}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def add_seconds(workdir: Path, seconds: float) -> None:
    """Adds a stretch to the time that the run has trained."""
    write_json(workdir / SECONDS, {"training": load_seconds(workdir) + seconds})


def load_seconds(workdir: Path) -> float:
    """Seconds that the run has trained in all stretches that ended on their own or by a signal."""
    path = workdir / SECONDS
    if not path.exists():
        return 0.0
    kept = read_json(path)
    if not isinstance(kept, dict) or not _is_number(kept.get("training")):
        raise damaged(path, "an object with the number 'training' is expected")
    return kept["training"]


class MetricsLog:
    """One JSON line an event, none lost or doubled by a restart.

    The log is cut back to the restored step first, so that what a lost stretch had written is
    written again by the stretch that replaces it. It holds no times: equal runs log equal bytes.
    """

    def __init__(self, workdir: Path, restored_step: int):
        """Raises `UserError` when the log is damaged or cannot be written."""
        self._path = workdir / METRICS
        kept = [r for r in self._read() if r["step"] <= restored_step]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._validated = {r["step"] for r in kept if r["kind"] == "validation"}

    def _read(self) -> list[dict[str, Any]]:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error.strerror}") from None
        records = []
        for number, line in enumerate(lines[:-1], 1):  # behind the last newline: half a line
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not _is_record(record):
                raise UserError(
                    f"{self._path} is damaged (line {number} is no record of this program): take "
                    "that line out, or delete the file to begin a new log"
                )
            records.append(record)
        return records

    def has_validation(self, step: int) -> bool:
        """Whether the figures of this step are in the log already."""
        return step in self._validated

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Appends {'kind', 'step', **values}. Raises `UserError` when the disk is full."""
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")


def _is_record(record: Any) -> bool:
    """Whether it is as `MetricsLog.write` makes it."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("kind"), str)
        and "step" in record
        and all(_is_number(value) for name, value in record.items() if name != "kind")
    )
