"""How many images and labels a run has, also where its data are not at hand."""

import dataclasses

import ml_collections

from attn_lstm.data import load_split
from attn_lstm.errors import UserError

# Labels and training images, with and without those that have no label; docs/ has the sources.
_PUBLISHED = {"coco": (80, 82_783, 82_081), "nus_wide": (81, 161_789, 150_000)}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a data set: C labels, and the images of two splits."""

    labels: int
    train: int
    validation: int
    origin: str


def find_sizes(data: ml_collections.ConfigDict) -> Sizes:
    """The sizes of the data that `config.data` names, or else the published ones.

    Raises:
      UserError: neither can be had.
    """
    try:
        train, validation = (load_split(data, name) for name in ("train", "validation"))
    except UserError:
        if data.name not in _PUBLISHED:
            raise
        labels, all_images, labelled = _PUBLISHED[data.name]
        images = labelled if data.drop_unlabelled else all_images
        held_out = round(data.validation_fraction * images)
        return Sizes(labels, images - held_out, held_out, "as published; no data at hand")
    return Sizes(len(train.label_names), len(train), len(validation), "as the data at hand")
