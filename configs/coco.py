r"""MS-COCO 2014, or any folder in its layout, with the paper's backbone.

    python train.py --config=configs/coco.py:order_free --workdir=runs/coco \
        --config.data.path=COCO_FOLDER --config.backbone.weights=resnet152-394f9c45.pth
"""

import ml_collections

from attn_lstm.fields import default_config
from attn_lstm.methods import apply_method


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = default_config()
    config.data.name = "coco"
    return apply_method(config, method)
