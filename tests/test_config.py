import itertools
import math
from pathlib import Path

import ml_collections
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm import config as configuration
from attn_lstm import fields
from attn_lstm.errors import UserError
from attn_lstm.fields import FIELDS, Choice, flatten, nested
from attn_lstm.methods import METHODS
from configs import coco, digits, folder, laptop, nus_wide

DIGITS = dict(flatten(digits.get_config()))


def digits_with(**changed) -> ml_collections.ConfigDict:
    """The config of digits with fields set to anything, as a config file of anybody's may."""
    return nested({**DIGITS, **changed})


CONVNEXT = {"backbone.name": "convnext", "backbone.preset": "convnext_tiny_224"}
VIT = {"backbone.name": "vit", "backbone.preset": "dinov2_s14", "data.image_size": 56}


@pytest.mark.parametrize("method", METHODS)
def test_every_row_of_digits_is_valid_as_it_stands(method):
    configuration.validate(digits.get_config(method), devices=1)


@pytest.mark.parametrize("module", [coco, folder, laptop, nus_wide])
def test_the_large_data_sets_need_a_folder_and_weights_only(module):
    config = module.get_config().unlock()
    with pytest.raises(UserError, match=r"data\.path.*backbone\.weights"):
        configuration.validate(config, devices=1)
    config.data.path, config.backbone.weights = "folder", "resnet152.pth"
    configuration.validate(config, devices=8)


def test_the_page_of_fields_is_up_to_date():
    page = Path(__file__).parents[1] / "docs" / "config.md"
    assert page.read_text(encoding="utf-8") == fields.page()


def test_what_a_row_uses_are_the_fields_of_its_own_head_loss_and_backbone():
    order_free, asl = (configuration.used(digits.get_config(row)) for row in ("order_free", "asl"))
    assert {"decoder.hidden", "seed", "optimizer.learning_rate"} < order_free.keys()
    assert not any(
        name.startswith(("asymmetric", "focal", "knn", "set_head")) for name in order_free
    )
    assert "asymmetric.clip" in asl and "decoder.hidden" not in asl
    assert "backbone.depth" not in order_free
    assert "backbone.depth" in configuration.used(coco.get_config())


def test_every_default_may_be_what_it_is():
    wrong = {name for name, field in FIELDS.items() if field.wrong(field.default)}
    assert wrong == {"data.name"}  # which each config file sets
    assert {*configuration.CHANGEABLE} < {*FIELDS}


def test_all_mistakes_are_reported_together():
    config = digits_with(
        **{
            "train.steps": 0,
            "decoder.dropout": math.nan,
            "search.stop": "sometime",
            "train.batch_size": 30,
            "eval.batch_size": 30,  # of which a multiple of the devices is taken
            "train.stpes": 10,
            "backbone.freeze_norm": "yes",
            "backbone.weights": "small.pth",
        }
    )
    with pytest.raises(UserError) as caught:
        configuration.validate(config, devices=4)
    message = str(caught.value)
    for part in (
        "train.steps=0", "decoder.dropout", "path, step", "multiple of 4", "freeze_norm='yes'",
        "unknown config field config.train.stpes", "small backbone",
    ):  # fmt: skip
        assert part in message
    assert "\n" not in message and "eval.batch_size" not in message


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), ANYTHING, min_size=1, max_size=4))
def test_whatever_stands_in_fields_is_accepted_or_named(changed):
    message = "; ".join(configuration.find_mistakes(digits_with(**changed), devices=1))
    for name, value in changed.items():
        usual = type(DIGITS[name])
        fits = type(value) is usual or (usual is float and type(value) is int)
        if not fits:
            assert f"config.{name}={value!r} is " in message


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), ANYTHING))
def test_fields_come_back_from_their_groups(values):
    assert repr(dict(sorted(flatten(nested(values))))) == repr(dict(sorted(values.items())))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("train.steps", 0, "is no integer between 1 and 2147483647"),
        ("train.steps", 1e5, "is no integer between 1 and"),
        ("decoder.dropout", -0.1, "is no number between 0.0 and 0.99"),
        ("decoder.dropout", math.nan, "is no number between 0.0 and 0.99"),
        ("optimizer.clip_norm", -1, "is no number between 0.0 and inf"),
        ("backbone.depth", 20, "is none of: 18, 34, 50, 101, 152"),
        ("backbone.frozen", 1, "is neither True nor False"),
        ("data.path", None, "is no text"),
    ],
)
def test_a_value_that_may_not_be_is_named_with_what_may(field, value, complaint):
    with pytest.raises(UserError) as caught:
        configuration.validate(digits_with(**{field: value}), devices=1)
    assert f"config.{field}={value!r} {complaint}" in str(caught.value)


