"""The ONNX file, run by onnxruntime, beside the network that it was made of."""

import json
import sys

import jax
import ml_collections
import numpy as np
import pytest

from attn_lstm.config import resolve
from attn_lstm.errors import UserError
from attn_lstm.export import bundle, onnx_file
from attn_lstm.export.program import make_program
from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.thresholds import Threshold
from tests.export.test_export import untrained
from tests.programs import ROOT

FITTED = Calibration(0.5, 0.25)


# A search with maps by step, one with maps by label, one with an end token, and a set head.
@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["order_free", "order_free_label_maps", "frequent_first", "csra"]
)
def test_onnxruntime_gives_the_labels_of_the_network(tiny_config, method):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    opened = untrained(resolve(tiny_config(method)))
    threshold = 0.05
    program = make_program(opened, threshold, FITTED)
    description = bundle.describe(opened, program, Threshold(threshold), "", FITTED, "onnx")
    content = onnx_file.to_onnx(program, 32, description)
    assert str(ROOT).encode() not in content
    session = onnxruntime.InferenceSession(content)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["label_names"]) == ["red", "green", "blue"]
    assert json.loads(metadata["program"]) == {"file": "model.onnx", "format": "onnx"}
    names = [output.name for output in session.get_outputs()]
    assert sorted(names) == sorted(description["outputs"])
    assert {"label_scores", "attention"} <= {*names}
    search = jax.jit(opened.row.search)
    for images in (1, 5):
        pixels = np.random.default_rng(images).integers(0, 256, (images, 32, 32, 3), np.uint8)
        found = dict(zip(names, session.run(names, {"image": pixels}), strict=True))
        expected = search(opened.variables, pixels, threshold)
        np.testing.assert_array_equal(found["labels"], expected.sequence)
        np.testing.assert_array_equal(found["set"], expected.labels)
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
        maps = np.asarray(expected.attention).reshape(found["attention"].shape)
        np.testing.assert_allclose(found["attention"], maps, atol=1e-5)
        emitted = np.maximum(found["labels"], 0)
        scores = np.take_along_axis(np.asarray(expected.scores), emitted, axis=1)
        for name, values in (("label_scores", scores), ("probabilities", FITTED(scores))):
            values = np.where(found["labels"] < 0, 0, values)
            np.testing.assert_allclose(found[name], values, atol=1e-5)


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_handed_on(tiny_config):
    pytest.importorskip("jax2onnx")
    opened = untrained(resolve(tiny_config("csra")))
    program = make_program(opened, 0.05)
    content = onnx_file.to_onnx(program, 32, {})

    def other(image):
        return {**program(image), "scores": image[:, 0, 0] / 255}

    with pytest.raises(UserError, match="other scores"):
        onnx_file._check(content, other, 32)


def test_what_is_missing_is_named_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"pip install 'attn_lstm\[onnx\]'"):
        bundle.export_run(ml_collections.ConfigDict(), tmp_path, "best", tmp_path, "onnx")
