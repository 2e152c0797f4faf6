"""What is predicted of images: labels as numbers, tables, pictures and galleries of a notebook."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from PIL import Image

from attn_lstm.data import image_file, web
from attn_lstm.data.images import ImageLike, as_picture
from attn_lstm.errors import UserError, printable

if TYPE_CHECKING:
    import pandas

# Overlays are imported by those who draw: Matplotlib takes a second.

_SIDE = 240  # pixels of the longer side of what a gallery shows
_SHOWN = 24  # images in a gallery
_LISTED = 8  # labels or images that stand in a `repr`
_COLUMNS = ("image", "step", "label", "probability", "score")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PredictedLabel:
    """One label of an image.

    Attributes:
      name: as the data set names it.
      probability: 0 to 1, that the label is true where `Model.calibration` says so; else of the
        label at its step, as the network gives it.
      step: at which it was emitted, from 1; where scores decide, its place by score.
      attention: float32[h,w], the weights of the image's regions at that step, which sum to 1;
        None for rows that look nowhere. `ImagePrediction.overlay` draws it.
      score: the label's raw score, 0 to 1, of which `probability` was made; None where there is no
        calibration. `ImagePrediction.scores` has those of all labels.
    """

    name: str
    probability: float
    step: int
    attention: np.ndarray | None
    score: float | None = None

    def __repr__(self) -> str:
        return f"<{printable(self.name)} {self.probability:.2f}>"

    def to_dict(self) -> dict[str, Any]:
        """'name', 'probability', 'step' and, where there is a calibration, 'score'."""
        entry = {"name": self.name, "probability": self.probability, "step": self.step}
        return entry if self.score is None else {**entry, "score": self.score}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImagePrediction:
    """What the network says of one image.

    Attributes:
      labels: the predicted set, in the order of emission.
      scores: float32[C], for ranking all labels, in the order of `Model.label_names`.
      name: the image's path or URL, or its place among the images: 'images[3]'.
      source: the image as it was given, and a URL's content; what is drawn is read from it.
      resize: `config.data.resize`, the rule that made the network's square of the image.
      max_pixels: of the image's file.
    """

    labels: tuple[PredictedLabel, ...]
    scores: np.ndarray
    name: str = "image"
    source: ImageLike | None = None
    resize: str = "squash"
    max_pixels: int = image_file.MAX_PIXELS

    def __repr__(self) -> str:
        named = [f"{printable(x.name)} {x.probability:.2f}" for x in self.labels[:_LISTED]]
        more = ["…"] if len(self.labels) > _LISTED else []
        return f"<{printable(self.name)}: {', '.join(named + more) or 'no label'}>"

    def to_dict(self) -> dict[str, Any]:
        """A line of `predict.py`, in JSON's types: 'image' and 'labels', each as a dictionary."""
        return {"image": self.name, "labels": [label.to_dict() for label in self.labels]}

    def to_pandas(self) -> pandas.DataFrame:
        """A row a label: image, step, label, probability and score.

        Raises:
          UserError: pandas is not installed.
        """
        return _table([self])

    def picture(self) -> Image.Image:
        """The image, of mode RGB and of the size it was given in.

        Raises:
          UserError: it cannot be read any more.
        """
        if self.source is None:
            raise UserError(f"{self.name}: this prediction has no image")
        return as_picture(self.source, self.name, self.max_pixels).copy()

    def overlay(self, label: str | PredictedLabel) -> Image.Image:
        """The image under the attention of one of its labels.

        The overlays of an image share the scale of their colours.

        Args:
          label: of `labels`, or its name.

        Raises:
          UserError: no such label, no attention, or an image that cannot be read.
        """
        name = label if isinstance(label, str) else label.name
        names = [each.name for each in self.labels]
        if name not in names:
            predicted = ", ".join(names) or "none"
            raise UserError(f"{self.name} has no label {name!r}; its labels: {predicted}")
        attention = self.labels[names.index(name)].attention
        if attention is None:
            raise UserError(f"{self.name}: this row looks nowhere, so {name!r} has no attention")
        return Image.fromarray(self._under(np.asarray(self.picture()), attention))

    def plot(self) -> Image.Image:
        """The image, and beside it the overlay of each label under its name and probability.

        Raises:
          UserError: the image cannot be read.
        """
        from attn_lstm.reports.overlay import draw_panels

        panels = [
            (f"{label.step}. {label.name} {label.probability:.2f}", label.attention)
            for label in self.labels
            if label.attention is not None
        ]
        title = web.name_in(self.name) if web.is_url(self.name) else os.path.basename(self.name)
        return draw_panels(np.asarray(self.picture()), title, panels, self.resize)

    def drawn(self, side: int) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """The image, and under the attention of each label, on one scale of colours.

        Args:
          side: pixels of the longer side at most.

        Returns:
          uint8[h,w,3], and one such array a label, None where there is no attention.

        Raises:
          UserError: the image cannot be read.
        """
        picture = self.picture()
        picture.thumbnail((side, side))
        pixels = np.asarray(picture)
        maps = [label.attention for label in self.labels]
        return pixels, [None if map_ is None else self._under(pixels, map_) for map_ in maps]

    def _under(self, pixels: np.ndarray, attention: np.ndarray) -> np.ndarray:
        """uint8[h,w,3] under one of its maps, on the scale of them all."""
        from attn_lstm.reports.overlay import overlay

        maps = [label.attention for label in self.labels if label.attention is not None]
        return overlay(pixels, attention, self.resize, max(float(map_.max()) for map_ in maps))

    def _repr_html_(self) -> str:
        """The image and its maps, for a notebook."""
        return _gallery([self])


class ImagePredictions(list[ImagePrediction]):
    """The predictions of images, in their order: a list that a notebook shows as a gallery."""

    def __repr__(self) -> str:
        more = [f"… {len(self)} images"] if len(self) > _LISTED else []
        return "[" + ",\n ".join([*map(repr, self[:_LISTED]), *more]) + "]"

    def to_pandas(self) -> pandas.DataFrame:
        """A row a label of an image: image, step, label, probability and score.

        Raises:
          UserError: pandas is not installed.
        """
        return _table(self)

    def _repr_html_(self) -> str:
        """The first images and their maps, for a notebook."""
        return _gallery(self)


def data_url(pixels: np.ndarray) -> str:
    """uint8[h,w,3] as a JPEG inside of a URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _table(predictions: Sequence[ImagePrediction]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise UserError("to_pandas needs pandas: pip install pandas") from None
    rows = [
        (prediction.name, label.step, label.name, label.probability, label.score)
        for prediction in predictions
        for label in prediction.labels
    ]
    return pandas.DataFrame(rows, columns=list(_COLUMNS))


def _gallery(predictions: Sequence[ImagePrediction]) -> str:
    """HTML that stands alone: the pictures are part of it, and nothing in it runs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment.get_template("gallery.html.j2").render(
        cards=[_card(prediction) for prediction in predictions[:_SHOWN]],
        more=len(predictions) - _SHOWN,
    )


def _card(prediction: ImagePrediction) -> dict[str, Any]:
    """An image of a gallery; one that cannot be read any more has its labels alone."""
    image, missing = None, None
    maps: list[str | None] = [None] * len(prediction.labels)
    try:
        pixels, overlays = prediction.drawn(_SIDE)
    except UserError as error:
        missing = str(error)
    else:
        image = data_url(pixels)
        maps = [None if overlay is None else data_url(overlay) for overlay in overlays]
    looks = zip(prediction.labels, maps, strict=True)
    return {"name": prediction.name, "image": image, "missing": missing, "looks": [*looks]}
