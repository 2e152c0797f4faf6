"""Whole runs whose work directory is damaged, in use or full."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attn_lstm.errors import UserError
from attn_lstm.runs import opened, workdir
from attn_lstm.runs.checkpoint import CHECKSUMS, find_damage
from attn_lstm.training import loop, metrics_log
from tests import programs
from tests.small_run import flags_of
from tests.work_directories import assert_equal, final_variables


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def flip(folder: Path) -> Path:
    """Turns one bit in the largest file under a folder; returns that file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    return path


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(
    tiny_config, whole, run, one_device, capsys, caplog
):
    broken = flip(run / "checkpoints/latest/10")
    with caplog.at_level("WARNING", logger="absl"):
        assert loop.train(tiny_config(), run, one_device)
    assert str(broken) in caplog.text
    assert "going on from step 9" in capsys.readouterr().out
    assert_equal(final_variables(whole), final_variables(run))
    assert (run / metrics_log.METRICS).read_bytes() == (whole / metrics_log.METRICS).read_bytes()
    assert find_damage(run / "checkpoints/latest/10") is None
    assert find_damage(run / "checkpoints/damaged/latest-10") is not None


def test_a_run_without_a_whole_checkpoint_is_refused_and_not_begun_anew(
    tiny_config, run, one_device
):
    for step in (9, 10):
        flip(run / f"checkpoints/latest/{step}")
    log = (run / metrics_log.METRICS).read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint in .*latest is whole: 10: .*9: "):
        loop.train(tiny_config(), run, one_device)
    assert (run / metrics_log.METRICS).read_bytes() == log


@pytest.mark.parametrize("step", ["best", "latest", "10"])
def test_evaluation_of_a_damaged_checkpoint_names_the_file(run, one_device, step):
    folder = "best" if step == "best" else "latest"
    broken = [flip(path) for path in (run / "checkpoints" / folder).iterdir()]
    with pytest.raises(UserError, match=r"is damaged: .*--step") as caught:
        opened.open_checkpoint(workdir.load_config(run), run, step, one_device)
    assert any(str(path) in str(caught.value) for path in broken)
    assert all(path.exists() for path in broken)


def train_alone(config, directory: Path) -> subprocess.CompletedProcess:
    """`train.py` with the config of a test."""
    return programs.run("train.py", *flags_of(config), f"--workdir={directory}")


def assert_one_line(finished: subprocess.CompletedProcess, *parts: str) -> None:
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr, finished.stderr
    (line,) = (line for line in finished.stderr.split("\n") if line.startswith("error: "))
    for part in parts:
        assert part in line


