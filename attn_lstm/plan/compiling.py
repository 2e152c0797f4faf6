"""Asks a process of its own to compile, or to measure: `program.py` is what it runs.

What compiles for TPUs takes this machine's TPU, if there is one, and another backend cannot be
chosen in a process that has begun to compute: neither may disturb whoever plans.
"""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from attn_lstm.errors import UserError

MISSING = "missing"  # instead of facts: what compiles for the device is not installed


@dataclasses.dataclass(frozen=True)
class Request:
    """A step of a run, on all devices together.

    Attributes:
      step: 'train', 'train_frozen' (the backbone rests), 'evaluate' or 'encode' (a frozen
        backbone's features).
      config: of the run, resolved, as a dict.
      target: as --on names it.
      labels: C; images: of the training split.
      batch: images of a call.
    """

    step: str
    config: dict[str, Any]
    target: str
    labels: int
    images: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of one device and one call.

    Attributes:
      flops: of matrix products and convolutions.
      bytes: read from the device's memory and written to it.
      memory: bytes held at once; returned: bytes of the results.
      sent: bytes that devices give to sums over all of them.
      products: how many have operands of which types, as in 'bfloat16 x bfloat16'.
      collectives: how often each kind is called.
      callbacks: what is asked of the host meanwhile.
    """

    flops: float
    bytes: int
    memory: int
    returned: int
    sent: int
    products: dict[str, int]
    collectives: dict[str, int]
    callbacks: list[str]


@dataclasses.dataclass(frozen=True)
class Refused:
    """It does not compile: what the compiler says."""

    reason: str


def compile_step(request: Request) -> Facts | Refused:
    """Compiles a step for devices that need not be there.

    Raises:
      UserError: what compiles for them is not installed.
    """
    answer = _ask("compile", dataclasses.asdict(request))
    if "refused" in answer:
        return Refused(answer["refused"])
    return Facts(**answer)


def measure_machine(config: dict[str, Any]) -> tuple[float, float]:
    """(FLOP/s, bytes/s) of this machine for products of `config.dtype`."""
    answer = _ask("limits", config)
    return answer["peak"], answer["bandwidth"]


def measure_input(config: dict[str, Any]) -> float:
    """Photographs of 640 x 480 pixels that one core of this machine makes ready in a second."""
    return _ask("input", config)["rate"]


def _ask(what: str, question: dict[str, Any]) -> dict[str, Any]:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Asks no cloud what this machine is, and leaves the TPU to others.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "attn_lstm.plan.program", what],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    lines = ended.stdout.splitlines()
    if ended.returncode or not lines:
        # A compiler that ends its process leaves its last words there.
        raise RuntimeError(f"{what} ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
    answer = json.loads(lines[-1])
    if MISSING in answer:
        raise UserError(answer[MISSING])
    return answer
