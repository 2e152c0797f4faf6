"""Every field of a configuration, once, with its unit and its source.

[P] the paper says so; [R] independent re-implementations agree on it; [?] not established, our
default. A data set's file (`digits.py`, `coco.py`) changes what is particular to it.
"""

import ml_collections

from attn_lstm.errors import UserError


def _order_free(config: ml_collections.ConfigDict) -> None:
    """The paper's model as it stands in the defaults below."""


def _order_free_no_attention(config: ml_collections.ConfigDict) -> None:
    config.decoder.use_attention = False


def _frequent_first(config: ml_collections.ConfigDict) -> None:
    config.order = "frequent_first"


def _rare_first(config: ml_collections.ConfigDict) -> None:
    config.order = "rare_first"


def _resnet_baseline(config: ml_collections.ConfigDict) -> None:
    config.head = "linear"
    config.search.threshold = 0.5  # [P] v_prob cut at 0.5


def _softmax(config: ml_collections.ConfigDict) -> None:
    """Gong et al. 2013: M_map alone, one softmax over all labels."""
    config.head = "linear"
    config.loss = "softmax"
    config.search.top_k = 3  # [P]


def _warp(config: ml_collections.ConfigDict) -> None:
    """Gong et al. 2013: M_map alone, weighted approximate ranking."""
    config.head = "linear"
    config.loss = "warp"
    config.search.top_k = 3  # [P]


def _cnn_rnn(config: ml_collections.ConfigDict) -> None:
    """Wang et al. 2016: no M_map, no attention; a path ends by its end token alone."""
    config.head = "cnn_rnn"
    config.order = "frequent_first"  # [P]
    config.search.threshold = 0.0


METHODS = {
    "order_free": _order_free,
    "order_free_no_attention": _order_free_no_attention,
    "frequent_first": _frequent_first,
    "rare_first": _rare_first,
    "resnet_baseline": _resnet_baseline,
    "softmax": _softmax,
    "warp": _warp,
    "cnn_rnn": _cnn_rnn,
}


def apply_method(config: ml_collections.ConfigDict, method: str) -> ml_collections.ConfigDict:
    """Turns `config` into one row of the tables and locks it. Raises `UserError` on other names."""
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; choose one of: {', '.join(METHODS)}")
    config.method = method
    METHODS[method](config)
    return config.lock()


