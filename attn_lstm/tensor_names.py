"""What published files call the tensors of a backbone, and where each belongs in ours.

The names are those of transformers (https://github.com/huggingface/transformers) and of timm
(https://github.com/huggingface/pytorch-image-models).
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np

from attn_lstm.models import convnext
from attn_lstm.models.vit import Architecture

Keys = tuple[str, ...]  # where a leaf is in the parameters
Leaves = dict[Keys, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
      name: in the file.
      shape: there.
      leaves: makes the parameters that come of it.
    """

    name: str
    shape: tuple[int, ...]
    leaves: Callable[[np.ndarray], Leaves]


@dataclasses.dataclass(frozen=True)
class Style:
    """How one library names the parts of a vision transformer.

    Attributes:
      patches, class_token, registers, positions, norm_first, norm: of the whole network.
      block: what stands before a block's number; the rest is behind it.
      looks: the projections to queries, keys and values, or the one to all three.
      gated: (widen, narrow) where the activation is SwiGLU.
      flat: class token and positions have no axis for the batch.
      unused: what the features do not depend on.
    """

    patches: str
    class_token: str
    registers: str
    positions: str
    norm_first: str
    norm: str
    block: str
    looks: tuple[str, ...]
    out: str
    norms: tuple[str, str]
    scales: tuple[str, str]
    plain: tuple[str, str]
    gated: tuple[str, str]
    unused: str
    flat: bool = False


