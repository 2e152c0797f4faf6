"""The metrics log of a run: figures by step, none lost or doubled by a restart."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_lstm.errors import UserError
from attn_lstm.storage import is_number, write_text, writing

METRICS = "metrics.jsonl"


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

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Appends {'kind', 'step', **values}. Raises `UserError` when the disk is full."""
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")


def _is_record(record: Any) -> bool:
    """Whether it is as `MetricsLog.write` makes it."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("kind"), str)
        and "step" in record
        and all(is_number(value) for name, value in record.items() if name != "kind")
    )
