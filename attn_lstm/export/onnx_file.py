"""The network and its search as one ONNX file, which onnxruntime and others run without JAX."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.extend.core
import numpy as np

from attn_lstm.compilation import with_whole_products
from attn_lstm.errors import UserError
from attn_lstm.export.program import Program, image_spec

# A running product, by which rows with an end token are scored, is an operator since opset 26.
_OPSET, _OPSET_OF_PRODUCTS = 23, 26
_INPUT = "image"
_CHECKED = (3, 1)  # images in the batches of the check
# Numbers of float32 in another order of operations, through a deep network.
_TOLERANCE = 1e-3


def require() -> None:
    """Raises `UserError` where what writes and runs ONNX is not installed."""
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format=onnx needs jax2onnx and onnxruntime ({error}): pip install 'attn_lstm[onnx]'"
        ) from error


def to_onnx(program: Program, image_size: int, description: Mapping[str, Any]) -> bytes:
    """A `Program` as an ONNX model, for any number of images.

    Its input is 'image', its outputs have their names. Its metadata hold each entry of the
    description as JSON, of which 'label_names' is one.

    Raises:
      UserError: onnxruntime does not compute the labels of the program.
    """
    import onnx
    import onnx_ir
    from jax2onnx import to_onnx as convert

    spec = image_spec(image_size)
    # Traced here: while it converts, jax2onnx has parts of Flax and jax.numpy replaced by its own,
    # which cannot be scanned and mapped as ours are.
    closed, outputs = jax.make_jaxpr(with_whole_products(program), return_shape=True)(spec)
    names = sorted(outputs)  # as JAX lays out a dict
    with _converting():
        model = convert(
            jax.extend.core.jaxpr_as_fun(closed),
            [spec],
            opset=_OPSET_OF_PRODUCTS if "cumprod" in str(closed) else _OPSET,
            input_names=[_INPUT],
            output_names=names,
            return_mode="ir",
        )
        proto = onnx_ir.to_proto(model)
    _drop_unused(proto.graph)
    onnx.helper.set_model_props(
        proto,
        {name: json.dumps(value, ensure_ascii=False) for name, value in description.items()},
    )
    content: bytes = proto.SerializeToString()
    _check(content, program, image_size)
    return content


@contextlib.contextmanager
def _converting() -> Iterator[None]:
    """Has onnx_ir take open sizes by their name, and be silent of values without a type.

    Some of jax2onnx's operators (0.17: `pad`, `rem`) hand it the sizes as JAX has them.
    """
    import onnx_ir

    create = onnx_ir.Shape.__init__

    def named(self: Any, dims: Any, *args: Any, **kwargs: Any) -> None:
        known = [str(dim) if jax.export.is_symbolic_dim(dim) else dim for dim in dims]
        create(self, known, *args, **kwargs)

    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with mock.patch.object(onnx_ir.Shape, "__init__", named):
            yield
    finally:
        logger.setLevel(level)


def _drop_unused(graph: Any) -> set[str]:
    """Takes constants that nothing reads out of a graph and the bodies of its loops.

    onnxruntime warns of each. Returns the names that are read there.
    """
    used = {output.name for output in graph.output}
    for node in graph.node:
        used.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                used |= _drop_unused(attribute.g)
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in used:
            del graph.initializer[place]
    return used


def _check(content: bytes, program: Program, image_size: int) -> None:
    """Runs the file and the program on coarse patterns of colours, in batches of several sizes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is said below
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    compiled = jax.jit(with_whole_products(program))
    random = np.random.default_rng(0)
    for images in _CHECKED:
        side = max(image_size // 8, 1)
        cells = random.integers(0, 256, (images, side, side, 3), np.uint8)
        place = np.arange(image_size) * side // image_size
        pixels = cells[:, place][:, :, place]
        try:
            found = dict(zip(names, session.run(names, {_INPUT: pixels}), strict=True))
        except Exception as error:  # a class of its own for every kind, none of them public
            reason = " ".join(str(error).split())
            raise UserError(
                "onnxruntime cannot run the ONNX file that jax2onnx has made of this network, so "
                f"it is not written: export with --format=stablehlo ({reason})"
            ) from error
        for name, expected in jax.device_get(compiled(pixels)).items():
            if found[name].shape != expected.shape or not np.allclose(
                found[name], expected, rtol=0.0, atol=_TOLERANCE
            ):
                raise UserError(
                    f"onnxruntime {onnxruntime.__version__} computes other {name} from the ONNX "
                    "file than JAX from the network, so it is not written: export with "
                    "--format=stablehlo"
                )
