"""Seconds from the command to the end of the first training step, on the embedded digits.

    python -m benchmarks.start_up [--method=order_free] [--rounds=5]

Cold starts compile everything and keep it; warm ones find it on disk. The system's own cache of
files is warm in both. Beside them stand the imports that no start can do without.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from absl import app, flags

from benchmarks import measure

_METHOD = flags.DEFINE_string("method", "order_free", "row that is trained")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "starts of each kind")

_ROOT = Path(__file__).parents[1]


def _import(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True, capture_output=True)


def _start(folder: Path) -> None:
    """Starts a training whose compiled functions lie in the folder, until its first step is done.

    Raises:
      RuntimeError: it ended before.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    with tempfile.TemporaryDirectory() as workdir:
        process = subprocess.Popen(
            [
                sys.executable,
                "train.py",
                f"--config=configs/digits.py:{_METHOD.value}",
                f"--workdir={workdir}/run",
                "--config.train.log_every=1",
            ],
            cwd=_ROOT,
            env={**inherited, "XDG_CACHE_HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            printed = []
            for line in process.stdout:
                printed.append(line)
                if line.startswith("step 1/"):
                    process.kill()
                    return
    raise RuntimeError("".join(printed))


def _start_cold() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _start(Path(folder))


def main(_: list[str]) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as compiled:
        _start(Path(compiled))
        sides: dict[str, Callable[[], None]] = {
            "import jax": partial(_import, "jax"),
            "import tensorflow": partial(_import, "tensorflow"),
            "train.py, cold": _start_cold,
            "train.py, warm": partial(_start, Path(compiled)),
        }
        seconds = measure.alternate(sides, _ROUNDS.value, warm_up=0)
    print(measure.machine())
    title = f"Start to first step, {_METHOD.value} on digits, {_ROUNDS.value} rounds"
    measure.print_seconds(title, seconds, digits=1)


if __name__ == "__main__":
    app.run(main)
