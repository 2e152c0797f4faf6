"""Files of vision transformers: what is taken of them, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from attn_lstm.errors import UserError
from attn_lstm.models import convnext
from attn_lstm.models.presets import PRESETS
from attn_lstm.models.vit import Architecture
from attn_lstm.weights import load_preset, read_preset
from tests.published import of_timm, of_transformers, saved

TINY = Architecture(width=8, depth=1, heads=2, feedforward=16, patch=4, grid=2, layer_scale=True)
CONVNEXT = convnext.Architecture(widths=(4, 8, 8, 8), depths=(1, 1, 1, 1))
CLIP = dataclasses.replace(TINY, layer_scale=False, norm_first=True)


@pytest.fixture(autouse=True)
def presets(monkeypatch):
    """Small ones, the only ones."""
    of = PRESETS["dinov2_s14"]
    for name in list(PRESETS):
        monkeypatch.delitem(PRESETS, name)
    for name, architecture in (
        ("tiny", TINY),
        ("tiny_clip", CLIP),
        ("wider", dataclasses.replace(TINY, width=16)),
        ("finer", dataclasses.replace(TINY, grid=3)),
        ("registers", dataclasses.replace(TINY, registers=4)),
        ("convnext", CONVNEXT),
    ):
        monkeypatch.setitem(PRESETS, name, dataclasses.replace(of, architecture=architecture))


def equal(a: dict, b: dict) -> bool:
    flat = [dict(x) for x in (_flat(a), _flat(b))]
    return flat[0].keys() == flat[1].keys() and all(
        np.array_equal(flat[0][k], flat[1][k]) for k in flat[0]
    )


def _flat(tree: dict, prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_of_a_clip_with_its_text_encoder_the_images_part_is_taken(tmp_path):
    vision = of_transformers(CLIP)
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    whole = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=text, vision_config=vision.config.to_dict(), projection_dim=8
        )
    )
    whole.vision_model.load_state_dict(vision.state_dict(), strict=False)
    (tmp_path / "whole").mkdir()
    alone = load_preset(saved(vision, tmp_path), "tiny_clip")
    path = saved(whole, tmp_path / "whole")
    # Older versions kept the numbers of the places too.
    tensors = load_file(path)
    tensors["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(tensors, path)
    loaded = read_preset(path, "tiny_clip")
    assert equal(loaded.variables, alone)
    assert {"logit_scale", "visual_projection.weight"} < {*loaded.dropped}
    assert "vision_model.embeddings.position_ids" in loaded.dropped


def test_classifiers_on_top_are_left_out(tmp_path):
    model = of_transformers(TINY)
    classifier = transformers.Dinov2ForImageClassification(model.config)
    classifier.dinov2.load_state_dict(model.state_dict())
    (tmp_path / "whole").mkdir()
    loaded = read_preset(saved(classifier, tmp_path / "whole"), "tiny")
    assert equal(loaded.variables, load_preset(saved(model, tmp_path), "tiny"))
    assert "classifier.weight" in loaded.dropped
    tensors = of_timm(TINY).state_dict()
    save_file(tensors, tmp_path / "plain.safetensors")
    save_file({**tensors, "head.weight": torch.ones(3, 8)}, tmp_path / "classes.safetensors")
    plain, classes = (
        read_preset(tmp_path / f"{n}.safetensors", "tiny") for n in ("plain", "classes")
    )
    assert equal(plain.variables, classes.variables) and classes.dropped == ("head.weight",)


def test_of_a_convnext_either_librarys_classifier_is_left_out(tmp_path):
    model = of_transformers(CONVNEXT)
    classifier = transformers.ConvNextForImageClassification(model.config)
    classifier.convnext.load_state_dict(model.state_dict())
    (tmp_path / "whole").mkdir()
    loaded = read_preset(saved(classifier, tmp_path / "whole"), "convnext")
    assert equal(loaded.variables, load_preset(saved(model, tmp_path), "convnext"))
    assert loaded.dropped == ("classifier.bias", "classifier.weight")
    tensors = {**of_timm(CONVNEXT).state_dict(), "head.fc.weight": torch.ones(3, 8)}
    save_file(tensors, tmp_path / "classes.safetensors")
    assert read_preset(tmp_path / "classes.safetensors", "convnext").dropped == ("head.fc.weight",)


def test_a_file_of_a_vision_transformer_is_no_convnext(tmp_path):
    path = saved(of_timm(TINY), tmp_path)
    complaint = r"does not fit convnext: patch_embed.proj.weight is unexpected; it fits .*=tiny$"
    with pytest.raises(UserError, match=complaint):
        load_preset(path, "convnext")


def test_a_file_of_torch_save_is_read_alike(tmp_path):
    model = of_timm(TINY)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    assert equal(
        load_preset(tmp_path / "a.pth", "tiny"), load_preset(saved(model, tmp_path), "tiny")
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"blocks.0.attn.qkv.bias": None}, r"blocks\.0\.attn\.qkv\.bias is missing"),
        ({"blocks.1.norm1.bias": torch.ones(8)}, r"blocks\.1\.norm1\.bias is unexpected"),
        ({"norm.bias": torch.ones(9)}, r"norm\.bias has shape \[9\], not \[8\]"),
        ({"norm.bias": torch.ones(8, dtype=torch.int32)}, r"norm\.bias holds int32"),
        ({"norm.bias": torch.full((8,), torch.nan)}, r"norm\.bias holds impossible numbers"),
        ({"patch_embed.proj.weight": None}, r"neither transformers' names nor timm's, but blocks"),
    ],
)
def test_what_does_not_fit_is_named(change, complaint, tmp_path):
    tensors = {**of_timm(TINY).state_dict(), **change}
    save_file({n: x for n, x in tensors.items() if x is not None}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=complaint) as refused:
        load_preset(tmp_path / "a.safetensors", "tiny")
    assert "timm/vit_small_patch14_dinov2.lvd142m" in str(refused.value)


@pytest.mark.parametrize("write", [of_timm, of_transformers])
@pytest.mark.parametrize("name", ["wider", "finer", "registers", "convnext"])
def test_weights_of_another_preset_are_recognised(name, write, tmp_path):
    path = saved(write(PRESETS[name].architecture), tmp_path)
    with pytest.raises(UserError, match=rf"does not fit tiny.*backbone\.preset={name}$"):
        load_preset(path, "tiny")
