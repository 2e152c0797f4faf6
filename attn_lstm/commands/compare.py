"""Trains and evaluates rows of the paper's tables on one data set, and writes the table.

    attn-lstm compare --config=digits --workdir=runs/table --seeds=3
    attn-lstm compare --config=coco --workdir=runs/coco --methods=order_free,softmax ...

Every field of the config can be overridden for all rows: --config.train.steps=500. Started again,
it goes on with what is not finished. With --trials=N each row's learning rate, weight decay,
dropout, steps and one or two fields of its own are chosen first, by N trials on the validation
split. Writes WORKDIR/table.md, table.csv and table.json, with a bootstrap over the test images that
says which differences to one row, --reference, are real. Exit codes: 0 done, 2 a mistake in flags,
config or files, 75 stopped by a signal after saving.
"""

from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from attn_lstm import cli, errors, remote
from attn_lstm.commands import next_command
from attn_lstm.errors import UserError


def define_flags(argv: Sequence[str]) -> None:
    """Defines the flags; `argv` are the raw arguments."""
    flags.DEFINE_string(
        "workdir", None, "folder of all runs; made when missing (required)", required=True
    )
    flags.DEFINE_list("methods", None, "rows of the table; default: all")
    flags.DEFINE_string(
        "reference", None, "the row that others are compared with; default: order_free, or the best"
    )
    flags.DEFINE_integer(
        "trials", 1, "settings to try of each row first, on the validation split", lower_bound=1
    )
    flags.DEFINE_integer("seeds", 1, "runs of each row", lower_bound=1)
    cli.define_config_file(
        argv, "data set or its config file, without a row (required)", one_row=False
    )


def _config_of(method: str) -> ml_collections.ConfigDict:
    """The config file's row, with the overrides of the command line."""
    given = flags.FLAGS["config"]
    path = config_flags.get_config_filename(given)
    if ":" in path:
        raise UserError(f"--config={path}: name the rows with --methods, not behind the file")
    own = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=own)
    own(["compare", f"--config={path}:{method}"])
    own.config.update_from_flattened_dict(config_flags.get_override_values(given))
    return own.config


def main() -> int:
    """Compares; returns the exit code."""
    from attn_lstm.evaluation.compare import compare
    from attn_lstm.methods import METHODS
    from attn_lstm.parallel import is_first_host, make_mesh

    given = flags.FLAGS
    configs = {method: _config_of(method) for method in given.methods or METHODS}
    directory = Path(given.workdir)
    for method, config in configs.items():
        cli.fetch_weights(config, directory / method / f"seed-{config.seed}")
    done = compare(
        configs,
        directory,
        given.seeds,
        make_mesh(),
        reference=given.reference,
        trials=given.trials,
    )
    if not done:
        return errors.STOPPED
    if is_first_host():
        print(f"written to {remote.shown(directory)}: table.md, table.csv, table.json")
        method, config = next(iter(configs.items()))
        print(next_command("eval", directory / method / f"seed-{config.seed}", "--report"))
    return errors.DONE
