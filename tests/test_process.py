"""What a command does to its process, and what importing the package leaves as it is."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from attn_lstm.errors import DONE, INTERRUPTED, MISTAKE, STOPPED, UserError, printable

ROOT = Path(__file__).parents[1]

COMMANDS = {
    "train.py": ["train.py"],
    "eval.py": ["eval.py"],
    "predict.py": ["predict.py"],
    "compare.py": ["compare.py"],
    "export": ["-m", "attn_lstm.export"],
    "demo": ["-m", "attn_lstm", "demo"],
    "statistics": ["-m", "attn_lstm.statistics"],
    "check": ["-m", "attn_lstm.data.check"],
}


def python(code: str, *args: str, **options) -> subprocess.CompletedProcess:
    """A fresh process that runs a program."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        text=True, check=False, cwd=ROOT, **{"stderr": subprocess.PIPE, **options},
    )  # fmt: skip


# --------------------------------------------------------------------------- of a library's manners

SNAPSHOT = """
import ast, contextlib, csv, importlib, logging, os, pkgutil, signal, sys, threading, warnings
from pathlib import Path

def state():
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        "loggers": {
            logger.name: (logger.level, logger.filters[:], logger.propagate, logger.disabled, [
                (handler, handler.level, handler.filters[:], handler.formatter,
                 getattr(handler, "stream", None))
                for handler in logger.handlers
            ])
            for logger in loggers if isinstance(logger, logging.Logger)
        },
        "warnings": warnings.filters[:],
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "csv": csv.field_size_limit(),
        "jax": dict(jax.config.values),
        "folder": os.getcwd(),
    }

# What other libraries change when they are imported is theirs.
for path in Path("attn_lstm").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if not name.startswith("attn_lstm"):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
import jax
jax.devices()
before = state()

import attn_lstm
for module in pkgutil.walk_packages(attn_lstm.__path__, "attn_lstm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

import jax.numpy as jnp
from attn_lstm import load_model, parallel
from attn_lstm.config import resolve
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.rows import create_row
from attn_lstm.runs.checkpoint import Checkpoints
from attn_lstm.runs.opened import Opened
from attn_lstm.runs.workdir import LabelTable
from attn_lstm.serving.model import Model
from configs import digits

config = digits.get_config("resnet_baseline")
config.unlock()
config.data.image_size = 32
config.backbone.name = "small"
config = resolve(config)
row = create_row(config, 2)
variables = row.network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8),
                             emit_most_confident, steps=1)
table = LabelTable("digits", ("a", "b"), (1, 2), 3)
model = Model(Opened(config, row, table, 1, {"batch_stats": {}, **variables}, ""), 0.5,
              parallel.make_mesh(jax.devices()[:1]))
assert len(model.predict([jnp.zeros((40, 30, 3), jnp.uint8).__array__()])) == 1
Checkpoints(Path(sys.argv[1]) / "latest", keep=2).close()
Checkpoints(Path(sys.argv[1]) / "latest", keep=None).close()

after = state()
for what in before:
    there, here = before[what], after[what]
    if what == "loggers":
        assert not any(name.startswith("attn_lstm") for name in here)
        here = {name: here[name] for name in there}
    assert there == here, (what, there, here)
"""


@pytest.mark.slow
def test_importing_and_making_anything_changes_nothing_of_the_process(tmp_path):
    finished = python(SNAPSHOT, tmp_path)
    assert finished.returncode == 0, finished.stderr


HEAVY = ("jax", "flax", "orbax", "tensorflow", "sklearn", "matplotlib")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    # The list that `-X importtime` writes holds every module.
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMANDS[command], "--help"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert finished.returncode == DONE
    assert finished.stdout
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert "attn_lstm" in imported
    assert imported.isdisjoint(HEAVY)


# ------------------------------------------------------------------------------------ of messages


def test_a_message_is_one_line_that_steers_no_terminal():
    error = UserError("a\x1b[2Jb\r\n\x9b31m\u2028 \udcff ü 犬 \u202fend")
    assert str(error) == r"a\x1b[2Jb\r\n\x9b31m\u2028 \udcff ü 犬 " + "\u202fend"
    assert printable("plain, with ünïcode") == "plain, with ünïcode"


