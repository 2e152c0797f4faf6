"""Writes a trained network for other programs: images in, labels out, the search inside.

    python -m attn_lstm.export --workdir=runs/digits
    python -m attn_lstm.export --workdir=runs/digits --step=latest --output=served

Writes into WORKDIR/export, in the place of an earlier export: the program (model.jax_export, which
JAX alone loads), model.json (label names, what goes in and comes out), the weights
(model.safetensors) and a model card (README.md). docs/export.md shows how to load it. τ is found as
eval.py finds it: run eval.py --tune first. Exit codes: 0 done, 2 a mistake in flags, config or
files.
"""

import signal
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the rest is imported

from absl import flags

from attn_lstm import cli, errors
from attn_lstm.errors import UserError

_NO_SAVED_MODEL = (
    "--format=saved_model: no released TensorFlow (2.21 is the newest) reads what JAX writes now: "
    "it refuses the search's top-k (StableHLO 1.15). Give --format=stablehlo, which JAX alone "
    "loads; docs/export.md says more"
)

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
_FORMAT = flags.DEFINE_enum("format", "stablehlo", ["stablehlo", "saved_model"], "of the program")
_STEP = flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
_OUTPUT = flags.DEFINE_string("output", None, "folder to write; default: WORKDIR/export")


def main() -> int:
    """Exports; returns the exit code."""
    from attn_lstm.export.bundle import export_run

    if _FORMAT.value == "saved_model":
        raise UserError(_NO_SAVED_MODEL)
    workdir = Path(_WORKDIR.value)
    output = Path(_OUTPUT.value) if _OUTPUT.value else workdir / "export"
    export_run(flags.FLAGS.config, workdir, _STEP.value, output)
    return errors.DONE


if __name__ == "__main__":
    cli.run(main, cli.define_workdir_config)
