"""What a command changes of its own process: signals, the standard streams, what libraries print.

It belongs to the commands alone, which call `settle` first of all. Importing the package, and
making its objects, leaves all of that as it is, for the program that imports it.
"""

import atexit
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from attn_lstm import progress
from attn_lstm.errors import INTERRUPTED, STOPPED, UserError, printable

# absl, which takes a while to import, is imported when signals are heard and the line moves.

GRACE_SECONDS = 1.0  # after which compiled code has kept a signal from Python for too long
BEFORE_A_STEP = "stopped before a step; nothing is lost, start again to go on"


def settle(*, result_on_stdout: bool = False, resumes: bool = False) -> None:
    """Readies this process for a command.

    Args:
      result_on_stdout: what the command finds goes to standard output and nowhere else, so that it
        ends when that cannot be written. Others only tell there what is in their files, too, and go
        on without a reader.
      resumes: the same command goes on where a signal has stopped it.
    """
    _keep_streams(result_on_stdout)
    _end_early_without_traceback(resumes)
    progress.begin(2 if result_on_stdout else 1)
    atexit.register(progress.end)
    _quieten_libraries()


# --------------------------------------------------------------------------- the standard streams


class _Stream(io.FileIO):
    """A standard stream whose reader may leave, and whose disk may be full.

    Args:
      number: of the file, 1 or 2.
      needed: nobody else hears what is written here. The command then ends as soon as it cannot be
        written: quietly where the reader has left, such as `head`, which has enough; else with a
        `UserError`.
      closed: it was closed when the process began.
    """

    def __init__(self, number: int, *, needed: bool, closed: bool):
        super().__init__(number, "w", closefd=False)
        self._needed, self._was_closed = needed, closed

    def write(self, data: Any) -> int:
        if self._was_closed and self._needed:
            self._needed = False  # it is said once
            raise UserError("standard output is closed: nobody would see what this command finds")
        try:
            with progress.above():
                return super().write(data)
        except OSError as error:
            # From now on also for what other languages write here.
            _open_nothing(self.fileno())
            if self._needed:
                if isinstance(error, BrokenPipeError):
                    sys.exit(0)
                raise UserError(f"standard output cannot be written: {error.strerror}") from None
            return len(memoryview(data).cast("B"))


def _keep_streams(result_on_stdout: bool) -> None:
    """Gives what is closed a place to go, and puts streams that last in the place of Python's.

    Where number 1 or 2 is free, the next file that is opened gets it, a checkpoint say, and with it
    whatever is printed.
    """
    closed = set()
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _open_nothing(number)
            closed.add(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  for as long as the process lives
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is not getattr(sys, f"__{name}__"):
            continue  # somebody listens already
        raw = _Stream(number, needed=result_on_stdout and name == "stdout", closed=number in closed)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=before.encoding if before else "utf-8",
            # Names that a terminal cannot show are no reason to stop.
            errors="backslashreplace",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, stream)


def _open_nothing(number: int) -> None:
    """Puts the null device in the place of a standard stream."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)


# ------------------------------------------------------------------------------------ the signals


# What is said of a signal at once, by a thread, since compiled code keeps it from the main thread.
Answer = Callable[[int], None]
_answer: Answer = lambda number: None  # noqa: E731


def _end_early_without_traceback(resumes: bool) -> None:
    """Until `training.stop` listens, and for commands that need not save."""
    code = STOPPED if resumes else INTERRUPTED
    text = BEFORE_A_STEP if resumes else "interrupted"
    heard = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        heard.set()
        if _imports(frame):  # which libraries do not expect to end half-way
            leave(code, text)
        tell(text)
        sys.exit(code)

    def answer(number: int) -> None:
        if not heard.wait(GRACE_SECONDS):
            leave(code, text)

    global _answer
    _answer = answer
    listening = False
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as for a script's jobs behind `&`
        signal.signal(signal.SIGINT, end)
        listening = True
    if resumes:
        signal.signal(signal.SIGTERM, end)
        listening = True
    if listening:
        ours, runtime = os.pipe()
        os.set_blocking(runtime, False)
        signal.set_wakeup_fd(runtime, warn_on_full_buffer=False)
        threading.Thread(target=_listen, args=[ours], name="signals", daemon=True).start()


def _listen(fd: int) -> None:
    while numbers := os.read(fd, 16):
        for number in numbers:
            if number in (signal.SIGINT, signal.SIGTERM):
                _answer(number)


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[None]:
    """While the block runs a command answers signals so, from another thread."""
    global _answer
    before, _answer = _answer, answer
    try:
        yield
    finally:
        _answer = before


def tell(text: str) -> None:
    """A line to stderr, whatever the rest of the process does."""
    with contextlib.suppress(OSError), progress.above():
        os.write(2, f"{text}\n".encode())


def leave(code: int, text: str) -> NoReturn:
    """Ends the process at once, with a line."""
    tell(text)
    os._exit(code)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


# ---------------------------------------------------------------------------------- the libraries


def _quieten_libraries() -> None:
    """Lets warnings through, each as a line, but none of what `runs.checkpoint` tells.

    Orbax raises what it logs: a write, say, that the operating system refused in each of its
    threads. asyncio and Python report the writes beside it that nobody awaited any more.
    """
    from absl import flags
    from absl import logging as absl_logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            line = f"{record.levelname.lower()}: {printable(record.getMessage())}"
            return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    flags.FLAGS.mark_as_parsed()  # absl's handler would complain of warnings before that
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = absl_logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)
    handler.setFormatter(Formatter())
    for name in ("absl", "asyncio"):  # whose records other handlers may get as well
        logging.getLogger(name).addFilter(_is_told)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what cannot be fetched is raised as well
    # It warns of a font that lacks a weight, for each text: another weight will do.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = hook
    # Python's warnings are for those who write code, the libraries' for theirs.
    warnings.simplefilter("ignore")


def _is_told(record: logging.LogRecord) -> bool:
    return record.name != "asyncio" and "orbax" not in Path(record.pathname).parts


def end(code: int) -> NoReturn:
    """Ends a command whose files are written.

    Python would take JAX and TensorFlow apart first, which lasts up to a minute after large runs.
    """
    progress.end()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say_no_more() -> None:
    """For what is left of a process that has told its mistake.

    Where a save has failed, Python reports the writes beside it while it takes itself down, and
    asks no hook.
    """

    def end_quietly() -> None:
        for name in ("stderr", "__stderr__"):
            setattr(sys, name, None)

    atexit.register(end_quietly)
