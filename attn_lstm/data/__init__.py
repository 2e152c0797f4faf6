"""Data sets: from a config to a `Split`, and (in `pipeline`) from a `Split` to batches.

Importing this package does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_collections

from attn_lstm import remote
from attn_lstm.data.split import (
    SPLITS,
    Batch,
    FileSource,
    ImageSource,
    RecordSource,
    Split,
    holdout,
)
from attn_lstm.errors import UserError

__all__ = [
    "READERS",
    "SPLITS",
    "Batch",
    "FileSource",
    "ImageSource",
    "RecordSource",
    "Split",
    "holdout",
    "load_split",
]


def _digits(config: Any, split: str) -> Split:
    from attn_lstm.data.digits import load_digits_split

    return load_digits_split(config.path, split)


def _coco(config: Any, split: str) -> Split:
    from attn_lstm.data.coco import load_coco_split

    return load_coco_split(
        config.path,
        split,
        drop_unlabelled=config.drop_unlabelled,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        on_missing=config.on_missing,
        download=config.download,
    )


def _folder(config: Any, split: str) -> Split:
    from attn_lstm.data.folder import load_folder_split

    return load_folder_split(
        config.path,
        split,
        drop_unlabelled=config.drop_unlabelled,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        on_missing=config.on_missing,
        separator=config.separator,
    )


def _nus_wide(config: Any, split: str) -> Split:
    from attn_lstm.data.nus_wide import load_nus_wide_split

    return load_nus_wide_split(
        config.path,
        split,
        protocol=config.protocol,
        drop_unlabelled=config.drop_unlabelled,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
        train_list=config.train_list,
        on_missing=config.on_missing,
    )


def _voc(config: Any, split: str) -> Split:
    from attn_lstm.data.voc import load_voc_split

    return load_voc_split(
        config.path,
        split,
        difficult=config.difficult,
        drop_unlabelled=config.drop_unlabelled,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        split_seed=config.split_seed,
        on_missing=config.on_missing,
    )


def _open_images(config: Any, split: str) -> Split:
    from attn_lstm.data.open_images import load_open_images_split

    return load_open_images_split(
        config.path,
        split,
        drop_unlabelled=config.drop_unlabelled,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
        on_missing=config.on_missing,
    )


# Each reader imports its own dependencies: a data set that is not asked for costs nothing.
READERS: dict[str, Callable[[Any, str], Split]] = {
    "coco": _coco,
    "digits": _digits,
    "folder": _folder,
    "nus_wide": _nus_wide,
    "open_images": _open_images,
    "voc": _voc,
}


def load_split(data_config: Any, name: str) -> Split:
    """Opens one split of the data set that a config names.

    Args:
      data_config: a ConfigDict with the fields `name`, `path`, `drop_unlabelled`,
        `validation_fraction`, `test_fraction`, `split_seed`, `on_missing`, `download`, `unknown`
        ('mask', or 'negative': labels that are not known count as absent), for a folder
        `separator`, for VOC `difficult`, and for NUS-WIDE `protocol` and `train_list`.
      name: 'train', 'validation' (held out of the training data) or 'test'.

    Raises:
      UserError: an unknown data set or split, data that is missing or malformed, or a split
        that holds no image, no label, or no label that is known to be absent.
    """
    if data_config.name not in READERS:
        raise UserError(
            f"data.name is {data_config.name!r}: choose from {', '.join(sorted(READERS))}"
        )
    if name not in SPLITS:
        raise UserError(f"split is {name!r}: choose from {', '.join(SPLITS)}")
    if remote.is_url(data_config.path):
        data_config = ml_collections.ConfigDict(data_config.to_dict())
        data_config.path = remote.on_disk(data_config.path)
    split = READERS[data_config.name](data_config, name)
    if not len(split):
        raise UserError(
            f"the {name} split of {data_config.name} in {data_config.path or 'its folder'} "
            "holds no image"
        )
    if not split.labels.any():
        raise UserError(
            f"the {name} split of {data_config.name} in {data_config.path or 'its folder'} has "
            f"no label in any of its {len(split)} images, and nothing can be learned from it or "
            "judged by it: mark other images for it, or have another part drawn with "
            "data.split_seed or data.validation_fraction"
        )
    if split.known is None:
        return split
    if data_config.unknown == "negative":
        return dataclasses.replace(split, known=None)
    if not (split.known & ~split.labels).any():
        raise UserError(
            f"the {name} split of {data_config.name} in {data_config.path or 'its folder'} says of "
            "no label that an image lacks it, so that naming all labels would make no mistake: "
            "write 0 for what is known to be absent, or take all that is unknown for absent with "
            "data.unknown=negative"
        )
    return split
