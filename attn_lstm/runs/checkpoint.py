"""Orbax checkpoints: the latest ones to go on from, and the best one to use.

Orbax writes a checkpoint into a draft of its folder and renames that at the end: one whose saving
was cut off is not there. What happens to the files afterwards it does not notice, so the draft gets
`checksums.json`, with the SHA-256 of every file, before it is renamed. A checkpoint counts as whole
when its files are as that file says; the file comes with the folder, is copied and deleted with it.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.sharding import Mesh, NamedSharding

from attn_lstm.errors import UserError, first_line
from attn_lstm.parallel import REPLICATED, agreed, is_first_host
from attn_lstm.runs.state import TrainState
from attn_lstm.storage import parse_json

PyTree = Any

CHECKSUMS = "checksums.json"

# In the folder of a step Orbax writes these last of all, behind `checksums.json`. They hold times
# and the names of handlers; no array and no item is read with their help.
_METADATA, _COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"


class _Manager(ocp.CheckpointManager):
    """Leaves the questions about an early end to `training.stop`.

    Orbax would put the number of a step to JAX's runtime, also from its thread when the training is
    steps ahead of it, and the runtime would take that for how far this process is.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints under one folder, a step each.

    Each holds the items 'variables' (all that inference needs), 'progress' (what training needs
    beside them) and 'meta' (JSON: label names, data set, figures).

    A manager that may write first looks at the newest checkpoint. If it is damaged, it is named in
    a warning and moved to a folder `damaged` beside this one, and so on to the newest whole one.
    """

    def __init__(
        self,
        directory: Path,
        keep: int | None,
        *,
        needed: bool = True,
        check_held: Callable[[], None] = lambda: None,
    ):
        """Opens a folder.

        Args:
          directory: made when missing, unless it is only read.
          keep: how many checkpoints stay; None to read only, with all left as it is.
          needed: whether a run must not go on without a checkpoint if there were some. Where none
            of them is whole, they stay where they are if so, and are set aside like others if not.
          check_held: called before a checkpoint counts; what it raises comes out of `wait`.

        Raises:
          UserError: the folder cannot be written; or none is whole, and they are needed.
        """
        self._directory = directory.absolute()
        self._plain_name = contextlib.ExitStack()
        self._reached = self._plain_name.enter_context(_plain_name(self._directory))
        self._whole: set[int] = set()  # seen to be whole, or written by this process
        self._check_held = check_held
        self._saving = 0  # the step that is being saved, or was last
        if keep is not None:
            with agreed(), self._naming_failures("cannot be written"):
                self._directory.mkdir(parents=True, exist_ok=True)
                if is_first_host():
                    self._set_damaged_aside(needed)
        self._manager = _Manager(
            self._reached,
            # Named here, so that a fresh manager can read what another process wrote.
            item_handlers={
                "variables": ocp.StandardCheckpointHandler(),
                "progress": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=False,
                # Drafts may also be those of the run that is being read.
                cleanup_tmp_directories=keep is not None,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    def steps(self) -> list[int]:
        """All checkpoints, in order. The last one is whole, where this manager may write."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts to save; the arrays may be reused at once, the files follow.

        Raises:
          UserError: this or the checkpoint before it could not be written.
        """
        step = int(state.step)
        if step in self.steps():
            return
        self.wait()
        self._saving = step
        with self._naming_failures(f"cannot hold checkpoint {step}"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.StandardSave(state.variables),
                    progress=ocp.args.StandardSave(_progress(state)),
                    meta=ocp.args.JsonSave({**meta, "step": step}),
                ),
                force=True,
            )
        self._whole.add(step)

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON beside the arrays. Raises `UserError` when the checkpoint is damaged."""
        self._check_whole(step)
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def check_meta(self, step: int, expected: dict[str, Any]) -> None:
        """Compares fields of a checkpoint's JSON with those of the data at hand.

        Raises:
          UserError: naming the first field that differs; or the checkpoint is damaged.
        """
        kept = self.meta(step)
        for name, here in expected.items():
            there = kept.get(name)
            if there != here:
                raise UserError(
                    f"checkpoint {step} in {self._directory} is of other data: "
                    f"{_difference(name, there, here)}; give the data it was trained on, or "
                    "another --workdir"
                )

    def restore_state(self, step: int, abstract: TrainState, mesh: Mesh) -> TrainState:
        """The whole state, on every device of the mesh.

        Args:
          step: one of `steps()`.
          abstract: the shapes of the state that the config makes.

        Raises:
          UserError: the checkpoint is damaged, or of another network or optimizer.
        """
        wanted = {"variables": abstract.variables, "progress": _progress(abstract)}
        items = self._restore(step, wanted, mesh)
        variables, progress = items["variables"], items["progress"]
        if abstract.average is not None:
            return TrainState(average=variables.pop("params"), collections=variables, **progress)
        params = variables.pop("params")
        return TrainState(params=params, average=None, collections=variables, **progress)

    def restore_variables(self, step: int, abstract: PyTree, mesh: Mesh) -> PyTree:
        """`TrainState.variables` alone, on every device of the mesh; raises as `restore_state`."""
        return self._restore(step, {"variables": abstract}, mesh)["variables"]

    def _restore(self, step: int, wanted: dict[str, PyTree], mesh: Mesh) -> dict[str, PyTree]:
        sharding = NamedSharding(mesh, REPLICATED)
        targets = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted
        )
        self._check_whole(step)
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
        # The manager's own would read all items, the optimizer's state among them.
        folder = self._reached / str(step) / item
        try:
            there = _shapes(ocp.StandardCheckpointHandler().metadata(folder).tree)
        except ValueError as error:  # how TensorStore says that an array is not there
            raise UserError(
                f"checkpoint {step} in {self._directory} cannot be read: {first_line(error)}; copy "
                "it back from elsewhere, or use another one (--step=best, latest or a number)"
            ) from error
        here = _shapes(target)
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                raise UserError(
                    f"checkpoint {step} in {self._directory} is of another network: {name} is "
                    f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} by the "
                    "config; give the config it was trained with"
                )

    def read_back(self, state: TrainState, mesh: Mesh) -> None:
        """Reads the newest checkpoint, if there is one, as evaluation would.

        Args:
          state: that of the run; where the checkpoint is of the same step, their variables must
            be the same, bit for bit.

        Raises:
          UserError: it is damaged or not what was saved.
        """
        self.wait()
        if not self.steps():
            return
        step = self.steps()[-1]
        self._whole.discard(step)
        abstract = jax.eval_shape(lambda: state.variables)
        with self._naming_failures(f"does not give back checkpoint {step}"):
            there = self.restore_variables(step, abstract, mesh)
        if step == int(state.step) and not jax.tree.all(
            jax.tree.map(_same, there, state.variables)
        ):
            raise UserError(
                f"checkpoint {step} in {self._directory} does not hold what was saved; look at the "
                "disk, delete the checkpoint and give the same command again"
            )

    def wait(self) -> None:
        """Returns when everything that was started is saved. Raises `UserError` if it cannot be."""
        with self._naming_failures(f"cannot hold checkpoint {self._saving}"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the manager's threads; raises as `wait`, once for a failure."""
        try:
            self.wait()
        finally:
            self._manager.close()
            self._plain_name.close()

    def _check_whole(self, step: int) -> None:
        if step in self._whole:
            return
        damage = find_damage(self._directory / str(step))
        if damage is not None:
            raise UserError(
                f"checkpoint {step} in {self._directory} is damaged: {damage}; copy it back from "
                "elsewhere, or use another one (--step=best, latest or a number)"
            )
        self._whole.add(step)

    def _set_damaged_aside(self, needed: bool) -> None:
        damages = {}
        for step in sorted(ocp.utils.checkpoint_steps(self._directory), reverse=True):
            damage = find_damage(self._directory / str(step))
            if damage is None:
                self._whole.add(step)
                break
            damages[step] = damage
        if damages and needed and not self._whole:
            raise UserError(
                f"no checkpoint in {self._directory} is whole: "
                f"{'; '.join(f'{step}: {damage}' for step, damage in damages.items())}; copy one "
                "back from elsewhere, or start afresh in another --workdir"
            )
        for step, damage in damages.items():
            absl_logging.warning(
                "Checkpoint %d is damaged (%s): it is now %s, and %s",
                step,
                damage,
                _move_into(self._directory.parent / "damaged", self._directory / str(step)),
                f"checkpoint {min(self._whole)} is used" if self._whole else "none is left",
            )

    def _seal(self) -> None:
        """Called by Orbax in its thread, on one host: all is written, and not yet renamed."""
        self._check_held()
        (draft,) = self._drafts()
        write_checksums(draft)

    def _drafts(self) -> list[Path]:
        return [*self._directory.glob(f"{self._saving}{ocp.path.atomicity.TMP_DIR_SUFFIX}*")]

    @contextlib.contextmanager
    def _naming_failures(self, what: str) -> Iterator[None]:
        """Turns what the operating system refused into a `UserError`; a defect stays one."""
        try:
            yield
        except Exception as error:
            reason = _refusal(error)
            if reason is None and not isinstance(error, UserError):
                raise
            if is_first_host():
                for draft in self._drafts():  # as far as it is not written to: it may fill the disk
                    shutil.rmtree(draft, ignore_errors=True)
            if reason is None:
                raise
            raise UserError(
                f"{self._directory} {what}: {reason}; put that right and start again: the run goes "
                "on from the last checkpoint that is there"
            ) from error


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` over the files of a checkpoint, and brings them all to the disk.

    Else a machine that loses its power after the renaming may keep the new name and lose what is
    in the files, while Orbax has deleted the checkpoint before.
    """
    digests = {}
    for name in _covered(folder):
        with (folder / name).open("r+b") as file:
            os.fsync(file.fileno())
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    with (folder / CHECKSUMS).open("w") as file:
        file.write(json.dumps(digests, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _covered(folder: Path) -> list[str]:
    """The files of a checkpoint that have a checksum, without what a desktop leaves in folders."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        name.as_posix()
        for name in names
        if name.as_posix() not in (CHECKSUMS, _METADATA, _COMMITTED)
        and not name.name.startswith(".")
    )


def find_damage(folder: Path) -> str | None:
    """Which file of a checkpoint is not as it was saved, and what it is; None if all are.

    Raises:
      UserError: a file may not be read.
    """
    digests = _read_object(folder / CHECKSUMS)
    if digests is None or _read_object(folder / _METADATA) is None:
        return f"{folder / (CHECKSUMS if digests is None else _METADATA)} is missing or not JSON"
    try:
        committed = ocp.metadata.get_step_metadata(folder).commit_timestamp_nsecs
    except Exception as error:  # whatever it is, Orbax would raise it again
        return f"{folder / _METADATA} is not as Orbax writes it: {first_line(error)}"
    if committed is not None and not 0 <= committed < 2**63:
        return f"{folder / _METADATA} is not as Orbax writes it: committed at {committed}"
    for name in _covered(folder):
        if name not in digests:
            return f"{folder / name} is not in {CHECKSUMS}"
    # Those of version 0.1.0 do not hold their step.
    number = (_read_object(folder / "meta" / "metadata") or {}).get("step")
    if number is not None and folder.name.isdecimal() and number != int(folder.name):
        return f"{folder} is checkpoint {number} under another number"
    with ThreadPoolExecutor() as pool:  # reading and hashing wait for no lock of Python's
        damages = pool.map(_find_change, [folder / name for name in digests], digests.values())
        return next((damage for damage in damages if damage), None)


def _find_change(path: Path, digest: str) -> str | None:
    """What is wrong with a file by its SHA-256; None if nothing is.

    Raises:
      UserError: it may not be read.
    """
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{path} has changed since it was saved"
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, ValueError) as error:  # the latter for a name that no file can have
        return f"{path}: {getattr(error, 'strerror', None) or error}"
    return None


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        value = parse_json(path.read_bytes())
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _move_into(folder: Path, path: Path) -> Path:
    """latest/500 -> FOLDER/latest-500, or FOLDER/latest-500-2 if that is there."""
    folder.mkdir(exist_ok=True)
    name = f"{path.parent.name}-{path.name}"
    taken = {other.name for other in folder.iterdir()}
    free = next(n for n in (name, *(f"{name}-{i}" for i in range(2, 10**6))) if n not in taken)
    return path.rename(folder / free)


def _refusal(error: Exception) -> str | None:
    """What the operating system said, None if it is not its error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # TensorStore, which writes the arrays, has no exception of its own.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None


def _same(one: jax.Array, other: jax.Array) -> bool:
    """Whether two replicated arrays hold the same bits."""
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@contextlib.contextmanager
def _plain_name(folder: Path) -> Iterator[Path]:
    """The folder by a name that every library takes as it is.

    Orbax takes the name for a part of a pattern when it joins the files of an array, and finds none
    under `runs[2]`; TensorStore refuses backslashes.
    """
    if re.fullmatch(r"[\w/.-]*", str(folder), re.ASCII):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "checkpoints"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _difference(name: str, there: Any, here: Any) -> str:
    if not isinstance(there, list) or not isinstance(here, list):
        return f"its {name} is {there!r} there and {here!r} now"
    if len(there) != len(here):
        return f"{len(there)} {name} there and {len(here)} now"
    i = next(i for i, pair in enumerate(zip(there, here, strict=True)) if pair[0] != pair[1])
    return f"number {i + 1} of its {name} is {there[i]!r} there and {here[i]!r} now"


def _progress(state: TrainState) -> PyTree:
    """What training needs beside `TrainState.variables`."""
    names = ("step", "opt_state", "totals", "left_out")
    progress = {name: getattr(state, name) for name in names}
    return progress if state.average is None else {**progress, "params": state.params}


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}


def _name(path: tuple[Any, ...]) -> str:
    # Orbax's metadata spells attributes and indices of named tuples as dictionary keys.
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
