"""A checkpoint of a work directory, opened to predict: its variables, labels and τ."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from attn_lstm.config import validate
from attn_lstm.errors import UserError
from attn_lstm.measures.thresholds import DEFAULT_THRESHOLD, Threshold
from attn_lstm.rows import Row, create_row
from attn_lstm.runs import tuned, workdir
from attn_lstm.runs.checkpoint import Checkpoints
from attn_lstm.runs.state import init_variables


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint of a work directory, ready to predict."""

    config: ml_collections.ConfigDict
    row: Row
    table: workdir.LabelTable
    step: int
    variables: dict[str, Any]  # on every device of the mesh
    fingerprint: str  # of the training split


def open_checkpoint(
    config: ml_collections.ConfigDict,
    directory: Path,
    step: str,
    mesh: Mesh,
    abstract: dict[str, Any] | None = None,
) -> Opened:
    """Restores the variables of a checkpoint; the optimizer's state is not read.

    Args:
      config: of the run, with overrides.
      directory: the work directory.
      step: a number, 'best' or 'latest'.
      mesh: of all devices.
      abstract: the shapes of the config's variables, where they are known.

    Raises:
      UserError: a mistake in the config, no such checkpoint, or one of another network.
    """
    validate(config)
    table = workdir.load_labels(directory)
    row = create_row(config, len(table.names), images=table.images, partial=table.partial)
    if abstract is None:
        abstract = jax.eval_shape(
            lambda: init_variables(row.network, config.data.image_size, jax.random.key(0))
        )
    folders = (
        ("best",) if step == "best" else ("latest",) if step == "latest" else ("latest", "best")
    )
    for folder in folders:
        path = directory / "checkpoints" / folder
        if not path.is_dir():
            continue
        checkpoints = Checkpoints(path, keep=None)
        try:
            number = _find(checkpoints.steps(), step)
            if number is not None:
                checkpoints.check_meta(
                    number, {"dataset": table.dataset, "labels": list(table.names)}
                )
                meta = checkpoints.meta(number)
                workdir.check_config(directory, meta.get("config"))
                variables = checkpoints.restore_variables(number, abstract, mesh)
                return Opened(config, row, table, number, variables, meta["fingerprint"])
        finally:
            checkpoints.close()
    raise UserError(
        f"{directory} holds no checkpoint {step!r}: train it first, or give --step=best, latest "
        "or the step of a checkpoint that is there"
    )


def _find(steps: list[int], step: str) -> int | None:
    if step in ("best", "latest"):
        return steps[-1] if steps else None
    if not step.isdecimal():
        raise UserError(f"--step={step!r} is neither a number, nor 'best', nor 'latest'")
    return int(step) if int(step) in steps else None


class Found(NamedTuple):
    """τ, and where it comes from in words."""

    threshold: Threshold
    origin: str


def find_threshold(opened: Opened, directory: Path) -> Found:
    """The τ of the config, else the one that was tuned, else the default."""
    search = opened.config.search
    if search.top_k:
        return Found(Threshold(0.0), f"without effect: the {search.top_k} best labels an image")
    if search.threshold >= 0:
        return Found(Threshold(search.threshold), "config.search.threshold")
    kept = tuned.load_threshold(directory, opened.step, search)
    if kept is None:
        default = Threshold(DEFAULT_THRESHOLD)
        return Found(default, "default; eval.py --tune chooses one")
    own = f"; {len(kept.by_label)} labels have their own" if kept.by_label else ""
    return Found(kept, f"tuned by eval.py --tune{own}")
