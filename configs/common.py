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


def _random_order(config: ml_collections.ConfigDict) -> None:
    """Taught a random permutation of the true labels, drawn anew every time."""
    config.order = "random"


def _mla(config: ml_collections.ConfigDict) -> None:
    """Yazici et al. 2020: true labels assigned to the predicted steps, minimal loss alignment."""
    config.decoder.target = "mla"


def _pla(config: ml_collections.ConfigDict) -> None:
    """Yazici et al. 2020: as mla, but what is predicted stays, predicted label alignment."""
    config.decoder.target = "pla"


def _multi_order(config: ml_collections.ConfigDict) -> None:
    """Dutta et al. 2020: steps against the labels left, label-wise maximum over the steps.

    All T steps count in the loss; in the authors' code the first |y| of an image with labels y.
    """
    config.decoder.target = "remaining"
    config.search.scores = "max"
    config.search.decide = "scores"


def _resnet_baseline(config: ml_collections.ConfigDict) -> None:
    config.head = "linear"
    config.search.threshold = 0.5  # [P] v_prob cut at 0.5


def _asl(config: ml_collections.ConfigDict) -> None:
    """Ben-Baruch et al. 2021: M_map alone, asymmetric loss."""
    config.head = "linear"
    config.loss = "asymmetric"


def _focal(config: ml_collections.ConfigDict) -> None:
    """Lin et al. 2017: M_map alone, focal loss."""
    config.head = "linear"
    config.loss = "focal"


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


def _query2label(config: ml_collections.ConfigDict) -> None:
    """Liu et al. 2021: a query a label in a transformer's decoder, in the place of M_map."""
    config.head = "query2label"


def _ml_decoder(config: ml_collections.ConfigDict) -> None:
    """Ridnik et al. 2023: fixed queries for groups of labels, in the place of M_map."""
    config.head = "ml_decoder"
    config.set_head.heads = 8  # their code
    config.set_head.layers = 1


def _csra(config: ml_collections.ConfigDict) -> None:
    """Zhu & Wu 2021: class-specific residual attention, in the place of M_map."""
    config.head = "csra"
    config.set_head.heads = 6  # their command for COCO


def _order_free_plus(config: ml_collections.ConfigDict) -> None:
    """The order-free network with what helped on held-out images, of all that came after the paper.

    It is trained as ever. Its set is every label for which the mean of v_prob and of the label's
    step reaches τ; benchmarks/RESULTS.md has what else was tried, and each part's worth.
    """
    config.search.scores = "mean"
    config.search.decide = "scores"


def _cnn_rnn(config: ml_collections.ConfigDict) -> None:
    """Wang et al. 2016: no M_map, no attention; a path ends by its end token alone."""
    config.head = "cnn_rnn"
    config.order = "frequent_first"  # [P]
    config.search.threshold = 0.0


def _knn(config: ml_collections.ConfigDict) -> None:
    """The labels of the nearest training images; nothing is trained."""
    config.head = "knn"
    config.backbone.frozen = True
    config.search.top_k = 3  # [P]


