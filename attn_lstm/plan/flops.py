"""FLOPs of a function's matrix products and convolutions, loops and all."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(function: Callable[..., Any], *args: Any, trips: int = 1) -> float:
    """FLOPs of one call's matrix products and convolutions, two for each multiply-add.

    XLA's own count has the body of every loop once, however often that runs.

    Args:
      function, args: it is traced, not run; under `shard_map` one device's share is counted.
      trips: how often a `while_loop`, which does not say so itself, goes round.
    """
    compiles = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    return flops_of(compiles.trace(*args), trips)


def flops_of(traced: jax.stages.Traced, trips: int = 1) -> float:
    """As `matmul_flops`, of a function that is traced already."""
    return _count(traced.jaxpr.jaxpr, trips)


def _count(jaxpr: Jaxpr, trips: int) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot_general(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        else:
            inner = sum(_count(part, trips) for part in _inner(equation.params))
            times = {"scan": equation.params.get("length", 1), "while": trips}
            total += inner * times.get(name, 1)
    return total


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part


def _dot_general(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel = equation.invars[1].aval
    features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    # Of a dilated input most entries are zeros that stand for nothing.
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2.0 * equation.outvars[0].aval.size * kernel.size / features / dilation
