"""Every distinct network, compiled for devices that are not here: a TPU v5e of 2x2 and two H100.

`pip install -e '.[plan]'` brings what compiles for them; without it these tests are skipped.
"""

import importlib.util
import os

import pytest

# Read when libtpu is loaded: no cloud is asked, and another process may have it too.
os.environ.update(
    TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", ALLOW_MULTIPLE_LIBTPU_LOAD="1"
)

from attn_lstm import parallel
from attn_lstm.models.presets import PRESETS
from attn_lstm.plan import program
from attn_lstm.plan.compiling import Facts, Request
from attn_lstm.plan.targets import parse_target
from configs import coco

_NEEDS = {"v5e:2x2": "libtpu", "h100:2": "jax_cuda13_plugin"}
_NETWORKS = ["order_free", "frequent_first", "mla", "cnn_rnn", "warp", "query2label", "ml_decoder",
             "csra"]  # fmt: skip
_LABELS = 8


@pytest.fixture(scope="module", params=_NEEDS)
def target(request):
    if importlib.util.find_spec(_NEEDS[request.param]) is None:
        pytest.skip(f"{_NEEDS[request.param]} is not installed")
    return request.param


@pytest.fixture(scope="module")
def mesh(target):
    return parallel.make_mesh(program.find_devices(parse_target(target)))


def compiled(mesh, target: str, step: str, method: str, **fields) -> Facts:
    """A step at small size; the backbone is a ResNet-18 that learns, unless `fields` say else."""
    config = coco.get_config(method).unlock()
    config.update_from_flattened_dict(
        {
            "dtype": "bfloat16",
            "data.image_size": 64,
            "backbone.depth": 18,
            "backbone.frozen": False,
            "decoder.hidden": 128,
            "decoder.attention": 128,
            "decoder.max_labels": 4,
            "set_head.hidden": 128,
            "set_head.layers": 1,
            "set_head.feedforward": 128,
            **fields,
        }
    )
    batch = 8 * mesh.size
    request = Request(step, config.to_dict(), target, _LABELS, images=64, batch=batch)
    return Facts(**program.compile_for(mesh, request))


def assert_for_the_device(facts: Facts) -> None:
    assert facts.products and {*facts.products} <= {"bf16 x bf16"}
    assert facts.callbacks == []
    assert facts.flops > 0 and facts.bytes > 0 and facts.memory > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", _NETWORKS)
def test_an_update_is_bfloat16_and_only_sums_over_devices(mesh, target, method):
    facts = compiled(mesh, target, "train", method)
    assert_for_the_device(facts)
    assert {*facts.collectives} == {"all-reduce"}


@pytest.mark.slow
@pytest.mark.parametrize("method", _NETWORKS)
def test_an_evaluation_is_bfloat16_and_each_device_by_itself(mesh, target, method):
    facts = compiled(mesh, target, "evaluate", method)
    assert_for_the_device(facts)
    assert facts.collectives == {}


@pytest.mark.slow
def test_kept_features_take_the_place_of_images(mesh, target):
    frozen = {"backbone.frozen": True, "cache.views": 1}
    facts = compiled(mesh, target, "train", "order_free", **frozen)
    assert_for_the_device(facts)
    encoded = compiled(mesh, target, "encode", "order_free", **frozen)
    assert_for_the_device(encoded)
    # 8 images a device, of 2 x 2 regions and 512 channels in float16.
    assert encoded.returned == 8 * 2 * 2 * 512 * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "size", "features"),
    [("dinov2_s14", 56, 4 * 4 * 384), ("convnext_tiny_224", 64, 2 * 2 * 768)],
)
def test_a_published_backbone_learns_and_its_features_are_kept(
    mesh, target, preset, size, features
):
    name = PRESETS[preset].backbone
    published = {"backbone.name": name, "backbone.preset": preset, "data.image_size": size}
    learning = {"backbone.remat": True, "backbone.resting_blocks": 10, "optimizer.layer_decay": 0.7}
    facts = compiled(mesh, target, "train", "order_free", **published, **learning)
    assert_for_the_device(facts)
    assert {*facts.collectives} == {"all-reduce"}
    frozen = {"backbone.frozen": True, "cache.views": 1}
    encoded = compiled(mesh, target, "encode", "order_free", **published, **frozen)
    assert_for_the_device(encoded)
    # 8 images a device, in float16.
    assert encoded.returned == 8 * features * 2


@pytest.mark.slow
def test_the_row_that_remembers_evaluates(mesh, target):
    facts = compiled(mesh, target, "evaluate", "knn")
    assert facts.callbacks == [] and facts.collectives == {}
