"""Kills a real train.py again and again, and compares how it ends with a run that nobody disturbed.

    python tests/training/kill_harness.py --sigkill=20 --sigterm=10

trains a row of `configs/digits.py`, made small. Compared are the last and the best checkpoint
(parameters, optimizer, everything), the metrics log byte for byte, and the image ids of each step.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[2]

# train.py as it is, with a note of the image ids of every batch that the loop is handed.
RECORDED = """
import json, os, runpy, sys
from attn_lstm.data import pipeline

original = pipeline.train_batches

def recorded(*args, start_step, **kwargs):
    for step, batch in enumerate(original(*args, start_step=start_step, **kwargs), start_step):
        with open(os.environ["RECORD"], "a") as file:
            file.write(json.dumps([step, batch.image_id.tolist()]) + "\\n")
        yield batch

pipeline.train_batches = recorded
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""

# Small enough that a checkpoint is nearly always being written. No interval divides another.
FIELDS = {
    "data.image_size": 32,
    "decoder.hidden": 16,
    "decoder.attention": 8,
    "train.batch_size": 8,
    "train.log_every": 3,
    "train.checkpoint_every": 4,
    "train.eval_every": 31,
}

_STRIDE = 12  # steps from one signal to the next, about
_STARTING = 0.2  # part of the signals that is sent before the first step
_LIMIT = 7200  # seconds that a start may take, on a computer with much else to do


class Life:
    """A work directory and the record beside it, over as many starts as it takes.

    Args:
      folder: made here.
      row: of the tables.
      steps: of the whole run.
      compiled: folder of compiled functions, so that a start takes seconds.
    """

    def __init__(self, folder: Path, row: str, steps: int, compiled: Path):
        folder.mkdir()
        self.workdir, self.steps = folder / "run", steps
        self._record, self._errors = folder / "record.jsonl", folder / "stderr.txt"
        self._environment = {
            **os.environ,
            "RECORD": str(self._record),
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        fields = {**FIELDS, "train.steps": steps}
        self._flags = [f"--config=configs/digits.py:{row}", f"--workdir={self.workdir}"]
        self._flags += [f"--config.{name}={value}" for name, value in fields.items()]

    def start(self) -> None:
        with self._errors.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RECORDED, *self._flags],
                cwd=ROOT,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._watchdog = threading.Timer(_LIMIT, self.process.kill)
        self._watchdog.start()

    def wait_for(self, step: int) -> bool:
        """Returns when the log has come to a step; False if the run ended before."""
        for line in self.process.stdout:
            logged = re.match(r"step (\d+)/", line)
            if logged and int(logged[1]) >= step:
                return True
        return False

    def finish(self) -> None:
        """Goes on undisturbed to the last step, or to what is left to do behind it."""
        self.start()
        self.end(0)

    def end(self, *codes: int) -> tuple[int, str]:
        """Waits for the end with one of these exit codes; returns it and what was said last."""
        said = self.process.stdout.read()
        code = self.process.wait()
        self._watchdog.cancel()
        assert code in codes, f"exit code {code}: {said} {self._errors.read_text()}"
        return code, said

    def newest_step(self) -> int:
        """Of the checkpoints, 0 without any."""
        return max((int(path.name) for path in self._checkpoints("latest")), default=0)

    def has_draft(self) -> bool:
        """Whether something that is no whole checkpoint lies there."""
        return any((self.workdir / "checkpoints").glob("*/*.orbax-checkpoint-tmp*"))

    def batches(self) -> dict[int, list[int]]:
        """The image ids by step; a step that was fed again must have had the same."""
        found: dict[int, list[int]] = {}
        for line in self._record.read_text().splitlines():
            try:
                step, ids = json.loads(line)
            except ValueError:
                continue  # killed within the line
            assert found.setdefault(step, ids) == ids, f"step {step} has other images after a kill"
        return found

    def checkpoint(self, kind: str) -> dict[str, Any]:
        """Every array and the JSON of the newest checkpoint, 'latest' or 'best'."""
        newest = max(self._checkpoints(kind), key=lambda path: int(path.name))
        tree = {"step": int(newest.name)}
        with ocp.StandardCheckpointer() as reader:
            for item in ("variables", "progress"):
                tree[item] = reader.restore(newest / item)
        tree["meta"] = json.loads((newest / "meta" / "metadata").read_text())
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

    def _checkpoints(self, kind: str) -> list[Path]:
        return [p for p in (self.workdir / "checkpoints" / kind).glob("*") if p.name.isdecimal()]


