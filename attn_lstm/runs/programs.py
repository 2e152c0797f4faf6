"""The search of a row as a traced program, kept on disk beside the compiled functions.

JAX finds a compiled function by its program, and has that from Python: on a CPU tracing a ResNet-50
with its search takes longer than reading what was compiled of it. So the program is kept, too.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import export
from jax.sharding import Mesh, NamedSharding

from attn_lstm import parallel, storage
from attn_lstm.compilation import compiler_options, kept_folder
from attn_lstm.config import PLACES
from attn_lstm.decision import Prediction
from attn_lstm.errors import UserError
from attn_lstm.fields import flatten
from attn_lstm.models.heads import head_of
from attn_lstm.parallel import REPLICATED, SPLIT
from attn_lstm.rows import create_row
from attn_lstm.runs.workdir import LabelTable

PyTree = Any
# (variables, images uint8[rows,S,S,3], τ float32[C]) -> predictions of all rows
Search = Callable[[PyTree, jax.Array, jax.Array | np.ndarray], Prediction]

# The program is the same whatever these are.
_WITHOUT_EFFECT = (*PLACES, "search.threshold")
_PACKAGE = Path(__file__).parents[1]
_VERSIONED = ("jax", "jaxlib", "flax")

export.register_pytree_node_serialization(
    Prediction,
    serialized_name="attn_lstm.decision.Prediction",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)


class Programs:
    """The searches of a run, one for each number of images at once.

    Args:
      config: of the run, with overrides.
      table: the run's labels.
      mesh: the devices that share the images.
    """

    def __init__(self, config: ml_collections.ConfigDict, table: LabelTable, mesh: Mesh):
        self._config, self._table, self._mesh = config, table, mesh
        self._compiled: dict[int, Search] = {}
        self._read: dict[int, export.Exported] = {}  # not compiled yet

    def __len__(self) -> int:
        """How many have been compiled, or read from disk."""
        return len(self._compiled)

    def variables(self, rows: Sequence[int]) -> PyTree | None:
        """The shapes of the network's variables by a kept program for one of the numbers of images.

        None where no such program is kept.
        """
        for number in rows:
            program = self._load(number)
            if program is not None:
                self._read[number] = program
                (variables, _, _), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
                return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
        return None

    def search(self, rows: int, variables: PyTree) -> Search:
        """The compiled search for so many images on all devices together."""
        if rows not in self._compiled:
            self._compiled[rows] = self._compile(rows, variables)
        return self._compiled[rows]

    def _compile(self, rows: int, variables: PyTree) -> Search:
        everywhere, split = (NamedSharding(self._mesh, spec) for spec in (REPLICATED, SPLIT))
        size = self._config.data.image_size
        arguments = (
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), variables
            ),
            jax.ShapeDtypeStruct((rows, size, size, 3), np.uint8, sharding=split),
            jax.ShapeDtypeStruct((len(self._table.names),), np.float32, sharding=everywhere),
        )
        program = self._read.pop(rows, None) or self._load(rows)
        if program is None:
            program = export.export(self._traced(), platforms=self._platforms())(*arguments)
            self._keep(rows, program)
        options = compiler_options(self._mesh.devices.flat[0].platform)
        return jax.jit(program.call, compiler_options=options).lower(*arguments).compile()

    def _platforms(self) -> list[str] | None:
        """Where it will run; None for where JAX computes by default."""
        return ["cpu"] if self._mesh.devices.flat[0].platform == "cpu" else None

    def _traced(self) -> Any:
        table = self._table
        row = create_row(self._config, len(table.names), images=table.images, partial=table.partial)
        return parallel.map_over_devices(
            row.search, self._mesh, in_specs=(REPLICATED, SPLIT, REPLICATED), out_specs=SPLIT
        )

    def _load(self, rows: int) -> export.Exported | None:
        path = self._path(rows)
        if path is None:
            return None
        try:
            return export.deserialize(bytearray(path.read_bytes()))
        except Exception:  # it is missing or damaged: whatever the reason, it is made again
            return None

    def _keep(self, rows: int, program: export.Exported) -> None:
        path = self._path(rows)
        if path is None:
            return
        with contextlib.suppress(UserError):  # a full disk is no reason not to predict
            storage.write_bytes(path, bytes(program.serialize()))

    def _path(self, rows: int) -> Path | None:
        """Where the program for so many images is kept, if anywhere.

        The name is a hash of all that it depends on. The code of other packages that bring heads of
        their own is not seen from here, so that theirs are not kept.
        """
        folder = kept_folder()
        if folder is None or not head_of(self._config).build.__module__.startswith("attn_lstm."):
            return None
        known = {
            "config": {k: v for k, v in flatten(self._config) if k not in _WITHOUT_EFFECT},
            "labels": len(self._table.names),
            "images": self._table.images,
            "partial": self._table.partial,
            "devices": [device.device_kind for device in self._mesh.devices.flat],
            "rows": rows,
            "versions": {name: version(name) for name in _VERSIONED},
            "code": _code(),
        }
        text = json.dumps(known, sort_keys=True)
        return folder / f"search-{hashlib.sha256(text.encode()).hexdigest()}.jax_export"


@functools.cache
def _code() -> str:
    """A hash of this package's source."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
