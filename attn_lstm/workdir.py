"""The small files of a work directory: config, label table, tuned thresholds, metrics log."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import ml_collections

from attn_lstm.config import PLACES, flatten
from attn_lstm.errors import UserError

CONFIG, LABELS, THRESHOLDS, METRICS = (
    "config.json",
    "labels.json",
    "thresholds.json",
    "metrics.jsonl",
)


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """What a trained model must know of the labels it was trained on."""

    dataset: str
    names: tuple[str, ...]  # C, in the order of the label vector
    counts: tuple[int, ...]  # C, training images that have the label


def write_json(path: Path, value: Any) -> None:
    """Writes a whole file or none, also when the process is killed on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(value, indent=1) + "\n")
    draft.replace(path)


def read_json(path: Path) -> Any:
    """Raises `UserError` when the file is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is this the work directory of a run?") from None
    except (UnicodeDecodeError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None


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
        for name in sorted({*kept, *asked} - {*PLACES})
        if kept.get(name, missing) != asked.get(name, missing)
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run of another config: {', '.join(different)}; "
            "take another --workdir, or the config of that run"
        )


def load_config(workdir: Path) -> ml_collections.ConfigDict:
    """The resolved config of a run, locked. Raises `UserError` when there is none."""
    values = read_json(workdir / CONFIG)
    if not isinstance(values, dict):
        raise UserError(f"{workdir / CONFIG} holds no config: an object of fields is expected")
    return ml_collections.ConfigDict(values).lock()


def save_labels(workdir: Path, table: LabelTable) -> None:
    """Keeps the label table of a run."""
    write_json(workdir / LABELS, dataclasses.asdict(table))


def load_labels(workdir: Path) -> LabelTable:
    """Raises `UserError` when the run has no readable label table."""
    values = read_json(workdir / LABELS)
    try:
        return LabelTable(values["dataset"], tuple(values["names"]), tuple(values["counts"]))
    except (KeyError, TypeError):
        raise UserError(f"{workdir / LABELS} is not a label table of this program") from None


def save_threshold(workdir: Path, step: int, search: ml_collections.ConfigDict, tau: float) -> None:
    """Keeps τ for one checkpoint and one kind of search."""
    path = workdir / THRESHOLDS
    kept = read_json(path) if path.exists() else {}
    write_json(path, {**kept, _search_key(step, search): tau})


def load_threshold(workdir: Path, step: int, search: ml_collections.ConfigDict) -> float | None:
    """The τ that was tuned for this checkpoint and kind of search, None if none was."""
    path = workdir / THRESHOLDS
    return read_json(path).get(_search_key(step, search)) if path.exists() else None


def _search_key(step: int, search: ml_collections.ConfigDict) -> str:
    return f"step={step} stop={search.stop} beam_size={search.beam_size}"


class MetricsLog:
    """One JSON line an event, none lost or doubled by a restart.

    The log is cut back to the restored step first, so that what a lost stretch had written is
    written again by the stretch that replaces it. It holds no times: equal runs log equal bytes.
    """

    def __init__(self, workdir: Path, restored_step: int):
        self._path = workdir / METRICS
        kept = [r for r in self._read() if r["step"] <= restored_step]
        draft = self._path.with_name(f".{METRICS}")
        draft.write_text("".join(json.dumps(record) + "\n" for record in kept))
        draft.replace(self._path)
        self._validated = {r["step"] for r in kept if r["kind"] == "validation"}

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        lines = self._path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]  # behind the last newline: half a line

    def has_validation(self, step: int) -> bool:
        """Whether the figures of this step are in the log already."""
        return step in self._validated

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Appends {'kind', 'step', **values}."""
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
