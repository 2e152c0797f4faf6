r"""All that is measured on an accelerator, part by part, into a folder of JSON and one table.

    python -m benchmarks.on_accelerator [--size=small|large] [--out=runs/on_accelerator] \
        [--minutes=8] [--parts=rows,train]

Needs this checkout, JAX for the accelerator, Flax, Optax, ml_collections, Pillow and PyTorch;
neither TensorFlow nor a network. `small` rehearses it, on CPUs too.

Each part is a benchmark in a process of its own, with its own time; the most telling come first.
PART.json holds its command, how it ended, what it printed and its tables; report.md puts that
together, and is written anew behind every part. What is cut off leaves what it had printed, in
PART.txt if all was cut off. What was compiled is kept, so that a second call with the parts that
are missing takes less.
"""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from attn_lstm import errors
from attn_lstm.errors import UserError
from attn_lstm.storage import read_json, write_json, write_text
from benchmarks import measure


@dataclasses.dataclass(frozen=True)
class Part:
    """A benchmark as it is called here.

    Attributes:
      title: in the report; module: of `benchmarks`.
      seconds: that it has at most.
      large, small: its flags at either size.
      beside_torch: PyTorch takes its turn, on one device, where it can use that.
    """

    title: str
    module: str
    seconds: int
    large: tuple[str, ...]
    small: tuple[str, ...] = ()
    beside_torch: bool = False


def _resnet(pixels: int, rounds: int) -> tuple[str, ...]:
    return "--depth=50", f"--image_size={pixels}", "--batch=64", f"--rounds={rounds}"


_PEER, _OURS = ("--dtypes=bfloat16",), ("--dtype=bfloat16",)
_SMALL = ("--size=small", "--rounds=1")

PARTS = {
    "rows": Part(
        "Every row, beside the CPU", "rows", 110, ("--seconds=70",), ("--rows=order_free,knn",)
    ),
    "train": Part(
        "A training step, beside PyTorch", "train_step", 150,
        (*_resnet(224, 20), *_PEER), _SMALL, beside_torch=True,
    ),
    "inference": Part(
        "Inference, beside PyTorch", "inference", 80,
        (*_resnet(224, 20), *_PEER), _SMALL, beside_torch=True,
    ),
    "after_backbone": Part(
        "What follows the backbone", "beam_search", 60, (*_resnet(448, 20), *_OURS), _SMALL
    ),
    "planning": Part(
        "The plan, beside what is measured", "planning", 90,
        (*_resnet(224, 10), *_OURS), _SMALL,
    ),
    "train_larger": Part(
        "A training step on larger images, beside PyTorch", "train_step", 150,
        (*_resnet(448, 10), *_PEER), (*_SMALL, "--image_size=96"), beside_torch=True,
    ),
    "inference_larger": Part(
        "Inference on larger images, beside PyTorch", "inference", 80,
        (*_resnet(448, 10), *_PEER), (*_SMALL, "--image_size=96"), beside_torch=True,
    ),
    "memory": Part(
        "Memory of a training step", "memory", 120,
        (*_resnet(448, 5), *_OURS, "--held_batches="), (*_SMALL, "--held_batches="),
    ),
}  # fmt: skip

_TOO_LITTLE = 15  # seconds, in which no part gets anywhere


def define_flags(_: Sequence[str]) -> None:
    """Those of this command."""
    flags.DEFINE_enum("size", "large", ["small", "large"], "small: a rehearsal")
    flags.DEFINE_string("out", "runs/on_accelerator", "folder for what is found")
    flags.DEFINE_float("minutes", 8.0, "that all parts have together")
    flags.DEFINE_list("parts", list(PARTS), "which, in this order")


def _backend() -> str:
    """What JAX computes on, 'gpu', 'tpu' or 'cpu', by a process that gives it back."""
    ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()[-1]


def _command(part: Part, backend: str, small: bool) -> list[str]:
    """What a part is called with."""
    given = part.small if small else part.large
    if part.beside_torch:
        kind = {"gpu": "compiled", "cpu": "eager"}.get(backend, "")  # PyTorch has no TPU
        dtypes = ("--dtypes=float32",) if backend == "cpu" else ()
        given = (*given, f"--torch={kind}", *dtypes)
    return [sys.executable, "-m", f"benchmarks.{part.module}", *given]


def _environment(part: Part) -> dict[str, str]:
    changed = {"PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if part.module == "rows":
        # Small programs, of which no time is measured.
        changed["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    else:
        changed["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {**os.environ, **changed}


def run(command: Sequence[str], environment: dict[str, str], at: Path, limit: float) -> dict:
    """Has a command print into the file `at`.txt, which goes when the command has ended.

    Args:
      limit: seconds, behind which it is ended with all that it started.

    Returns:
      how it 'ended': 'done', or why not; what it 'printed', and the end of what it 'said' of that.
    """
    paths = at.with_suffix(".txt"), at.with_suffix(".err")
    with paths[0].open("w") as out, paths[1].open("w") as err:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=err, start_new_session=True
        )
        try:
            code = process.wait(limit)
            ended = "done" if code == errors.DONE else f"ended with {code}"
        except subprocess.TimeoutExpired:
            ended = f"cut off after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    printed, said = (path.read_text() for path in paths)
    for path in paths:
        path.unlink()
    return {"ended": ended, "printed": printed, "said": "" if ended == "done" else said[-4000:]}


def _tables(path: Path) -> list[dict[str, Any]]:
    """What a benchmark wrote with --tables."""
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def report(folder: Path) -> str:
    """Markdown of what the parts have left in the folder so far."""
    sections = []
    for name, part in PARTS.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        found = read_json(path)
        sections.append(f"## {part.title}")
        sections.append(f"    python {' '.join(found['command'][1:])}")
        lines = filter(None, found["printed"].splitlines())
        for in_table, block in itertools.groupby(lines, lambda line: line.startswith("|")):
            sections.append(("\n" if in_table else "\n\n").join(block))
        if found["ended"] != "done":
            sections.append(f"**{found['ended']}**")
    return "\n\n".join(sections) + "\n"


def main() -> int:
    """Runs the parts; returns the exit code."""
    asked = flags.FLAGS
    end = time.monotonic() + 60 * asked.minutes
    if unknown := [name for name in asked.parts if name not in PARTS]:
        raise UserError(f"--parts={','.join(unknown)}: choose of {', '.join(PARTS)}")
    small, backend, folder = asked.size == "small", _backend(), Path(asked.out)
    if backend == "cpu" and not small:
        raise UserError("JAX sees no accelerator here; --size=small rehearses on a CPU")
    # `timeout` ends this one alone: the part that runs then ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(errors.INTERRUPTED))
    folder.mkdir(parents=True, exist_ok=True)
    complete = True
    for name in asked.parts:
        part, start, tables = PARTS[name], time.monotonic(), folder / f"{name}.jsonl"
        command, limit = _command(part, backend, small), min(part.seconds, end - start)
        if limit < _TOO_LITTLE:
            print(f"{name}: no time is left")
            complete = False
            continue
        print(f"{name}: {limit:.0f} s at most", flush=True)
        found = run([*command, f"--tables={tables}"], _environment(part), folder / name, limit)
        found |= {"seconds": round(time.monotonic() - start, 1), "tables": _tables(tables)}
        write_json(folder / f"{name}.json", {"command": command, **found})
        write_text(folder / "report.md", report(folder))
        print(f"{name}: {found['ended']} ({found['seconds']} s)", flush=True)
        complete &= found["ended"] == "done"
    print(folder / "report.md")
    return errors.DONE if complete else 1


if __name__ == "__main__":
    measure.run(main, define_flags)
