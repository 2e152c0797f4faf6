"""Fitting a row by steps on the gradient of its loss."""

import functools
from collections.abc import Callable

import ml_collections

from attn_lstm import parallel
from attn_lstm.runs.state import TrainState
from attn_lstm.training.fit import Pieces
from attn_lstm.training.step import map_train_step


class Descent:
    """An update a batch (a `fit.Fit`)."""

    def __init__(self, pieces: Pieces, step: int):
        self._pieces = pieces
        self._batches = parallel.prefetch(pieces.inputs["train"].training(step), pieces.mesh)

    def __call__(self, state: TrainState, step: int) -> TrainState:
        """The update on the next batch."""
        backbone = self._pieces.config.backbone
        train_step = self.train_step(backbone.frozen or step < backbone.unfreeze_step)
        return train_step(state, next(self._batches), self._pieces.rank)

    @functools.cache  # noqa: B019  a run lives as long as its process
    def train_step(self, frozen: bool) -> Callable[..., TrainState]:
        """The compiled step of the stage in which the backbone rests, or learns."""
        pieces = self._pieces
        return map_train_step(
            pieces.config, pieces.row, pieces.optimizer, pieces.mesh, frozen=frozen
        )

    @staticmethod
    def last_step(config: ml_collections.ConfigDict) -> int:
        """As many as the config asks for."""
        return config.train.steps

    @staticmethod
    def views(config: ml_collections.ConfigDict) -> int:
        """As many as the config asks for."""
        return config.cache.views
