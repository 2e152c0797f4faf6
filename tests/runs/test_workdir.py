import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import ml_collections
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_lstm import storage
from attn_lstm.errors import UserError
from attn_lstm.fields import default_config
from attn_lstm.measures.calibration import Calibration
from attn_lstm.measures.thresholds import Threshold
from attn_lstm.runs import tuned, workdir
from attn_lstm.training import metrics_log

SEARCH = default_config().search


def changed(**fields) -> ml_collections.ConfigDict:
    """The search with other fields."""
    search = ml_collections.ConfigDict(SEARCH)
    search.update(fields)
    return search


def test_config_and_labels_come_back_as_they_were(tmp_path):
    config = default_config()
    workdir.save_config(tmp_path, config)
    assert workdir.load_config(tmp_path).to_dict() == config.to_dict()
    table = workdir.LabelTable("coco", ("cat", "dog"), (5, 3), 6)
    workdir.save_labels(tmp_path, table)
    assert workdir.load_labels(tmp_path) == table


def test_another_place_of_the_data_is_the_same_config(tmp_path):
    config = default_config()
    workdir.save_config(tmp_path, config)
    config.data.path = "there"
    workdir.save_config(tmp_path, config)
    config.seed = 2
    with pytest.raises(UserError, match=r"seed \(0 there, 2 now\)"):
        workdir.save_config(tmp_path, config)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "\xff"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / workdir.CONFIG).write_bytes(content.encode("latin-1"))
    (tmp_path / workdir.LABELS).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json"):
        workdir.load_config(tmp_path)
    with pytest.raises(UserError, match=r"labels\.json"):
        workdir.load_labels(tmp_path)


def test_thresholds_belong_to_a_checkpoint_and_a_decision(tmp_path):
    assert tuned.load_threshold(tmp_path, 5, SEARCH) is None
    tuned.save_threshold(tmp_path, 5, SEARCH, Threshold(0.3))
    tuned.save_threshold(tmp_path, 6, SEARCH, Threshold(0.4))
    assert tuned.load_threshold(tmp_path, 5, SEARCH) == Threshold(0.3)
    assert tuned.load_threshold(tmp_path, 6, SEARCH) == Threshold(0.4)
    for other in (
        {"stop": "step"},
        {"beam_size": 4},
        {"decide": "scores"},
        {"thresholds": "micro"},
    ):
        assert tuned.load_threshold(tmp_path, 5, changed(**other)) is None
    # The path does not care for what ranks the labels.
    assert tuned.load_threshold(tmp_path, 5, changed(scores="map")) == Threshold(0.3)


def test_scores_that_decide_do_not_care_for_a_beam(tmp_path):
    tau = Threshold(0.3, {"cat": 0.25})
    tuned.save_threshold(tmp_path, 5, changed(decide="scores"), tau)
    assert tuned.load_threshold(tmp_path, 5, changed(decide="scores", beam_size=9)) == tau
    for other in ("map", "max"):
        assert tuned.load_threshold(tmp_path, 5, changed(decide="scores", scores=other)) is None


def test_a_calibration_belongs_to_a_checkpoint_and_its_scores(tmp_path):
    assert tuned.load_calibration(tmp_path, 5, SEARCH) is None
    tuned.save_calibration(tmp_path, 5, SEARCH, Calibration(0.9, -0.1))
    assert tuned.load_calibration(tmp_path, 5, changed(decide="scores")) == Calibration(0.9, -0.1)
    assert tuned.load_calibration(tmp_path, 5, changed(scores="map")) is None
    assert tuned.load_calibration(tmp_path, 6, SEARCH) is None


