"""Compiled functions are kept between starts, and nobody is hindered where they cannot be."""

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import jax
from attn_lstm import cli

hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
)

def main():
    jax.jit(lambda x: jax.numpy.sort(x @ x))(jax.numpy.ones((64, 64))).block_until_ready()
    print(len(hits))
    return cli.DONE

cli.run(main, lambda _: None, ["program"], "")
"""


def start(**environment: Path) -> int:
    """Runs a program that compiles, which must end well; returns how much it found compiled."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={
            **inherited,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **{name: str(path) for name, path in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return int(finished.stdout)


def kept(folder: Path) -> set[Path]:
    return set(folder.rglob("jit__lambda*-cache"))


def test_a_second_start_finds_what_the_first_compiled(tmp_path):
    assert start(XDG_CACHE_HOME=tmp_path) == 0
    assert kept(tmp_path / "attn_lstm")
    assert start(XDG_CACHE_HOME=tmp_path) > 0


def test_a_folder_that_jax_was_told_of_is_used(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    start(XDG_CACHE_HOME=mine, JAX_COMPILATION_CACHE_DIR=theirs)
    assert kept(theirs)
    assert not mine.exists()


def test_where_nothing_can_be_kept_programs_run_as_well(tmp_path):
    (tmp_path / "file").touch()
    assert start(XDG_CACHE_HOME=tmp_path / "file") == 0
