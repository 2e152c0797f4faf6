"""The rows of the tables: for each the fields that make it, where it comes from, and what it is.

[P] stands behind what the source says of a field; see `fields.py`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import ml_collections

from attn_lstm.errors import UserError

_PAPER = "Chen et al. 2018"


class Method(NamedTuple):
    """A row of the tables."""

    source: str
    text: str
    fields: Mapping[str, bool | float | str]  # what differs from the defaults


METHODS: dict[str, Method] = {
    "order_free": Method(_PAPER, "the paper's model, as the defaults have it", {}),
    "order_free_no_attention": Method(
        _PAPER, "z_t is the mean of the features", {"decoder.use_attention": False}
    ),
    "frequent_first": Method(
        _PAPER, "taught the true labels by falling frequency", {"order": "frequent_first"}
    ),
    "rare_first": Method(
        _PAPER, "taught the true labels by rising frequency", {"order": "rare_first"}
    ),
    "random_order": Method(
        "ours",
        "taught a random permutation of the true labels, drawn anew every time",
        {"order": "random"},
    ),
    "mla": Method(
        "Yazici et al. 2020",
        "true labels assigned to the predicted steps, minimal loss alignment; parameters averaged "
        "over the last quarter [?], where the authors average at the ends of the cycles of their "
        "learning rate",
        {"decoder.target": "mla", "swa.share": 0.25},
    ),
    "pla": Method(
        "Yazici et al. 2020",
        "as mla, but what is predicted stays, predicted label alignment",
        {"decoder.target": "pla", "swa.share": 0.25},
    ),
    "multi_order": Method(
        "Dutta et al. 2020",
        "steps against the labels left, label-wise maximum over the steps; all T steps count in "
        "the loss, in the authors' code the first |y| of an image with labels y",
        {"decoder.target": "remaining", "search.scores": "max", "search.decide": "scores"},
    ),
    "resnet_baseline": Method(
        _PAPER,
        "M_map alone, v_prob cut at 0.5 [P]",
        {"head": "linear", "search.threshold": 0.5},
    ),
    "asl": Method(
        "Ben-Baruch et al. 2021",
        "M_map alone, asymmetric loss; a moving average of the parameters as in the authors' code",
        {"head": "linear", "loss": "asymmetric", "ema.decay": 0.9997},
    ),
    "focal": Method(
        "Lin et al. 2017", "M_map alone, focal loss", {"head": "linear", "loss": "focal"}
    ),
    "softmax": Method(
        "Gong et al. 2013",
        "M_map alone, one softmax over all labels; the 3 best of an image [P]",
        {"head": "linear", "loss": "softmax", "search.top_k": 3},
    ),
    "warp": Method(
        "Gong et al. 2013",
        "M_map alone, weighted approximate ranking; the 3 best of an image [P]",
        {"head": "linear", "loss": "warp", "search.top_k": 3},
    ),
    "cnn_rnn": Method(
        "Wang et al. 2016",
        "no M_map, no attention, frequent labels first [P]; a path ends by its end token alone",
        {"head": "cnn_rnn", "order": "frequent_first", "search.threshold": 0.0},
    ),
    "knn": Method(
        _PAPER,
        "the labels of the nearest training images, the 3 best of an image [P]; nothing is "
        "trained, and without backbone.weights random features are compared: a floor for the other "
        "rows, not the paper's row",
        {"head": "knn", "backbone.frozen": True, "search.top_k": 3},
    ),
    "query2label": Method(
        "Liu et al. 2021",
        "a query a label in a transformer's decoder, in the place of M_map; a moving average of "
        "the parameters as in the authors' code",
        {"head": "query2label", "ema.decay": 0.9997},
    ),
    "ml_decoder": Method(
        "Ridnik et al. 2023",
        "fixed queries for groups of labels, in the place of M_map; heads, layers and the moving "
        "average of the parameters as in the authors' code",
        {
            "head": "ml_decoder",
            "set_head.heads": 8,
            "set_head.layers": 1,
            "ema.decay": 0.9997,
        },
    ),
    "csra": Method(
        "Zhu & Wu 2021",
        "class-specific residual attention, in the place of M_map; heads as in the authors' "
        "command for COCO",
        {"head": "csra", "set_head.heads": 6},
    ),
    "order_free_plus": Method(
        "ours",
        "order_free with what helped on held-out images, of all that came after the paper "
        "(benchmarks/RESULTS.md): trained as ever, its set is every label for which the mean of "
        "v_prob and of the label's step reaches τ",
        {"search.scores": "mean", "search.decide": "scores"},
    ),
    "order_free_ranked": Method(
        "ours",
        "order_free as a confidence-ranked LSTM: each step is held against one label, the most "
        "probable of the true ones left; an end token that comes early costs no label, since the "
        "set is decided as in order_free_plus",
        {"decoder.target": "ranked", "search.scores": "mean", "search.decide": "scores"},
    ),
    "order_free_label_maps": Method(
        "ours",
        "order_free whose attention has a map of each label: what each region says for a label is "
        "added to the scores of the step, and the label's logit reads its own map",
        {"decoder.maps": "label"},
    ),
    "order_free_ranked_label_maps": Method(
        "ours",
        "order_free_ranked with the maps of order_free_label_maps: each step is held against one "
        "label, which has a map of its own",
        {
            "decoder.target": "ranked",
            "decoder.maps": "label",
            "search.scores": "mean",
            "search.decide": "scores",
        },
    ),
}


def apply_method(config: ml_collections.ConfigDict, method: str) -> ml_collections.ConfigDict:
    """Turns `config` into one row of the tables and locks it. Raises `UserError` on other names."""
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; choose one of: {', '.join(METHODS)}")
    config.update_from_flattened_dict({"method": method, **METHODS[method].fields})
    return config.lock()