def test_the_log_is_cut_back_to_the_restored_step(tmp_path):
    log = metrics_log.MetricsLog(tmp_path, restored_step=0)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": 0.5})
    log.write("validation", 2, {"mAP": 10.0})
    with (tmp_path / metrics_log.METRICS).open("a") as file:
        file.write('{"kind": "train", "st')  # killed in the middle of a line
    log = metrics_log.MetricsLog(tmp_path, restored_step=2)
    assert log.has_validation(2)
    assert not log.has_validation(3)
    log.write("train", 3, {"loss": 0.25})
    lines = (tmp_path / metrics_log.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 2, 3]
    assert json.loads(lines[-1])["loss"] == 0.25


BY_LABEL = changed(decide="scores", thresholds="per_class")
LOAD = {
    workdir.CONFIG: workdir.load_config,
    workdir.LABELS: workdir.load_labels,
    tuned.THRESHOLDS: lambda path: tuned.load_threshold(path, 5, BY_LABEL),
    tuned.CALIBRATION: lambda path: tuned.load_calibration(path, 5, SEARCH),
    workdir.SECONDS: workdir.load_seconds,
    metrics_log.METRICS: lambda path: metrics_log.MetricsLog(path, restored_step=10),
}
WHOLE = {
    workdir.CONFIG: {"version": "0.2.0", **default_config().to_dict()},
    workdir.LABELS: {"dataset": "coco", "names": ["a", "b"], "counts": [1, 2], "images": 3},
    tuned.THRESHOLDS: {
        "step=5 stop=path beam_size=3": 0.25,
        "step=5 scores=last_step decide=scores thresholds=per_class": {
            "value": 0.25,
            "by_label": {"cat": 0.5},
        },
    },
    tuned.CALIBRATION: {"step=5 scores=last_step": {"slope": 1.0, "bias": 0.0}},
    workdir.SECONDS: {"training": 12.5},
    metrics_log.METRICS: {"kind": "validation", "step": 5, "mAP": 10.5},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3),
)


@st.composite
def contents(draw, name):
    """Any bytes, any JSON, and the right content with a bit, its end or a value off."""
    right = WHOLE[name]
    text = (json.dumps(right) + "\n").encode()
    kind = draw(st.sampled_from(["bytes", "json", "bit", "end", "value"]))
    if kind == "bytes":
        return draw(st.binary(max_size=40)) + b"\n"
    if kind == "json":
        return (json.dumps(draw(JSON)) + "\n").encode()
    if kind == "end":
        return text[: draw(st.integers(0, len(text)))] + b"\n"
    if kind == "value":
        return (json.dumps({**right, draw(st.sampled_from(sorted(right))): draw(JSON)})).encode()
    bit = draw(st.integers(0, 8 * len(text) - 1))
    return text[: bit // 8] + bytes([text[bit // 8] ^ 1 << bit % 8]) + text[bit // 8 + 1 :]


@pytest.mark.parametrize("name", LOAD)
def test_a_damaged_file_is_read_or_named_with_what_to_do(tmp_path_factory, name):
    directory = tmp_path_factory.mktemp("damaged")

    @given(contents(name))
    def holds(content):
        (directory / name).write_bytes(content)
        try:
            LOAD[name](directory)
        except UserError as error:
            assert str(directory / name) in str(error)
            assert any(remedy in str(error) for remedy in ("delete", "whole copy"))

    holds()
    (directory / name).write_text(json.dumps(WHOLE[name]) + "\n")
    LOAD[name](directory)


@pytest.mark.parametrize("name", LOAD)
@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, '{"a.b": null}'])
def test_json_beyond_limits_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content + "\n")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        LOAD[name](tmp_path)


@pytest.mark.parametrize("name", LOAD)
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        LOAD[name](tmp_path)


def test_a_damaged_line_of_the_log_is_named_by_its_number(tmp_path):
    log = metrics_log.MetricsLog(tmp_path, restored_step=0)
    log.write("train", 1, {"loss": 0.5})
    with (tmp_path / metrics_log.METRICS).open("ab") as file:
        file.write(b"\0\0\xff\n")
    log.write("train", 2, {"loss": 0.5})
    with pytest.raises(UserError, match=r"metrics\.jsonl.*line 2"):
        metrics_log.MetricsLog(tmp_path, restored_step=2)


