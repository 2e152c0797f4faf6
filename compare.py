"""Trains and evaluates rows of the paper's tables on one data set, and writes the table.

    python compare.py --config=configs/digits.py --workdir=runs/table --seeds=3
    python compare.py --config=configs/coco.py --workdir=runs/coco --methods=order_free,softmax ...

Every field of the config can be overridden for all rows: --config.train.steps=500. Started again,
it goes on with what is not finished. With --trials=N each row's learning rate, weight decay,
dropout, steps and one or two fields of its own are chosen first, by N trials on the validation
split. Writes WORKDIR/table.md, table.csv and table.json, with a bootstrap over the test images that
says which differences to one row, --reference, are real. Exit codes: 0 done, 2 a mistake in flags,
config or files, 75 stopped by a signal after saving.
"""

import signal
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the rest is imported

import ml_collections
from absl import flags
from ml_collections import config_flags

from attn_lstm import cli, errors
from attn_lstm.errors import UserError

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of all runs; made when missing (required)", required=True
)
_METHODS = flags.DEFINE_list("methods", None, "rows of the table; default: all")
_REFERENCE = flags.DEFINE_string(
    "reference", None, "the row that others are compared with; default: order_free, or the best"
)
_TRIALS = flags.DEFINE_integer(
    "trials", 1, "settings to try of each row first, on the validation split", lower_bound=1
)
_SEEDS = flags.DEFINE_integer("seeds", 1, "runs of each row", lower_bound=1)


def _define_flags(argv: Sequence[str]) -> None:
    cli.define_config_file(argv, "file of a data set, without a row (required)", one_row=False)


def _config_of(method: str) -> ml_collections.ConfigDict:
    """The config file's row, with the overrides of the command line."""
    given = flags.FLAGS["config"]
    path = config_flags.get_config_filename(given)
    if ":" in path:
        raise UserError(f"--config={path}: name the rows with --methods, not behind the file")
    own = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=own)
    own(["compare.py", f"--config={path}:{method}"])
    own.config.update_from_flattened_dict(config_flags.get_override_values(given))
    return own.config


def main() -> int:
    """Compares; returns the exit code."""
    from attn_lstm.evaluation.compare import compare
    from attn_lstm.methods import METHODS
    from attn_lstm.parallel import make_mesh

    configs = {method: _config_of(method) for method in _METHODS.value or METHODS}
    done = compare(
        configs,
        Path(_WORKDIR.value),
        _SEEDS.value,
        make_mesh(),
        reference=_REFERENCE.value,
        trials=_TRIALS.value,
    )
    return errors.DONE if done else errors.STOPPED


if __name__ == "__main__":
    cli.run(main, _define_flags, distributed=True, resumes=True)
