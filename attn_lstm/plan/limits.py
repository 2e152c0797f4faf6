"""What the machine at hand can do at most."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from attn_lstm.compilation import with_whole_products

_ROUNDS = 7


def measure_limits(dtype: str) -> tuple[float, float]:
    """(FLOP/s, bytes/s) of the first device, measured: by a matrix product and a sum.

    No step takes less time than its FLOPs over the first, nor than its bytes over the second.

    Args:
      dtype: of what is multiplied.
    """
    on_cpu = jax.default_backend() == "cpu"
    side, elements = (2048, 2**26) if on_cpu else (8192, 2**28)
    square = jnp.full((side, side), 0.5, dtype)
    vector = jnp.zeros(elements, jnp.float32)
    multiply = jax.jit(with_whole_products(jnp.matmul))
    # In place: new memory would be measured by how fast the system hands it out.
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)

    def add() -> jax.Array:
        nonlocal vector
        vector = add_one(vector)
        return vector

    product, sum_ = _median_seconds(lambda: multiply(square, square)), _median_seconds(add)
    return 2 * side**3 / product, 2 * vector.nbytes / sum_


def _median_seconds(function: Callable[[], jax.Array]) -> float:
    function().block_until_ready()  # compiles
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        function().block_until_ready()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
