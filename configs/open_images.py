r"""A subset of Open Images with the paper's backbone: the labels that people have verified.

    python train.py --config=configs/open_images.py:order_free --workdir=runs/open_images \
        --config.data.path=OPEN_IMAGES_FOLDER --config.backbone.weights=resnet152-394f9c45.pth

The label files list more images than most people have: those that are not there are counted and
left out.
"""

import ml_collections

from attn_lstm.fields import default_config
from attn_lstm.methods import apply_method


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = default_config()
    config.data.name = "open_images"
    config.data.on_missing = "skip"
    # T: at least the largest label set of the subset, which the check tells.
    config.decoder.max_labels = 18
    return apply_method(config, method)