def compare(disturbed: Life, whole: Life) -> None:
    """Raises `AssertionError` at the first difference."""
    assert disturbed.newest_step() == whole.newest_step() == whole.steps
    for kind in ("latest", "best"):
        expected, found = whole.checkpoint(kind), disturbed.checkpoint(kind)
        assert expected.keys() == found.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=f"{kind} {name}")
    log, expected = ((life.workdir / "metrics.jsonl").read_bytes() for life in (disturbed, whole))
    assert log == expected, "metrics.jsonl differs"
    fed, wanted = disturbed.batches(), whole.batches()
    for step in range(whole.steps):
        assert fed[step] == wanted[step], f"step {step} has other images"


def harass(folder: Path, row: str, signals: Sequence[int], seed: int) -> dict[str, int]:
    """Sends each signal at a random moment, starts the run again, and compares how it ends.

    Args:
      folder: empty.
      row: of the tables.
      signals: in the order in which they are sent.
      seed: of the moments. Most of them lie a random time behind a random step.

    Returns:
      how many signals of each kind were sent, how many of them while the run started and while it
      wrote a checkpoint, and how many runs were compared.

    Raises:
      AssertionError: a run that ended with another code than its signal's, or other than the
        undisturbed one.
    """
    rng = random.Random(seed)
    steps = _STRIDE * (len(signals) + 1)
    whole = Life(folder / "undisturbed", row, steps, folder / "compiled")
    whole.start()
    assert whole.wait_for(1)
    first_step = time.monotonic()
    whole.end(0)
    period = FIELDS["train.checkpoint_every"] * (time.monotonic() - first_step) / steps
    counts = {"SIGKILL": 0, "SIGTERM": 0, "while starting": 0, "while saving": 0, "runs": 0}
    life = Life(folder / "life-0", row, steps, folder / "compiled")
    start_seconds = 0.0  # until the first step, when it is known
    waiting = list(signals)
    while waiting:
        begun, before = time.monotonic(), life.newest_step()
        life.start()
        starting = bool(start_seconds) and rng.random() < _STARTING
        if starting:
            time.sleep(rng.uniform(0.1, start_seconds))
        elif life.wait_for(before + 1):
            start_seconds = time.monotonic() - begun
            if life.wait_for(before + rng.randint(1, _STRIDE - 3)):
                time.sleep(rng.uniform(0, period))
        sent = waiting[0]
        life.process.send_signal(sent)
        code, said = life.end(0, 75, -sent)
        if life.newest_step() == steps:  # this computer was faster than its clock had told
            life.finish()
            compare(life, whole)
            counts["runs"] += 1
            life = Life(folder / f"life-{counts['runs']}", row, steps, folder / "compiled")
            continue
        if sent == signal.SIGKILL:
            assert code == -sent, said
            counts["while saving"] += life.has_draft()
        else:
            # While Python itself starts, nobody hears it yet.
            assert (code == 75 and "stopped" in said) or (code == -sent and starting), said
        waiting.pop(0)
        counts[signal.Signals(sent).name] += 1
        counts["while starting"] += starting
    life.finish()
    compare(life, whole)
    counts["runs"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", default="order_free")
    parser.add_argument("--sigkill", type=int, default=20)
    parser.add_argument("--sigterm", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signals = [signal.SIGKILL] * given.sigkill + [signal.SIGTERM] * given.sigterm
    random.Random(given.seed).shuffle(signals)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = harass(Path(folder), given.row, signals, given.seed)
    told = ", ".join(f"{number} {name}" for name, number in counts.items())
    print(f"{told} compared: all equal ({time.monotonic() - begun:.0f} s)")


if __name__ == "__main__":
    main()
