r"""Images a second of inference: ours, and the same network in PyTorch.

    python -m benchmarks.inference [--size=small|medium|large] [--depth=N] [--image_size=PIXELS] \
        [--batch=N] [--rounds=N] [--dtypes=float32,bfloat16] [--torch=eager,compiled]

Both run the network with the same weights and emit the most confident label T times. Before any
timing their logits, labels and attention must agree in float32, and so must the path that our
search finds with a beam of 1. Our prediction with a beam of 3 stands beside them.
"""

import statistics
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import torch

from attn_lstm import errors
from attn_lstm.label_pool import emit_most_confident
from attn_lstm.models.network import Network
from attn_lstm.plan.flops import matmul_flops
from attn_lstm.rows import Row
from benchmarks import measure, torch_peer, workload
from benchmarks.roofline import floor

_BEAM = 3


def _greedy(network: Network, variables: dict, images: jax.Array, steps: int) -> tuple:
    """Label logits, step logits [B,T,C], labels int32[B,T] and attention [B,T,K]."""
    outputs = network.apply(variables, images, emit_most_confident, steps)
    unrolled = outputs.unrolled
    return outputs.label_logits, unrolled.logits, unrolled.labels, unrolled.attention


def _search(row: Row, variables: dict, images: jax.Array) -> tuple:
    """The best path without a threshold: labels int32[B,T] and attention [B,T,K]."""
    found = row.search(variables, images, 0.0)
    return found.sequence, found.attention


def _theirs(
    peer: torch_peer.Peer, images: jax.Array, kind: str, dtype: str
) -> Callable[[], tuple[torch.Tensor, ...]]:
    """What `_greedy` returns, by the peer; on the device."""
    forward = torch_peer.run_as(peer.eval(), kind, dtype)
    images = torch_peer.to_device(images)

    def run() -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            found = forward(images)
            torch_peer.wait()
        return found

    return run


# By compute type, of the largest logit.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}


def _check_map(ours: jax.Array, theirs: torch.Tensor, dtype: str) -> None:
    """Raises `AssertionError` unless M_map says the same on both sides."""
    other, tolerance = theirs.cpu().numpy(), _TOLERANCES[dtype]
    np.testing.assert_allclose(ours, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


def _check_steps(ours: tuple, theirs: tuple, path: tuple) -> None:
    """Raises `AssertionError` unless both decoders, and our search, say the same in float32."""
    tolerance = _TOLERANCES["float32"]
    largest = np.abs(theirs[1]).max()
    np.testing.assert_allclose(ours[1], theirs[1], rtol=tolerance, atol=tolerance * largest)
    for labels, attention in (theirs[2:], path):
        # Two labels may be as likely as each other up to rounding.
        same = (ours[2] == labels).all(axis=1)
        assert same.mean() > 0.9, f"only {same.mean():.0%} of the greedy paths are the same"
        np.testing.assert_allclose(ours[3][same], attention[same], rtol=1e-2, atol=1e-6)


def main() -> int:
    """Prints the table; returns the exit code."""
    size = workload.chosen_size()
    images = workload.random_images(size.batch, size.image_size)
    variables = workload.create_variables(workload.configure(size))
    print(f"{measure.machine()}; PyTorch {torch.__version__}\n{size}")
    sides, floors = {}, {}
    for dtype in torch_peer.DTYPES.value:
        wide, narrow = (
            workload.row_of(workload.configure(size, dtype=dtype, search__beam_size=beam))
            for beam in (_BEAM, 1)
        )
        greedy = workload.jit(partial(_greedy, wide.network, steps=size.steps))
        compiled = greedy.lower(variables, images).compile()
        floors[dtype] = matmul_flops(greedy, variables, images), measure.cost(compiled)[1]
        sides["ours", dtype] = partial(compiled, variables, images)
        sides[f"ours, beam of {_BEAM}", dtype] = partial(
            workload.jit(partial(_search, wide)), variables, images
        )
        for kind in torch_peer.KINDS.value:
            peer = torch_peer.create_peer(variables, size)
            theirs = _theirs(peer, images, kind, dtype)
            ours, others = jax.device_get(sides["ours", dtype]()), theirs()
            _check_map(ours[0], others[0], dtype)
            if dtype == "float32":  # in others two labels are as likely as each other too often
                path = workload.jit(partial(_search, narrow))(variables, images)
                _check_steps(ours, tuple(x.cpu().numpy() for x in others), jax.device_get(path))
            sides[f"PyTorch, {kind}", dtype] = theirs
    seconds = measure.alternate(sides, workload.ROUNDS.value)
    rows = []
    for (name, dtype), times in seconds.items():
        median = statistics.median(times)
        ratio = measure.median_ratio(times, of=seconds["ours", dtype])
        shown = f"{1e3 * median:.0f}", f"{size.batch / median:.1f}", f"{ratio:.2f}"
        rows.append((f"{name}, {dtype}", *shown))
    columns = ("inference", "ms (median)", "images/s", "time / ours")
    measure.print_table(f"ResNet-{size.depth} and attention LSTM", columns, rows)
    for dtype, (flops, bytes_) in floors.items():
        print(floor(flops, bytes_, dtype)[1])
    return errors.DONE


if __name__ == "__main__":
    measure.run(main)
