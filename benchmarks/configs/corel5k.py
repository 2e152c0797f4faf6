"""Rows on Corel-5k, 260 labels with a long tail: MobileNetV2, frozen, at 224 pixels."""

import ml_collections

from benchmarks.configs import coco_subset


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = coco_subset.get_config(method).unlock()
    config.data.name = "folder"
    config.decoder.max_labels = 5  # no image has more
    return config.lock()