STYLES = (
    Style(  # timm
        patches="patch_embed.proj",
        class_token="cls_token",
        registers="reg_token",
        positions="pos_embed",
        norm_first="norm_pre",
        norm="norm",
        block="blocks",
        looks=("attn.qkv",),
        out="attn.proj",
        norms=("norm1", "norm2"),
        scales=("ls1.gamma", "ls2.gamma"),
        plain=("mlp.fc1", "mlp.fc2"),
        gated=("mlp.fc1", "mlp.fc2"),
        unused=r"head\..+|attn_pool\..+|mask_token",
    ),
    Style(  # transformers' Dinov2
        patches="embeddings.patch_embeddings.projection",
        class_token="embeddings.cls_token",
        registers="embeddings.register_tokens",
        positions="embeddings.position_embeddings",
        norm_first="",
        norm="layernorm",
        block="encoder.layer",
        looks=tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
        out="attention.output.dense",
        norms=("norm1", "norm2"),
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        plain=("mlp.fc1", "mlp.fc2"),
        gated=("mlp.weights_in", "mlp.weights_out"),
        unused=r"embeddings\.mask_token",
    ),
    Style(  # transformers' CLIP and SigLIP
        patches="embeddings.patch_embedding",
        class_token="embeddings.class_embedding",
        registers="",
        positions="embeddings.position_embedding.weight",
        norm_first="pre_layrnorm",  # sic
        norm="post_layernorm",
        block="encoder.layers",
        looks=tuple(f"self_attn.{part}_proj" for part in "qkv"),
        out="self_attn.out_proj",
        norms=("layer_norm1", "layer_norm2"),
        scales=("", ""),
        plain=("mlp.fc1", "mlp.fc2"),
        gated=("", ""),
        unused=r"head\..+|embeddings\.position_ids",
        flat=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class ConvStyle:
    """How one library names the parts of a ConvNeXt.

    Attributes:
      patches, first_norm, norm: of the whole network.
      halve: (normalisation, convolution) in front of a stage, whose number is `{}`.
      block: what stands before the names of a block, of the stage `{}` and the number `{}` there;
        the rest is behind it.
      unused: what the features do not depend on.
    """

    patches: str
    first_norm: str
    norm: str
    halve: tuple[str, str]
    block: str
    depthwise: str
    block_norm: str
    widen: str
    narrow: str
    scale: str
    unused: str


CONV_STYLES = (
    ConvStyle(  # timm
        patches="stem.0",
        first_norm="stem.1",
        norm="head.norm",
        halve=("stages.{}.downsample.0", "stages.{}.downsample.1"),
        block="stages.{}.blocks.{}.",
        depthwise="conv_dw",
        block_norm="norm",
        widen="mlp.fc1",
        narrow="mlp.fc2",
        scale="gamma",
        unused=r"head\.fc\..+",
    ),
    ConvStyle(  # transformers
        patches="embeddings.patch_embeddings",
        first_norm="embeddings.layernorm",
        norm="layernorm",
        halve=(
            "encoder.stages.{}.downsampling_layer.0",
            "encoder.stages.{}.downsampling_layer.1",
        ),
        block="encoder.stages.{}.layers.{}.",
        depthwise="dwconv",
        block_norm="layernorm",
        widen="pwconv1",
        narrow="pwconv2",
        scale="layer_scale_parameter",
        unused="",
    ),
)

# Where a file holds more than the backbone: a text encoder, a classifier.
_TOWERS = ("vision_model.", "dinov2.", "dinov2_with_registers.", "convnext.")


def tower(names: Collection[str]) -> str:
    """What stands before the names of the backbone in a file; '' for nothing."""
    return next((tower for tower in _TOWERS if any(n.startswith(tower) for n in names)), "")


def find_style(names: Collection[str]) -> Style | ConvStyle | None:
    """The style of a file's names, behind its `tower`; None for another one's."""
    styles = (*STYLES, *CONV_STYLES)
    return next((style for style in styles if f"{style.patches}.weight" in names), None)


def is_unused(style: Style | ConvStyle, name: str) -> bool:
    """Whether the features do not depend on a tensor."""
    return re.fullmatch(style.unused, name) is not None


def expected(a: Architecture, style: Style, class_position: bool) -> Iterator[Tensor]:
    """The tensors of a vision transformer.

    Args:
      class_position: the positions hold one for the class token, in front; it is the leaf
        `class_position`.
    """
    yield Tensor(
        f"{style.patches}.weight",
        (a.width, 3, a.patch, a.patch),
        lambda x: {("patches", "kernel"): x.transpose(2, 3, 1, 0).reshape(-1, a.width)},
    )
    if not a.norm_first:
        yield _as_it_is(f"{style.patches}.bias", ("patches", "bias"), (a.width,))
    yield _positions(a, style, class_position)
    one = () if style.flat else (1, 1)
    if a.class_token:
        yield Tensor(
            style.class_token,
            (*one, a.width),
            lambda x: {("class_token",): x.reshape(1, -1)},
        )
    if a.registers:
        yield Tensor(style.registers, (1, a.registers, a.width), lambda x: {("registers",): x[0]})
    if a.norm_first:
        yield from _norm(style.norm_first, ("norm_first",), a.width)
    yield from _norm(style.norm, ("norm",), a.width)
    for i in range(a.depth):
        yield from _block(a, style, f"{style.block}.{i}.", f"block_{i}")


def expected_convnext(a: convnext.Architecture, style: ConvStyle) -> Iterator[Tensor]:
    """The tensors of a ConvNeXt."""
    yield from _convolution(style.patches, ("stem",), a.widths[0], 3, 4)
    yield from _norm(style.first_norm, ("stem_norm",), a.widths[0])
    block = 0
    for stage, (width, depth) in enumerate(zip(a.widths, a.depths, strict=True)):
        if stage:
            norm, halve = (name.format(stage) for name in style.halve)
            before, first = a.widths[stage - 1], f"block_{block}"
            yield from _norm(norm, (first, "halve_norm"), before)
            yield from _convolution(halve, (first, "halve"), width, before, 2)
        for place in range(depth):
            name, ours = style.block.format(stage, place), f"block_{block}"
            yield from _convolution(name + style.depthwise, (ours, "depthwise"), width, 1, 7)
            yield from _norm(name + style.block_norm, (ours, "norm"), width)
            yield from _linear(name + style.widen, ours, ("widen",), width, 4 * width)
            yield from _linear(name + style.narrow, ours, ("narrow",), 4 * width, width)
            yield _as_it_is(name + style.scale, (ours, "scale"), (width,))
            block += 1
    yield from _norm(style.norm, ("norm",), a.width)


def assembled(leaves: Mapping[Keys, np.ndarray]) -> Leaves:
    """The parameters, in which the class token's position is part of it."""
    leaves = dict(leaves)
    position = leaves.pop(("class_position",), None)
    if position is not None:
        leaves["class_token",] = leaves["class_token",] + position
    return leaves


def _positions(a: Architecture, style: Style, class_position: bool) -> Tensor:
    count = a.grid**2 + class_position

    def leaves(x: np.ndarray) -> Leaves:
        x = x.reshape(count, a.width)
        found: Leaves = {("positions",): x[int(class_position) :]}
        if class_position:
            found["class_position",] = x[:1]
        return found

    one = () if style.flat else (1,)
    return Tensor(style.positions, (*one, count, a.width), leaves)


def _block(a: Architecture, style: Style, name: str, block: str) -> Iterator[Tensor]:
    gated = a.activation == "swiglu"
    for norm, ours in zip(style.norms, ("norm1", "norm2"), strict=True):
        yield from _norm(name + norm, (block, ours), a.width)
    parts = ("query", "key", "value")
    if len(style.looks) == 1:
        yield from _linear(name + style.looks[0], block, parts, a.width, 3 * a.width)
    else:
        for look, part in zip(style.looks, parts, strict=True):
            yield from _linear(name + look, block, (part,), a.width, a.width)
    yield from _linear(name + style.out, block, ("out",), a.width, a.width)
    widen, narrow = style.gated if gated else style.plain
    yield from _linear(name + widen, block, ("widen",), a.width, a.feedforward * (1 + gated))
    yield from _linear(name + narrow, block, ("narrow",), a.feedforward, a.width)
    if a.layer_scale:
        for scale, ours in zip(style.scales, ("scale1", "scale2"), strict=True):
            yield _as_it_is(name + scale, (block, ours), (a.width,))


def _norm(name: str, keys: Keys, width: int) -> Iterator[Tensor]:
    yield _as_it_is(f"{name}.weight", (*keys, "scale"), (width,))
    yield _as_it_is(f"{name}.bias", (*keys, "bias"), (width,))


def _convolution(name: str, keys: Keys, outputs: int, inputs: int, side: int) -> Iterator[Tensor]:
    """A square kernel, [out,in,h,w] in the file, and a bias."""
    yield Tensor(
        f"{name}.weight",
        (outputs, inputs, side, side),
        lambda x: {(*keys, "kernel"): x.transpose(2, 3, 1, 0)},
    )
    yield _as_it_is(f"{name}.bias", (*keys, "bias"), (outputs,))


def _linear(
    name: str, block: str, parts: tuple[str, ...], inputs: int, outputs: int
) -> Iterator[Tensor]:
    """A linear layer, whose outputs are those of one or more of ours."""

    def split(leaf: str) -> Callable[[np.ndarray], Leaves]:
        return lambda x: {
            (*_layer(block, part), leaf): piece.T
            for part, piece in zip(parts, np.split(x, len(parts)), strict=True)
        }

    yield Tensor(f"{name}.weight", (outputs, inputs), split("kernel"))
    yield Tensor(f"{name}.bias", (outputs,), split("bias"))


def _layer(block: str, part: str) -> Keys:
    return (block, part) if part in ("widen", "narrow") else (block, "attention", part)


def _as_it_is(name: str, keys: Keys, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, shape, lambda x: {keys: x})
