"""Vision transformers against those of transformers and timm, from files that these have saved."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm.models.presets import PRESETS
from attn_lstm.models.vit import Architecture, ViT, bicubic
from attn_lstm.weights import load_preset
from tests.published import (
    features,
    images,
    least_cosine,
    of_timm,
    of_transformers,
    published_by_timm,
    relative_error,
    saved,
)

_TINY = Architecture(width=32, depth=2, heads=4, feedforward=64, patch=14, grid=4)
TINY = {
    "dinov2": dataclasses.replace(_TINY, layer_scale=True),
    "dinov2_reg": dataclasses.replace(_TINY, layer_scale=True, registers=4, antialias=True),
    "dinov2_g": dataclasses.replace(_TINY, layer_scale=True, activation="swiglu"),
    "siglip": dataclasses.replace(_TINY, class_token=False, activation="gelu_tanh", patch=16),
    "clip": dataclasses.replace(_TINY, norm_first=True, activation="quick_gelu", epsilon=1e-5),
    "openclip": dataclasses.replace(_TINY, norm_first=True, epsilon=1e-5),
}  # fmt: skip
LIBRARIES = {"transformers": of_transformers, "timm": of_timm}


@pytest.fixture
def tiny(monkeypatch) -> Callable[[Architecture], str]:
    """A function from an architecture to a preset of it."""

    def preset(architecture: Architecture) -> str:
        published = PRESETS["dinov2_s14"]
        monkeypatch.setitem(
            PRESETS, "tiny", dataclasses.replace(published, architecture=architecture)
        )
        return "tiny"

    return preset


def as_at_this_size(architecture: Architecture, library: str, side: int) -> Architecture:
    """timm antialiases positions of every family."""
    own = side == architecture.grid * architecture.patch
    return dataclasses.replace(
        architecture, antialias=architecture.antialias or (library == "timm" and not own)
    )


def check_features(model, variables, architecture: Architecture, library: str, side: int) -> None:
    architecture = as_at_this_size(architecture, library, side)
    x = images(side)
    with torch.no_grad():
        theirs = features(model, x)
    ours = jax.jit(ViT(architecture).apply)(variables, x)
    grid = side // architecture.patch
    assert ours.shape == (2, grid, grid, architecture.width) and ours.dtype == jnp.float32
    assert relative_error(ours, theirs) < 1e-4
    coarse = jax.jit(ViT(architecture, jnp.bfloat16).apply)(variables, x)
    assert coarse.dtype == jnp.bfloat16 and least_cosine(coarse, theirs) > 0.999


@pytest.mark.parametrize("patches", [4, 6, 3], ids=["own_size", "larger", "smaller"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("family", TINY)
def test_features_are_those_of_the_library_that_wrote_the_file(
    family, library, patches, tiny, tmp_path
):
    architecture = TINY[family]
    model = LIBRARIES[library](architecture)
    variables = load_preset(saved(model, tmp_path), tiny(architecture))
    check_features(model, variables, architecture, library, patches * architecture.patch)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
# One of each family: all 17 of sizes S and B take 20 minutes.
@pytest.mark.parametrize("preset", ["dinov2_s14_reg", "siglip2_b32_256", "clip_b32"])
def test_features_of_presets_are_those_of_the_library_that_wrote_the_file(
    preset, library, tmp_path
):
    architecture = PRESETS[preset].architecture
    model = published_by_timm(preset) if library == "timm" else of_transformers(architecture)
    variables = load_preset(saved(model, tmp_path), preset)
    other = 8 if architecture.grid != 8 else 10
    for patches in (architecture.grid, other):
        check_features(model, variables, architecture, library, patches * architecture.patch)


@pytest.mark.parametrize("family", TINY)
def test_gradients_are_those_of_torch(family, tiny, tmp_path):
    architecture = TINY[family]
    model = of_timm(architecture)
    x = images(architecture.grid * architecture.patch)
    variables = load_preset(saved(model, tmp_path), tiny(architecture))
    weight = np.random.default_rng(1).normal(size=(2, 16, 32)).astype(np.float32)
    (features(model, x) * torch.from_numpy(weight)).sum().backward()
    for parameter in model.parameters():
        parameter.data = parameter.grad
    theirs = load_preset(saved(model, tmp_path), "tiny")["params"]

    def loss(params, remat):
        y = ViT(architecture, remat=remat).apply({"params": params}, x)
        return (y.reshape(weight.shape) * weight).sum()

    for remat in (False, True):
        ours = jax.jit(jax.grad(functools.partial(loss, remat=remat)))(variables["params"])
        # The reader adds the class token's position, whose gradient is the same, to it.
        if architecture.class_token and not architecture.registers:
            theirs["class_token"] = ours["class_token"]
        for (path, a), (_, b) in zip(
            jax.tree_util.tree_leaves_with_path(ours),
            jax.tree_util.tree_leaves_with_path(theirs),
            strict=True,
        ):
            scale = np.abs(b).max()
            # A key's bias moves all scores of a query alike.
            floor = 1e-3 if "key" in jax.tree_util.keystr(path) else 0.0
            assert np.abs(a - b).max() <= 1e-4 * scale + floor, path


def test_it_is_traced_for_any_number_of_images():
    (number,) = jax.export.symbolic_shape("b")
    network = ViT(TINY["dinov2_reg"])
    variables = jax.eval_shape(network.init, jax.random.key(0), images(28))
    batch = jax.ShapeDtypeStruct((number, 28, 28, 3), jnp.float32)
    assert jax.eval_shape(network.apply, variables, batch).shape == (number, 2, 2, 32)


def test_nothing_below_a_resting_block_gets_a_gradient():
    model = ViT(dataclasses.replace(TINY["dinov2_reg"], depth=3), resting_blocks=2)
    x = images(56)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    gradients = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, x) ** 2).mean()))(params)
    moved = {n for n, g in gradients.items() if any(np.any(x) for x in jax.tree.leaves(g))}
    assert moved == {"block_2", "norm"}


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_places_are_interpolated_as_torch_does(old, new, antialias):
    line = np.random.default_rng(old).normal(size=old).astype(np.float32)
    square = torch.from_numpy(np.outer(line, line))[None, None]
    theirs = torch.nn.functional.interpolate(
        square, (new, new), mode="bicubic", antialias=antialias
    )
    weights = bicubic(old, new, antialias)
    ours = np.outer(weights @ line, weights @ line)
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=2e-5 * np.abs(ours).max() + 1e-6)


def test_images_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match="multiples of 14"):
        jax.eval_shape(ViT(_TINY).init, jax.random.key(0), jnp.zeros((1, 60, 56, 3)))
