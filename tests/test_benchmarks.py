"""The benchmarks run, and count what they say they count."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from attn_lstm.plan.flops import matmul_flops
from benchmarks import on_accelerator

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
def test_what_an_accelerator_is_measured_by_is_rehearsed(tmp_path):
    parts = {
        "rows": ["order_free", "knn"],
        # PyTorch must have computed the same numbers before it is timed.
        "train": ["ours, float32", "PyTorch, eager, float32"],
        "inference": ["ours, beam of 3, float32", "PyTorch, eager, float32"],
        "after_backbone": ["ResNet-18 at 64 pixels", "3 steps, beam of 3"],
        "memory": ["backbone learns", "backbone frozen"],
    }
    command = [ROOT / "benchmarks/on_accelerator.sh", "--size=small", f"--out={tmp_path}",
               "--minutes=60", f"--parts={','.join(parts)}"]  # fmt: skip
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "report.md").read_text()
    for name, rows in parts.items():
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert {*rows} <= {row[0] for row in found["tables"][0]["rows"]}
        assert all(f"| {row} " in report for row in rows)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}


def test_a_part_that_is_cut_off_leaves_what_it_had_printed(tmp_path):
    slow = ["sh", "-c", "echo '| found |'; sleep 600"]
    found = on_accelerator.run(slow, {**os.environ}, tmp_path / "rows", 1)
    assert found["printed"] == "| found |\n"
    (tmp_path / "rows.json").write_text(json.dumps({"command": ["python", "-m", "it"], **found}))
    report = on_accelerator.report(tmp_path)
    assert "    python -m it\n\n| found |\n\n**cut off after 1 s**\n" in report


@pytest.mark.slow
def test_a_benchmark_prints_its_table():
    assert "| the compiled step alone " in run("loop_overhead", "--size=small", "--calls=2")


@pytest.mark.slow
def test_the_input_pipeline_is_timed_beside_a_decoder_on_the_same_files(coco_folder):
    printed = run("input_pipeline", f"--images={coco_folder}", "--count=64", "--image_size=32")
    assert "58 JPEGs of 40 x 40 pixels (median)" in printed
    for row in ("the bare decoder", "the pipeline, boxes and flips"):
        assert f"| {row} " in printed
