r"""NUS-WIDE with the paper's backbone and, unless told otherwise, the paper's kind of split.

    python train.py --config=configs/nus_wide.py:order_free --workdir=runs/nus_wide \
        --config.data.path=NUS_WIDE_FOLDER --config.backbone.weights=resnet152-394f9c45.pth

Many of the images have left Flickr: `--config.data.on_missing=skip` leaves them out, counted.
"""

import ml_collections

from attn_lstm.fields import default_config
from attn_lstm.methods import apply_method


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = default_config()
    config.data.name = "nus_wide"
    config.data.drop_unlabelled = True  # [P]
    # T [?]: the largest label set of NUS-WIDE is stated in no source that we know.
    config.decoder.max_labels = 20
    return apply_method(config, method)
