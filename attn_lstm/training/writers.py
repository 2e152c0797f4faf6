"""Where a run's figures go: the console, TensorBoard and the metrics log."""

import time
from pathlib import Path

from tensorboardX import SummaryWriter

from attn_lstm.workdir import MetricsLog


class Writers:
    """Writes on one host; on the others every call does nothing.

    Args:
      workdir: of the run.
      restored_step: 0, or the step that the run goes on from.
      active: whether this is the host that writes.
    """

    def __init__(self, workdir: Path, restored_step: int, active: bool):
        self._active = active
        if active:
            self._log = MetricsLog(workdir, restored_step)
            self._board = SummaryWriter(
                str(workdir / "tensorboard"),
                purge_step=restored_step + 1 if restored_step else None,
            )

    def say(self, line: str) -> None:
        """One line on the console."""
        if self._active:
            print(line, flush=True)

    def training(self, step: int, values: dict[str, float], rate: float) -> None:
        """Means since the last log line; `rate` in images a second goes to TensorBoard only."""
        self._write("train", step, values)
        if self._active:
            self._board.add_scalar("train/images_per_second", rate, step)

    def validation(self, step: int, values: dict[str, float]) -> None:
        """The figures of one validation."""
        self._write("validation", step, values)

    def needs_validation(self, step: int) -> bool:
        """Whether the figures of this step are still to be found; the same on all hosts at 0."""
        return self._active and not self._log.has_validation(step)

    def _write(self, kind: str, step: int, values: dict[str, float]) -> None:
        if not self._active:
            return
        self._log.write(kind, step, values)
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes what is still in memory."""
        if self._active:
            self._board.close()


class Clock:
    """Rate and time left, measured from log line to log line."""

    def __init__(self, images_a_step: int, last_step: int):
        self._images, self._last = images_a_step, last_step
        self._time, self._step = time.perf_counter(), None

    def start(self, step: int) -> None:
        """Begins a stretch: after the first step, whose compilation would spoil the rate."""
        self._time, self._step = time.perf_counter(), step

    def lap(self, step: int) -> tuple[float, str]:
        """Images a second since the stretch began, and the time left as 'h:mm:ss'."""
        seconds = max(time.perf_counter() - self._time, 1e-9)
        steps = step - self._step
        left = int((self._last - step) * seconds / steps) if steps else 0
        self.start(step)
        return steps * self._images / seconds, f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
