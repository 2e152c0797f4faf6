"""The line that moves on a terminal, and what a pipe gets in its place."""

import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm import progress
from attn_lstm.progress import Doing, fitted, with_bar

ROOT = Path(__file__).parents[1]


def plain(text: str) -> str:
    """What is left without the terminal's control sequences."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)


def on_terminal(code: str, **environment: str) -> str:
    """What a program writes to a terminal."""
    here, there = pty.openpty()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "TERM": "xterm", **environment}
    with subprocess.Popen(command, stdout=there, stderr=there, cwd=ROOT, env=environment):
        os.close(there)
        written = b""
        try:
            while chunk := os.read(here, 4096):
                written += chunk
        except OSError:  # what a terminal without another end gives
            pass
    os.close(here)
    return written.decode()


PROGRAM = """
    import sys, time
    from attn_lstm import process, progress
    process.settle(result_on_stdout=RESULT)
    with progress.doing("reading") as shown:
        time.sleep(0.5)
        print("of stdout", flush=True)
        time.sleep(0.5)
        print("of stderr", file=sys.stderr)
        time.sleep(0.5)
"""


def test_what_is_written_goes_above_the_line_and_the_line_goes_in_the_end():
    shown = on_terminal(PROGRAM.replace("RESULT", "False"))
    assert re.search(r"reading  \d s", plain(shown))
    for line in ("of stdout", "of stderr"):
        assert re.search(rf"\x1b\[2K{line}\r\n", shown)
    assert shown.endswith("\r\x1b[2K")
    assert shown.count("\n") == 2


def test_a_terminal_that_cannot_move_its_cursor_gets_lines_alone():
    assert on_terminal(PROGRAM.replace("RESULT", "False"), TERM="dumb") == (
        "of stdout\r\nof stderr\r\n"
    )


@pytest.mark.parametrize("result_on_stdout", [False, True])
def test_a_pipe_gets_a_line_now_and_then_where_the_command_speaks(result_on_stdout):
    program = PROGRAM.replace("RESULT", str(result_on_stdout)).replace(
        "process.settle", "progress._SILENCE = 0.2; process.settle"
    )
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    result, said = finished.stdout, finished.stderr
    if not result_on_stdout:
        result, said = said, result
    assert result == f"of {'stdout' if result_on_stdout else 'stderr'}\n"
    told = re.sub(r" \d+ s$", "", said, flags=re.MULTILINE).splitlines()
    assert told.count("reading ") >= 2
    assert {*told} <= {"starting ", "reading ", "of stdout", "of stderr"}


def test_nothing_is_shown_where_no_command_asks_for_it(capfd):
    with progress.doing("reading", 3) as shown, progress.above():
        shown.advance(2)
    assert not progress.is_shown() and not progress.moves()
    assert capfd.readouterr() == ("", "")


def test_the_pace_leaves_out_what_is_done_once_before_the_first(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    doing = Doing("computing", 100)
    now = 60.0
    assert doing(None) == "computing  60 s"
    for done in range(1, 11):  # the first batch, which compiled
        doing.advance(done)
    assert doing(None) == "computing  10/100"
    now = 62.0
    doing.advance(20)
    assert doing(None) == "computing  20/100  5.0 images/s  0:00:16 left"
    now = 64.0
    assert doing(80).startswith("computing  20/100  2.5 images/s  0:00:32 left  ━")
    assert doing(20) == "computing  20/100"


def test_batches_count_when_they_are_computed_not_when_they_are_taken(monkeypatch):
    told = []
    monkeypatch.setattr(Doing, "advance", lambda self, done: told.append(done))
    batches = progress.counted(iter("abcd"), lambda _: 8, "evaluating", 30)
    assert "".join(batches) == "abcd"
    assert told == [24, 32]


PARTS = st.lists(st.tuples(st.integers(0, 9), st.text("ab ", min_size=1)), min_size=1)


@given(PARTS, st.integers(1, 200), st.integers(0, 9), st.integers(0, 9))
def test_a_line_is_never_wider_than_the_terminal(parts, columns, done, total):
    text = fitted(parts, columns)
    assert len(text) <= columns
    assert len(with_bar(text, min(done, total), total, columns)) <= columns
    assert fitted(parts, None) == "  ".join(part for _, part in parts)


def test_the_line_comes_before_anything_heavy_is_imported():
    """Of every command: the module that shows it, and signals, import nothing of others."""
    code = (
        "import sys; import attn_lstm.commands; "
        "print(*{m.partition('.')[0] for m in sys.modules} - {*sys.stdlib_module_names})"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert {name for name in said if not name.startswith(("__", "_distutils"))} == {"attn_lstm"}