def test_what_trained_a_network_is_no_matter_where_it_is_used():
    training = {
        "train.batch_size": 7, "train.steps": 0, "optimizer.name": "adamw", "swa.share": -1,
        "backbone.unfreeze_step": 5, "backbone.frozen": True, "data.augment.flip": None,
    }  # fmt: skip
    configuration.validate(digits_with(**training))
    with pytest.raises(UserError, match=r"^config\.search\.beam_size=0 is no integer[^;]*$"):
        configuration.validate(digits_with(**training, **{"search.beam_size": 0}))


def test_choices_that_are_added_later_count():
    choices = {"one": 1}
    field = Choice("one", choices, "of a registry")
    assert field.wrong("two") == "is none of: one"
    choices["two"] = 2
    assert field.wrong("two") is None
    assert field.permitted() == "`one`, `two`"


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("decoder.hiden", 3, "config.decoder.hidden"),
        ("optimiser.learning_rate", 3, "config.optimizer.learning_rate"),
        ("hidden", 3, "config.decoder.hidden"),
        ("order", "confidense", "confidence"),
        ("backbone.name", "resnet50", "resnet"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(field, value, nearest):
    with pytest.raises(UserError, match=rf"did you mean {nearest}\?"):
        configuration.validate(digits_with(**{field: value}), devices=1)


CNN_RNN = {"head": "cnn_rnn", "order": "frequent_first"}
PER_CLASS = {"search.decide": "scores", "search.thresholds": "per_class"}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"backbone.name": "vit"}, "preset=''.*give vit or convnext and one of the presets"),
        ({"backbone.preset": "clip_b16"}, "preset='clip_b16'.*'small'"),
        ({"optimizer.layer_decay": 0.5}, "layer_decay=0.5 needs config.backbone.name=vit or"),
        ({**VIT, "data.image_size": 64}, "image_size=64.*14 pixels of dinov2_s14; give 56 or 70"),
        ({**VIT, "backbone.resting_blocks": 13}, "more than the 12 blocks of dinov2_s14"),
        ({**VIT, "backbone.freeze_norm": True}, "freeze_norm is for batch norms, which vit has"),
        ({**CONVNEXT, "backbone.name": "vit"}, "tiny_224 with .*=vit: give config.*name=convnext"),
        ({**CONVNEXT, "data.image_size": 80}, "32 pixels of convnext_tiny_224; give 64 or 96"),
        ({**CONVNEXT, "backbone.resting_blocks": 19}, "the 18 blocks of convnext_tiny_224"),
        (
            {**VIT, "backbone.frozen": True, "backbone.resting_blocks": 1},
            "resting_blocks=1.*frozen",
        ),
        ({"backbone.frozen": True}, "backbone.weights"),
        ({"backbone.weights": "some.pth"}, "small backbone"),
        ({"order": "rare_first", "decoder.target": "ranked"}, "decoder.target"),
        ({"backbone.frozen": True, "backbone.unfreeze_step": 5}, "backbone.frozen=False"),
        ({"order": "random", "decoder.target": "mla"}, "decoder.target"),
        ({"loss": "warp"}, "a config.head of linear, query2label"),
        ({"backbone.frozen": True, "optimizer.backbone_scale": 0.5}, "backbone_scale=0.5.*frozen"),
        ({"backbone.frozen": True, "backbone.freeze_norm": True}, "freeze_norm=True.*frozen"),
        ({"optimizer.backbone_scale": 0.5}, "backbone_scale=0.5.*backbone.weights"),
        ({"data.protocol": "list"}, "data.train_list"),
        ({"data.name": "nus_wide", "data.path": "here"}, "drop_unlabelled=True"),
        ({**CNN_RNN, "loss": "focal"}, "a config.head of attention_lstm.*not 'cnn_rnn'"),
        ({"loss": "asymmetric", "label_smoothing": 0.1}, "config.loss='asymmetric'"),
        ({"ema.decay": 0.9, "swa.share": 0.5}, "leave one at 0"),
        ({"head": "linear", "loss": "softmax", "label_smoothing": 0.1}, "label_smoothing"),
        ({"head": "cnn_rnn"}, "config.order='frequent_first'"),
        ({"search.top_k": 3}, "linear, query2label, ml_decoder, csra, knn"),
        ({"head": "knn"}, "config.backbone.frozen=True"),
        ({"head": "knn", "backbone.frozen": True, "loss": "warp"}, "a config.head of linear"),
        ({"head": "csra", "set_head.heads": 3}, "csra has 1, 2, 4, 6, 8 heads"),
        ({"head": "query2label", "set_head.hidden": 10}, "no multiple of 4"),
        ({"head": "ml_decoder", "set_head.heads": 3}, "no multiple of 3"),
        ({"head": "linear", "search.top_k": 3, "search.threshold": 0.5}, "threshold=-1"),
        ({"head": "csra", "search.scores": "max"}, "scores='max' needs the steps of a decoder"),
        ({"head": "linear", "search.scores": "mean"}, "scores='mean' needs the steps.*'linear'"),
        ({**CNN_RNN, "search.scores": "mean"}, "needs v_prob"),
        ({**CNN_RNN, "search.threshold": 0.0, "search.decide": "scores"}, "every label"),
        ({"search.thresholds": "per_class"}, "search.decide='scores'"),
        ({**PER_CLASS, "search.threshold": 0.3}, "search.threshold=-1"),
        ({"head": "linear", "search.top_k": 3, "search.thresholds": "per_class"}, "top_k=0"),
    ],
)
def test_contradictions_are_named(overrides, named):
    config = digits.get_config().unlock()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=named):
        configuration.validate(config, devices=1)


