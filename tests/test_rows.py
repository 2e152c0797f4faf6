"""A row that is added from outside of the package: trained, evaluated and used by the commands."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from attn_lstm.errors import UserError
from attn_lstm.plugins import load_plugins

ROOT = Path(__file__).parents[1]

# What docs/extending.md says that it takes.
PEAK = """
    import flax.linen as nn
    import jax.numpy as jnp

    from attn_lstm.methods import METHODS, Method
    from attn_lstm.models.heads import HEADS, Head


    class Peak(nn.Module):
        num_labels: int
        looks = True

        @nn.compact
        def __call__(self, features, train=False):
            scores = nn.Dense(self.num_labels)(features).astype(jnp.float32)
            peaks = nn.one_hot(scores.argmax(axis=1), features.shape[1])
            return scores.max(axis=1), peaks


    HEADS["peak"] = Head(lambda config, sizes: {"set_head": Peak(sizes.num_labels)})
    METHODS["peak"] = Method("ours", "each label by its strongest region", {"head": "peak"})
"""


def install(folder: Path, module: str, source: str) -> None:
    """A package with one module, as pip would lay it, which names itself as a plug-in."""
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    entry = f"[attn_lstm.plugins]\n{module} = {module}\n"
    (information / "entry_points.txt").write_text(entry)


@pytest.mark.slow
def test_a_row_of_another_package_is_trained_evaluated_and_used(coco_folder, tmp_path):
    install(tmp_path, "peak_row", PEAK)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = tmp_path / "run"

    def start(script: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, ROOT / script, f"--workdir={run}", *map(str, arguments)],
            capture_output=True, text=True, env=environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    fields = {
        "data.path": coco_folder, "data.image_size": 32, "backbone.name": "small",
        "backbone.frozen": False, "train.batch_size": 8, "train.steps": 2, "eval.batch_size": 8,
        "search.threshold": 0.0,
    }  # fmt: skip
    start("train.py", f"--config={ROOT / 'configs/coco.py'}:peak",
          *(f"--config.{name}={value}" for name, value in fields.items()))  # fmt: skip
    assert "| peak " in start("eval.py")
    picture = next((coco_folder / "val2014").iterdir())
    lines = start("predict.py", picture, f"--overlays={tmp_path / 'maps'}").splitlines()
    (prediction,) = map(json.loads, lines)
    assert {label["name"] for label in prediction["labels"]} == {"red", "green", "blue"}
    assert Path(prediction["overlay"]).exists()


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    install(tmp_path, "broken_row", "import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"broken_row.*no_such_module_anywhere.*uninstall it"):
        load_plugins()
