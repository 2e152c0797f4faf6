"""The file of weights in which Keras publishes a network, HDF5, with batch norms folded away."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def read_folded(
    data: bytes, epsilon: float, most_bytes: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each layer, in the network's order.

    A batch norm behind a layer without bias becomes part of it (Jacob et al. 2018, section 3.2):
    kernel * s and beta - mean * s, where s = gamma / sqrt(variance + epsilon).

    Args:
      data: the file.
      epsilon: of the batch norms, which the file does not tell.
      most_bytes: that the arrays may have.

    Returns:
      float32 arrays; kernels float[h,w,in,out], depthwise ones float[h,w,1,C], dense ones
      float[in,out], and biases float[out].

    Raises:
      ValueError: it is no such file, or holds other layers than these.
    """
    import h5py  # which TensorFlow brings, and which takes a while

    try:
        with h5py.File(io.BytesIO(data)) as file:
            layers = [*_layers(file, most_bytes)]
    except (OSError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"no file of Keras' weights ({error})") from error
    folded = []
    while layers:
        name, weights = layers.pop(0)
        kernel, bias = _kernel(name, weights), weights.get("bias")
        if bias is None:
            if not layers:
                raise ValueError(f"no batch norm stands behind {name}")
            behind, norm = layers.pop(0)
            if missing := [part for part in _NORM if part not in norm]:
                raise ValueError(f"{behind}, behind {name}, has no {missing[0]}")
            gamma, beta, mean, variance = (norm[part].astype(np.float64) for part in _NORM)
            scale = gamma / np.sqrt(variance + epsilon)
            kernel, bias = kernel * scale, beta - mean * scale
        folded.append((kernel.astype(np.float32), bias.astype(np.float32)))
    return folded


def _kernel(name: str, weights: dict[str, np.ndarray]) -> np.ndarray:
    """A layer's kernel, whose last axis is that of its output."""
    kernel = weights.get("kernel", weights.get("depthwise_kernel"))
    if kernel is None:
        raise ValueError(f"{name} has no kernel but {', '.join(weights)}")
    # Depthwise ones, which Keras 3 names like the others, have one output a channel.
    return kernel.swapaxes(-1, -2) if kernel.ndim == 4 and kernel.shape[-1] == 1 else kernel


def _layers(file: Any, most_bytes: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Name and weights of each layer that has some."""
    size = 0
    for name in map(_text, file.attrs["layer_names"]):
        weights = {}
        for path in map(_text, file[name].attrs["weight_names"]):
            stored = file[name][path]
            size += stored.nbytes
            if stored.external or size > most_bytes:
                raise ValueError(f"{name}/{path} lies in another file, or there is too much")
            weights[path.rpartition("/")[2].removesuffix(":0")] = stored[()]
        if weights:
            yield name, weights


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
