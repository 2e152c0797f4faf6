"""The notebook of the documentation runs from top to bottom."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def test_the_notebook_is_kept_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    # As a reader runs it: four virtual devices would wait for each other on fewer cores.
    monkeypatch.delenv("XLA_FLAGS")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    (gallery,) = (o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {}))
    maps = gallery.count('alt="where it looked for ')
    assert maps and gallery.count('<img src="data:image/') == 4 + maps
    printed = "".join(output.get("text", "") for output in outputs)
    assert "image 3: predicted" in printed
    assert "broken.png cannot be read" in printed
