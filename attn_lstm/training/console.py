"""What a person sees of a run: lines, and on a terminal one more that moves along below them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
from absl import logging
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

_GAP = "  "  # between the parts of a line
_BAR = (12, 40)  # columns; it takes what the text leaves, between these


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is known at a log step."""

    epoch: float  # images seen so far, in training splits
    losses: Mapping[str, float]  # means of the parts since the last one; none if no image counted
    learning_rate: float
    rate: float  # images a second
    seconds_left: int
    memory: str  # of the devices; empty where they do not tell

    def parts(self) -> list[tuple[int, str]]:
        """Pieces of a line in reading order, each behind its importance: 1 goes last."""
        loss = "no image counted"
        if self.losses:
            each = " ".join(f"{name} {mean:.3f}" for name, mean in self.losses.items())
            loss = f"loss {sum(self.losses.values()):.3f} ({each})"
        minutes, seconds = divmod(self.seconds_left, 60)
        return [
            (4, f"epoch {self.epoch:.1f}"),
            (1, loss),
            (6, f"lr {self.learning_rate:.1e}"),
            (3, f"{self.rate:.0f} images/s"),
            (2, f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"),
            *([(5, self.memory)] if self.memory else []),
        ]


class Console:
    """Writes to standard output on one host; on the others every call does nothing.

    On a terminal a line below the others shows where the run is, and log steps only renew it. In
    a file or a pipe each log step is a line, and nothing but lines is ever written.

    Args:
      last_step: at which the run is done.
      active: whether this is the host that writes.
    """

    def __init__(self, last_step: int, active: bool):
        self._last_step, self._active = last_step, active
        self._step, self._doing = 0, ""
        self._progress: Progress | None = None
        self._rich: RichConsole | None = None  # while there is a line that moves

    def say(self, line: str) -> None:
        """One line that stays."""
        if self._rich:
            self._rich.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        elif self._active:
            print(line, flush=True)

    @contextlib.contextmanager
    def moving(self, step: int) -> Iterator[None]:
        """Shows, on a terminal, the line that moves while the block runs, from `step` on."""
        self._step, self._doing = step, "compiling"
        # Rich itself would take FORCE_COLOR for a terminal.
        terminal = RichConsole(highlight=False) if self._active and sys.stdout.isatty() else None
        if terminal is None or not terminal.is_interactive:
            yield
            return
        with Live(
            console=terminal,
            get_renderable=lambda: self,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
        ):
            self._rich = terminal
            # Warnings too go above the line: absl has kept the stream from before.
            handler = logging.get_absl_handler().python_handler
            before = handler.setStream(sys.stderr)
            try:
                yield
            finally:
                self._rich = None
                if before is not None:  # it was another
                    handler.setStream(before)

    def advance(self, step: int) -> None:
        """So many updates are on their way; asks nothing of the devices."""
        self._step, self._doing = step, ""

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """The line that moves says so while the block runs."""
        self._doing = what
        yield
        self._doing = ""

    def report(self, step: int, progress: Progress) -> None:
        """The state of a log step."""
        self._step, self._progress = step, progress
        if not self._rich:
            parts = [part for _, part in progress.parts()]
            self.say(_GAP.join([f"step {step}/{self._last_step}", *parts]))

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """The line that moves, without what the terminal is too narrow for."""
        parts = [(-1, f"step {self._step}/{self._last_step}")]
        parts += [(0, self._doing)] if self._doing else []
        parts += self._progress.parts() if self._progress else []
        text = _fitted(parts, options.max_width)
        room = min(options.max_width - len(text) - len(_GAP), _BAR[1])
        line = Table.grid(padding=(0, len(_GAP), 0, 0))
        line.add_column(no_wrap=True, overflow="crop")
        bar = ProgressBar(self._last_step, self._step, width=room)
        line.add_row(text, *([bar] if room >= _BAR[0] else []))
        yield line


def _fitted(parts: Sequence[tuple[int, str]], width: int) -> str:
    """As many of the parts, the most important first, as one line of so many columns holds."""
    for least in sorted((importance for importance, _ in parts), reverse=True):
        text = _GAP.join(part for importance, part in parts if importance <= least)
        if len(text) <= width:
            break
    return text


def device_memory() -> str:
    """The most that any device of this host has held so far; empty where devices do not tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    told = [each for each in stats if "peak_bytes_in_use" in each]
    if not told:
        return ""
    fullest = max(told, key=lambda each: each["peak_bytes_in_use"])
    of = f"/{fullest['bytes_limit'] / 2**30:.1f}" if fullest.get("bytes_limit") else ""
    return f"{fullest['peak_bytes_in_use'] / 2**30:.1f}{of} GiB"


class Clock:
    """Rate and time left, measured from log line to log line."""

    def __init__(self, images_a_step: int, last_step: int):
        self._images, self._last = images_a_step, last_step
        self._time, self._step = time.perf_counter(), 0

    def start(self, step: int) -> None:
        """Begins a stretch with so many steps done."""
        self._time, self._step = time.perf_counter(), step

    def lap(self, step: int) -> tuple[float, int]:
        """Images a second since the stretch began, and the seconds that are left."""
        seconds = max(time.perf_counter() - self._time, 1e-9)
        steps = step - self._step
        left = int((self._last - step) * seconds / steps) if steps else 0
        self.start(step)
        return steps * self._images / seconds, left
