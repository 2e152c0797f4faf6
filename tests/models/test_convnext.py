"""ConvNeXt against those of transformers and timm, from files that these have saved."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attn_lstm.models.convnext import Architecture, ConvNeXt, grouped, shifted
from attn_lstm.models.presets import PRESETS
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

TINY = Architecture(widths=(8, 12, 16, 20), depths=(1, 2, 1, 1))
SHALLOW = Architecture(widths=(8, 12), depths=(1, 1))  # timm has none with fewer stages than 4
LIBRARIES = {"transformers": of_transformers, "timm": of_timm}


@pytest.fixture
def tiny(monkeypatch) -> str:
    """A preset of `TINY`."""
    published = PRESETS["convnext_tiny_224"]
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(published, architecture=TINY))
    return "tiny"


@pytest.fixture
def shallow(monkeypatch) -> str:
    """A preset of `SHALLOW`."""
    published = PRESETS["convnext_tiny_224"]
    monkeypatch.setitem(PRESETS, "shallow", dataclasses.replace(published, architecture=SHALLOW))
    return "shallow"


def check_features(model, variables, architecture: Architecture, sides: tuple[int, int]) -> None:
    for side in sides:
        x = images(side)
        with torch.no_grad():
            theirs = features(model, x)
        ours = jax.jit(ConvNeXt(architecture).apply)(variables, x)
        grid = side // 32
        assert ours.shape == (2, grid, grid, architecture.width) and ours.dtype == jnp.float32
        assert relative_error(ours, theirs) < 1e-4
    coarse = jax.jit(ConvNeXt(architecture, jnp.bfloat16).apply)(variables, x)
    assert coarse.dtype == jnp.bfloat16 and least_cosine(coarse, theirs) > 0.999


@pytest.mark.parametrize("library", LIBRARIES)
def test_features_are_those_of_the_library_that_wrote_the_file(library, tiny, tmp_path):
    model = LIBRARIES[library](TINY)
    variables = load_preset(saved(model, tmp_path), tiny)
    check_features(model, variables, TINY, (96, 64))


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_features_of_a_preset_are_those_of_the_library_that_wrote_the_file(library, tmp_path):
    preset = "convnext_tiny_224"
    architecture = PRESETS[preset].architecture
    model = published_by_timm(preset) if library == "timm" else of_transformers(architecture)
    variables = load_preset(saved(model, tmp_path), preset)
    check_features(model, variables, architecture, (224, 96))


def test_gradients_are_those_of_torch(shallow, tmp_path):
    model = of_transformers(SHALLOW)
    x = images(24)
    variables = load_preset(saved(model, tmp_path), shallow)
    weight = np.random.default_rng(1).normal(size=(2, 9, 12)).astype(np.float32)
    (features(model, x) * torch.from_numpy(weight)).sum().backward()
    for parameter in model.parameters():
        parameter.data = parameter.grad
    theirs = load_preset(saved(model, tmp_path), shallow)["params"]

    def loss(params, remat):
        y = ConvNeXt(SHALLOW, remat=remat).apply({"params": params}, x)
        return (y.reshape(weight.shape) * weight).sum()

    for remat in (False, True):
        ours = jax.jit(jax.grad(functools.partial(loss, remat=remat)))(variables["params"])
        for (path, a), (_, b) in zip(
            jax.tree_util.tree_leaves_with_path(ours),
            jax.tree_util.tree_leaves_with_path(theirs),
            strict=True,
        ):
            assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max(), path


def test_nothing_below_a_resting_block_gets_a_gradient():
    model = ConvNeXt(Architecture(widths=(8,), depths=(2,)), resting_blocks=1)
    x = images(8)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    gradients = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, x) ** 3).mean()))(params)
    moved = {n for n, g in gradients.items() if any(np.any(x) for x in jax.tree.leaves(g))}
    assert moved == {"block_1", "norm"}


def test_shifted_sums_are_a_convolution_in_groups_and_so_are_their_gradients():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 8, 3)).astype(np.float32)
    kernel = random.normal(size=(7, 7, 1, 3)).astype(np.float32)

    y, pull = jax.vjp(jax.jit(shifted), x, kernel)
    expected, expected_pull = jax.vjp(grouped, x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    slope = random.normal(size=y.shape).astype(np.float32)
    for ours, theirs in zip(pull(slope), expected_pull(slope), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_it_is_traced_for_any_number_of_images():
    (number,) = jax.export.symbolic_shape("b")
    variables = jax.eval_shape(ConvNeXt(TINY).init, jax.random.key(0), images(64))
    batch = jax.ShapeDtypeStruct((number, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(ConvNeXt(TINY).apply, variables, batch).shape == (number, 2, 2, 20)


def test_images_that_do_not_divide_into_regions_are_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        jax.eval_shape(ConvNeXt(TINY).init, jax.random.key(0), jnp.zeros((1, 64, 72, 3)))
