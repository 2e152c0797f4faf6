"""A trained network as a Python object: images in, labels with their attention maps out."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from attn_lstm import parallel, remote
from attn_lstm.compilation import keep_compiled
from attn_lstm.config import validate
from attn_lstm.data import web
from attn_lstm.data.images import ImageLike, as_picture, images_of
from attn_lstm.data.resizing import resize
from attn_lstm.decision import Prediction
from attn_lstm.errors import UserError
from attn_lstm.measures.calibration import Calibration
from attn_lstm.runs.opened import Opened, find_threshold, open_checkpoint
from attn_lstm.runs.programs import Programs
from attn_lstm.runs.tuned import load_calibration
from attn_lstm.runs.workdir import load_config, load_labels
from attn_lstm.serving.results import ImagePrediction, ImagePredictions, PredictedLabel

_CPU_ROWS = 8  # images at once for each device


class _Image(NamedTuple):
    """An image that could be read."""

    name: str
    source: ImageLike  # the content of a URL, else what was given
    pixels: np.ndarray  # uint8[S,S,3]


def load_model(
    workdir: str | os.PathLike[str],
    step: int | str = "best",
    device: str | jax.Device | None = None,
) -> Model:
    """Opens a checkpoint for prediction.

    What is compiled for it is kept on disk (`compilation.keep_compiled`), unless JAX was told of
    another folder or to keep nothing.

    Args:
      workdir: the work directory of a run.
      step: of the checkpoint: a number, 'best' or 'latest'.
      device: all of a kind, 'cpu', 'gpu' (or 'cuda') and 'tpu', one of them, 'cuda:1', or a device
        of JAX; by default all devices of this host.

    Raises:
      UserError: no such run, checkpoint or device.
    """
    devices = None if device is None else parallel.devices_named(device)
    keep_compiled()
    with remote.reading(workdir, step=str(step)) as directory:
        return open_model(load_config(directory), directory, str(step), devices=devices)


def open_model(
    config: ml_collections.ConfigDict,
    directory: Path,
    step: str,
    images: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Model:
    """`load_model` for the run's config with fields overridden.

    Args:
      config, directory, step: of the checkpoint.
      images: that will be predicted first, where their number is known.
      devices: that share the images; all of this host by default.
    """
    mesh = parallel.make_mesh(devices or jax.local_devices())
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
        `eval.py --tune`. τ stands for scores, not for these.
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
        self._tau = self._replicated(threshold)
        self._programs = programs or Programs(opened.config, opened.table, mesh)

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        batch_size: int | None = None,
        threshold: float | None = None,
    ) -> ImagePredictions:
        """The predictions of images, in their order: a list, also of a single image.

        So `model.predict(x)[0]` is the first whatever x is, and a folder of one image is no other
        case than one of two.

        Args:
          images: an image or several, of any size and mixed: paths, URLs (http, https), bytes of a
            file, arrays (uint8[H,W,3] in RGB, or uint8[H,W]) and Pillow images. A folder stands
            for the images in and below it, sorted.
          batch_size: images at once at most, of which the next smaller power of two is taken; by
            default `config.eval.batch_size` and on CPUs 8 at most. A single image is computed
            alone, whatever this is; every other number of images in batches of one size, the last
            one filled up, so that no more than two functions are ever compiled for it.
          threshold: τ of all labels in the place of the model's, 0 to 1. It cuts scores or paths
            as the model's own does, not calibrated probabilities.

        Raises:
          UserError: naming an image that cannot be read, an empty folder, or an argument out of
            its range.
        """
        predictions = ImagePredictions()
        for outcome in self._stream(_named(images), batch_size, threshold):
            if isinstance(outcome, UserError):
                raise outcome
            predictions.append(outcome)
        return predictions

    __call__ = predict

    def predict_stream(
        self,
        images: Iterable[ImageLike],
        batch_size: int | None = None,
        threshold: float | None = None,
    ) -> Iterator[ImagePrediction | UserError]:
        """As `predict`, one by one while later batches are computed.

        Each of `images` is one image: none stands for a folder. In the place of one that cannot be
        read stands the error that says why. At most three batches are taken from `images` ahead of
        what was yielded: one is read while one is computed and the one before it is yielded.
        """
        if _is_single(images):
            raise UserError("these are not several images: give a list, also of a single one")
        named = ((image, f"images[{i}]") for i, image in enumerate(images))
        yield from self._stream(named, batch_size, threshold)

    def _stream(
        self,
        named: Iterator[tuple[ImageLike, str]],
        batch_size: int | None,
        threshold: float | None,
    ) -> Iterator[ImagePrediction | UserError]:
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: give 1 or more")
        tau = self._tau if threshold is None else self._given(threshold)
        size = (
            usual_rows(self.config, self._mesh)
            if batch_size is None
            else _rows(2 ** (batch_size.bit_length() - 1), self._mesh)
        )
        chunks = iter(lambda: list(itertools.islice(named, size)), [])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reading = ([pool.submit(self._prepare, *each) for each in chunk] for chunk in chunks)
            for images, prediction in parallel.one_ahead(
                self._started(parallel.one_ahead(reading), size, tau)
            ):
                yield from self._outcomes(images, prediction)

    def _given(self, threshold: float) -> jax.Array:
        """τ of a call.

        Raises:
          UserError: it is none, or the row has none.
        """
        if self.config.search.top_k:
            raise UserError(
                f"threshold={threshold}: this row predicts {self.config.search.top_k} labels an "
                "image, whatever their scores"
            )
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold is {threshold}: give 0 to 1")
        return self._replicated(threshold)

    def _replicated(self, threshold: float | np.ndarray) -> jax.Array:
        taus = np.full(len(self.label_names), threshold, np.float32)
        return parallel.replicate(taus, self._mesh)

    def _started(
        self, batches: Iterator[list[Future[_Image | UserError]]], size: int, tau: jax.Array
    ) -> Iterator[tuple[list[_Image | UserError], Prediction]]:
        """The batches with what is being predicted of them; does not wait for it."""
        rows = None
        for batch in batches:
            if rows is None:
                rows = _rows(1, self._mesh) if len(batch) == 1 else size
            images = [image.result() for image in batch]
            yield images, self.search(self._stacked(images, rows), tau)

    def _prepare(self, image: ImageLike, name: str) -> _Image | UserError:
        """The image, or why there is none."""
        data = self.config.data
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
        try:
            source = web.fetch(name) if web.is_url(image) else image
            picture = as_picture(source, name, data.max_pixels)
        except UserError as error:
            return error
        return _Image(name, source, resize(picture, data.image_size, data.resize))

    def _stacked(self, images: list[_Image | UserError], rows: int) -> np.ndarray:
        """uint8[rows,S,S,3], zero where there is no image."""
        size = self.config.data.image_size
        batch = np.zeros((rows, size, size, 3), np.uint8)
        for row, image in zip(batch, images, strict=False):
            if not isinstance(image, UserError):
                row[:] = image.pixels
        return batch

    def search(self, images: np.ndarray, tau: jax.Array | None = None) -> Prediction:
        """Starts to predict uint8[rows,S,S,3] of the resized images; does not wait for it.

        `tau` is float32[C] on the devices, by default the model's own.
        """
        variables = self._opened.variables
        return self._programs.search(len(images), variables)(
            variables,
            parallel.shard_batch(images, self._mesh),
            self._tau if tau is None else tau,
        )

    def _outcomes(
        self, images: list[_Image | UserError], prediction: Prediction
    ) -> Iterator[ImagePrediction | UserError]:
        prediction = jax.device_get(prediction)
        for row, image in enumerate(images):
            yield image if isinstance(image, UserError) else self._of_row(prediction, row, image)

    def _of_row(self, prediction: Prediction, row: int, image: _Image) -> ImagePrediction:
        sequence = prediction.sequence[row]
        maps = None
        if prediction.attention is not None:
            side = math.isqrt(prediction.attention.shape[-1])
            maps = np.asarray(prediction.attention[row]).reshape(-1, side, side)
        scores = np.asarray(prediction.scores[row])
        calibrated = None if self.calibration is None else self.calibration(scores)
        data = self.config.data
        return ImagePrediction(
            labels=tuple(
                PredictedLabel(
                    name=self.label_names[label],
                    probability=float(
                        prediction.probabilities[row, t]
                        if calibrated is None
                        else calibrated[label]
                    ),
                    step=t + 1,
                    # Not a view, which would hold the maps of the whole batch.
                    attention=None if maps is None else maps[t].copy(),
                    score=None if calibrated is None else float(scores[label]),
                )
                for t, label in enumerate(sequence[sequence >= 0])
            ),
            scores=scores,
            name=image.name,
            source=image.source,
            resize=data.resize,
            max_pixels=data.max_pixels,
        )


def _is_single(images: object) -> bool:
    """Whether it is one image or folder, not several."""
    return isinstance(images, str | bytes | os.PathLike | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim < 4
    )


def _named(images: ImageLike | Iterable[ImageLike]) -> Iterator[tuple[ImageLike, str]]:
    """Each image, those of folders too, and what to call one that has no path."""
    listed: Any = [images] if _is_single(images) else images
    if not isinstance(listed, Iterable):
        raise UserError(f"images is a {type(images).__name__}: give an image, a folder or a list")
    for i, image in enumerate(listed):
        if isinstance(image, str | os.PathLike) and os.path.isdir(image):
            yield from ((path, path) for path in images_of(image))
        else:
            yield image, f"images[{i}]"


def usual_rows(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
    """Images at once where nobody says how many: on a CPU more of them gain little."""
    rows, most = config.eval.batch_size, _CPU_ROWS * mesh.size
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return _rows(min(rows, most) if on_cpu else rows, mesh)


def _rows(images: int, mesh: Mesh) -> int:
    return parallel.divisible(images, mesh.size)
