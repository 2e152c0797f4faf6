"""Two processes with two devices each against one with four, started as users start them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from attn_lstm.config import flatten
from attn_lstm.errors import LOST
from attn_lstm.evaluation import evaluate
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import workdir
from attn_lstm.training import loop
from configs import coco
from tests.conftest import write_coco
from tests.training.test_loop import assert_equal, metrics

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def final_variables(directory: Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint, whatever devices saved it."""
    (*_, latest) = sorted((directory / "checkpoints/latest").iterdir(), key=lambda p: int(p.name))
    tree = {}
    for item in ("variables", "progress"):
        reader = ocp.PyTreeCheckpointer()
        arrays = reader.metadata(latest / item).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), arrays)
        tree[item] = reader.restore(latest / item, restore_args=as_numpy)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def start(script: str, *flags: str, compiled: bool = True) -> subprocess.Popen:
    """Starts it; with `compiled` functions of earlier starts are not compiled again."""
    environment = dict(os.environ)
    environment["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    )
    if not compiled:
        del environment["JAX_COMPILATION_CACHE_DIR"]
    return subprocess.Popen(
        [sys.executable, ROOT / script, *flags],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_two(
    script: str, *flags: str, second: tuple[str, ...] = (), compiled: bool = True
) -> list[subprocess.Popen]:
    """Two processes of one run; the second with other flags behind those of both."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = [f"--coordinator_address={address}", "--num_processes=2"]
    return [
        start(script, *flags, *own, *together, f"--process_id={i}", compiled=compiled)
        for i, own in enumerate([(), second])
    ]


def wait(processes: list[subprocess.Popen]) -> list[Ended]:
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        ended.append(Ended(process.returncode, out, err))
    return ended


def wait_for_line(process: subprocess.Popen, start: str) -> None:
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"{start!r} never came: {process.stderr.read()}")


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory):
    """43 test images, 39 to train on and 4 to validate on."""
    folder = write_coco(tmp_path_factory.mktemp("odd"), {"train2014": 43, "val2014": 43})
    fields = {"data.path": str(folder), "train.log_every": 1}
    # Adam would make whole steps of gradients that are nothing but the rounding of a sum.
    return tiny_config(**fields, **{"optimizer.name": "sgd", "optimizer.learning_rate": 1e-3})


def train_flags(config, directory: Path) -> list[str]:
    usual = dict(flatten(coco.get_config("order_free")))
    changed = [
        f"--config.{name}={value}" for name, value in flatten(config) if usual[name] != value
    ]
    return ["--config=configs/coco.py:order_free", f"--workdir={directory}", *changed]


@pytest.fixture(scope="module")
def together(config, tmp_path_factory) -> Path:
    """The work directory of two processes that nothing disturbed."""
    directory = tmp_path_factory.mktemp("together")
    first, second = wait(start_two("train.py", *train_flags(config, directory)))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.out.splitlines()[-1] == "done"
    # The threads of Gloo, which both processes hold, write across each other's lines.
    assert not re.search(r"step \d|done|order_free", second.out)
    return directory


@pytest.mark.slow
def test_two_processes_train_as_one_with_as_many_devices(config, together, tmp_path):
    loop.train(config, tmp_path, make_mesh())
    for alone, both in zip(metrics(tmp_path), metrics(together), strict=True):
        assert alone.pop("kind") == both.pop("kind")
        assert alone == pytest.approx(both, rel=1e-4)
    assert_equal(final_variables(tmp_path), final_variables(together), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_evaluate_every_image_once(together, tmp_path):
    run = Path(shutil.copytree(together, tmp_path / "run"))
    evaluate.evaluate(workdir.load_config(run), run, "latest", "test", make_mesh())
    alone = json.loads((run / "eval/test-10.json").read_text())
    first, second = wait(start_two("eval.py", f"--workdir={run}", "--step=latest"))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "| order_free " in first.out
    assert "order_free" not in second.out
    both = json.loads((run / "eval/test-10.json").read_text())
    assert both["images"] == 43
    for part in (alone, both):  # sums of other orders
        part["loss"] = pytest.approx(part["loss"], rel=1e-5)
    assert both == alone


@pytest.mark.slow
def test_a_signal_to_one_stops_both_after_the_same_step_and_they_go_on(config, together, tmp_path):
    # The validation behind step 4 is yet to be compiled, so that the signal meets a run under way.
    processes = start_two("train.py", *train_flags(config, tmp_path), compiled=False)
    wait_for_line(processes[0], "step 2/10")
    processes[1].send_signal(signal.SIGTERM)
    first, second = wait(processes)
    assert (first.code, second.code) == (75, 75), first.err + second.err
    stopped = re.search(r"stopped at step (\d+); saved", first.out)
    assert 2 < int(stopped[1]) < 10
    assert (tmp_path / "checkpoints/latest" / stopped[1]).is_dir()
    first, second = wait(start_two("train.py", *train_flags(config, tmp_path)))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert_equal(final_variables(together), final_variables(tmp_path))
    assert metrics(together) == metrics(tmp_path)


@pytest.mark.slow
def test_the_death_of_the_first_ends_the_other_with_a_line(config, tmp_path):
    processes = start_two("train.py", *train_flags(config, tmp_path))
    wait_for_line(processes[0], "order_free on coco")
    processes[0].kill()
    assert_lost(wait(processes)[1])


@pytest.mark.slow
def test_the_death_of_another_ends_the_first_with_a_line_and_both_go_on(config, together, tmp_path):
    processes = start_two("train.py", *train_flags(config, tmp_path))
    wait_for_line(processes[0], "step 8/10  validation")  # step 3 is saved by then
    processes[1].kill()
    assert_lost(wait(processes)[0])
    first, second = wait(start_two("train.py", *train_flags(config, tmp_path)))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "going on from step" in first.out
    assert_equal(final_variables(together), final_variables(tmp_path))
    assert metrics(together) == metrics(tmp_path)


def assert_lost(ended: Ended) -> None:
    assert ended.code == LOST, ended.err
    (line,) = ended.errors
    assert "lost another one of its run" in line
    assert "start all of them again" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "parts"),
    [
        ("--config.data.path=nowhere", ["nowhere"]),
        ("--config.seed=5", ["process 1 has another config than process 0"]),
    ],
)
def test_a_mistake_of_one_ends_both(config, tmp_path, mistake, parts):
    for ended in wait(start_two("train.py", *train_flags(config, tmp_path), second=(mistake,))):
        assert ended.code == 2, ended.err
        (line,) = ended.errors
        assert all(part in line for part in parts)


@pytest.mark.slow
def test_two_processes_share_the_features_that_they_keep(tiny_config, tmp_path):
    folder = write_coco(tmp_path / "data", {"train2014": 700, "val2014": 1})
    flags = {"data.path": str(folder), "backbone.frozen": True, "eval.batch_size": 64}
    row = tiny_config("knn", **flags)
    changed = train_flags(row, tmp_path / "both")[1:]
    ended = wait(start_two("train.py", "--config=configs/coco.py:knn", *changed))
    assert [e.code for e in ended] == [0, 0], ended[0].err + ended[1].err
    loop.train(row, tmp_path / "alone", make_mesh())
    kept = sorted((tmp_path / "both/features").glob("*/*of-00002"))
    assert [path.name[-14:] for path in kept] == ["00000-of-00002", "00001-of-00002"]
    alone, both = (final_variables(tmp_path / name) for name in ("alone", "both"))
    assert_equal(alone, both, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(
        *(run["['variables']['memory']['neighbours']['labels']"] for run in (alone, both))
    )


@pytest.mark.slow
def test_two_processes_compare_and_end_together_when_the_first_cannot_write(config, tmp_path):
    _, _, *flags = train_flags(config, tmp_path)
    flags = ["--config=configs/coco.py", "--methods=resnet_baseline", *flags,
             f"--workdir={tmp_path / 'table'}", "--config.train.steps=2"]  # fmt: skip
    blocked = tmp_path / "table/resnet_baseline/seed-0/eval"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the place of the folder")
    first, second = wait(start_two("compare.py", *flags))
    assert (first.code, second.code) == (2, 2), first.err + second.err
    assert f"{blocked}/test-2.json cannot be written" in first.errors[0]
    assert "process 0 of 2" in second.errors[0]
    blocked.unlink()
    first, second = wait(start_two("compare.py", *flags))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "going on from step 2" in first.out
    assert "| resnet_baseline " in first.out and "resnet_baseline" not in second.out
    assert len((tmp_path / "table/table.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--num_processes=2", "--process_id=0"], "--coordinator_address missing"),
        (["--distributed", "--process_id=0"], "leave out"),
        (["--coordinator_address=here", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
        (["--coordinator_address=here:1", "--num_processes=2", "--process_id=2"], "count from 0"),
        (["--distributed"], "--distributed finds nothing of a cluster"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(tmp_path, flags, part):
    (ended,) = wait(
        [
            start(
                "train.py", "--config=configs/digits.py:order_free", f"--workdir={tmp_path}", *flags
            )
        ]
    )
    assert ended.code == 2, ended.err
    (line,) = ended.errors
    assert part in line