@pytest.mark.slow
def test_a_run_ends_with_one_line_when_it_cannot_save_and_goes_on_when_it_can(
    tiny_config, tmp_path
):
    # In KiB: more than the small files need, less than the largest kernel of the backbone.
    # Compiled functions would be larger too, and half of one be kept for the tests behind.
    limits = "ulimit -f 256; export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1e9;"
    command = [sys.executable, "train.py", *flags_of(tiny_config()), f"--workdir={tmp_path}/run"]
    failed = subprocess.run(
        ["bash", "-c", f'{limits} exec "$@"', "bash", *command],
        capture_output=True, text=True, check=False, cwd=programs.ROOT,
    )  # fmt: skip
    assert_one_line(failed, str(tmp_path / "run" / "checkpoints"), "File too large")
    finished = train_alone(tiny_config(), tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    for step in (9, 10):
        assert find_damage(tmp_path / f"run/checkpoints/latest/{step}") is None


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_one_line_and_with_room_it_goes_on(
    tiny_config, whole, tmp_path
):
    one = sum(p.stat().st_size for p in (whole / "checkpoints/latest/9").rglob("*"))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={one * 7 // 2}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        failed = train_alone(tiny_config(), disk / "run")
        assert_one_line(failed, str(disk / "run"), "No space left on device")
        kept = [p for p in (disk / "run/checkpoints/latest").iterdir() if p.name.isdecimal()]
        assert kept
        assert all(find_damage(path) is None for path in kept)
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        finished = train_alone(tiny_config(), disk / "run")
        assert finished.returncode == 0, finished.stderr
        assert f"going on from step {max(int(path.name) for path in kept)}" in finished.stdout
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_every_checkpoint_of_a_run_has_its_checksums(whole):
    folders = [*(whole / "checkpoints/latest").iterdir(), *(whole / "checkpoints/best").iterdir()]
    assert len(folders) == 3
    for folder in folders:
        files = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        covered = set(json.loads((folder / CHECKSUMS).read_text()))
        assert files - covered == {CHECKSUMS, "_CHECKPOINT_METADATA", "commit_success.txt"}


def test_a_damaged_best_checkpoint_makes_way_for_another(tiny_config, run, one_device, caplog):
    (best,) = (run / "checkpoints/best").iterdir()
    broken = flip(best)
    with caplog.at_level("WARNING", logger="absl"):
        assert loop.train(tiny_config(), run, one_device)
    assert str(broken) in caplog.text
    assert (run / f"checkpoints/damaged/best-{best.name}").is_dir()


def test_a_directory_in_use_or_not_to_be_written_is_refused_before_anything_is_read(
    tiny_config, tmp_path, one_device
):
    config = tiny_config(**{"data.path": "/no/such/folder"})
    with workdir.lock(tmp_path / "run"), pytest.raises(UserError, match=r"is in use by process"):
        loop.train(config, tmp_path / "run", one_device)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run cannot be written: Not a directory"):
        loop.train(config, tmp_path / "file" / "run", one_device)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [workdir.LOCK]


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        (lambda t: t["categories"][0].update(name="crimson"), ["number 1 of its labels", "'red'"]),
        (lambda t: t["annotations"].pop(), ["fingerprint"]),
    ],
)
def test_a_checkpoint_of_other_labels_or_images_is_refused(
    tiny_config, run, coco_folder, tmp_path, one_device, tables, parts
):
    data = tmp_path / "data"
    shutil.copytree(coco_folder, data)
    for split in ("train2014", "val2014"):
        path = data / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        tables(content)
        path.write_text(json.dumps(content))
    labels = (run / workdir.LABELS).read_bytes()
    with pytest.raises(UserError, match=r"checkpoint 10 .* is of other data") as caught:
        loop.train(tiny_config(**{"data.path": str(data)}), run, one_device)
    for part in parts:
        assert part in str(caught.value)
    assert (run / workdir.LABELS).read_bytes() == labels


def test_a_run_whose_directory_is_moved_away_ends_with_one_line_and_makes_none_anew(
    tiny_config, run, one_device, monkeypatch
):
    shutil.rmtree(run / "checkpoints/latest/10")
    log = loop.Run.log

    def log_and_move(self, step, clock):
        log(self, step, clock)
        run.rename(run.with_name("moved"))

    monkeypatch.setattr(loop.Run, "log", log_and_move)
    with pytest.raises(UserError, match=f"{run} is no longer the folder that this run writes to"):
        loop.train(tiny_config(), run, one_device)
    assert not run.exists()


def test_a_changed_config_is_named_before_it_is_used(tiny_config, run, one_device):
    path = run / workdir.CONFIG
    content = json.loads(path.read_text())
    content["data"]["path"] = "moved/elsewhere"
    content["decoder"]["max_labels"] += 1
    path.write_text(json.dumps(content))
    config = workdir.load_config(run)
    changed = r"config\.json has changed since its run was saved: decoder\.max_labels \(\d then"
    with pytest.raises(UserError, match=changed):
        opened.open_checkpoint(config, run, "best", one_device)
    again = tiny_config(**{"decoder.max_labels": config.decoder.max_labels})
    with pytest.raises(UserError, match=changed):
        loop.train(again, run, one_device)