def test_warnings_are_lines_that_steer_no_terminal():
    finished = python(r"""
        from attn_lstm import process
        process.settle()
        from absl import logging
        logging.info("not told")
        logging.warning("of %s", "a\x1b[2J\nname")
    """)
    assert finished.stderr == "warning: of a\\x1b[2J\\nname\n"


# ------------------------------------------------------------------------- of the standard streams

WRITES = """
    import os, sys
    from attn_lstm import process
    process.settle(result_on_stdout=RESULT)
    from attn_lstm.errors import UserError
    try:
        for number in range(3):
            print("line", number, flush=True)
        os.write(1, b"of another language\\n")
        print("goes on", file=sys.stderr)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
"""


def writes(result_on_stdout: bool, redirection: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout a shell has directed elsewhere."""
    code = textwrap.dedent(WRITES).replace("RESULT", str(result_on_stdout))
    finished = subprocess.run(
        ["bash", "-c", f'"$1" -c "$2" {redirection}; exit ${{PIPESTATUS[0]}}', "bash",
         sys.executable, code],
        stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    return finished.returncode, finished.stderr


GONE = ["| true", ">&-"] + ([">/dev/full"] if os.path.exists("/dev/full") else [])


@pytest.mark.parametrize("redirection", GONE)
def test_a_command_that_writes_files_goes_on_when_nobody_reads_what_it_says(redirection):
    assert writes(False, redirection) == (DONE, "goes on\n")


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| true", DONE, ""),
        (">&-", MISTAKE, "standard output is closed"),
        pytest.param(
            ">/dev/full", MISTAKE, "standard output cannot be written: No space left on device",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device"),
        ),
    ],
)  # fmt: skip
def test_a_command_whose_result_nobody_can_read_ends(redirection, code, said):
    found, text = writes(True, redirection)
    assert found == code
    assert text.startswith(said)
    assert text.count("\n") == bool(said)


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    code = """
        import sys
        from attn_lstm import process
        process.settle()
        with open(sys.argv[1], "w") as file:
            assert file.fileno() > 2
            print("told")
            print("told", file=sys.stderr)
        assert sys.stdin.read() == ""
    """
    finished = subprocess.run(
        ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash",
         sys.executable, "-c", textwrap.dedent(code), tmp_path / "file"],
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert finished.returncode == DONE
    assert (tmp_path / "file").read_text() == ""


# ------------------------------------------------------------------------------------ of signals

WAITS = """
    import sys, time
    from attn_lstm import process
    process.settle(resumes=RESUMES)
    if IMPORTS:
        sys.path.insert(0, sys.argv[1])
        import lasting
    try:
        print("here", flush=True)
        time.sleep(60)
    finally:
        print("cleared up", flush=True)
"""


@pytest.mark.parametrize("imports", [False, True])
@pytest.mark.parametrize(
    ("number", "resumes", "code", "line"),
    [
        (signal.SIGINT, True, STOPPED, "stopped before a step; nothing is lost"),
        (signal.SIGTERM, True, STOPPED, "stopped before a step; nothing is lost"),
        (signal.SIGINT, False, INTERRUPTED, "interrupted"),
        (signal.SIGTERM, False, -signal.SIGTERM, ""),
    ],
)
def test_a_signal_before_the_work_ends_a_command_without_a_traceback(
    imports, number, resumes, code, line, tmp_path
):
    (tmp_path / "lasting.py").write_text(
        "import time\nprint('here', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    pass  # as some libraries do\n"
    )
    program = WAITS.replace("RESUMES", str(resumes)).replace("IMPORTS", str(imports))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        # A shell has what it starts in the background ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout.readline() == "here\n"
    time.sleep(0.05)
    process.send_signal(number)
    said, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert told.startswith(line)
    assert told.count("\n") == bool(line)
    if code > 0:
        assert said == ("" if imports else "cleared up\n")


def test_a_job_that_ignores_ctrl_c_goes_on_doing_so():
    code = """
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from attn_lstm import process
        process.settle()
        signal.raise_signal(signal.SIGINT)
        print("goes on")
    """
    assert python(code, stdout=subprocess.PIPE).stdout == "goes on\n"
