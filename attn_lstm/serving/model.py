"""A trained network as a Python object: images in, labels with their attention maps out."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from attn_lstm import parallel, remote
from attn_lstm.compilation import keep_compiled
from attn_lstm.config import validate
from attn_lstm.data.images import ImageLike, as_picture
from attn_lstm.data.resizing import resize
from attn_lstm.decision import Prediction
from attn_lstm.errors import UserError
from attn_lstm.measures.calibration import Calibration
from attn_lstm.runs.opened import Opened, find_threshold, open_checkpoint
from attn_lstm.runs.programs import Programs
from attn_lstm.runs.tuned import load_calibration
from attn_lstm.runs.workdir import load_config, load_labels

_CPU_ROWS = 8  # images at once for each device


@dataclasses.dataclass(frozen=True, eq=False)
class PredictedLabel:
    """One label of an image.

    Attributes:
      name: as the data set names it.
      probability: of the label at its step, 0 to 1.
      step: at which it was emitted, from 1; where scores decide, its place by score.
      attention: float32[h,w], the weights of the image's regions at that step, which sum to 1;
        None for rows that look nowhere. `reports.overlay` draws it.
      calibrated: the probability that the label is true, as `Model.calibration` makes it of its
        score; None where there is none.
    """

    name: str
    probability: float
    step: int
    attention: np.ndarray | None
    calibrated: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePrediction:
    """What the network says of one image.

    Attributes:
      labels: the predicted set, in the order of emission.
      scores: float32[C], for ranking all labels, in the order of `Model.label_names`.
    """

    labels: tuple[PredictedLabel, ...]
    scores: np.ndarray


def load_model(workdir: str | os.PathLike[str], step: int | str = "best") -> Model:
    """Opens a checkpoint for prediction, on all devices of this host.

    What is compiled for it is kept on disk (`compilation.keep_compiled`), unless JAX was told of
    another folder or to keep nothing.

    Args:
      workdir: the work directory of a run.
      step: of the checkpoint: a number, 'best' or 'latest'.

    Raises:
      UserError: no such run or checkpoint.
    """
    keep_compiled()
    with remote.reading(workdir, step=str(step)) as directory:
        return open_model(load_config(directory), directory, str(step))


def open_model(
    config: ml_collections.ConfigDict, directory: Path, step: str, images: int | None = None
) -> Model:
    """`load_model` for the run's config with fields overridden.

    Args:
      config, directory, step: of the checkpoint.
      images: that will be predicted first, where their number is known.
    """
    mesh = parallel.make_mesh(jax.local_devices())
    validate(config)
    programs = Programs(config, load_labels(directory), mesh)
    rows = [_rows(1, mesh), usual_rows(config, mesh)]
    if images not in (None, 1):
        rows.reverse()
    # Tracing the network for the shapes of its variables takes longer than reading these.
    shapes = programs.variables(rows)
    with ThreadPoolExecutor(1) as beside:
        if shapes is not None:
            beside.submit(programs.search, rows[0], shapes)
        opened = open_checkpoint(config, directory, step, mesh, shapes)
    tau, origin = find_threshold(opened, directory)
    return Model(
        opened,
        tau.of(opened.table.names),
        mesh,
        programs,
        threshold_origin=origin,
        calibration=load_calibration(directory, opened.step, config.search),
    )


class Model:
    """Predicts the labels of images; made by `load_model`.

    Attributes:
      config: of the run.
      label_names: C names, in the order of `ImagePrediction.scores`.
      step: of the checkpoint.
      threshold: τ, found as evaluation finds it: the config's, else the tuned one, else 0.5; an
        array float32[C] where labels have their own.
      threshold_origin: which of these it is.
      calibration: maps scores to probabilities that hold on the validation split; None before
        `eval.py --tune`.
      attends: whether labels have attention maps.
    """

    def __init__(
        self,
        opened: Opened,
        threshold: float | np.ndarray,
        mesh: Mesh,
        programs: Programs | None = None,
        *,
        threshold_origin: str = "given",
        calibration: Calibration | None = None,
    ):
        self.config = opened.config
        self.label_names = opened.table.names
        self.step = opened.step
        self.threshold = threshold
        self.threshold_origin = threshold_origin
        self.calibration = calibration
        self.attends = opened.row.attends
        self._opened, self._mesh = opened, mesh
        taus = np.full(len(self.label_names), threshold, np.float32)
        self._tau = parallel.replicate(taus, mesh)
        self._programs = programs or Programs(opened.config, opened.table, mesh)

    def predict(
        self, images: Iterable[ImageLike], batch_size: int | None = None
    ) -> list[ImagePrediction]:
        """The predictions of images, in their order.

        Args:
          images: paths, arrays (uint8[H,W,3] in RGB, or uint8[H,W]) and Pillow images, of any
            size and mixed.
          batch_size: images at once, by default `config.eval.batch_size` and on CPUs 8 at most.
            A single image is computed alone, whatever this is; every other number of images in
            batches of this size, so that no more than two functions are ever compiled.

        Raises:
          UserError: naming an image that cannot be read.
        """
        predictions = []
        for outcome in self.predict_stream(images, batch_size):
            if isinstance(outcome, UserError):
                raise outcome
            predictions.append(outcome)
        return predictions

    def predict_stream(
        self, images: Iterable[ImageLike], batch_size: int | None = None
    ) -> Iterator[ImagePrediction | UserError]:
        """As `predict`, one by one while later batches are computed.

        In the place of an image that cannot be read stands the error that says why. At most three
        batches are taken from `images` ahead of what was yielded: one is read while one is computed
        and the one before it is yielded.
        """
        if isinstance(images, str | os.PathLike | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        ):
            raise UserError("these are not several images: give a list, also of a single one")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give 1 or more")
        size = (
            usual_rows(self.config, self._mesh)
            if batch_size is None
            else _rows(batch_size, self._mesh)
        )
        named = ((image, f"images[{i}]") for i, image in enumerate(images))
        chunks = iter(lambda: list(itertools.islice(named, size)), [])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reading = ([pool.submit(self._prepare, *each) for each in chunk] for chunk in chunks)
            for pixels, prediction in parallel.one_ahead(
                self._started(parallel.one_ahead(reading), size)
            ):
                yield from self._outcomes(pixels, prediction)

    def _started(
        self, batches: Iterator[list[Future[np.ndarray | UserError]]], size: int
    ) -> Iterator[tuple[list[np.ndarray | UserError], Prediction]]:
        """The batches with what is being predicted of them; does not wait for it."""
        rows = None
        for batch in batches:
            if rows is None:
                rows = _rows(1, self._mesh) if len(batch) == 1 else size
            pixels = [image.result() for image in batch]
            yield pixels, self.search(self._stacked(pixels, rows))

    def _prepare(self, image: ImageLike, name: str) -> np.ndarray | UserError:
        """uint8[S,S,3], or why there is none."""
        data = self.config.data
        try:
            picture = as_picture(image, name, data.max_pixels)
        except UserError as error:
            return error
        return resize(picture, data.image_size, data.resize)

    def _stacked(self, pixels: list[np.ndarray | UserError], rows: int) -> np.ndarray:
        """uint8[rows,S,S,3], zero where there is no image."""
        size = self.config.data.image_size
        batch = np.zeros((rows, size, size, 3), np.uint8)
        for row, image in zip(batch, pixels, strict=False):
            if not isinstance(image, UserError):
                row[:] = image
        return batch

    def search(self, images: np.ndarray) -> Prediction:
        """Starts to predict uint8[rows,S,S,3] of the resized images; does not wait for it."""
        variables = self._opened.variables
        return self._programs.search(len(images), variables)(
            variables,
            parallel.shard_batch(images, self._mesh),
            self._tau,
        )

    def _outcomes(
        self, pixels: list[np.ndarray | UserError], prediction: Prediction
    ) -> Iterator[ImagePrediction | UserError]:
        prediction = jax.device_get(prediction)
        for row, image in enumerate(pixels):
            yield image if isinstance(image, UserError) else self._of_row(prediction, row)

    def _of_row(self, prediction: Prediction, row: int) -> ImagePrediction:
        sequence = prediction.sequence[row]
        maps = None
        if prediction.attention is not None:
            side = math.isqrt(prediction.attention.shape[-1])
            maps = np.asarray(prediction.attention[row]).reshape(-1, side, side)
        scores = np.asarray(prediction.scores[row])
        calibrated = None if self.calibration is None else self.calibration(scores)
        return ImagePrediction(
            labels=tuple(
                PredictedLabel(
                    name=self.label_names[label],
                    probability=float(prediction.probabilities[row, t]),
                    step=t + 1,
                    # Not a view, which would hold the maps of the whole batch.
                    attention=None if maps is None else maps[t].copy(),
                    calibrated=None if calibrated is None else float(calibrated[label]),
                )
                for t, label in enumerate(sequence[sequence >= 0])
            ),
            scores=scores,
        )


def usual_rows(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Images at once where nobody says how many: on a CPU more of them gain little."""
    rows, most = config.eval.batch_size, _CPU_ROWS * mesh.size
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return _rows(min(rows, most) if on_cpu else rows, mesh)


def _rows(images: int, mesh: Mesh) -> int:
    return parallel.divisible(images, mesh.size)
