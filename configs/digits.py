"""The embedded data set: scenes of handwritten digits, for a first run on a laptop.

    python train.py --config=configs/digits.py:order_free --workdir=runs/digits

trains in about four minutes on 2 cores.
"""

import ml_collections

from attn_lstm.fields import default_config
from attn_lstm.methods import apply_method


def get_config(method: str = "order_free") -> ml_collections.ConfigDict:
    """See docs/config.md for the fields and the rows."""
    config = default_config()
    config.data.name = "digits"
    config.data.image_size = 64
    config.data.augment.flip = False  # a mirrored digit is another sign
    config.backbone.name = "small"
    config.backbone.frozen = False
    config.decoder.hidden = 128
    config.decoder.attention = 64
    config.decoder.max_labels = 4
    config.decoder.dropout = 0.1
    config.set_head.hidden = 64
    config.set_head.feedforward = 256
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 5.0
    config.train.batch_size = 32
    config.train.steps = 1300
    config.train.eval_every = 650
    config.train.checkpoint_every = 650
    config.eval.batch_size = 200
    return apply_method(config, method)
