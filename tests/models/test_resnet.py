"""The residual backbones against a plain PyTorch network with the same random weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attn_lstm.models.preprocessing import HALF, IMAGENET, normalise
from attn_lstm.models.resnet import DEPTHS, ResNet, feature_dim
from attn_lstm.parallel import REPLICATED, SPLIT, make_mesh, map_over_devices
from tests.torch_resnet import TorchResNet, random_resnet

# torchvision's published totals; its classifier has D·1000 weights and 1000 biases of them.
PUBLISHED_TOTALS = {18: 11689512, 34: 21797672, 50: 25557032, 101: 44549160, 152: 60192808}


def flax_variables(model: TorchResNet) -> dict:
    """The variables of `ResNet`, spelt out a second time, apart from `attn_lstm.weights`."""
    params, stats = {}, {}
    shortcuts = {"downsample.0": "downsample_conv", "downsample.1": "downsample_bn"}
    for name, module in model.named_modules():
        path = name.split(".", maxsplit=2)
        if len(path) == 3:
            stage, block, layer = path
            path = [f"{stage}_{block}", shortcuts.get(layer, layer)]
        if isinstance(module, torch.nn.Conv2d):
            put(params, path, {"kernel": module.weight.detach().permute(2, 3, 1, 0).numpy()})
        if isinstance(module, torch.nn.BatchNorm2d):
            scale, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
            put(params, path, {"scale": scale, "bias": bias})
            mean, var = module.running_mean.numpy().copy(), module.running_var.numpy().copy()
            put(stats, path, {"mean": mean, "var": var})
    return {"params": params, "batch_stats": stats}


def put(tree: dict, path: list[str], leaves: dict[str, np.ndarray]) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaves


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def torch_features(model: TorchResNet, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def relative_error(ours: jax.Array, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("depth", [18, 50, 152])
def test_features_equal_pytorchs(depth):
    model = random_resnet(depth)
    x = images(2, 64, 64, 3)
    theirs = torch_features(model, x)
    ours = ResNet(depth).apply(flax_variables(model), x)
    assert ours.shape == theirs.shape == (2, 2, 2, feature_dim(depth))
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("size", [(65, 97), (31, 1)])
def test_sides_that_no_stride_divides_are_padded_as_in_pytorch(size):
    model = random_resnet(18)
    x = images(1, *size, 3)
    theirs = torch_features(model, x)
    ours = ResNet(18).apply(flax_variables(model), x)
    assert ours.shape == (1, -(-size[0] // 32), -(-size[1] // 32), 512)
    assert relative_error(ours, theirs) < 1e-4


def test_training_normalises_with_the_batch_and_updates_the_statistics_as_pytorch_does():
    model = random_resnet(18)
    variables = flax_variables(model)
    x = images(4, 64, 64, 3)
    theirs = torch_features(model.train(), x)
    ours, updated = ResNet(18).apply(variables, x, train=True, mutable=["batch_stats"])
    assert relative_error(ours, theirs) < 1e-4

    # torch averages the unbiased variance of the n values of a channel, Flax the biased one.
    for name, norm, n in (("bn1", model.bn1, 4 * 32**2), ("layer4_1", model.layer4[1].bn2, 16)):
        old = variables["batch_stats"][name]
        new = updated["batch_stats"][name]
        if name != "bn1":
            old, new = old["bn2"], new["bn2"]
        unbiased = 0.9 * old["var"] + (new["var"] - 0.9 * old["var"]) * n / (n - 1)
        np.testing.assert_allclose(new["mean"], norm.running_mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(unbiased, norm.running_var, rtol=1e-3)


@pytest.mark.parametrize("train", [True, False], ids=["of the batch", "running"])
def test_gradients_equal_pytorchs(train):
    # In float64: in float32 rounding can put a value on the other side of a ReLU's kink.
    model = random_resnet(18).double()
    variables = flax_variables(model)
    x, weights = images(4, 64, 64, 3).astype(float), images(4, 2, 2, 512).astype(float)
    network = ResNet(18, dtype=jnp.float64)

    def total(params: dict) -> jax.Array:
        y, _ = network.apply({**variables, "params": params}, x, train, mutable=["batch_stats"])
        return (y * weights).sum()

    with jax.enable_x64(True):
        ours = jax.device_get(jax.jit(jax.grad(total))(variables["params"]))
    y = model.train(train)(torch.from_numpy(x).permute(0, 3, 1, 2))
    (y.permute(0, 2, 3, 1) * torch.from_numpy(weights)).sum().backward()
    for module in model.modules():  # the gradients in the place of the parameters
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.zeros(()) if parameter.grad is None else parameter.grad
    theirs = flax_variables(model)["params"]
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    errors = jax.tree.map(relative_error, ours, theirs)
    assert max(jax.tree.leaves(errors)) < 1e-9


def test_evaluation_leaves_the_statistics_alone():
    variables = flax_variables(random_resnet(18))
    _, updated = ResNet(18).apply(variables, images(2, 64, 64, 3), mutable=["batch_stats"])
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(updated), jax.tree.leaves(variables["batch_stats"]), strict=True
        )
    )


def test_statistics_are_shared_over_the_mapped_axis():
    variables = flax_variables(random_resnet(18))
    x = images(4, 64, 64, 3)
    whole, whole_stats = ResNet(18).apply(variables, x, train=True, mutable=["batch_stats"])

    def part(x: jax.Array) -> tuple[jax.Array, dict]:
        model = ResNet(18, axis_name="devices")
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    parts, stats = jax.vmap(part, axis_name="devices")(x.reshape(2, 2, 64, 64, 3))
    assert relative_error(parts.reshape(whole.shape), np.asarray(whole)) < 1e-4
    for ours, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(whole_stats), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(ours[0], ours[1])


@pytest.mark.slow
def test_remat_changes_neither_names_nor_features_nor_gradients():
    variables = flax_variables(random_resnet(18))
    x = images(2, 32, 32, 3)

    def gradient(remat: bool) -> tuple[jax.Array, dict]:
        def loss(params: dict) -> tuple[jax.Array, jax.Array]:
            y = ResNet(18, remat=remat).apply({**variables, "params": params}, x)
            return (y**2).mean(), y

        grads, y = jax.grad(loss, has_aux=True)(variables["params"])
        return y, grads

    (kept, kept_grads), (again, again_grads) = gradient(False), gradient(True)
    np.testing.assert_array_equal(kept, again)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), kept_grads, again_grads
    )
    shapes = [
        jax.eval_shape(ResNet(18, remat=remat).init, jax.random.key(0), x)
        for remat in (False, True)
    ]
    assert shapes[0] == shapes[1]


def compiled(function: Callable, *shapes: Any) -> jax.stages.Compiled:
    """As the library compiles what it maps over devices, here over one."""
    mesh = make_mesh(jax.devices()[:1])
    mapped = map_over_devices(function, mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT)
    return mapped.lower(*shapes).compile()


def test_remat_holds_less_at_once():
    x = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(ResNet(18).init, jax.random.key(0), x)

    def memory(remat: bool) -> int:
        encode = partial(ResNet(18, remat=remat).apply, train=True, mutable=["batch_stats"])
        gradient = jax.grad(lambda variables, x: encode(variables, x)[0].sum(), argnums=1)
        return compiled(gradient, variables, x).memory_analysis().temp_size_in_bytes

    assert memory(True) < 0.7 * memory(False)


def test_blocks_do_not_add_up_the_blocks_before_them_again():
    def moved(depth: int) -> float:
        x = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
        variables = jax.eval_shape(ResNet(depth).init, jax.random.key(0), x)
        return compiled(ResNet(depth).apply, variables, x).cost_analysis()["bytes accessed"]

    # Each has 17 more blocks than the one before it; four of the last 17 are smaller.
    first, second, third = map(moved, (50, 101, 152))
    assert third - second < second - first


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameters_are_as_many_as_published(depth):
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(ResNet(depth).init, jax.random.key(0), x)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert parameters == PUBLISHED_TOTALS[depth] - 1000 * feature_dim(depth) - 1000


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    y, variables = jax.eval_shape(
        ResNet(18, dtype=jnp.bfloat16).init_with_output, jax.random.key(0), x
    )
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("make", [ResNet, feature_dim])
def test_an_unknown_depth_is_answered_with_the_choices(make):
    with pytest.raises(ValueError, match=r"20: 18, 34, 50, 101, 152"):
        make(20)


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\), expected \[B,H,W,3\]"):
        jax.eval_shape(ResNet(18).init, jax.random.key(0), jnp.zeros((2, 3, 32, 32)))


def test_normalise_gives_what_the_weights_were_trained_on():
    pixels = np.arange(0, 255, 5, np.uint8).reshape(1, 17, 1, 3)
    imagenet = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalise(pixels, IMAGENET), imagenet, atol=1e-6)
    np.testing.assert_allclose(normalise(pixels, HALF), pixels / 127.5 - 1, atol=1e-6)
    assert normalise(pixels, IMAGENET).dtype == jnp.float32


def test_normalise_refuses_images_that_are_normalised_already():
    with pytest.raises(ValueError, match="float32, expected uint8"):
        normalise(jnp.zeros((1, 2, 2, 3)), IMAGENET)
