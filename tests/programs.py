"""Commands in processes of their own, which start in a tenth of the time that Python takes.

Most of a start is the import of JAX and TensorFlow. Here one process, the server, imports them, and
for each start it forks: what comes of that is a process like any other, with flags, signals,
devices, standard streams and an exit code of its own. Tests of what a start itself imports or reads
use `subprocess`.
"""

import atexit
import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[1]

# What commands import, and do not yet start threads or look at devices for.
_IMPORTED = (
    "attn_lstm.training.loop",
    "attn_lstm.evaluation.evaluate",
    "attn_lstm.serving.command",
    "attn_lstm.data.digits",
)
_REQUEST_BYTES = 100_000


def xla_flags(devices: int) -> str:
    """For XLA_FLAGS: so many virtual devices, and the cheapest compilation.

    That is most of what tests do, in half the time of the default; what comes of it runs a few
    times on tiny arrays.
    """
    flags = [
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    major, minor, *_ = importlib.metadata.version("jaxlib").split(".")
    if (int(major), int(minor)) <= (0, 10):
        # Later ones do not know it, and XLA ends a process that was given such a flag.
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


@dataclasses.dataclass
class Program:
    """A command that has been started."""

    command: tuple[str, ...]
    pid: int
    stdout: TextIO
    _stderr: TextIO
    _end: TextIO

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for_line(self, start: str) -> None:
        """Reads stdout up to the first line that begins with `start`."""
        for line in self.stdout:
            if line.startswith(start):
                return
        raise AssertionError(f"{start!r} never came: {self.wait().stderr}")

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Waits for the end; returns the exit code, or -N for signal N, and what was not yet read.

        Raises:
          subprocess.TimeoutExpired: it had to be killed.
        """
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.send_signal(signal.SIGKILL)

        watch = threading.Timer(timeout, kill)
        watch.start()
        out, status = self.stdout.read(), int(self._end.read())
        watch.cancel()
        self._stderr.seek(0)
        err = self._stderr.read()
        for file in (self.stdout, self._stderr, self._end):
            file.close()
        if late.is_set():
            raise subprocess.TimeoutExpired(self.command, timeout, out, err)
        return subprocess.CompletedProcess(
            self.command, os.waitstatus_to_exitcode(status), out, err
        )


def assert_mistake(finished: subprocess.CompletedProcess, *parts: str) -> None:
    """That it ended with one line on stderr, which says all the parts, and nothing else."""
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    for part in parts:
        assert part in finished.stderr


def run(
    *command: object, stdin: str = "", timeout: float = 300, **options
) -> subprocess.CompletedProcess:
    """`start`, and the end of it."""
    return start(*command, stdin=stdin, **options).wait(timeout)


def start(
    *command: object,
    stdin: str = "",
    cwd: str | os.PathLike[str] = ROOT,
    devices: int = 1,
    compiled: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Starts a script ("train.py"), a module ("-m", NAME) or a text ("-c", TEXT) with arguments.

    Args:
      command: what would stand behind `python`.
      stdin: what it can read.
      cwd: the folder it is in.
      devices: how many JAX shows it.
      compiled: it finds the functions that others of the session have compiled.
      environment: variables that differ from the tests' own. Not for what a library reads when it
        is imported.
    """
    command = tuple(map(str, command))
    variables = {"XLA_FLAGS": xla_flags(devices), **(environment or {})}
    request = json.dumps([command, os.path.abspath(cwd), variables, compiled]).encode()
    assert len(request) < _REQUEST_BYTES
    with contextlib.ExitStack() as sent:
        out, out_end = _pipe(sent)
        end, end_end = _pipe(sent)
        given = sent.enter_context(tempfile.TemporaryFile("w+"))
        given.write(stdin)
        given.seek(0)
        err = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        fds = [given.fileno(), out_end, err.fileno(), end_end]
        socket.send_fds(_server(), [request], fds)
    pid = int(end.readline())
    return Program(command, pid, out, err, end)


def _pipe(sent: contextlib.ExitStack) -> tuple[TextIO, int]:
    here, there = os.pipe()
    sent.callback(os.close, there)
    return open(here, errors="replace"), there


@functools.cache
def _server() -> socket.socket:
    """The way to the server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs", str(theirs.fileno())],
            cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(requests: socket.socket) -> list[Any]:
    """Forks for each request, and returns it in the process that is to be the program."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for the tests
    ends: dict[int, int] = {}  # by process, where to tell of its end
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            woken.recv(100)
            for pid in [*ends]:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    with open(ends.pop(pid), "w") as end:
                        end.write(str(status))
        if requests not in ready:
            continue
        request, fds, *_ = socket.recv_fds(requests, _REQUEST_BYTES, 4)
        if not request:
            os._exit(0)
        *streams, end = fds
        pid = os.fork()
        if not pid:
            break
        for fd in streams:
            os.close(fd)
        os.write(end, f"{pid}\n".encode())
        ends[pid] = end
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    for fd in (*fds, *ends.values()):
        os.close(fd)
    for sock in (requests, woken, wake):
        sock.close()
    return json.loads(request)


def _be(command: list[str], cwd: str, variables: Mapping[str, str], compiled: bool) -> None:
    os.chdir(cwd)
    os.environ.update(variables)
    if not compiled:
        jax = importlib.import_module("jax")
        jax.config.update("jax_enable_compilation_cache", False)
    kind, *rest = command
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        sys.modules.pop(rest[0], None)  # as in a new process, where nothing has imported it
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(str(ROOT / kind), run_name="__main__")


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # pages that nobody writes to are shared
    _be(*_serve(socket.socket(fileno=int(sys.argv[1]))))
