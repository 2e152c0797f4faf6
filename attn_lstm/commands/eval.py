"""Evaluates a checkpoint of a work directory and prints its row of the table.

    attn-lstm eval --workdir=runs/digits --tune               # chooses τ on the validation split
    attn-lstm eval --workdir=runs/digits                      # the figures of the test split
    attn-lstm eval --workdir=runs/digits --report             # and a page to look at them
    attn-lstm eval --workdir=runs/digits --figures=8          # and images with their attention

Writes WORKDIR/eval/SPLIT-STEP.json, and with --report SPLIT-STEP.html beside it; --figures and
--figure_ids write WORKDIR/figures/SPLIT-STEP/*.png, anew on each call. Best and worst is by F1 of
the image; of equals those with more labels right, or wrong, go first, then the smaller or larger
loss. Fields of the run's config can be overridden: --config.search.beam_size=5. Several processes
evaluate as one, with the flags of `train`. Exit codes: 0 done, 2 a mistake in flags, config or
files, 69 another process was lost.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from attn_lstm import cli, errors
from attn_lstm.commands import next_command
from attn_lstm.data.split import SPLITS
from attn_lstm.errors import UserError


def define_flags(argv: Sequence[str]) -> None:
    """Defines the flags; `argv` are the raw arguments."""
    flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
    flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
    flags.DEFINE_enum("split", None, SPLITS, "default: test; with --tune: validation")
    flags.DEFINE_bool("tune", False, "choose τ on the split and keep it in the work directory")
    flags.DEFINE_integer(
        "figures", 0, "draw so many of the best and of the worst images", lower_bound=0
    )
    flags.DEFINE_list("figure_ids", [], "draw these images, by their name in the split")
    flags.DEFINE_bool("report", False, "write an HTML page beside the JSON file")
    flags.DEFINE_integer(
        "report_images",
        None,
        "images in its gallery, up to the whole split; default: 60",
        lower_bound=1,
    )
    cli.define_workdir_config(argv)


def main() -> int:
    """Evaluates; returns the exit code."""
    from attn_lstm.evaluation.evaluate import evaluate, tune
    from attn_lstm.parallel import is_first_host, make_mesh

    given = flags.FLAGS
    run = given.config, Path(given.workdir), given.step
    if given.tune:
        if given.figures or given.figure_ids or given.report or given.report_images:
            raise UserError("--tune draws nothing: give --figures and --report in a second call")
        tune(*run, given.split or "validation", make_mesh())
        then = ["eval", "--report"]
    else:
        evaluate(
            *run,
            given.split or "test",
            make_mesh(),
            figures=given.figures,
            figure_ids=given.figure_ids,
            report=given.report or given.report_images is not None,
            report_images=given.report_images,
        )
        then = (
            ["predict", "IMAGES"] if given.report or given.report_images else ["eval", "--report"]
        )
    if is_first_host():
        command, *arguments = then
        print(next_command(command, given.workdir, *arguments))
    return errors.DONE
