r"""Your own images, with the paper's backbone: a folder with labels.csv or labels.jsonl in it.

    python -m attn_lstm.data.check FOLDER
    python train.py --config=configs/folder.py:order_free --workdir=runs/own \
        --config.data.path=FOLDER --config.backbone.weights=resnet152-394f9c45.pth

`attn_lstm/data/folder.py` says what the label file looks like; the check reads it and every image,
and tells what to set `decoder.max_labels` to.
"""

import ml_collections

from attn_lstm.fields import default_config
from attn_lstm.methods import apply_method


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = default_config()
    config.data.name = "folder"
    # T, the most labels that an image is given: at least the largest label set of the data.
    config.decoder.max_labels = 10
    return apply_method(config, method)
