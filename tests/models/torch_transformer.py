"""Torch's own transformer layers with the parameters of ours."""

import jax
import numpy as np
import torch

HIDDEN, HEADS, FEEDFORWARD = 8, 2, 12


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shaken(variables):
    """Parameters of which none is 0 or 1 any more."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    shaken = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, shaken)


def tensors(params):
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)


def copy_linear(linear, p):
    with torch.no_grad():
        linear.weight.copy_(p["kernel"].T)
        linear.bias.copy_(p["bias"])


def copy_norm(norm, p):
    with torch.no_grad():
        norm.weight.copy_(p["scale"])
        norm.bias.copy_(p["bias"])


def copy_attention(attention, p):
    with torch.no_grad():
        parts = [p[name] for name in ("query", "key", "value")]
        attention.in_proj_weight.copy_(torch.cat([part["kernel"].T for part in parts]))
        attention.in_proj_bias.copy_(torch.cat([part["bias"] for part in parts]))
    copy_linear(attention.out_proj, p["out"])


def copy_feed(layer, p):
    copy_linear(layer.linear1, p["widen"])
    copy_linear(layer.linear2, p["narrow"])


def encoder_layer(p, heads):
    """torch's own layer with the parameters of an `EncoderLayer`."""
    hidden, feedforward = p["feed"]["widen"]["kernel"].shape
    layer = torch.nn.TransformerEncoderLayer(hidden, heads, feedforward, 0.0, batch_first=True)
    copy_attention(layer.self_attn, p["look"])
    copy_feed(layer, p["feed"])
    copy_norm(layer.norm1, p["add_look"]["norm"])
    copy_norm(layer.norm2, p["add_feed"]["norm"])
    return layer


def decoder_layer(p, heads):
    """torch's own layer with the parameters of a `DecoderLayer`."""
    hidden, feedforward = p["feed"]["widen"]["kernel"].shape
    layer = torch.nn.TransformerDecoderLayer(hidden, heads, feedforward, 0.0, batch_first=True)
    if "look_around" in p:
        copy_attention(layer.self_attn, p["look_around"])
    copy_attention(layer.multihead_attn, p["look"])
    copy_feed(layer, p["feed"])
    for norm, name in ((layer.norm1, "around"), (layer.norm2, "look"), (layer.norm3, "feed")):
        copy_norm(norm, p[f"add_{name}"]["norm"])
    return layer


def feed(layer, x):
    return layer.linear2(torch.relu(layer.linear1(x)))
