"""What a person sees of a run: lines, and the one of `progress` below them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping

import jax

from attn_lstm import progress

_RENEWED_SECONDS = 2.0  # after which the line asks the devices for the loss between log steps


@dataclasses.dataclass(frozen=True)
class Progress:
    """What is known at a log step."""

    epoch: float  # images seen so far, in training splits
    losses: Mapping[str, float]  # means of the parts since the last one; none if no image counted
    learning_rate: float
    rate: float  # images a second
    seconds_left: float | None  # None before it can be told
    memory: str  # of the devices; empty where they do not tell

    def parts(self) -> list[tuple[int, str]]:
        """Pieces of a line in reading order, each behind its importance: 1 goes last."""
        loss = "no image counted"
        if self.losses:
            each = " ".join(f"{name} {mean:.3f}" for name, mean in self.losses.items())
            loss = f"loss {sum(self.losses.values()):.3f} ({each})"
        pace = []
        if self.seconds_left is not None:
            left = f"{progress.clock(self.seconds_left)} left"
            pace = [(4, f"{self.rate:.0f} images/s"), (3, left)]
        return [
            (5, f"epoch {self.epoch:.1f}"),
            (2, loss),
            (7, f"lr {self.learning_rate:.1e}"),
            *pace,
            *([(6, self.memory)] if self.memory else []),
        ]


class Console:
    """Writes to standard output on one host; on the others every call does nothing.

    On a terminal a line below the others shows where the run is, and log steps only renew it.
    Elsewhere each log step is a line.

    Args:
      last_step: at which the run is done.
      active: whether this is the host that writes.
    """

    def __init__(self, last_step: int, active: bool):
        self._last_step, self._active = last_step, active
        self._step, self._doing, self._renewed = 0, "", 0.0
        self._known: Progress | None = None

    def say(self, line: str) -> None:
        """One line that stays."""
        if self._active:
            print(line, flush=True)

    @contextlib.contextmanager
    def moving(self, step: int) -> Iterator[None]:
        """The line shows the run while the block runs, from `step` on."""
        self._step, self._doing = step, "compiling"
        with progress.showing(self):
            yield

    def advance(self, step: int) -> None:
        """So many updates are on their way; asks nothing of the devices."""
        self._step, self._doing = step, ""

    def is_stale(self) -> bool:
        """Whether somebody looks at the line, and it should be renewed."""
        waited = time.monotonic() - self._renewed
        return self._active and progress.is_shown() and waited > _RENEWED_SECONDS

    def renew(self, step: int, known: Progress) -> None:
        """The state between log steps."""
        self._step, self._known, self._renewed = step, known, time.monotonic()

    def report(self, step: int, known: Progress) -> None:
        """The state of a log step."""
        self.renew(step, known)
        if not progress.moves():
            self.say(self(None))

    def __call__(self, columns: int | None) -> str:
        """The line, without what the terminal is too narrow for."""
        parts = [(0, f"step {self._step}/{self._last_step}")]
        parts += [(1, self._doing)] if self._doing else []
        parts += self._known.parts() if self._known else []
        text = progress.fitted(parts, columns)
        return progress.with_bar(text, self._step, self._last_step, columns)


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
    """The pace of updates, and the time that they have taken."""

    def __init__(self, images_a_step: int, last_step: int):
        self.seconds = 0.0  # of all stretches that have ended
        self._images, self._last = images_a_step, last_step
        self._time, self._step = time.perf_counter(), 0

    def start(self, step: int) -> None:
        """Begins a stretch with so many steps done."""
        self._time, self._step = time.perf_counter(), step

    def stop(self) -> None:
        """Ends the stretch."""
        self.seconds += time.perf_counter() - self._time

    def pace(self, step: int) -> tuple[float, float | None]:
        """Images a second since the stretch began, and the seconds left, None in its first step."""
        seconds, steps = max(time.perf_counter() - self._time, 1e-9), step - self._step
        left = (self._last - step) * seconds / steps if steps else None
        return steps * self._images / seconds, left
