"""Orbax checkpoints: the latest ones to go on from, and the best one to use."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding

from attn_lstm.errors import UserError
from attn_lstm.parallel import REPLICATED
from attn_lstm.training.state import TrainState

PyTree = Any


class Checkpoints:
    """The checkpoints under one folder, a step each.

    Each holds the items 'variables' (all that inference needs), 'progress' (what training needs
    beside them) and 'meta' (JSON: label names, data set, figures).
    """

    def __init__(self, directory: Path, keep: int):
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            # Named here, so that a fresh manager can read what another process wrote.
            item_handlers={
                "variables": ocp.StandardCheckpointHandler(),
                "progress": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    def steps(self) -> list[int]:
        """All whole checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts to save; the arrays may be reused at once, the files follow."""
        step = int(state.step)
        if step in self.steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(state.variables),
                progress=ocp.args.StandardSave(_progress(state)),
                meta=ocp.args.JsonSave(meta),
            ),
            force=True,
        )

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON beside the arrays."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def restore_state(self, step: int, abstract: TrainState, mesh: Mesh) -> TrainState:
        """The whole state, on every device of the mesh.

        Args:
          step: one of `steps()`.
          abstract: the shapes of the state that the config makes.

        Raises:
          UserError: the checkpoint is of another network or optimizer.
        """
        wanted = {"variables": abstract.variables, "progress": _progress(abstract)}
        items = self._restore(step, wanted, mesh)
        variables, progress = items["variables"], items["progress"]
        if abstract.average is not None:
            return TrainState(average=variables.pop("params"), **variables, **progress)
        return TrainState(average=None, **variables, **progress)

    def restore_variables(self, step: int, abstract: PyTree, mesh: Mesh) -> PyTree:
        """`TrainState.variables` alone, on every device of the mesh; raises as `restore_state`."""
        return self._restore(step, {"variables": abstract}, mesh)["variables"]

    def _restore(self, step: int, wanted: dict[str, PyTree], mesh: Mesh) -> dict[str, PyTree]:
        sharding = NamedSharding(mesh, REPLICATED)
        targets = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted
        )
        for item, target in targets.items():
            self._check_shapes(step, item, target)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{item: ocp.args.StandardRestore(target) for item, target in targets.items()}
            ),
        )
        return {item: restored[item] for item in wanted}

    def _check_shapes(self, step: int, item: str, target: PyTree) -> None:
        """Names the first difference; Orbax's own message buries it."""
        metadata = self._manager.item_metadata(step)[item]
        there = _shapes(metadata.tree if hasattr(metadata, "tree") else metadata)
        here = _shapes(target)
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                raise UserError(
                    f"checkpoint {step} in {self._manager.directory} is of another network: {name} "
                    f"is {there.get(name, 'absent')} there and {here.get(name, 'absent')} by the "
                    "config; give the config it was trained with"
                )

    def wait(self) -> None:
        """Returns when everything that was started is saved."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the manager's threads."""
        self._manager.close()


def _progress(state: TrainState) -> PyTree:
    """What training needs beside `TrainState.variables`."""
    progress = {"step": state.step, "opt_state": state.opt_state, "totals": state.totals}
    return progress if state.average is None else {**progress, "params": state.params}


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def _name(path: tuple[Any, ...]) -> str:
    # Orbax's metadata spells attributes and indices of named tuples as dictionary keys.
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
