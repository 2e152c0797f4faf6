"""Evaluates a checkpoint of a work directory and prints its row of the table.

    python eval.py --workdir=runs/digits --tune               # chooses τ on the validation split
    python eval.py --workdir=runs/digits                      # the figures of the test split
    python eval.py --workdir=runs/digits --report             # and a page to look at them
    python eval.py --workdir=runs/digits --figures=8          # and images with their attention

Writes WORKDIR/eval/SPLIT-STEP.json, and with --report SPLIT-STEP.html beside it; --figures and
--figure_ids write WORKDIR/figures/SPLIT-STEP/*.png, anew on each call. Best and worst is by F1 of
the image; of equals those with more labels right, or wrong, go first, then the smaller or larger
loss. Fields of the run's config can be overridden: --config.search.beam_size=5. Several processes
evaluate as one, with the flags of train.py. Exit codes: 0 done, 2 a mistake in flags, config or
files, 69 another process was lost.
"""

import signal
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the rest is imported

from absl import flags

from attn_lstm import cli, errors
from attn_lstm.data.split import SPLITS
from attn_lstm.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (required)", required=True)
_STEP = flags.DEFINE_string("step", "best", "checkpoint: a step, 'best' or 'latest'")
_SPLIT = flags.DEFINE_enum("split", None, SPLITS, "default: test; with --tune: validation")
_TUNE = flags.DEFINE_bool("tune", False, "choose τ on the split and keep it in the work directory")
_FIGURES = flags.DEFINE_integer(
    "figures", 0, "draw so many of the best and of the worst images", lower_bound=0
)
_FIGURE_IDS = flags.DEFINE_list("figure_ids", [], "draw these images, by their name in the split")
_REPORT = flags.DEFINE_bool("report", False, "write an HTML page beside the JSON file")


def main() -> int:
    """Evaluates; returns the exit code."""
    from attn_lstm.evaluation.evaluate import evaluate, tune
    from attn_lstm.parallel import make_mesh

    run = flags.FLAGS.config, Path(_WORKDIR.value), _STEP.value
    if _TUNE.value:
        if _FIGURES.value or _FIGURE_IDS.value or _REPORT.value:
            raise UserError("--tune draws nothing: give --figures and --report in a second call")
        tune(*run, _SPLIT.value or "validation", make_mesh())
    else:
        evaluate(
            *run,
            _SPLIT.value or "test",
            make_mesh(),
            figures=_FIGURES.value,
            figure_ids=_FIGURE_IDS.value,
            report=_REPORT.value,
        )
    return errors.DONE


if __name__ == "__main__":
    cli.run(main, cli.define_workdir_config, distributed=True)
