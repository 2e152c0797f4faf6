"""Writes a trained network for other programs: images in, labels out, the search inside.

    attn-lstm export --workdir=runs/digits
    attn-lstm export --workdir=runs/digits --step=latest --output=served
    attn-lstm export --workdir=runs/digits --format=onnx

Writes into WORKDIR/export, in the place of an earlier export: the program (model.jax_export, which
JAX alone loads, or model.onnx for onnxruntime and others, which needs attn_lstm[onnx] to be
written), model.json (label names, what goes in and comes out), the weights (model.safetensors) and
a model card (README.md). docs/export.md shows how to load it. τ is found as `eval` finds it: run
`eval --tune` first. Exit codes: 0 done, 2 a mistake in flags, config or files.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from attn_lstm import cli, errors
from attn_lstm.errors import UserError

_NO_SAVED_MODEL = (
    "--format=saved_model: no released TensorFlow (2.21 is the newest) reads what JAX writes now: "
    "it refuses the search's top-k (StableHLO 1.15). Give --format=stablehlo, which JAX alone "
    "loads, or --format=onnx; docs/export.md says more"
)


def define_flags(argv: Sequence[str]) -> None:
    """Defines the flags; `argv` are the raw arguments."""
    flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
    flags.DEFINE_enum("format", "stablehlo", ["stablehlo", "onnx", "saved_model"], "of the program")
    flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
    flags.DEFINE_string("output", None, "folder to write; default: WORKDIR/export")
    cli.define_workdir_config(argv)


def main() -> int:
    """Exports; returns the exit code."""
    from attn_lstm.export.bundle import export_run

    given = flags.FLAGS
    if given.format == "saved_model":
        raise UserError(_NO_SAVED_MODEL)
    workdir = Path(given.workdir)
    output = Path(given.output) if given.output else workdir / "export"
    export_run(given.config, workdir, given.step, output, given.format)
    return errors.DONE
