"""Published backbones by the names of `config.backbone.preset`: network, pixels, file, licence."""

import dataclasses

from attn_lstm.models import convnext
from attn_lstm.models.preprocessing import CLIP, HALF, IMAGENET, Preprocessing
from attn_lstm.models.vit import Architecture


@dataclasses.dataclass(frozen=True)
class Preset:
    """What belongs to a set of published weights.

    Attributes:
      architecture: of the network that they fit.
      preprocessing: what they expect of a pixel.
      size: side in pixels of the images that they were published for.
      resize: how an image became such a square, as in `config.data.resize`.
      files: where they are published, on https://huggingface.co: with transformers' names, where
        they are, and with timm's, each as `model.safetensors`.
      licence: of the weights, as `source` states it.
    """

    architecture: Architecture | convnext.Architecture
    preprocessing: Preprocessing
    size: int
    resize: str
    files: tuple[str, ...]
    licence: str
    source: str

    @property
    def backbone(self) -> str:
        """The `config.backbone.name` that it is for."""
        return "convnext" if isinstance(self.architecture, convnext.Architecture) else "vit"


# Width, blocks, heads, hidden units of a block.
_SIZES = {
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "g": (1536, 40, 24, 4096),
    "so400m": (1152, 27, 16, 4304),
}
_WORDS = {"s": "small", "b": "base", "l": "large", "g": "giant", "so400m": "so400m"}


def _dinov2(size: str, registers: int) -> Preset:
    """Oquab et al. (2024); with registers Darcet et al. (2024)."""
    word, with_registers = _WORDS[size], "-with-registers" * bool(registers)
    of_timm = f"vit_{word}_patch14_{'reg4_' * bool(registers)}dinov2.lvd142m"
    return Preset(
        Architecture(
            *_SIZES[size],
            patch=14,
            grid=37,
            activation="swiglu" if size == "g" else "gelu",
            registers=registers,
            layer_scale=True,
            # As transformers has it, after the two versions of the authors' code.
            antialias=bool(registers),
        ),
        IMAGENET,
        size=518,
        resize="crop",
        files=(f"facebook/dinov2{with_registers}-{word}", f"timm/{of_timm}"),
        licence="Apache-2.0",
        source="https://github.com/facebookresearch/dinov2#license",
    )


def _siglip(version: str, size: str, patch: int, pixels: int) -> Preset:
    """Zhai et al. (2023), and with the version `2` Tschannen et al. (2025)."""
    name = f"{_WORDS[size]}_patch{patch}_siglip_{pixels // patch * patch}"
    of_google = f"google/siglip{version}-{_WORDS[size]}-patch{patch}-{pixels}"
    return Preset(
        Architecture(
            *_SIZES[size],
            patch=patch,
            grid=pixels // patch,
            activation="gelu_tanh",
            class_token=False,
        ),
        HALF,
        # Those of 384 pixels with patches of 14 never see the last 6.
        size=pixels // patch * patch,
        resize="squash",
        files=(of_google, f"timm/vit_{name}.{'v2_' * bool(version)}webli"),
        licence="Apache-2.0",
        source=f"https://huggingface.co/{of_google}",
    )


def _clip(size: str, patch: int, pixels: int, laion: str = "") -> Preset:
    """Radford et al. (2021), and with `laion` Cherti et al. (2023)."""
    publisher = "laion2b" if laion else "openai"
    of_timm = f"vit_{_WORDS[size]}_patch{patch}_clip_{pixels}.{publisher}"
    of_openai = f"openai/clip-vit-{_WORDS[size]}-patch{patch}" + "-336" * (pixels == 336)
    of_laion = f"laion/CLIP-ViT-{size.upper()}-{patch}-{laion}"
    return Preset(
        Architecture(
            *_SIZES[size],
            patch=patch,
            grid=pixels // patch,
            epsilon=1e-5,
            activation="gelu" if laion else "quick_gelu",
            norm_first=True,
        ),
        HALF if laion and size == "l" else CLIP,
        size=pixels,
        resize="crop",
        files=(of_laion if laion else of_openai, f"timm/{of_timm}"),
        licence="MIT",
        source=f"https://huggingface.co/{of_laion}"
        if laion
        else "https://github.com/openai/CLIP/blob/main/LICENSE",
    )


# Channels of the first stage, which every later one doubles, and blocks of the third.
_CONVNEXT = {"tiny": (96, 9), "small": (96, 27), "base": (128, 27), "large": (192, 27)}
# transformers' names of those that learned from ImageNet-22k first; of the small ones there is none
# but that of ImageNet-1k alone, at 224 pixels.
_OF_22K = ("base", "large")


def _convnext(size: str, pixels: int) -> Preset:
    """Liu et al. (2022)."""
    width, blocks = _CONVNEXT[size]
    files = [f"timm/convnext_{size}.fb_in22k_ft_in1k{'_384' * (pixels == 384)}"]
    if size in _OF_22K or pixels == 224:
        more = "-22k-1k" * (size in _OF_22K)
        files.insert(0, f"facebook/convnext-{size}-{pixels}{more}")
    return Preset(
        convnext.Architecture(
            widths=tuple(width * 2**stage for stage in range(4)), depths=(3, 3, blocks, 3)
        ),
        IMAGENET,
        size=pixels,
        resize="squash" if pixels == 384 else "crop",
        files=tuple(files),
        licence="MIT",
        source="https://github.com/facebookresearch/ConvNeXt#license",
    )


_SIGLIP = {
    "": (
        *(("b", 16, pixels) for pixels in (224, 256, 384, 512)),
        *(("l", 16, pixels) for pixels in (256, 384)),
        *(("so400m", 14, pixels) for pixels in (224, 384)),
    ),
    "2": (
        ("b", 32, 256),
        *(("b", 16, pixels) for pixels in (224, 256, 384, 512)),
        *(("l", 16, pixels) for pixels in (256, 384, 512)),
        *(("so400m", 14, pixels) for pixels in (224, 384)),
        *(("so400m", 16, pixels) for pixels in (256, 384, 512)),
    ),
}

PRESETS: dict[str, Preset] = {
    **{f"dinov2_{size}14": _dinov2(size, 0) for size in "sblg"},
    **{f"dinov2_{size}14_reg": _dinov2(size, 4) for size in "sblg"},
    **{
        f"siglip{version}_{size}{'_' * (size == 'so400m')}{patch}_{pixels}": _siglip(
            version, size, patch, pixels
        )
        for version, published in _SIGLIP.items()
        for size, patch, pixels in published
    },
    "clip_b32": _clip("b", 32, 224),
    "clip_b16": _clip("b", 16, 224),
    "clip_l14": _clip("l", 14, 224),
    "clip_l14_336": _clip("l", 14, 336),
    "openclip_b32": _clip("b", 32, 224, "laion2B-s34B-b79K"),
    "openclip_b16": _clip("b", 16, 224, "laion2B-s34B-b88K"),
    "openclip_l14": _clip("l", 14, 224, "laion2B-s32B-b82K"),
    **{
        f"convnext_{size}_{pixels}": _convnext(size, pixels)
        for size in _CONVNEXT
        for pixels in (224, 384)
    },
}