@pytest.mark.parametrize(
    "overrides",
    [
        PER_CLASS,
        {"head": "linear", "search.thresholds": "per_class"},
        {"search.scores": "mean", "search.decide": "scores", "search.thresholds": "micro"},
    ],
)
def test_what_ranks_and_what_decides_go_together(overrides):
    config = digits.get_config().unlock()
    config.update_from_flattened_dict(overrides)
    configuration.validate(config, devices=1)


SETS, LABELS = ("all", "remaining"), ("ranked", "mla", "pla")
TAUGHT = ("frequent_first", "rare_first", "random")


def refused(head, order, target, scores):
    """The two fields of the table in docs/figures.md that have no meaning together, or None."""
    if order in TAUGHT and target != "all":
        return "decoder.target", "order"
    if head == "linear":
        return ("search.scores", "head") if scores in ("mean", "max") else None
    if head == "cnn_rnn" and order == "confidence" and target in SETS:
        return "head", "order"
    if head == "cnn_rnn" and scores in ("map", "mean"):
        return "search.scores", "head"
    return None


@pytest.mark.parametrize("head", ["attention_lstm", "cnn_rnn", "linear"])
def test_every_combination_of_steps_and_scores_means_something_or_is_refused(head):
    config = digits.get_config().unlock()
    for order, target, scores, decide in itertools.product(
        ("confidence", *TAUGHT), SETS + LABELS, ("last_step", "map", "mean", "max"),
        ("path", "scores"),
    ):  # fmt: skip
        config.update_from_flattened_dict({
            "head": head, "order": order, "decoder.target": target, "search.scores": scores,
            "search.decide": decide,
        })  # fmt: skip
        mistakes = "; ".join(configuration.find_mistakes(config, 1))
        fields = refused(head, order, target, scores)
        assert bool(mistakes) == bool(fields), (order, target, scores, decide, mistakes)
        assert all(f"config.{name}=" in mistakes for name in fields or ())


@pytest.mark.parametrize(
    ("overrides", "threshold", "named"),
    [
        ({}, -1.0, None),
        ({}, 0.0, "search.threshold"),
        ({"search.decide": "scores"}, -1.0, None),
        ({"order": "rare_first"}, 0.0, None),  # its end token ends it
        ({"order": "rare_first"}, -1.0, None),
        ({"order": "random"}, -1.0, "order"),
        ({"order": "random"}, 0.2, None),
        ({"decoder.target": "mla"}, 0.0, None),
        ({"head": "linear"}, -1.0, None),
        ({"head": "linear"}, 0.0, "search.threshold"),
        ({"head": "linear", "order": "random"}, -1.0, None),
        ({"head": "linear", "loss": "softmax"}, -1.0, "loss"),
        ({"head": "linear", "loss": "softmax"}, 0.1, None),
        ({"head": "linear", "loss": "softmax", "search.top_k": 3}, -1.0, None),
    ],
)
def test_sets_choose_the_best_checkpoint_only_where_they_mean_something(
    overrides, threshold, named
):
    config = digits.get_config().unlock()
    config.update_from_flattened_dict({**overrides, "search.threshold": threshold})
    assert not configuration.find_mistakes(config, 1)
    config.train.best_figure = "C-F1"
    mistakes = "; ".join(configuration.find_mistakes(config, 1))
    assert bool(mistakes) == bool(named)
    if named:
        assert "config.train.best_figure='C-F1'" in mistakes and f"config.{named}=" in mistakes
    assert not configuration.find_mistakes(config)  # of no account once it is trained


def test_what_a_config_lacks_is_named_not_a_crash():
    with pytest.raises(UserError, match=r"lacks.*train\.steps"):
        configuration.validate(ml_collections.ConfigDict({"seed": 0}), devices=1)


def test_resolving_leaves_nothing_to_the_machine():
    resolved = configuration.resolve(digits.get_config())
    assert resolved.dtype == "float32"  # tests run on CPUs
    assert resolved.is_locked
    assert digits.get_config().dtype == "auto"


def test_an_unknown_method_answers_with_the_choices():
    with pytest.raises(UserError, match="order_free, order_free_no_attention"):
        digits.get_config("order_full")
