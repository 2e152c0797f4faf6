"""MS-COCO 2014, or any folder in its layout, with the paper's backbone.

    python train.py --config=configs/coco.py:order_free --workdir=runs/coco \\
        --config.data.path=COCO_FOLDER --config.backbone.weights=resnet152-394f9c45.pth
"""

import ml_collections

from configs import common


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See `configs.common` for the fields and the methods."""
    config = common.get_config()
    config.data.name = "coco"
    return common.apply_method(config, method)
