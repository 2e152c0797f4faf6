"""Where a run's figures and pictures are kept: TensorBoard's files and the metrics log."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, image, scalar

from attn_lstm.storage import writing
from attn_lstm.training.metrics_log import MetricsLog

# The columns of TensorBoard's table of runs, beside the fields of their configs.
_COMPARED = tuple(f"validation/{name}" for name in ("C-F1", "O-F1", "mAP", "macro-F1", "loss"))


class _Board:
    """TensorBoard's file of events, each written at once.

    tensorboardX's own `SummaryWriter` writes in another thread, which dies of a full disk and
    leaves the program waiting for it.
    """

    def __init__(self, folder: Path, restored_step: int):
        """Raises `UserError` when the folder cannot be written, as all methods do."""
        self._folder = folder
        again = any(folder.glob("events*"))
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Without it a file that was begun in the same second would be overwritten.
            suffix = f".{os.getpid()}.{restored_step}"
            self._file = EventsWriter(str(folder / "events"), suffix)
        if again:  # hides what a lost stretch had written behind the step that is gone on from
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=restored_step + 1, session_log=start))

    def add(self, summary: Summary, step: int = 0) -> None:
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with writing(self._folder):
            self._file.write_event(event)
            self._file.flush()

    def close(self) -> None:
        with writing(self._folder):
            self._file.close()


class Writers:
    """Writes on one host; on the others every call does nothing.

    Args:
      workdir: of the run.
      restored_step: 0, or the step that the run goes on from.
      active: whether this is the host that writes.
      fields: the config's leaves, for TensorBoard's table of runs.
    """

    def __init__(self, workdir: Path, restored_step: int, active: bool, fields: Mapping[str, Any]):
        """Raises `UserError` when something cannot be written, as all methods do."""
        self._active = active
        if active:
            self._log = MetricsLog(workdir, restored_step)
            self._board = _Board(workdir / "tensorboard", restored_step)
            columns, begin, self._end = hparams(fields, dict.fromkeys(_COMPARED))
            self._board.add(columns)
            self._board.add(begin)

    def training(self, step: int, values: Mapping[str, float], rate: float) -> None:
        """Means since the last log line; `rate` in images a second goes to TensorBoard only."""
        self._write("train", step, values)
        if self._active:
            self._board.add(scalar("train/images_per_second", rate), step)

    def validation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """The figures of one validation, and pictures uint8[H,W,3] by name for TensorBoard."""
        if self._active:
            for name, pixels in pictures.items():
                self._board.add(image(f"samples/{name}", pixels, dataformats="HWC"), step)
        self._write("validation", step, values)

    def needs_validation(self, step: int) -> bool:
        """Whether the figures of this step are still to be found; the host that writes knows."""
        return self._active and not self._log.has_validation(step)

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if not self._active:
            return
        self._log.write(kind, step, values)
        for name, value in values.items():
            self._board.add(scalar(f"{kind}/{name}", value), step)

    def finished(self) -> None:
        """The run is done: TensorBoard's table of runs says so."""
        if self._active:
            self._board.add(self._end)

    def close(self) -> None:
        """Closes the file of events."""
        if self._active:
            self._board.close()
