"""The wheel: what is in it, and that it works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import venv
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


@pytest.mark.slow
def test_a_wheel_in_an_environment_of_its_own_trains_evaluates_and_reports(wheel, tmp_path):
    """With the packages that it needs taken from this environment, and no checkout near."""
    place = tmp_path / "environment"
    venv.create(place, with_pip=True)
    site = next(place.glob("lib/python*/site-packages"))
    (site / "needed.pth").write_text("\n".join(_packages_here()) + "\n")
    install = [place / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps"]
    # pip sees this package among the needed ones, and would leave it at that.
    subprocess.run([*install, "--ignore-installed", wheel], check=True, cwd=tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: object) -> str:
        finished = subprocess.run(
            [place / "bin/attn-lstm", *arguments],
            capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    assert run("--version") == f"attn-lstm {attn_lstm.__version__}\n"
    assert "attn-lstm export --workdir" in run("export", "--help")
    few = [f"--config.train.{name}=2" for name in ("steps", "eval_every", "checkpoint_every")]
    run("train", "--config=digits:order_free", "--workdir=run", *few)
    said = run("eval", "--workdir=run", "--report")
    assert "| order_free " in said and "eval/test-2.html" in said
    where = "import attn_lstm; print(attn_lstm.__file__)"
    said = subprocess.run(
        [place / "bin/python", "-c", where],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    ).stdout  # fmt: skip
    assert said.strip() == str(site / "attn_lstm/__init__.py")


def _packages_here() -> list[str]:
    """Where the packages of this environment lie, without what leads to a checkout."""
    return [path for path in sys.path if path.endswith("site-packages")]
