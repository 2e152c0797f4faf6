"""Evaluates a checkpoint of a work directory and prints its row of the table.

    python eval.py --workdir=runs/digits --tune               # chooses τ on the validation split
    python eval.py --workdir=runs/digits                      # the figures of the test split

Writes WORKDIR/eval/SPLIT-STEP.json. Fields of the run's config can be overridden:
--config.search.beam_size=5. Exit codes: 0 done, 2 a mistake in flags, config or files.
"""

from pathlib import Path

from absl import flags

from attn_lstm import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
_SPLIT = flags.DEFINE_enum(
    "split", None, ["train", "validation", "test"], "default: test; with --tune: validation"
)
_TUNE = flags.DEFINE_bool("tune", False, "choose τ on the split and keep it in the work directory")
flags.mark_flag_as_required("workdir")


def main() -> int:
    """Evaluates; returns the exit code."""
    from attn_lstm.evaluation import evaluate, tune
    from attn_lstm.parallel import make_mesh

    call = tune if _TUNE.value else evaluate
    split = _SPLIT.value or ("validation" if _TUNE.value else "test")
    call(flags.FLAGS.config, Path(_WORKDIR.value), _STEP.value, split, make_mesh())
    return cli.DONE


if __name__ == "__main__":
    cli.run(main, cli.define_workdir_config)
