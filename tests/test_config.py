import math

import ml_collections
import pytest

from attn_lstm import config as configuration
from attn_lstm.errors import UserError
from configs import coco, common, digits, folder, nus_wide


@pytest.mark.parametrize("method", common.METHODS)
def test_every_row_of_digits_is_valid_as_it_stands(method):
    configuration.validate(digits.get_config(method), devices=1)


@pytest.mark.parametrize("module", [coco, folder, nus_wide])
def test_the_large_data_sets_need_a_folder_and_weights_only(module):
    config = module.get_config().unlock()
    with pytest.raises(UserError, match=r"data\.path.*backbone\.weights"):
        configuration.validate(config, devices=1)
    config.data.path, config.backbone.weights = "folder", "resnet152.pth"
    configuration.validate(config, devices=8)


def test_every_bounded_field_exists_and_holds_a_permitted_default():
    fields = dict(configuration.flatten(common.get_config()))
    for name, (low, high) in configuration.RANGES.items():
        assert low <= fields[name] <= high, name
    assert not {*configuration.CHOICES} - {*fields}
    assert {*configuration.PLACES} <= {*fields}


def test_all_mistakes_are_reported_together():
    config = digits.get_config().unlock()
    config.train.steps = 0
    config.decoder.dropout = math.nan
    config.search.stop = "sometime"
    config.train.batch_size = 30
    with pytest.raises(UserError) as caught:
        configuration.validate(config, devices=4)
    message = str(caught.value)
    for part in ("train.steps", "decoder.dropout", "path, step", "multiple of 4"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"backbone.frozen": True}, "backbone.weights"),
        ({"backbone.weights": "some.pth"}, "small backbone"),
        ({"order": "rare_first", "decoder.target": "ranked"}, "decoder.target"),
        ({"backbone.frozen": True, "backbone.unfreeze_step": 5}, "backbone.frozen=False"),
        ({"loss": "warp"}, "config.head='linear'"),
        ({"head": "linear", "loss": "softmax", "label_smoothing": 0.1}, "label_smoothing"),
        ({"head": "cnn_rnn"}, "config.order='frequent_first'"),
        ({"search.top_k": 3}, "config.head='linear'"),
        ({"head": "linear", "search.top_k": 3, "search.threshold": 0.5}, "threshold=-1"),
    ],
)
def test_contradictions_are_named(overrides, named):
    config = digits.get_config().unlock()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=named):
        configuration.validate(config, devices=1)


def test_a_config_of_another_version_is_named_not_a_crash():
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