METHODS = {
    "order_free": _order_free,
    "order_free_no_attention": _order_free_no_attention,
    "frequent_first": _frequent_first,
    "rare_first": _rare_first,
    "random_order": _random_order,
    "mla": _mla,
    "pla": _pla,
    "multi_order": _multi_order,
    "resnet_baseline": _resnet_baseline,
    "asl": _asl,
    "focal": _focal,
    "softmax": _softmax,
    "warp": _warp,
    "cnn_rnn": _cnn_rnn,
    "knn": _knn,
    "query2label": _query2label,
    "ml_decoder": _ml_decoder,
    "csra": _csra,
    "order_free_plus": _order_free_plus,
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
    # attention_lstm | linear (M_map alone) | query2label | ml_decoder | csra | cnn_rnn | knn
    config.head = "attention_lstm"
    # Of M_map or the set head in its place: [R] bce | asymmetric | focal; without a decoder also
    # softmax | warp.
    config.loss = "bce"
    # Further arguments of two losses:
    # Ben-Baruch et al. 2021: exponents for wrong and for true labels; up to the probability `clip`
    # a wrong label costs nothing.
    config.asymmetric = ml_collections.ConfigDict(
        {"gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05}
    )
    # Lin et al. 2017: the exponent; the weight of true labels, 1 - alpha that of wrong ones, and
    # with 0 both weigh 1.
    config.focal = ml_collections.ConfigDict({"gamma": 2.0, "alpha": 0.0})
    # Which true label is the target of a step: confidence is the paper's order-free training;
    # the other orders train with teacher forcing and an end token, random with another permutation
    # of the true labels for every image and update.
    config.order = "confidence"  # confidence | frequent_first | rare_first | random

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
    data.max_pixels = 89_478_485  # of an image (256 MiB in memory); one with more is a bad image
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
    # With the order confidence, what a step is held against. A set: [R] all, the true labels |
    # remaining, those not emitted yet. One label, by softmax, with an end token behind the
    # last: ranked, the most probable of the remaining | mla, pla, the one that an alignment of the
    # true labels to the predicted sequence gives it (attn_lstm/alignment.py).
    decoder.target = "all"
    decoder.max_labels = 18  # T, the largest label set of COCO's training split
    decoder.dropout = 0.5  # [?] on the pooled feature and on the LSTM's output
    # On the channels of v_feat that the decoder or the set head sees, the same in all regions and
    # at all steps.
    decoder.feature_dropout = 0.0

    # Of the heads query2label, ml_decoder and csra.
    set_head = config.set_head = ml_collections.ConfigDict()
    set_head.hidden = 256  # channels of queries and regions; published 2048 and 768
    set_head.heads = 4  # of the attention, Query2Label's command; of csra: 1 | 2 | 4 | 6 | 8
    set_head.feedforward = 1024  # units; published 8192 and 2048
    set_head.layers = 2  # of the decoder, Query2Label's command
    set_head.encoder_layers = 1  # of query2label, its command
    set_head.groups = 100  # of ml_decoder, its code; no more than there are labels
    set_head.residual = 0.5  # λ of csra, its command for COCO
    set_head.dropout = 0.1  # in transformer layers, both codes

    search = config.search = ml_collections.ConfigDict()
    search.beam_size = 3  # [?]
    # τ; below 0: the one that `eval.py --tune` stored, or 0.5 before that.
    search.threshold = -1.0
    # Labels of every image for the heads linear and knn, whatever τ; 0: as many as τ lets through.
    search.top_k = 0
    search.stop = "path"  # [R] path: product of the path | step: the step's own probability
    # What ranks the labels of a row with a decoder: last_step (p of its last step) | map (v_prob) |
    # mean (of these two) | max (the largest p of any step; last_step is the same with an end token)
    search.scores = "last_step"
    # What such a row predicts: path (the set of the best path [R]) | scores (all labels whose score
    # reaches τ, as in rows without a decoder).
    search.decide = "path"
    # Which τ `eval.py --tune` chooses on the validation split: global (best mean of C-F1 and O-F1)
    # | micro (best O-F1) | per_class (one a label, for its own F1; where scores decide).
    search.thresholds = "global"

    # Head knn: one pass over the training images, whatever train.steps. Without backbone.weights
    # it compares features of random parameters: a floor for the other rows, not the paper's row.
    # k, the images whose labels are carried over [?]; 0: chosen on the validation split.
    config.knn = ml_collections.ConfigDict({"neighbours": 0})

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
    # The same with an equal average of the parameters behind this update and every later one
    # (stochastic weight averaging, Izmailov et al. 2018; best with optimizer.schedule=constant); 0:
    # none.
    config.swa = ml_collections.ConfigDict({"start_step": 0})

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
    # A loss, a gradient or an update that is not finite: error ends the run, with a report in the
    # work directory | skip goes on without that update, max_skipped times in the whole run.
    train.on_nonfinite = "error"
    train.max_skipped = 10
    train.best_figure = "mAP"  # the validation figure that chooses the best checkpoint
    config.eval = ml_collections.ConfigDict({"batch_size": 64})
    return config
