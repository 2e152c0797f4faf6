"""What is told of an update in which something is not finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from attn_lstm.runs.state import LeftOut


def describe(left_out: LeftOut, schedule: optax.Schedule, images: Sequence[str]) -> dict[str, Any]:
    """The last update that was left out, in JSON's types.

    Args:
      left_out: of the training state, with at least one update.
      schedule: learning rate by updates that were applied.
      images: names of those in its batch.

    Returns:
      'step', 'not_finite' (what is not: parts of the loss, gradients of groups of parameters, or
      where those are fine the updated state), 'learning_rate', 'loss' and 'gradient_norm' by name
      (a number, or 'nan', 'inf', '-inf'), 'left_out' (updates so far) and 'images'.
    """
    left_out = jax.device_get(left_out)
    losses = {f"loss {name}": value for name, value in left_out.losses.items()}
    norms = {f"gradient of {name}": value for name, value in left_out.norms.items()}
    wrong = [name for name, value in {**losses, **norms}.items() if not math.isfinite(value)]
    step, count = int(left_out.step), int(left_out.count)
    return {
        "step": step,
        "not_finite": wrong or ["updated state"],
        "learning_rate": float(schedule(step - count)),
        "loss": _numbers(left_out.losses),
        "gradient_norm": _numbers(left_out.norms),
        "left_out": count,
        "images": list(images),
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, float | str]:
    """JSON has no number that is not finite."""
    return {
        name: float(value) if math.isfinite(value) else str(float(value))
        for name, value in values.items()
    }
