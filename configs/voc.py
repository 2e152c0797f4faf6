r"""Pascal VOC 2007 with the paper's backbone: trainval for training, test for testing.

    python train.py --config=configs/voc.py:order_free --workdir=runs/voc \
        --config.data.path=VOCdevkit/VOC2007 --config.backbone.weights=resnet152-394f9c45.pth

2012 too, whose test annotations were never published: train for training, val for testing.
"""

import ml_collections

from attn_lstm.fields import default_config
from attn_lstm.methods import apply_method


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = default_config()
    config.data.name = "voc"
    # T [?]: no source that we know states the largest set; `python -m attn_lstm.statistics` counts.
    config.decoder.max_labels = 8
    return apply_method(config, method)