def get_config() -> ml_collections.ConfigDict:
    """The defaults shared by all data sets, unlocked."""
    config = ml_collections.ConfigDict()
    config.method = ""  # the row of the tables; set by apply_method
    config.seed = 0  # parameters, data order, augmentation and dropout all derive from it
    # Compute type; parameters, losses and softmaxes stay float32. 'auto' is bfloat16 on
    # accelerators and float32 on CPUs, and is resolved before it is saved.
    config.dtype = "auto"  # auto | float32 | bfloat16
    config.head = "attention_lstm"  # attention_lstm | linear (M_map alone) | cnn_rnn
    config.loss = "bce"  # of M_map, [R] | softmax | warp; the latter two for the linear head
    # Which true label is the target of a step: confidence is the paper's order-free training;
    # the fixed orders train with teacher forcing and an end token.
    config.order = "confidence"  # confidence | frequent_first | rare_first

    data = config.data = ml_collections.ConfigDict()
    data.name = ""  # digits | coco | nus_wide | folder
    data.path = ""  # folder of the data set; '' lets `digits` use the TFDS default folder
    data.image_size = 448  # pixels, both sides [?]
    data.resize = "squash"  # squash | crop | pad
    data.drop_unlabelled = False  # remove images without any label
    data.validation_fraction = 0.1  # part of the training split held out for choices
    data.test_fraction = 0.2  # of folder, where its label file divides nothing
    data.split_seed = 0  # which images are held out; not tied to `seed`
    data.on_bad_image = "error"  # error | skip (masked and counted)
    # Of nus_wide. paper: 150,000 training images by a stored seeded draw [P, their list is not
    # published]; official: its two lists; list: the images of train_list.
    data.protocol = "paper"
    data.train_list = ""  # list: the file; paper: where the draw is kept, '' for the data folder
    data.on_missing = "error"  # images that are not on disk: error | skip (counted, logged)
    data.download = False  # let TFDS download the data set into data.path
    augment = data.augment = ml_collections.ConfigDict()
    augment.flip = True  # horizontal, half of the images
    augment.crop_min_area = 1.0  # random resized crop of at least this area; 1 turns it off
    augment.randaugment_layers = 0
    augment.randaugment_magnitude = 9  # of 30
    augment.cutout = 0  # side in pixels; 0 turns it off

    backbone = config.backbone = ml_collections.ConfigDict()
    backbone.name = "resnet"  # resnet | mobilenet_v2 | small
    backbone.depth = 152  # [P]; 18 | 34 | 50 | 101 | 152, for resnet
    backbone.weights = ""  # file of ImageNet weights; '' starts from random parameters
    backbone.frozen = True  # [?] features stay as they were loaded
    # With frozen=False: steps in which the head learns alone before the backbone joins.
    backbone.unfreeze_step = 0
    backbone.freeze_norm = False  # batch norms keep their statistics while the backbone learns
    backbone.remat = False  # recompute activations in the backward pass to save memory

    decoder = config.decoder = ml_collections.ConfigDict()
    decoder.hidden = 512  # LSTM units [?]
    decoder.attention = 512  # units of the attention's score layer [?]
    decoder.embedding = 64  # width of the joint space of images and labels, for cnn_rnn [?]
    decoder.use_attention = True  # False: z_t is the mean of the features
    decoder.initial_state = "mean"  # mean (linear layer on the mean feature) | zeros [?]
    decoder.target = "all"  # [R] all | remaining | ranked
    decoder.max_labels = 18  # T, the largest label set of COCO's training split
    decoder.dropout = 0.5  # [?] on the pooled feature and on the LSTM's output

    search = config.search = ml_collections.ConfigDict()
    search.beam_size = 3  # [?]
    # τ; below 0: the one that `eval.py --tune` stored, or 0.5 before that.
    search.threshold = -1.0
    # Labels of every image for the linear head, whatever τ; 0: as many as τ lets through.
    search.top_k = 0
    search.stop = "path"  # [R] path: product of the path | step: the step's own probability

    optimizer = config.optimizer = ml_collections.ConfigDict()
    optimizer.name = "adam"  # adam (decoupled weight decay) | sgd (momentum 0.9)
    optimizer.learning_rate = 3e-4  # peak [?]
    optimizer.backbone_scale = 0.1  # of the learning rate, for a backbone that has weights
    optimizer.weight_decay = 0.0
    optimizer.schedule = "cosine"  # cosine (to zero at train.steps) | constant
    optimizer.warmup_steps = 0
    optimizer.clip_norm = 0.0  # global gradient norm; 0 turns it off

    config.label_smoothing = 0.0  # weight of a target that favours nothing
    # Moving average of the parameters, which is then what is evaluated and saved; 0: none.
    config.ema = ml_collections.ConfigDict({"decay": 0.0})

    cache = config.cache = ml_collections.ConfigDict()
    # With a frozen backbone: views an image whose features are kept on disk, the plain one first
    # and augmented ones behind it; 0 computes the features anew at every step.
    cache.views = 1
    cache.path = ""  # folder of the features; '' is WORKDIR/features
    cache.dtype = "float16"  # float16 | float32

    train = config.train = ml_collections.ConfigDict()
    train.batch_size = 64  # images over all devices and hosts [?]
    train.steps = 30_000
    train.log_every = 50  # steps
    train.eval_every = 1_000  # steps between validations
    train.checkpoint_every = 1_000  # steps
    train.keep = 2  # latest checkpoints kept beside the best
    train.best_figure = "mAP"  # the validation figure that chooses the best checkpoint
    config.eval = ml_collections.ConfigDict({"batch_size": 64})
    return config
