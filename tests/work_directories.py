"""What tests read from the work directories of runs."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from attn_lstm.training import metrics_log


def metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of the log."""
    return [json.loads(line) for line in (directory / metrics_log.METRICS).read_text().splitlines()]


def saved(directory: Path, step: int) -> dict[str, Any]:
    """'variables' and 'progress' of the checkpoint of a step, whatever devices saved it."""
    reader, items = ocp.PyTreeCheckpointer(), {}
    for item in ("variables", "progress"):
        path = directory / "checkpoints/latest" / str(step) / item
        arrays = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), arrays)
        items[item] = reader.restore(path, restore_args=as_numpy)
    return items


def final_variables(directory: Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint, in one flat dictionary."""
    step = max(int(p.name) for p in (directory / "checkpoints/latest").iterdir())
    leaves = jax.tree_util.tree_leaves_with_path(saved(directory, step))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_equal(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], **tolerance: float
) -> None:
    """That two checkpoints have the same arrays: to the bit, without a tolerance."""
    assert first.keys() == second.keys()
    for name in first:
        if tolerance:
            np.testing.assert_allclose(first[name], second[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
