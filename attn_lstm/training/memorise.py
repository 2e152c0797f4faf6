"""Fitting a row by heart: the features of the training split, and how many neighbours to ask."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from attn_lstm import parallel
from attn_lstm.data.split import Batch
from attn_lstm.decision import Prediction
from attn_lstm.errors import UserError
from attn_lstm.measures import thresholds
from attn_lstm.models.knn import CANDIDATES, describe
from attn_lstm.parallel import REPLICATED, SPLIT, SPLIT_SECOND
from attn_lstm.runs import split_pass
from attn_lstm.runs.split_pass import EvalStep
from attn_lstm.runs.state import TrainState
from attn_lstm.training.fit import Pieces

PyTree = Any


class Memory:
    """One look at the training images, which are kept (a `fit.Fit`).

    k is `config.knn.neighbours`, or where that is 0 the candidate with the largest mean of C-F1 and
    O-F1 on the validation split.
    """

    def __init__(self, pieces: Pieces, step: int):
        self._pieces = pieces

    def __call__(self, state: TrainState, step: int) -> TrainState:
        """The one update.

        Raises:
          UserError: no training image could be read.
        """
        pieces, count = self._pieces, self._pieces.config.knn.neighbours
        features, known = self._describe_images(state.variables)
        split = pieces.splits["train"]
        memory = {
            "features": features,
            "labels": split.labels,
            "known": known,
            "count": np.int32(count),
            **({} if split.known is None else {"judged": split.known}),
        }
        memory = parallel.replicate(memory, pieces.mesh)
        if not count:
            variables = {**state.variables, "memory": {"neighbours": memory}}
            counts = sorted({min(count, int(known.sum())) for count in CANDIDATES})
            memory["count"] = parallel.replicate(
                np.int32(self._choose(variables, counts)), pieces.mesh
            )
        collections = {**state.collections, "memory": {"neighbours": memory}}
        return state.replace(step=state.step + 1, collections=collections)

    def _describe_images(self, variables: dict[str, PyTree]) -> tuple[np.ndarray, np.ndarray]:
        """Host arrays float32[N,D], as `describe` makes them, and bool[N], which could be read."""
        row, mesh, split = self._pieces.row, self._pieces.mesh, self._pieces.splits["train"]

        def step(variables: dict[str, PyTree], inputs: jax.Array) -> jax.Array:
            return describe(row.features(variables, inputs))

        mapped = parallel.map_over_devices(
            step, mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT
        )
        features, known = None, np.zeros(len(split), bool)
        batches = self._checked(self._pieces.inputs["train"].evaluation())
        for batch in parallel.prefetch(batches, mesh):
            described = mapped(variables, batch.inputs)
            described, mask, rows = parallel.gather((described, batch.mask, batch.image_id))
            if features is None:
                features = np.zeros((len(split), described.shape[1]), np.float32)
            features[rows[mask]] = described[mask]
            known[rows[mask]] = True
        if features is None or not known.any():
            raise UserError(
                f"none of the {len(split)} images of {split.dataset} {split.name} could be read: "
                "there is nothing to carry labels over from"
            )
        return features, known

    def _checked(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._pieces.check()
            yield batch

    def _choose(self, variables: dict[str, PyTree], counts: list[int]) -> int:
        """The best k of some on the validation split."""
        pieces = self._pieces
        candidates = split_pass.predict_split(
            self._counts_step(),
            variables,
            pieces.inputs["validation"].evaluation(),
            pieces.rank,
            counts,
            pieces.mesh,
        )
        count = counts[thresholds.choose(candidates)]
        tried = ", ".join(map(str, counts))
        pieces.say(f"k = {count} has the best validation figures of {tried}")
        return count

    def _counts_step(self) -> EvalStep:
        """As `split_pass.map_eval_step`, with candidates for k in the place of thresholds."""
        row = self._pieces.row
        threshold = thresholds.threshold_or_default(self._pieces.config.search.threshold)

        def step(
            variables: dict[str, PyTree], batch: Any, rank: jax.Array, counts: jax.Array
        ) -> tuple[Prediction, dict[str, jax.Array], None]:
            features = row.features(variables, batch.inputs)
            memory = variables["memory"]["neighbours"]

            def predict_with(count: jax.Array) -> Prediction:
                remembering = {**variables, "memory": {"neighbours": {**memory, "count": count}}}
                return row.decide(remembering, features, threshold)

            # Mapped at once: the search for neighbours knows nothing of k, and is done once.
            return jax.vmap(predict_with)(counts), {}, None

        return parallel.map_over_devices(
            step,
            self._pieces.mesh,
            in_specs=(REPLICATED, SPLIT, REPLICATED, REPLICATED),
            out_specs=(SPLIT_SECOND, SPLIT, SPLIT),
        )

    @staticmethod
    def last_step(config: ml_collections.ConfigDict) -> int:
        """Of such a run: one update is all."""
        return 1

    @staticmethod
    def views(config: ml_collections.ConfigDict) -> int:
        """Of the training images: the plain one alone."""
        return 1
