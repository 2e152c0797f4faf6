"""What a person sees of a run: on a terminal, and in a pipe."""

import contextlib
import re
from collections.abc import Iterator
from types import SimpleNamespace

import jax
import pytest

from attn_lstm import progress
from attn_lstm.training import console as module
from attn_lstm.training.console import Clock, Console, Progress, device_memory

LOSSES = {"map": 1.0, "step": 2.0}
PROGRESS = Progress(1.5, LOSSES, 1e-3, rate=50.4, seconds_left=3725, memory="3.0/79.2 GiB")
LINE = (
    "step 3/10  epoch 1.5  loss 3.000 (map 1.000 step 2.000)  lr 1.0e-03  50 images/s  "
    "1:02:05 left  3.0/79.2 GiB"
)


@contextlib.contextmanager
def on(columns: int | None, monkeypatch) -> Iterator[list[str]]:
    """As on a terminal of so many columns: a list that the line gets into where it is shown."""
    monkeypatch.setattr(progress, "moves", lambda: columns is not None)
    lines: list[str] = []
    yield lines
    lines.append(progress._stack[-1](columns))


def test_on_a_terminal_log_steps_only_renew_the_line(capsys, monkeypatch):
    console = Console(10, active=True)
    with console.moving(0), on(140, monkeypatch) as lines:
        lines.append(progress._stack[-1](140))
        console.advance(3)
        console.report(3, PROGRESS)
        console.say("found")
    compiling, line = lines
    assert compiling.startswith("step 0/10  compiling  ╌")
    assert re.fullmatch(rf"{re.escape(LINE)}  ━+╌+", line)
    assert capsys.readouterr().out == "found\n"


def test_in_a_pipe_log_steps_are_lines(capsys):
    console = Console(10, active=True)
    with console.moving(0):
        console.advance(3)
        console.report(3, PROGRESS)
        console.say("found")
    assert capsys.readouterr().out == f"{LINE}\nfound\n"


def test_between_log_steps_the_line_is_renewed_where_somebody_looks(monkeypatch):
    console = Console(10, active=True)
    assert not console.is_stale()
    monkeypatch.setattr(progress, "is_shown", lambda: True)
    assert console.is_stale()
    console.renew(3, PROGRESS)
    assert not console.is_stale()
    assert console(None) == LINE
    assert not Console(10, active=False).is_stale()


def test_other_hosts_say_nothing(capsys):
    console = Console(10, active=False)
    with console.moving(0):
        console.report(3, PROGRESS)
        console.say("found")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (140, rf"{re.escape(LINE)}  ━+╌+"),
        (len(LINE), re.escape(LINE)),
        (len(LINE) - 1, r"step 3/10  epoch .* images/s  1:02:05 left  3.0/79.2 GiB"),
        (80, r"step 3/10  loss 3\.000 \(map 1\.000 step 2\.000\)  50 images/s  1:02:05 left"),
        (60, r"step 3/10  loss 3\.000 \(map 1\.000 step 2\.000\)  1:02:05 left"),
        (50, r"step 3/10  loss 3\.000 \(map 1\.000 step 2\.000\)"),
        (9, r"step 3/10"),
        (5, r"step "),
    ],
)
def test_a_narrow_terminal_loses_whole_parts_the_least_important_first(width, expected):
    console = Console(10, active=True)
    console.renew(3, PROGRESS)
    assert re.fullmatch(expected, console(width))


def test_a_stretch_without_a_readable_image_is_said_so(capsys):
    progress = Progress(0.1, {}, 1e-3, rate=1.0, seconds_left=0, memory="")
    Console(10, active=True).report(3, progress)
    expected = "step 3/10  epoch 0.1  no image counted  lr 1.0e-03  1 images/s  0:00:00 left\n"
    assert capsys.readouterr().out == expected


def test_the_memory_is_that_of_the_fullest_device_where_devices_tell(monkeypatch):
    told = [None, {}, {"peak_bytes_in_use": 2**30, "bytes_limit": 8 * 2**30},
            {"peak_bytes_in_use": 3 * 2**30, "bytes_limit": 8 * 2**30}]  # fmt: skip

    def devices(stats):
        return [SimpleNamespace(memory_stats=lambda each=each: each) for each in stats]

    monkeypatch.setattr(jax, "local_devices", lambda: devices(told))
    assert device_memory() == "3.0/8.0 GiB"
    monkeypatch.setattr(jax, "local_devices", lambda: devices([{"peak_bytes_in_use": 2**29}]))
    assert device_memory() == "0.5 GiB"
    monkeypatch.setattr(jax, "local_devices", lambda: devices(told[:2]))
    assert device_memory() == ""


def test_rate_and_time_left_are_those_of_the_stretch_and_its_seconds_count(monkeypatch):
    now = iter([0.0, 10.0, 10.0, 14.0, 24.0, 30.0, 40.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    clock = Clock(images_a_step=8, last_step=100)
    clock.start(20)
    assert clock.pace(20)[1] is None
    assert clock.pace(22) == (4.0, 156)
    clock.stop()
    clock.start(27)
    clock.stop()
    assert clock.seconds == 24.0
