"""Predictions of a whole split, over all devices and hosts, each image once."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from attn_lstm import parallel
from attn_lstm.data.split import Batch
from attn_lstm.decision import Prediction, observe, predict, predict_each
from attn_lstm.errors import UserError
from attn_lstm.measures.predictions import Predictions
from attn_lstm.objective import image_losses
from attn_lstm.parallel import REPLICATED, SPLIT, SPLIT_SECOND
from attn_lstm.rows import Row

EvalStep = Callable[..., tuple[Prediction, dict[str, jax.Array], jax.Array | None]]


def make_eval_step(row: Row) -> EvalStep:
    """`step(variables, batch, rank, thresholds float32[G] or [G,C])`, to be mapped over `AXIS`.

    Returns predictions with one more leading axis G, one decision a threshold on what was computed
    once, and their attention only where G is 1; the parts of the loss, float32[B] each; and of a
    row that attends the region where the class activation map of each label has its peak,
    int32[B,C], or None without such maps.
    """

    def step(
        variables: dict[str, Any], batch: Any, rank: jax.Array, thresholds: jax.Array
    ) -> tuple[Prediction, dict[str, jax.Array], jax.Array | None]:
        features = row.features(variables, batch.inputs)
        parts: dict[str, jax.Array] = {}
        if row.objective.parts:
            # Where the row feeds itself, the losses need the greedy pass too: XLA makes it once.
            parts, _ = image_losses(
                row.objective, row.network, variables, features, batch.labels, rank, encoded=True,
                known=batch.known,
            )  # fmt: skip
        seen = observe(row.decision, row.network, variables, features)
        cam = None
        if row.attends:
            cam = row.network.apply(variables, features, method="class_activation")
        peaks = None if cam is None else cam.argmax(axis=-1).astype(jnp.int32)
        given = row.decision, row.network, variables, seen
        if len(thresholds) > 1:
            return predict_each(*given, thresholds), parts, peaks
        prediction = jax.tree.map(lambda x: x[None], predict(*given, thresholds[0]))
        return prediction, parts, peaks

    return step


@functools.lru_cache(maxsize=4)
def map_eval_step(row: Row, mesh: Mesh) -> EvalStep:
    """The evaluation step of a row, compiled over the mesh: the same one for all of its runs."""
    return parallel.map_over_devices(
        make_eval_step(row),
        mesh,
        in_specs=(REPLICATED, SPLIT, REPLICATED, REPLICATED),
        out_specs=(SPLIT_SECOND, SPLIT, SPLIT),
    )


def predict_split(
    eval_step: EvalStep,
    variables: dict[str, Any],
    batches: Iterable[Batch],
    rank: jax.Array,
    thresholds: Sequence[float | np.ndarray] | np.ndarray,
    mesh: Mesh,
) -> list[Predictions]:
    """Predictions for every threshold, each image of the split once, on every host.

    Of several thresholds they come without the peaks of the attention.

    Args:
      eval_step: as `map_eval_step` makes it.
      batches: this host's, as `Inputs.evaluation` yields them.
      thresholds: float32[G], or [G,C] with one a label.

    Raises:
      UserError: none of the images that could be read has a label.
      ValueError: there are no batches.
    """
    split = _run(eval_step, variables, batches, rank, thresholds, mesh, keep_maps=False)
    return [split.predictions(g) for g in range(len(thresholds))]


def predict_with_maps(
    eval_step: EvalStep,
    variables: dict[str, Any],
    batches: Iterable[Batch],
    rank: jax.Array,
    threshold: float | np.ndarray,
    mesh: Mesh,
) -> tuple[Predictions, np.ndarray | None]:
    """As `predict_split` for one threshold, with the attention maps: float16[N,S,K].

    They come from the very pass that is judged. S is the length of the longest predicted sequence,
    so that they take 2 S K bytes of memory an image. None for rows that look nowhere.

    Raises:
      UserError: none of the images that could be read has a label.
      ValueError: there are no batches.
    """
    split = _run(eval_step, variables, batches, rank, [threshold], mesh, keep_maps=True)
    return split.predictions(0), None if split.maps is None else split.maps[0, split.counted]


@dataclasses.dataclass(frozen=True)
class _Gathered:
    """The batches of a split as they came, on the host."""

    prediction: Prediction  # [G,M,...], without attention
    peaks: np.ndarray | None  # int32[G,M,T]
    maps: np.ndarray | None  # float16[G,M,S,K]
    losses: dict[str, np.ndarray]  # float32[M] each
    cam_peaks: np.ndarray | None  # int32[M,C]
    batch: Batch  # without images
    regions: int | None  # K
    counted: np.ndarray  # int64[N], where the images of the split are, in its order

    def predictions(self, g: int) -> Predictions:
        """Of threshold g."""
        rows = self.counted
        return Predictions(
            labels=np.asarray(self.prediction.labels[g, rows]),
            scores=np.asarray(self.prediction.scores[g, rows]),
            sequence=np.asarray(self.prediction.sequence[g, rows]),
            probabilities=np.asarray(self.prediction.probabilities[g, rows]),
            peaks=None if self.peaks is None else self.peaks[g, rows],
            losses={name: part[rows] for name, part in self.losses.items()},
            cam_peaks=None if self.cam_peaks is None else self.cam_peaks[rows],
            truth=self.batch.labels[rows] > 0,
            known=None if self.batch.known is None else self.batch.known[rows],
            image_id=self.batch.image_id[rows],
            regions=self.regions,
        )


def _run(
    eval_step: EvalStep,
    variables: dict[str, Any],
    batches: Iterable[Batch],
    rank: jax.Array,
    thresholds: Sequence[float | np.ndarray] | np.ndarray,
    mesh: Mesh,
    *,
    keep_maps: bool,
) -> _Gathered:
    """The evaluation step on every batch; of the attention its peaks, and the maps if asked for."""
    thresholds = np.asarray(thresholds, np.float32)
    regions = None

    def start(batch: Any) -> tuple[Any, ...]:
        nonlocal regions
        prediction, losses, cam_peaks = eval_step(variables, batch, rank, thresholds)
        peaks: jax.Array | None = None
        maps: jax.Array | None = None
        if prediction.attention is not None:
            peaks, regions = prediction.attention.argmax(-1), prediction.attention.shape[-1]
            maps = prediction.attention.astype(jnp.float16) if keep_maps else None
        prediction, truth = prediction.replace(attention=None), batch._replace(inputs=None)
        return prediction, peaks, maps, losses, cam_peaks, truth

    started = map(start, parallel.prefetch(batches, mesh))
    kept = [_without_empty_steps(parallel.gather(b)) for b in parallel.one_ahead(started)]
    if not kept:
        raise ValueError("no batches: there is nothing to evaluate")

    def rows(leaves: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(leaves, axis=axis)

    prediction, all_peaks = jax.tree.map(lambda *x: rows(x, 1), *(k[:2] for k in kept))
    all_maps = _joined([k[2] for k in kept])
    losses, cam_peaks, batch = jax.tree.map(lambda *x: rows(x, 0), *(k[3:] for k in kept))
    counted = np.flatnonzero(batch.mask)
    # Hosts hold parts of each batch, so rows come back in the split's order by their id only.
    counted = counted[np.argsort(batch.image_id[counted], kind="stable")]
    if not (batch.labels[counted] > 0).any():
        raise UserError(
            f"none of the {len(counted)} images that could be read has a true label, so that there "
            "are no figures: see which images are left out, and why"
        )
    return _Gathered(prediction, all_peaks, all_maps, losses, cam_peaks, batch, regions, counted)


def _without_empty_steps(gathered: tuple[Any, ...]) -> tuple[Any, ...]:
    """What came of a batch, its maps up to the longest sequence: T may be C, and C thousands."""
    prediction, peaks, maps, *others = gathered
    if maps is None:
        return gathered
    longest = max(1, int((prediction.sequence >= 0).sum(axis=-1).max()))
    return prediction, peaks, maps[:, :, :longest].copy(), *others


def _joined(batches: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The maps of all batches [G,M,S,K], zero behind the sequences of those with shorter ones."""
    kept = [maps for maps in batches if maps is not None]
    if not kept:
        return None
    longest = max(maps.shape[2] for maps in kept)
    return np.concatenate(
        [np.pad(maps, ((0, 0), (0, 0), (0, longest - maps.shape[2]), (0, 0))) for maps in kept],
        axis=1,
    )
