"""What every way to fit a row is given, and what the loop asks of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from attn_lstm.data.split import Split
from attn_lstm.rows import Row
from attn_lstm.runs.inputs import Inputs
from attn_lstm.runs.state import TrainState


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Of one run.

    Attributes:
      config: resolved; row: of it; optimizer: of what learns.
      mesh: of all devices.
      splits, inputs: 'train' and 'validation'.
      rank: int[C], as `ordering.frequency_rank` gives it.
      say: gets lines for the user; check: raises when the run is to end before its first update.
    """

    config: ml_collections.ConfigDict
    row: Row
    optimizer: optax.GradientTransformation
    mesh: Mesh
    splits: Mapping[str, Split]
    inputs: Mapping[str, Inputs]
    rank: jax.Array
    say: Callable[[str], None]
    check: Callable[[], None]


class Fit(Protocol):
    """The updates of a run, made of its pieces and of the number that are done."""

    def __init__(self, pieces: Pieces, step: int) -> None: ...

    def __call__(self, state: TrainState, step: int) -> TrainState:
        """The update that follows `step` finished ones; to be called in their order."""
        ...

    @staticmethod
    def last_step(config: ml_collections.ConfigDict) -> int:
        """Updates of a whole run."""
        ...

    @staticmethod
    def views(config: ml_collections.ConfigDict) -> int:
        """Of each training image, where a backbone's features are kept."""
        ...