def test_a_directory_in_use_names_its_owner(tmp_path):
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with workdir.lock(tmp_path / "run"):
        for _ in range(2):
            with pytest.raises(UserError, match=f"run is in use by {owner}.*--workdir"):
                workdir.lock(tmp_path / "run").__enter__()
    with workdir.lock(tmp_path / "run"), workdir.lock(tmp_path / "other"):
        pass


def moved(directory):
    directory.rename(directory.with_name("moved"))


def begun_anew(directory):
    moved(directory)
    directory.mkdir()
    (directory / workdir.LOCK).touch()
    (directory / workdir.CONFIG).touch()


def emptied(directory):
    (directory / workdir.CONFIG).unlink()


@pytest.mark.parametrize("change", [shutil.rmtree, moved, begun_anew, emptied])
def test_a_directory_that_vanishes_is_missed(tmp_path, change):
    directory = tmp_path / "run"
    with workdir.lock(directory) as check_held:
        (directory / workdir.CONFIG).touch()
        check_held()
        change(directory)
        with pytest.raises(UserError, match=f"{directory} is no longer the folder"):
            check_held()
        # As Orbax does that is saving.
        (directory / "checkpoints/latest").mkdir(parents=True, exist_ok=True)
    assert directory.exists() == (change in (begun_anew, emptied))


def test_a_killed_owner_does_not_block(tmp_path):
    code = (
        "import pathlib, sys, time; from attn_lstm.runs import workdir\n"
        "with workdir.lock(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"in use by process {process.pid} on "):
            workdir.lock(tmp_path).__enter__()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert str(process.pid) in (tmp_path / workdir.LOCK).read_text()
    with workdir.lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / workdir.LOCK).read_text()


def test_any_content_of_the_lock_file_is_one_line(tmp_path):
    with workdir.lock(tmp_path):
        (tmp_path / workdir.LOCK).write_bytes(b"\xff\n\0" * 1000)
        with pytest.raises(UserError) as caught:
            workdir.lock(tmp_path).__enter__()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run cannot be written: Not a directory"):
        workdir.lock(tmp_path / "file" / "run").__enter__()
    with pytest.raises(UserError, match=r"config\.json cannot be written: File exists \(.*file\)"):
        storage.write_json(tmp_path / "file" / workdir.CONFIG, {})
    (tmp_path / "run" / workdir.LOCK).mkdir(parents=True)
    with pytest.raises(UserError, match=r"run cannot be written: Is a directory"):
        workdir.lock(tmp_path / "run").__enter__()


def test_a_read_only_directory_and_one_in_a_read_only_folder_are_named(unprivileged):
    directory = unprivileged / "run"
    directory.mkdir()
    for closed in (directory, unprivileged):
        closed.chmod(0o500)
        with pytest.raises(UserError, match="run cannot be written: Permission denied"):
            workdir.lock(directory).__enter__()
        closed.chmod(0o700)
        if closed == directory:
            directory.rmdir()
    with workdir.lock(directory):
        assert (directory / workdir.LOCK).exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_and_the_file_before_stays(tmp_path, monkeypatch):
    log = metrics_log.MetricsLog(tmp_path, restored_step=0)
    (tmp_path / metrics_log.METRICS).unlink()
    (tmp_path / metrics_log.METRICS).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: No space left"):
        log.write("train", 1, {"loss": 0.5})
    path = tmp_path / workdir.CONFIG
    storage.write_json(path, {"a": 1})
    with monkeypatch.context() as patched:
        patched.setattr(storage.uuid, "uuid4", lambda: SimpleNamespace(hex="draft"))
        (tmp_path / f".{path.name}.draft").symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"config\.json cannot be written: No space left"):
            storage.write_json(path, {"a": 2})
    assert storage.read_json(path) == {"a": 1}
    storage.write_json(path, {"a": 2})
    assert storage.read_json(path) == {"a": 2}
