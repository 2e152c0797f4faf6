"""Random backbones of transformers and timm, as they save them: the oracles for ours."""

import os
from pathlib import Path

import jax
import numpy as np
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # One that was built for CUDA does not find its operators beside a torch for CPUs, and then
    # describes two that are not there. No backbone uses them.
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", "(Tensor a, Tensor b, float c) -> Tensor")

import timm
import transformers
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer

from attn_lstm.models import convnext
from attn_lstm.models.presets import PRESETS
from attn_lstm.models.vit import Architecture

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model in inference mode, with numbers at which every parameter matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.normal_(0.0, scale, generator=generator)
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.add_(1.0)  # of a normalisation, or of what a block adds
    return model.eval()


def of_transformers(a: Architecture | convnext.Architecture) -> torch.nn.Module:
    """The model of transformers with that architecture."""
    if isinstance(a, convnext.Architecture):
        config = transformers.ConvNextConfig(
            num_stages=len(a.widths), hidden_sizes=list(a.widths), depths=list(a.depths)
        )
        return randomised(transformers.ConvNextModel(config))
    sizes = {
        "hidden_size": a.width,
        "num_hidden_layers": a.depth,
        "num_attention_heads": a.heads,
        "image_size": a.grid * a.patch,
        "patch_size": a.patch,
        "layer_norm_eps": a.epsilon,
    }
    activation = {"gelu_tanh": "gelu_pytorch_tanh"}.get(a.activation, a.activation)
    if a.layer_scale:
        sizes["use_swiglu_ffn"] = a.activation == "swiglu"
        # What is asked for is cut to two thirds where the activation is gated.
        sizes["mlp_ratio"] = a.feedforward * (3 if sizes["use_swiglu_ffn"] else 2) // (2 * a.width)
        if a.registers:
            config = transformers.Dinov2WithRegistersConfig(
                **sizes, num_register_tokens=a.registers
            )
            return randomised(transformers.Dinov2WithRegistersModel(config))
        return randomised(transformers.Dinov2Model(transformers.Dinov2Config(**sizes)))
    sizes |= {"intermediate_size": a.feedforward, "hidden_act": activation}
    if a.class_token:
        return randomised(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes)))
    return randomised(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes)))


def of_timm(a: Architecture | convnext.Architecture) -> torch.nn.Module:
    """The model of timm with that architecture."""
    if isinstance(a, convnext.Architecture):
        return randomised(ConvNeXt(num_classes=0, depths=a.depths, dims=a.widths))
    gated = (
        {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": "silu"}
        if a.activation == "swiglu"
        else {}
    )
    return randomised(
        VisionTransformer(
            img_size=a.grid * a.patch,
            patch_size=a.patch,
            num_classes=0,
            global_pool="",
            embed_dim=a.width,
            depth=a.depth,
            num_heads=a.heads,
            mlp_ratio=a.feedforward * (2 if gated else 1) / a.width,
            init_values=1e-5 if a.layer_scale else None,
            class_token=a.class_token,
            reg_tokens=a.registers,
            no_embed_class=a.registers > 0,
            pre_norm=a.norm_first,
            norm_layer=lambda width, **_: torch.nn.LayerNorm(width, eps=a.epsilon),
            dynamic_img_size=True,
            **gated or {"act_layer": a.activation},
        )
    )


def published_by_timm(preset: str) -> torch.nn.Module:
    """The model of timm under the name that a preset's file has there."""
    architecture = PRESETS[preset].architecture
    name = PRESETS[preset].files[-1].removeprefix("timm/").partition(".")[0]
    if isinstance(architecture, convnext.Architecture):
        return randomised(timm.create_model(name, num_classes=0))
    if architecture.activation == "quick_gelu":
        name = name.replace("clip_", "clip_quickgelu_")
    options = {"act_layer": "gelu_tanh"} if architecture.activation == "gelu_tanh" else {}
    return randomised(timm.create_model(name, num_classes=0, dynamic_img_size=True, **options))


def saved(model: torch.nn.Module, folder: Path) -> Path:
    """The file that the model's library writes."""
    path = folder / "model.safetensors"
    if isinstance(model, transformers.PreTrainedModel):
        model.save_pretrained(folder)  # its names in memory are others
    else:
        save_file(model.state_dict(), path)
    return path


def features(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    """Of the regions, behind the last normalisation: float[B,H,W,3] -> float[B,K,D]."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2))
    if isinstance(model, ConvNeXt):
        return model.head.norm(model.forward_features(x)).flatten(2).mT
    if isinstance(model, transformers.ConvNextModel):
        return model.layernorm(model(x).last_hidden_state.flatten(2).mT)
    if isinstance(model, VisionTransformer):
        return model.forward_features(x)[:, model.num_prefix_tokens :]
    kind = type(model).__name__
    if kind.startswith("Dinov2"):
        before = 1 + getattr(model.config, "num_register_tokens", 0)
        return model(x).last_hidden_state[:, before:]
    hidden = model(x, interpolate_pos_encoding=True).last_hidden_state
    if kind == "SiglipVisionModel":
        return hidden
    vision = getattr(model, "vision_model", model)  # as transformers 4 nests it
    return vision.post_layernorm(hidden)[:, 1:]  # there of the pooled token alone


def images(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(side).normal(size=(count, side, side, 3)).astype(np.float32)


def relative_error(ours: jax.Array, theirs: torch.Tensor) -> float:
    expected = theirs.detach().numpy()
    found = np.asarray(ours, np.float32).reshape(expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def least_cosine(ours: jax.Array, theirs: torch.Tensor) -> float:
    """Of a region's features."""
    expected = theirs.detach().numpy()
    found = np.asarray(ours, np.float32).reshape(expected.shape)
    dots = (found * expected).sum(-1)
    return float((dots / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)).min())
