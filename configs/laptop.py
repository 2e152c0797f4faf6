r"""Your own few thousand photographs on a laptop: a small frozen backbone, features kept on disk.

    python train.py --config=configs/laptop.py:order_free --workdir=runs/own \
        --config.data.path=FOLDER --config.backbone.weights=resnet18-f37072fd.pth

As `configs/folder.py`, with settings that fit some thousands of images and two cores.
"""

import ml_collections

from attn_lstm.fields import default_config
from attn_lstm.methods import apply_method


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = default_config()
    config.data.name = "folder"
    config.backbone.depth = 18
    settle(config)
    return apply_method(config, method)


def settle(config: ml_collections.ConfigDict) -> None:
    """Sets what the paper's defaults leave unfit for a few thousand photographs.

    All rows share the optimizer and its schedule. The values were chosen on held-out training
    images of one seed; benchmarks/RESULTS.md says among what.
    """
    config.data.image_size = 224
    config.decoder.attention = 256
    config.decoder.dropout = 0.2
    config.decoder.feature_dropout = 0.5
    config.decoder.max_labels = 6
    config.search.stop = "step"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 5.0
    config.train.steps = 490
    config.train.eval_every = 70
    config.train.log_every = 70
    config.train.checkpoint_every = 245
