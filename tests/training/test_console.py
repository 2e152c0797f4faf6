"""What a person sees of a run: on a pseudo-terminal, and in a pipe."""

import io
import logging
import re
import sys
from types import SimpleNamespace

import jax
import pytest
from absl import logging as absl_logging
from rich.console import Console as RichConsole

from attn_lstm.training import console as module
from attn_lstm.training.console import Clock, Console, Progress, device_memory

LOSSES = {"map": 1.0, "step": 2.0}
PROGRESS = Progress(1.5, LOSSES, 1e-3, rate=50.4, seconds_left=3725, memory="3.0/79.2 GiB")
LINE = (
    "step 3/10  epoch 1.5  loss 3.000 (map 1.000 step 2.000)  lr 1.0e-03  50 images/s  "
    "1:02:05 left  3.0/79.2 GiB"
)


def plain(text: str) -> str:
    """What is left without the terminal's control sequences."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)


def test_on_a_terminal_one_line_moves_below_those_that_stay(terminal):
    console = Console(10, active=True)
    with terminal() as written:
        console.say("the beginning")
        with console.moving(0):
            console.advance(3)
            console.report(3, PROGRESS)
            console.say("[bold] is no markup, and a long line " + 20 * "is never broken ")
            with console.doing("validating"):
                console.say("found")
        console.say("the end")
    (shown,) = written
    assert shown.startswith("the beginning\r\n")
    assert shown.endswith("the end\r\n")
    assert f"{LINE}  " in plain(shown)
    assert "step 3/10  validating  " in plain(shown)
    assert "[bold] is no markup, and a long line " + 20 * "is never broken " in plain(shown)
    # The line goes with the block, and gives the cursor back.
    assert shown.rindex("\x1b[2K") > shown.rindex("step 3/10")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_the_line_is_gone_and_the_cursor_back_after_an_error(terminal):
    console = Console(10, active=True)
    with terminal() as written:
        with pytest.raises(KeyError), console.moving(0):
            raise KeyError
        console.say("the end")
    (shown,) = written
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert shown.endswith("the end\r\n")


def test_warnings_go_above_the_line(terminal):
    handler = absl_logging.get_absl_handler()
    before = handler.python_handler.stream
    logging.root.addHandler(handler)
    try:
        with terminal() as written:
            handler.python_handler.setStream(sys.stderr)  # as absl keeps it from its import on
            with Console(10, active=True).moving(0):
                absl_logging.warning("an image is left out")
            absl_logging.warning("another one is")
            handler.python_handler.setStream(before)
    finally:
        logging.root.removeHandler(handler)
    first, last = re.findall(r".*W\d{4} .*", written[0])
    after_erasure = plain(first.rpartition("\x1b[2K")[2])
    assert re.fullmatch(r"W\d{4} .*an image is left out\r", after_erasure)
    assert re.search(r"W\d{4} .*another one is\r$", last)


def test_in_a_pipe_there_are_lines_and_nothing_else(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(10, active=True)
    with console.moving(0):
        console.advance(3)
        console.report(3, PROGRESS)
        with console.doing("validating"):
            console.say("found")
    assert capsys.readouterr().out == f"{LINE}\nfound\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = Console(10, active=True)
    with terminal() as written, console.moving(0):
        console.report(3, PROGRESS)
    assert written == [f"{LINE}\r\n"]


def test_other_hosts_say_nothing(terminal):
    console = Console(10, active=False)
    with terminal() as written, console.moving(0):
        console.report(3, PROGRESS)
        console.say("found")
    assert written == [""]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (140, rf"{re.escape(LINE)}  ━+"),
        (len(LINE), re.escape(LINE)),
        (len(LINE) - 1, r"step 3/10  epoch .* images/s  1:02:05 left  3.0/79.2 GiB"),
        (60, r"step 3/10  loss 3\.000 \(map 1\.000 step 2\.000\)  1:02:05 left"),
        (50, r"step 3/10  loss 3\.000 \(map 1\.000 step 2\.000\)"),
        (9, r"step 3/10"),
        (5, r"step"),
    ],
)
def test_a_narrow_terminal_loses_whole_parts_the_least_important_first(width, expected):
    console = Console(10, active=True)
    console.report(3, PROGRESS)
    stream = io.StringIO()
    RichConsole(width=width, file=stream, force_terminal=True, color_system=None).print(console)
    assert re.fullmatch(expected, stream.getvalue().rstrip("\n").rstrip())


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


def test_rate_and_time_left_are_those_of_the_stretch(monkeypatch):
    now = iter([0.0, 10.0, 14.0, 14.0, 114.0, 114.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    clock = Clock(images_a_step=8, last_step=100)
    clock.start(20)
    assert clock.lap(22) == (4.0, 156)
    assert clock.lap(72) == (4.0, 56)
