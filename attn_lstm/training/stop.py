"""When to save and end early: SIGTERM and SIGINT, after the same step on all hosts."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """A signal came while nothing was there yet that would have to be saved."""


class Stop:
    """Hears SIGTERM and SIGINT while it is entered; a second SIGINT interrupts as it always does.

    Of several processes JAX's runtime hears the signal to any one. It tells all of them at the same
    one of the questions that they put to it, which it knows by their number: so they must ask
    equally often, and nobody else may ask.
    """

    _questions = 0  # that this process has put to the runtime

    def __init__(self) -> None:
        self._heard = False

    def __enter__(self) -> "Stop":
        handlers: dict[int, Any] = {signal.SIGTERM: self._hear, signal.SIGINT: self._hear}
        if jax.distributed.is_initialized():
            # A handler of our own for SIGTERM would keep the signal from the runtime.
            handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
        if threading.current_thread() is not threading.main_thread():
            handlers = {}
        self._before = {number: signal.signal(number, h) for number, h in handlers.items()}
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._heard = True

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
        for number, handler in self._before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, Stop):  # what came after the last question in here is not lost
                outer._heard |= self._heard
