"""MobileNetV2 against PyTorch's convolutions and against an independent NumPy computation."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from attn_lstm.models.mobilenet import DepthwiseConv, MobileNetV2
from attn_lstm.models.preprocessing import HALF, normalise
from attn_lstm.weights import load_mobilenet_v2

# Of the blocks 1 to 16 that follow `expanded_conv`.
STRIDED = {1, 3, 6, 13}
RESIDUAL = {2, 4, 5, 7, 8, 9, 11, 12, 14, 15}


def random_variables(seed: int = 0) -> dict:
    """Random kernels that keep the scale of the activations, and biases that matter."""
    model = MobileNetV2()
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) == 1:
            return rng.normal(0.3, 0.3, leaf.shape).astype(np.float32)
        scale = np.sqrt(2 / np.prod(leaf.shape[:3]))
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


def torch_features(params: dict, x: np.ndarray) -> np.ndarray:
    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = torch.from_numpy(np.array(params[name]["kernel"])).permute(3, 2, 0, 1)
        bias = torch.from_numpy(np.array(params[name]["bias"]))
        if kernel.shape[-1] == 3:
            # Keras pads an even side by (0, 1) before a stride, an odd one by (1, 1).
            before = [1 if stride == 1 else side % 2 for side in x.shape[2:]]
            x = functional.pad(x, (before[1], 1, before[0], 1))
        groups = x.shape[1] if kernel.shape[1] == 1 else 1
        return functional.conv2d(x, kernel, bias, stride, groups=groups)

    x = functional.relu6(conv(torch.from_numpy(x).permute(0, 3, 1, 2), "Conv1", 2))
    x = functional.relu6(conv(x, "expanded_conv_depthwise"))
    x = conv(x, "expanded_conv_project")
    for block in range(1, 17):
        y = functional.relu6(conv(x, f"block_{block}_expand"))
        stride = 2 if block in STRIDED else 1
        y = functional.relu6(conv(y, f"block_{block}_depthwise", stride))
        y = conv(y, f"block_{block}_project")
        x = x + y if block in RESIDUAL else y
    return functional.relu6(conv(x, "Conv_1")).permute(0, 2, 3, 1).numpy()


def relative_error(ours: jax.Array, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("size", [(64, 96), (65, 47)])
def test_features_equal_pytorchs(size):
    variables = random_variables()
    x = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    theirs = torch_features(variables["params"], x)
    ours = jax.jit(MobileNetV2().apply)(variables, x)
    assert ours.shape == theirs.shape == (2, -(-size[0] // 32), -(-size[1] // 32), 1280)
    assert ((theirs > 0) & (theirs < 6)).mean() > 0.05  # the oracle is not saturated
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 7), (1, 2)])
def test_depthwise_equals_a_grouped_convolution(stride, size):
    x = np.random.default_rng(0).standard_normal((2, *size, 5), np.float32)
    layer = DepthwiseConv(stride, jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    theirs = jax.lax.conv_general_dilated(
        x,
        variables["params"]["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )
    np.testing.assert_allclose(layer.apply(variables, x), theirs, atol=1e-5)


def test_depthwise_gradient_equals_that_of_a_grouped_convolution():
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3), np.float32)
    layer = DepthwiseConv(2, jnp.float32)
    variables = layer.init(jax.random.key(0), x)

    def theirs(kernel: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )  # fmt: skip
        return (y**2).sum()

    ours = jax.grad(lambda v: (layer.apply(v, x) ** 2).sum())(variables)
    np.testing.assert_allclose(
        ours["params"]["kernel"], jax.grad(theirs)(variables["params"]["kernel"]), rtol=1e-4
    )


def test_parameters_are_as_many_as_published():
    # Keras' 2,257,984 without the classifier; its 17,056 normalised channels lose, folded, 3 of 4.
    leaves = jax.tree.leaves(random_variables())
    assert sum(leaf.size for leaf in leaves) == 2_257_984 - 3 * 17_056


def test_bfloat16_follows_float32():
    variables = random_variables()
    x = np.random.default_rng(1).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    exact = np.asarray(jax.jit(MobileNetV2().apply)(variables, x))
    coarse = np.asarray(jax.jit(MobileNetV2(jnp.bfloat16).apply)(variables, x), np.float32)
    cosine = (exact * coarse).sum() / np.linalg.norm(exact) / np.linalg.norm(coarse)
    assert cosine > 0.99


@pytest.mark.skipif("ATTN_LSTM_DATA" not in os.environ, reason="needs ATTN_LSTM_DATA")
def test_published_weights_give_the_reference_features():
    folder = Path(os.environ["ATTN_LSTM_DATA"]) / "mobilenet_v2"
    reference = np.load(folder / "reference.npz")
    variables = load_mobilenet_v2(folder / "mobilenet_v2_imagenet.npz")
    images = normalise(reference["images"], HALF)
    ours = jax.jit(MobileNetV2().apply)(variables, images)
    assert relative_error(ours, reference["features"]) < 1e-4
