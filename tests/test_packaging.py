"""The wheel: what is in it, and that it works where there is no checkout."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import attn_lstm

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since building leaves folders behind."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("attn_lstm", "configs", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", built, source]
    subprocess.run(command, check=True)
    (path,) = built.iterdir()
    return path


@pytest.mark.slow
def test_a_wheel_holds_the_package_with_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(archive.read(metadata).decode())
    places = {"attn_lstm": "attn_lstm", "attn_lstm/configs": "configs"}
    assert names == {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for place, folder in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"attn_lstm/py.typed", "attn_lstm/reports/report.css"} <= names
    assert said["Version"] == attn_lstm.__version__
    assert said["License-Expression"] == "Apache-2.0"


def _packages_here() -> list[str]:
    """Where the packages of this environment lie, without what leads to a checkout."""
    return [path for path in sys.path if path.endswith("site-packages")]
