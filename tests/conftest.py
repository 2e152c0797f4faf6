"""Every test sees 4 virtual CPU devices and a quiet TensorFlow."""

# ruff: noqa: E402  the environment must be set before JAX is imported

import json
import os
import tempfile
from pathlib import Path

# Most of the tests' time would be XLA's optimisation of steps that run a few times.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests that run the same step twice compile it once; nothing is kept behind the session.
_CACHE = tempfile.TemporaryDirectory(prefix="attn_lstm_tests_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import hypothesis
import numpy as np
import pytest
from PIL import Image

from configs import coco

hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=25, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("project")

CATEGORIES = [{"id": i, "name": name} for i, name in ((1, "red"), (3, "green"), (90, "blue"))]


def write_coco(root: Path, counts: dict[str, int]) -> Path:
    """A folder in COCO's layout: colour patches on grey, one label a colour that is there."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(90, 130, (40, 40, 3), np.uint8)
            for channel in np.flatnonzero(rng.random(3) < (0.7, 0.5, 0.3)):
                y, x = rng.integers(0, 20, 2)
                pixels[y : y + 16, x : x + 16] = 0
                pixels[y : y + 16, x : x + 16, channel] = 255
                category = CATEGORIES[channel]["id"]
                box = [int(x), int(y), 16, 16]
                annotations.append(
                    {"id": len(annotations), "image_id": i, "category_id": category, "bbox": box}
                )
            name = f"COCO_{split}_{i:012}.jpg"
            Image.fromarray(pixels).save(root / split / name, quality=95)
            images.append({"id": i, "file_name": name, "width": 40, "height": 40})
        tables = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tables))
    return root


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory) -> Path:
    """48 training images, of which 4 are held out, and 10 test images; 3 labels."""
    return write_coco(tmp_path_factory.mktemp("coco"), {"train2014": 48, "val2014": 10})


@pytest.fixture(scope="session")
def tiny_config(coco_folder):
    """A function from a method and overrides to a config that trains in seconds."""

    def create(method: str = "order_free", **overrides):
        config = coco.get_config(method).unlock()
        config.update_from_flattened_dict(
            {
                "data.path": str(coco_folder),
                "data.image_size": 32,
                "data.validation_fraction": 0.1,
                "backbone.name": "small",
                "backbone.frozen": False,
                "decoder.hidden": 16,
                "decoder.attention": 8,
                "decoder.max_labels": 3,
                "decoder.dropout": 0.2,
                "search.beam_size": 2,
                "train.batch_size": 8,
                "train.steps": 10,
                "train.log_every": 2,
                "train.eval_every": 4,
                "train.checkpoint_every": 3,
                "eval.batch_size": 8,
                **overrides,
            }
        )
        return config.lock()

    return create
