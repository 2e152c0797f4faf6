"""Seconds from the command to the first prediction, and what from Python.

    python -m benchmarks.first_prediction --workdir=RUN --image=FILE [--rounds=5]

Cold starts compile and keep; warm ones find it on disk. Each is a process of its own.
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

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
_IMAGE = flags.DEFINE_string("image", None, "an image (required)", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "starts of each kind")

_ROOT = Path(__file__).parents[1]
_LOAD = """
import sys, attn_lstm
attn_lstm.load_model(sys.argv[1]).predict([sys.argv[2]])
"""


def _run(folder: Path, *arguments: str) -> None:
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    subprocess.run(
        [sys.executable, *arguments],
        cwd=_ROOT,
        env={**inherited, "XDG_CACHE_HOME": str(folder)},
        check=True,
        capture_output=True,
    )


def _run_cold(*arguments: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), *arguments)


def main(_: list[str]) -> None:
    """Prints the table."""
    run, image = (str(Path(path).absolute()) for path in (_WORKDIR.value, _IMAGE.value))
    predict = ("predict.py", f"--workdir={run}", image)
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        _run(folder, *predict)
        sides: dict[str, Callable[[], None]] = {
            "import jax": partial(_run, folder, "-c", "import jax"),
            "predict.py --help": partial(_run, folder, "predict.py", "--help"),
            "predict.py, one image, cold": partial(_run_cold, *predict),
            "predict.py, one image, warm": partial(_run, folder, *predict),
            "load_model and a prediction, warm": partial(_run, folder, "-c", _LOAD, run, image),
        }
        seconds = measure.alternate(sides, _ROUNDS.value, warm_up=0)
    print(measure.machine())
    title = f"Start to the first prediction, {_ROUNDS.value} rounds"
    measure.print_seconds(title, seconds, digits=2)


if __name__ == "__main__":
    app.run(main)
