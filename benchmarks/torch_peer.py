"""The same network in PyTorch, as one would write it there: the rival of the benchmarks.

ResNet (with torchvision's names), M_map, attention and LSTM, greedy over T steps; the loss is that
of `attn_lstm.losses` for the order-free row.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from absl import flags
from torch import nn
from torch.nn import functional

from attn_lstm.models.preprocessing import IMAGENET
from benchmarks.workload import Size
from tests.torch_resnet import TorchResNet

torch.set_num_threads(os.cpu_count() or 1)
torch.backends.cudnn.allow_tf32 = False  # float32 has all its digits, as ours
torch.backends.cudnn.benchmark = True  # the fastest convolutions of a GPU, as XLA looks for them

KINDS = flags.DEFINE_list("torch", ["eager", "compiled"], "how PyTorch runs: eager, compiled")
DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "compute types to compare in")


class Peer(nn.Module):
    """`forward`: uint8[B,H,W,3] -> label logits [B,C], step logits [B,T,C], labels, attention."""

    def __init__(self, size: Size, num_labels: int, width: int) -> None:
        super().__init__()
        units = size.units
        self.steps = size.steps
        self.backbone = TorchResNet(size.depth)
        self.backbone.fc = None
        self.map_labels = nn.Linear(width, num_labels)
        self.project_features = nn.Linear(width, units)
        self.project_query = nn.Linear(units, units, bias=False)
        self.score = nn.Linear(units, 1, bias=False)
        self.initial_c = nn.Linear(width, units)
        self.initial_h = nn.Linear(width, units)
        self.lstm = nn.LSTMCell(width + 2 * num_labels, units)
        self.lstm.bias_ih.requires_grad_(False)  # two biases would learn twice as fast as ours
        self.head = nn.Linear(units, num_labels)
        self.register_buffer("mean", torch.tensor(IMAGENET.mean))
        self.register_buffer("std", torch.tensor(IMAGENET.std))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """M_map's logits, and of every step logits, the label it emits and its attention."""
        pixels = (images.float() / 255 - self.mean) / self.std
        maps = self.backbone(pixels.permute(0, 3, 1, 2))  # NHWC in memory: channels_last
        features = maps.flatten(2).transpose(1, 2)
        mean = features.mean(dim=1)
        label_logits = self.map_labels(mean).float()

        keys = self.project_features(features)
        c, h = self.initial_c(mean), self.initial_h(mean)
        p = label_logits.sigmoid()
        emitted = torch.zeros_like(p, dtype=torch.bool)
        logits, labels, attention = [], [], []
        for _ in range(self.steps):
            scores = self.score(torch.tanh(keys + self.project_query(h)[:, None]))
            weights = scores[..., 0].float().softmax(dim=-1)
            context = torch.bmm(weights[:, None].to(features.dtype), features)[:, 0]
            x = torch.cat([p.to(context.dtype), context, emitted.to(context.dtype)], dim=-1)
            h, c = self.lstm(x, (h, c))
            out = self.head(h).float()
            label = out.masked_fill(emitted, -torch.inf).argmax(dim=-1)
            p = out.sigmoid()
            emitted = emitted | functional.one_hot(label, out.shape[-1]).bool()
            logits.append(out)
            labels.append(label)
            attention.append(weights)
        return label_logits, *(torch.stack(x, dim=1) for x in (logits, labels, attention))


def run_as(peer: Peer, kind: str, dtype: str) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """The peer's forward pass, eager or compiled, under autocast for bfloat16."""
    forward = torch.compile(peer) if kind == "compiled" else peer

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            return forward(images)

    return run


def wait() -> None:
    """Until the device has done all that it was asked for."""
    if _device() == "cuda":
        torch.cuda.synchronize()


def to_device(array: jax.Array) -> torch.Tensor:
    """A copy on the device that JAX runs on too."""
    return torch.tensor(np.asarray(array), device=_device())


def _device() -> str:
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def loss(label_logits: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropies summed over labels; the mean over steps, and M_map's own beside it."""

    def entropy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(x, y, reduction="none").sum(dim=-1)

    steps = entropy(logits, labels[:, None].expand_as(logits)).mean(dim=1)
    return (entropy(label_logits, labels) + steps).mean()


def create_peer(variables: Mapping[str, Any], size: Size) -> Peer:
    """The peer with copies of the variables of a `Network`, on the device that JAX runs on too."""
    params, stats = jax.device_get((variables["params"], variables["batch_stats"]))
    decoder, (labels, width) = params["decoder"], params["map_labels"]["kernel"].T.shape
    peer = Peer(size, labels, width)
    layers = {**params, **decoder, **decoder["attend"]}
    for name, module in peer.named_modules():
        if name.startswith("backbone."):
            _copy_backbone(module, name.split(".")[1:], params["backbone"], stats["backbone"])
        elif isinstance(module, nn.Linear):
            _put(module.weight, layers[name]["kernel"].T)
            if module.bias is not None:
                _put(module.bias, layers[name]["bias"])
        elif isinstance(module, nn.LSTMCell):
            _copy_lstm(module, decoder["lstm"])
    return peer.to(_device(), memory_format=torch.channels_last)


def _copy_lstm(module: nn.LSTMCell, params: Mapping[str, Any]) -> None:
    """The gates i, f, g, o of a Flax cell, which has one bias, in torch's rows."""
    for i, gate in enumerate("ifgo"):
        rows = slice(i * module.hidden_size, (i + 1) * module.hidden_size)
        _put(module.weight_ih[rows], params[f"i{gate}"]["kernel"].T)
        _put(module.weight_hh[rows], params[f"h{gate}"]["kernel"].T)
        _put(module.bias_hh[rows], params[f"h{gate}"]["bias"])
    _put(module.bias_ih, np.zeros(4 * module.hidden_size))


def _copy_backbone(module: nn.Module, path: list[str], params: dict, stats: dict) -> None:
    """One layer of torchvision's ResNet, of which ours has the names with underscores."""
    if not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
        return
    shortcut = {"0": "downsample_conv", "1": "downsample_bn"}
    if len(path) > 2:
        path = [f"{path[0]}_{path[1]}", shortcut[path[3]] if len(path) > 3 else path[2]]
    for key in path:
        params, stats = params[key], stats.get(key, {})
    if isinstance(module, nn.Conv2d):
        _put(module.weight, params["kernel"].transpose(3, 2, 0, 1))
    else:
        _put(module.weight, params["scale"])
        _put(module.bias, params["bias"])
        _put(module.running_mean, stats["mean"])
        _put(module.running_var, stats["var"])


def _put(tensor: torch.Tensor, values: np.ndarray) -> None:
    with torch.no_grad():
        tensor.copy_(torch.tensor(values))
