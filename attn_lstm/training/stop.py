"""When to save and end early: SIGTERM and SIGINT, after the same step on all hosts."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from attn_lstm import process
from attn_lstm.errors import INTERRUPTED, STOPPED


class Stopped(Exception):
    """A signal came while nothing was there yet that would have to be saved."""


class Stop:
    """Hears SIGTERM and SIGINT while it is entered; a second SIGINT interrupts as it always does.

    Commands answer a signal at once, also while compiled code runs. That may last: where nothing
    is there yet that would have to be saved, or at the second SIGINT, the process ends anyway.

    Of several processes JAX's runtime hears the signal to any one. It tells all of them at the same
    one of the questions that they put to it, which it knows by their number: so they must ask
    equally often, and nobody else may ask.
    """

    _questions = 0  # that this process has put to the runtime

    def __init__(self) -> None:
        self.saves = False  # whether there is something to save
        self._heard = False
        self._answered = self._handled = 0  # signals, by a command's other thread and by this one

    def __enter__(self) -> "Stop":
        handlers: dict[int, Any] = {signal.SIGTERM: self._hear, signal.SIGINT: self._hear}
        if jax.distributed.is_initialized():
            # A handler of our own for SIGTERM would keep the signal from the runtime.
            handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
        if threading.current_thread() is not threading.main_thread():
            handlers = {}
        self._before = {number: signal.signal(number, h) for number, h in handlers.items()}
        self._held = contextlib.ExitStack()
        if handlers:
            self._held.enter_context(process.answering(self._answer))
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._handled += 1
        if self._heard and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._heard = True

    def _answer(self, number: int) -> None:
        """What a command does at once, in another thread."""
        self._answered += 1
        if self._answered == 1:
            when = "after this step, saving" if self.saves else "before a step"
            process.tell(f"stopping {when}; again to stop without")
            if not self.saves:
                self._leave_unless_heard(STOPPED, process.BEFORE_A_STEP)
        elif number == signal.SIGINT:
            self._leave_unless_heard(INTERRUPTED, "interrupted")

    def _leave_unless_heard(self, code: int, text: str) -> None:
        if jax.distributed.is_initialized():
            return  # the others would wait for this one
        end = time.monotonic() + process.GRACE_SECONDS
        while self._handled < self._answered:
            if time.monotonic() > end:
                process.leave(code, text)
            time.sleep(process.GRACE_SECONDS / 20)

    def asked(self) -> bool:
        """Whether to save and end: to be called equally often on all hosts, which hear the same."""
        if jax.distributed.is_initialized():
            Stop._questions += 1
            self._heard |= multihost_utils.reached_preemption_sync_point(Stop._questions)
        return self._heard

    def check(self) -> None:
        """For whatever may last before the first step. Of several processes none is ended here.

        Raises:
          Stopped: this process has heard a signal.
        """
        if self._heard:
            raise Stopped

    def __exit__(self, *_: Any) -> None:
        self._held.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Stop):  # what came after the last question in here is not lost
                outer._heard |= self._heard
