"""The line that says what a command does at this moment, and how far it is.

A command begins it (`begin`), in its first moments, so that nothing is imported here that takes
time. On a terminal the line moves below what is written; into a file or a pipe it is written now
and then while nothing else is. For programs that import the package nothing is shown.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

# Of so many columns a line that shows what is known; of None all of it.
Render = Callable[[int | None], str]
Batch = TypeVar("Batch")

GAP = "  "  # between the parts of a line
_BAR = (12, 40)  # columns; it takes what the text leaves, between these
_MOVES = 0.2  # seconds between two looks of the line on a terminal
_BURST = 0.05  # seconds in which things are done at once
_SILENCE = 5.0  # seconds without a line in a pipe

_AHEAD = 2  # batches that are taken before the first of them is computed

_ERASE = b"\r\x1b[2K"
# No terminal is asked to break the line, which could not be erased then.
_DRAW = _ERASE + b"\x1b[?7l%s\x1b[?7h"


class _Shown:
    """The line on a file: on a terminal it is drawn anew again and again."""

    def __init__(self, fd: int):
        self.moves = os.isatty(fd) and os.environ.get("TERM", "dumb") != "dumb"
        self.lock = threading.RLock()
        self.last = time.monotonic()  # at which a line was written
        self._fd, self._drawn, self._ended = fd, False, threading.Event()
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def _run(self) -> None:
        while not self._ended.wait(_MOVES if self.moves else _SILENCE / 10):
            with self.lock:
                if self._ended.is_set():
                    return
                if self.moves:
                    self._write(_DRAW % _encoded(_stack[-1](self._columns())))
                    self._drawn = True
                elif time.monotonic() - self.last >= _SILENCE:
                    self._write(_encoded(_stack[-1](None)) + b"\n")
                    self.last = time.monotonic()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._fd).columns or 80
        except OSError:
            return 80

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # its reader may have left
            os.write(self._fd, data)

    def erase(self) -> None:
        """Leaves the place of the line, where the next one begins."""
        if self._drawn:
            self._write(_ERASE)
            self._drawn = False
        self.last = time.monotonic()

    def end(self) -> None:
        """Shows nothing any more."""
        self._ended.set()
        with self.lock:
            self.erase()


class Doing:
    """One thing that is done, and how far it is.

    Args:
      text: what it is.
      total: of what is counted; None where nothing is.
      unit: of what is counted.
    """

    def __init__(self, text: str, total: int | None = None, unit: str = "images"):
        self.text, self.total, self._unit = text, total, unit
        self._done, self._start = 0, time.monotonic()
        self._first = (0, self._start)  # where the pace is counted from

    def advance(self, done: int) -> None:
        """So many are done, in all."""
        now = time.monotonic()
        # The first ones, which come at once, have waited for what is done once: compiling, say.
        if not self._done or now - self._first[1] < _BURST:
            self._first = (done, now)
        self._done = done

    def __call__(self, columns: int | None) -> str:
        """The line (a `Render`)."""
        now = time.monotonic()
        if not self._done:
            return fitted([(0, self.text), (1, f"{now - self._start:.0f} s")], columns)
        first, since = self._first
        total = "" if self.total is None else f"/{self.total}"
        parts = [(0, self.text), (1, f"{self._done}{total}")]
        if self._done > first and now > since:
            rate = (self._done - first) / (now - since)
            parts.append((3, f"{rate:.{int(rate < 10)}f} {self._unit}/s"))
            if self.total is not None:
                parts.append((2, f"{clock((self.total - self._done) / rate)} left"))
        return with_bar(fitted(parts, columns), self._done, self.total or 0, columns)


def _working(columns: int | None) -> str:
    return "working"


_stack: list[Render] = [_working]
_shown: _Shown | None = None


def begin(fd: int) -> None:
    """Shows the line on a file from now on."""
    global _shown
    end()
    _stack[:] = [Doing("starting")]
    _shown = _Shown(fd)


def end() -> None:
    """Takes the line away."""
    global _shown
    if _shown is not None:
        _shown.end()
        _shown = None


@contextlib.contextmanager
def showing(render: Render) -> Iterator[None]:
    """The line is this one while the block runs."""
    _stack[0] = _working  # the start is over
    _stack.append(render)
    try:
        yield
    finally:
        _stack.remove(render)


@contextlib.contextmanager
def doing(text: str, total: int | None = None, unit: str = "images") -> Iterator[Doing]:
    """Says what the block does; it yields what counts on."""
    shown = Doing(text, total, unit)
    with showing(shown):
        yield shown


def counted(
    batches: Iterable[Batch], size: Callable[[Batch], int], text: str, total: int
) -> Iterator[Batch]:
    """The batches, while the line says how much of them is done.

    Args:
      batches: of which some are taken ahead.
      size: of a batch.
      text: what is done with them.
      total: the size of all.
    """
    done = 0
    with doing(text, total) as shown:
        for place, batch in enumerate(batches):
            yield batch
            done += size(batch)
            if place >= _AHEAD:
                shown.advance(done)


@contextlib.contextmanager
def above() -> Iterator[None]:
    """Room for the lines that the block writes, to wherever."""
    if (shown := _shown) is None:
        yield
        return
    with shown.lock:
        shown.erase()
        yield


def is_shown() -> bool:
    """Whether somebody may see the line."""
    return _shown is not None


def moves() -> bool:
    """Whether somebody sees the line move."""
    return _shown is not None and _shown.moves


def fitted(parts: Sequence[tuple[int, str]], columns: int | None) -> str:
    """As many of the parts as one line holds.

    Args:
      parts: each behind its importance, the most important first to stay: 0, 1, …
      columns: of the line; None for all parts.
    """
    text = GAP.join(part for _, part in parts)
    for least in sorted({importance for importance, _ in parts}, reverse=True):
        text = GAP.join(part for importance, part in parts if importance <= least)
        if columns is None or len(text) <= columns:
            break
    return text if columns is None else text[:columns]


def with_bar(text: str, done: int, total: int, columns: int | None) -> str:
    """The text with a bar behind it, where there is room and a total."""
    room = min(0 if columns is None else columns - len(text) - len(GAP), _BAR[1])
    if room < _BAR[0] or not total:
        return text
    filled = min(room, room * done // total)
    return f"{text}{GAP}{'━' * filled}{'╌' * (room - filled)}"


def clock(seconds: float) -> str:
    """'1:02:05'."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _encoded(text: str) -> bytes:
    return text.encode(sys.__stdout__.encoding if sys.__stdout__ else "utf-8", "replace")
