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

import numpy as np
import pytest

from attn_lstm.errors import LOST
from attn_lstm.evaluation import evaluate
from attn_lstm.parallel import make_mesh
from attn_lstm.runs import workdir
from attn_lstm.training import loop
from tests import programs
from tests.patches import write_coco
from tests.programs import ROOT, Program, assert_mistake, xla_flags
from tests.small_run import flags_of
from tests.work_directories import assert_equal, final_variables, metrics


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def start(*command: str, compiled: bool = True) -> Program:
    """A process with two devices."""
    return programs.start(*command, devices=2, compiled=compiled)


def start_two(
    script: str, *flags: str, second: tuple[str, ...] = (), compiled: bool = True
) -> list[Program]:
    """Two processes of one run; the second with other flags behind those of both."""
    together = [f"--coordinator_address={free_address()}", "--num_processes=2"]
    return [
        start(script, *flags, *own, *together, f"--process_id={i}", compiled=compiled)
        for i, own in enumerate([(), second])
    ]


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def wait(processes: list[Program]) -> list[Ended]:
    ended = [process.wait() for process in processes]
    return [Ended(end.returncode, end.stdout, end.stderr) for end in ended]


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory):
    """43 test images, 39 to train on and 4 to validate on."""
    folder = write_coco(tmp_path_factory.mktemp("odd"), {"train2014": 43, "val2014": 43})
    fields = {"data.path": str(folder), "train.log_every": 1}
    # Adam would make whole steps of gradients that are nothing but the rounding of a sum.
    return tiny_config(**fields, **{"optimizer.name": "sgd", "optimizer.learning_rate": 1e-3})


def train_flags(config, directory: Path) -> list[str]:
    return [*flags_of(config), f"--workdir={directory}"]


@pytest.fixture(scope="module")
def together(config, tmp_path_factory) -> Path:
    """The work directory of two processes that nothing disturbed.

    Python starts each of them, with another order of its sets: Programs have that of their server.
    """
    directory = tmp_path_factory.mktemp("together")
    command = [sys.executable, "train.py", *train_flags(config, directory), "--num_processes=2",
               f"--coordinator_address={free_address()}"]  # fmt: skip
    started = [
        subprocess.Popen(
            [*command, f"--process_id={i}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT, env={**os.environ, "XLA_FLAGS": xla_flags(2)},
        )
        for i in range(2)
    ]  # fmt: skip
    (first, first_error), (second, second_error) = [p.communicate(timeout=300) for p in started]
    assert [process.returncode for process in started] == [0, 0], first_error + second_error
    assert first.splitlines()[-3] == "done"  # before what is written, and what comes next
    # The threads of Gloo, which both processes hold, write across each other's lines.
    assert not re.search(r"step \d|done|order_free", second)
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
    processes[0].wait_for_line("step 2/10")
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
    processes[0].wait_for_line("order_free on coco")
    processes[0].send_signal(signal.SIGKILL)
    assert_lost(wait(processes)[1])


@pytest.mark.slow
def test_the_death_of_another_ends_the_first_with_a_line_and_both_go_on(config, together, tmp_path):
    processes = start_two("train.py", *train_flags(config, tmp_path))
    processes[0].wait_for_line("step 8/10  validation")  # step 3 is saved by then
    processes[1].send_signal(signal.SIGKILL)
    assert_lost(wait(processes)[0])
    first, second = wait(start_two("train.py", *train_flags(config, tmp_path)))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "going on from step" in first.out
    assert_equal(final_variables(together), final_variables(tmp_path))
    assert metrics(together) == metrics(tmp_path)


# The error comes to process 0 while process 1 is lost, or is a defect of both.
_FAILING = """
import os, signal, sys
from attn_lstm import distributed

distributed._HEARTBEAT_SECONDS, distributed._GRACE_SECONDS = 10, 5
_, address, index, loses, error = sys.argv

def main():
    if loses == "yes" and index == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    import jax
    try:
        raise eval(error)
    except TimeoutError as inner:
        raise KeyError("what a library makes of it") from inner

distributed.start(address, 2, int(index), keeps_sigterm=False)
sys.exit(distributed.run(main))
"""


# Devices in the order in which larger TPU slices list them, host by host in turn.
_INTERLEAVED = """
import sys
import jax, numpy as np
from attn_lstm import distributed, parallel
from attn_lstm.parallel import AXIS, SPLIT

_, address, index = sys.argv

def main():
    of = [[d for d in jax.devices() if d.process_index == i] for i in (0, 1)]
    mesh = parallel.make_mesh([of[0][0], of[1][0], of[1][1], of[0][1]])
    rows = parallel.shard_batch(np.arange(8)[4 * int(index):][:4], mesh)
    place = parallel.map_over_devices(
        lambda x: 0 * x + jax.lax.axis_index(AXIS), mesh, in_specs=SPLIT, out_specs=SPLIT
    )
    print("rows", *parallel.gather(rows), "on", *parallel.gather(place(rows)))
    return 0

distributed.start(address, 2, int(index), keeps_sigterm=False)
sys.exit(distributed.run(main))
"""


def run_two(program: str, *arguments: str) -> list[Ended]:
    """Two processes of two devices that run a program with their address, index and arguments."""
    address = free_address()
    return wait([start("-c", program, address, i, *arguments) for i in "01"])


def fail_in_two(error: str, *, loses: bool) -> Ended:
    """How process 0 of two ends that has this error."""
    return run_two(_FAILING, "yes" if loses else "no", error)[0]


@pytest.mark.slow
def test_rows_are_where_one_host_has_them_however_the_devices_are_listed():
    for ended in run_two(_INTERLEAVED):
        assert ended.code == 0, ended.err
        assert "rows 0 1 2 3 4 5 6 7 on 0 0 1 1 2 2 3 3" in ended.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        "ValueError('UNKNOWN: Gloo AllGather failed: Connection reset by peer')",
        "jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: Barrier timed out')",
        "TimeoutError('INTERNAL: nccl: unhandled system error')",
    ],
)
def test_a_broken_connection_is_a_loss_by_whatever_exception_it_comes(error):
    ended = fail_in_two(error, loses=True)
    assert_lost(ended)
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_an_error_that_a_loss_may_have_caused_waits_for_the_runtime_to_say_so():
    ended = fail_in_two("RuntimeError('INTERNAL: the program on a chip has halted')", loses=True)
    assert_lost(ended)
    assert "a chip has halted" in ended.err


@pytest.mark.slow
def test_a_defect_is_one_where_nobody_is_lost():
    ended = fail_in_two("FileNotFoundError('/data/gloo/UNAVAILABLE: none')", loses=False)
    assert (ended.code, ended.errors) == (1, [])
    assert "FileNotFoundError" in ended.err


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
    ended = wait(start_two("train.py", *train_flags(row, tmp_path / "both")))
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
    flags = ["--config=configs/coco.py", "--methods=resnet_baseline", *flags_of(config)[1:],
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
    digits = ["--config=configs/digits.py:order_free", f"--workdir={tmp_path}"]
    assert_mistake(programs.run("train.py", *digits, *flags), part)
