"""The benchmarks run, and count what they say they count."""

import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from attn_lstm.plan.flops import matmul_flops

ROOT = Path(__file__).parents[1]


def test_flops_of_products_convolutions_and_loops_are_those_by_hand():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    assert matmul_flops(jnp.matmul, a, b) == 2 * 3 * 5 * 7

    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 6))
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    once = 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)
    assert matmul_flops(convolve, x, kernel) == once
    both = jax.grad(lambda x, kernel: convolve(x, kernel).sum(), argnums=(0, 1))
    # The gradient by x is a convolution of the result's gradient with holes in it; by the kernel,
    # one of x with it.
    assert matmul_flops(both, x, kernel) == pytest.approx(3 * once, rel=0.05)

    square = jnp.zeros((4, 4))
    power = lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=6)[0]  # noqa: E731
    assert matmul_flops(power, square) == 6 * 2 * 4**3
    until = lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ x, x)  # noqa: E731
    assert matmul_flops(jax.jit(until), square, trips=5) == 5 * 2 * 4**3


def test_flops_of_a_layer_are_counted_within_its_module():
    layer = nn.Dense(7)
    x = jnp.zeros((3, 5))
    variables = layer.init(jax.random.key(0), x)
    assert matmul_flops(layer.apply, variables, x) == 2 * 3 * 5 * 7


def run(name: str, *arguments: str) -> str:
    """What a benchmark prints, in a process of its own: flags are global."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--rounds=1", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_step", "inference"])
def test_pytorch_computes_the_same_numbers_before_it_is_timed(name):
    printed = run(name, "--size=small", "--torch=eager", "--dtypes=float32")
    for row in ("ours, float32", "PyTorch, eager, float32"):
        assert f"| {row} " in printed
    assert " ms at least" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("beam_search", [], ["ResNet-18 at 64 pixels", "3 steps, beam of 3"]),
        ("loop_overhead", ["--calls=2"], ["the compiled step alone"]),
    ],
)
def test_a_benchmark_prints_its_table(name, arguments, rows):
    printed = run(name, "--size=small", *arguments)
    for row in rows:
        assert f"| {row} " in printed


@pytest.mark.slow
def test_the_input_pipeline_is_timed_beside_a_decoder_on_the_same_files(coco_folder):
    printed = run("input_pipeline", f"--images={coco_folder}", "--count=64", "--image_size=32")
    assert "58 JPEGs of 40 x 40 pixels (median)" in printed
    for row in ("the bare decoder", "the pipeline, boxes and flips"):
        assert f"| {row} " in printed
