"""Work directories in object stores: whole wherever they are cut off, and one owner at a time."""

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from attn_lstm import cli, remote
from attn_lstm.config import find_mistakes
from attn_lstm.data import load_split
from attn_lstm.data.feature_store import pixel_digest
from attn_lstm.errors import UserError
from attn_lstm.runs import opened, workdir
from attn_lstm.runs.checkpoint import CHECKSUMS, find_damage
from attn_lstm.storage import LOCK
from attn_lstm.training import loop, metrics_log
from tests.work_directories import assert_equal, final_variables

LEASE = ".lease"


@pytest.fixture(scope="module")
def s3():
    """The URL of a bucket of an emulator of S3."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="module")
def gs():
    """The URL of a bucket of an emulator of Google Cloud Storage."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with pytest.MonkeyPatch.context() as environment:
        # The emulator speaks no gRPC, by which gcsfs asks for the kind of a bucket.
        environment.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        environment.setenv("FSSPEC_GCS_TOKEN", "anon")
        pytest.importorskip("gcsfs")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
        server.start()
        environment.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        fsspec.config.conf.setdefault("gcs", {})["token"] = "anon"
        yield "gs://bucket"
        server.stop()


@pytest.fixture
def url(monkeypatch, tmp_path):
    """A folder of a store in this process's memory."""
    monkeypatch.setattr(remote, "_SCHEMES", ("memory",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(remote, "_RENEWED", 0.02)
    monkeypatch.setattr(remote, "_PATIENCE", 0.2)
    monkeypatch.setattr(remote, "FOLLOWS", 0.02)


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def objects(url: str) -> dict[str, str]:
    store, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return {path[len(root) + 1 :]: store.cat_file(path).decode() for path in store.find(root)}


FILES = {
    "config.json": "{}",
    "eval/test-3.json": "{}",
    f"checkpoints/best/3/{CHECKSUMS}": "3",
    "checkpoints/best/3/variables/d/1": "a",
    f"checkpoints/latest/3/{CHECKSUMS}": "3",
    "checkpoints/latest/3/variables/d/1": "a" * 100,
}
NOT_SENT = {
    LOCK: "",
    ".table.md.0f": "half",
    "checkpoints/latest/6.orbax-checkpoint-tmp-1/variables/d/1": "half",
}


@pytest.mark.parametrize("store", ["url", "s3", "gs"])
def test_what_is_written_to_a_copy_is_in_the_next_one(request, store, monkeypatch, tmp_path):
    place = request.getfixturevalue(store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"{place}/a folder/run"
    with remote.working_copy(url, owned=True) as copy:
        assert texts(copy) == {}
        fill(copy, FILES | NOT_SENT | {"features/ab/rows": "large"})
    assert objects(url) == FILES
    with remote.working_copy(url, owned=True) as copy:
        assert texts(copy) == FILES | {"features/ab/rows": "large"}
        shutil.rmtree(copy / "checkpoints/best/3")
        fill(copy, {"config.json": "{1}"})
    assert objects(url) == {
        name: "{1}" if name == "config.json" else text
        for name, text in FILES.items()
        if "best" not in name
    }
    with remote.working_copy(url, owned=False) as copy:
        assert texts(copy) == objects(url)
        fill(copy, {"eval/test-3.html": "new"})
        (copy / "config.json").unlink()  # a reader deletes nothing
    assert objects(url).keys() >= {"config.json", "eval/test-3.html"}
    assert remote.shown(f"see {copy}/eval") == f"see {url}/eval"


def test_a_reader_of_the_best_checkpoint_copies_no_other(url):
    with remote.working_copy(url, owned=True) as copy:
        fill(copy, FILES)
    with remote.reading(url, step="best") as copy:
        assert not (copy / "checkpoints/latest").exists()
        assert (copy / "checkpoints/best/3" / CHECKSUMS).exists()
    with remote.reading(copy, step="best") as same:
        assert same == copy


class Cut(Exception):
    pass


@pytest.mark.parametrize("store", ["url"])
def test_wherever_writing_is_cut_off_the_store_holds_a_run_to_go_on_from(
    request, store, monkeypatch, tmp_path
):
    """A run with the checkpoints 3 and 6 gets 9 in the place of 3, and a better best one."""
    monkeypatch.setattr(remote, "FOLLOWS", 1e9)

    def run_at(folder: Path, latest: tuple[int, int], best: int) -> None:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for kind, step in [("latest", latest[0]), ("latest", latest[1]), ("best", best)]:
            files = {name: f"{name} of {step}" for name in ("variables/d", "meta/x")}
            fill(folder / f"checkpoints/{kind}/{step}", {**files, CHECKSUMS: json.dumps(files)})
        fill(folder, {"metrics.jsonl": f"{latest[1]}", "config.json": "{}"})

    finished = False
    for operations in range(1, 100):
        url = f"{request.getfixturevalue(store)}{operations}"
        with remote.working_copy(url, owned=True) as copy:
            run_at(copy, (3, 6), best=3)
        left = operations

        def counted(method, name=""):
            def call(self, *args):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Cut
                return method(self, *args)

            return call

        with pytest.MonkeyPatch.context() as cutting, contextlib.suppress(UserError):
            with remote.working_copy(url, owned=True) as copy:
                run_at(copy, (6, 9), best=9)
                for name in ("upload", "delete"):
                    method = getattr(remote._Folder, name)
                    cutting.setattr(remote._Folder, name, counted(method))
            finished = left > 1
        with remote.working_copy(url, owned=False) as copy:
            steps = {kind: {p.name for p in (copy / "checkpoints" / kind).iterdir()}
                     for kind in ("latest", "best")}  # fmt: skip
            assert steps["latest"] in ({"3", "6"}, {"3", "6", "9"}, {"6", "9"})
            assert steps["best"] in ({"3"}, {"3", "9"}, {"9"})
            for kind, numbers in steps.items():
                for number in numbers:
                    assert len(texts(copy / "checkpoints" / kind / number)) == 3
            log = int((copy / "metrics.jsonl").read_text())
            assert log >= max(map(int, steps["latest"]))
            assert log == 6 or "9" in steps["best"]
        if finished:
            break
    assert finished
    assert steps == {"latest": {"6", "9"}, "best": {"9"}}


def test_what_makes_way_while_it_is_uploaded_does_not_hold_up_the_rest(url, monkeypatch):
    upload = remote._Folder.upload

    def uploaded(self, path, name):
        """Meanwhile the run is a checkpoint further."""
        upload(self, path, name)
        for folder in list((copy / "checkpoints/latest").iterdir()):
            step = int(folder.name)
            fill(folder.with_name(f"{step + 1}"), {CHECKSUMS: '{"meta": ""}', "meta": f"{step}"})
            shutil.rmtree(folder)

    monkeypatch.setattr(remote._Folder, "upload", uploaded)
    with remote.working_copy(url, owned=True) as copy:
        fill(copy, {"config.json": "{}", f"checkpoints/latest/1/{CHECKSUMS}": "{}"})
    assert {*objects(url)} == {"config.json", f"checkpoints/latest/1/{CHECKSUMS}"}
    with remote.working_copy(url, owned=True) as copy:
        fill(copy, {"config.json": "{1}", "checkpoints/latest/1/more": ""})
        shutil.rmtree(copy / "checkpoints/latest/1")
        fill(copy / "checkpoints/latest/4", {CHECKSUMS: '{"meta": ""}', "meta": "3"})
    latest = "checkpoints/latest/4"
    assert {*objects(url)} == {"config.json", f"{latest}/{CHECKSUMS}", f"{latest}/meta"}


def test_a_checkpoint_that_is_being_deleted_is_waited_for(url, monkeypatch):
    with remote.working_copy(url, owned=True) as copy:
        fill(copy, FILES)
    with remote.working_copy(url, owned=True) as copy:
        (copy / "checkpoints/latest/3" / CHECKSUMS).unlink()
        fill(copy / "checkpoints/latest/6", {CHECKSUMS: "{}"})
        shown = []

        def deleted(_: float) -> None:
            shown.append(objects(url))
            shutil.rmtree(copy / "checkpoints/latest/3")

        monkeypatch.setattr(time, "sleep", deleted)
    (before,) = shown
    assert f"checkpoints/latest/3/{CHECKSUMS}" in before
    assert [name for name in objects(url) if "latest" in name] == [
        f"checkpoints/latest/6/{CHECKSUMS}"
    ]


def lease(url: str, **fields: object) -> None:
    store, root = fsspec.core.url_to_fs(url)
    store.pipe_file(f"{root}/{LEASE}", json.dumps(fields).encode())


def test_a_folder_has_one_owner(url, quick):
    with remote.working_copy(url, owned=True) as copy:
        fill(copy, FILES)
        # As a process elsewhere sees it.
        other = json.loads(objects(url)[LEASE])
        with pytest.MonkeyPatch.context() as elsewhere:
            elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
            with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
                remote.working_copy(url, owned=True).__enter__()
        with remote.working_copy(url, owned=False):
            pass
    assert other["host"] == socket.gethostname()
    assert LEASE not in objects(url)


def test_a_lease_that_is_not_renewed_is_taken_over(url, quick):
    lease(url, process=1, host="elsewhere", token="x", beat=1)
    with remote.working_copy(url, owned=True):
        assert json.loads(objects(url)[LEASE])["process"] == os.getpid()


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(url, monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE", 1e9)
    lease(url, process=2**22 + 1, host=socket.gethostname(), token="x", beat=1)
    with remote.working_copy(url, owned=True):
        pass


@pytest.mark.parametrize("taken", [True, False])
def test_who_has_lost_a_folder_notices_and_writes_no_more(url, quick, taken):
    with (
        pytest.raises(UserError, match="process 7 on elsewhere" if taken else "was deleted"),
        remote.working_copy(url, owned=True) as copy,
        workdir.lock(copy) as check_held,
    ):
        fill(copy, FILES)
        check_held()
        store, root = fsspec.core.url_to_fs(url)
        store.rm(root, recursive=True)
        if taken:
            lease(url, process=7, host="elsewhere", token="x", beat=1)
        for _ in range(1000):
            if not (copy / LOCK).exists():
                break
            time.sleep(0.01)
        check_held()
    assert objects(url).keys() <= {LEASE, *FILES}
    if taken:
        assert json.loads(objects(url)[LEASE])["process"] == 7


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_the_store_to_the_same_bits(
    s3, whole, tiny_config, one_device, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"{s3}/killed"
    store, root = fsspec.core.url_to_fs(url)
    store.put(f"{whole}/", f"{root}/", recursive=True)
    store.rm_file(f"{root}/checkpoints/latest/10/{CHECKSUMS}")  # uploading it was cut off
    lease(url, process=2**22 + 1, host=socket.gethostname(), token="x", beat=1)
    with remote.working_copy(url, owned=True) as copy:
        assert loop.train(tiny_config(), copy, one_device)
    with remote.reading(url, step="latest") as copy:
        assert_equal(final_variables(whole), final_variables(copy))
        log = metrics_log.METRICS
        assert (copy / log).read_bytes() == (whole / log).read_bytes()
        for step in (9, 10):
            assert find_damage(copy / f"checkpoints/latest/{step}") is None
    with remote.reading(url, step="best") as copy:
        config = workdir.load_config(copy)
        assert opened.open_checkpoint(config, copy, "best", one_device).step in (4, 8, 10)


def test_a_store_that_cannot_be_read_is_named(monkeypatch):
    with pytest.raises(UserError, match=r"hdfs://x/run: folders of the kinds gs:// and s3://"):
        remote.working_copy("hdfs://x/run", owned=True).__enter__()


@pytest.mark.parametrize("store", ["url", "s3", "gs"])
def test_what_is_fetched_is_as_it_is_in_the_store(request, store, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"{request.getfixturevalue(store)}/data/coco"
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    first = {"labels.csv": "image,labels", "train/a b.jpg": "a", "train/c.jpg": "c"}
    for name, text in first.items():
        files.pipe_file(f"{root}/{name}", text.encode())
    for changes in ({}, {"train/a b.jpg": "d", "train/c.jpg": None}):
        for name, text in changes.items():
            if text is None:
                files.rm_file(f"{root}/{name}")
            else:
                files.pipe_file(f"{root}/{name}", text.encode())
        remote.on_disk.cache_clear()
        place = Path(remote.on_disk(url))
        assert place.name == "coco"
        assert texts(place) == {n: t for n, t in {**first, **changes}.items() if t is not None}
    with pytest.MonkeyPatch.context() as again:
        again.setattr(remote._Folder, "download", lambda *_: pytest.fail("fetched again"))
        remote.on_disk.cache_clear()
        assert remote.on_disk(url) == str(place)
    file = Path(remote.on_disk(f"{url}/labels.csv"))
    assert (file.name, file.read_text()) == ("labels.csv", "image,labels")
    with pytest.raises(UserError, match=r"coco2: there is no such file or folder"):
        remote.on_disk(f"{url}2")
    assert remote.on_disk("some/where") == "some/where"


def test_an_object_whose_name_leaves_the_folder_is_not_fetched(url):
    store, root = fsspec.core.url_to_fs(url)
    store.pipe_file(f"{root}/x", b"")
    store.store[f"{root}/../../x"] = store.store[f"{root}/x"]
    with pytest.raises(UserError, match=r"holds '\.\./\.\./x'"):
        remote.on_disk(url)


def test_a_split_is_read_from_a_store(url, tiny_config, coco_folder):
    store, root = fsspec.core.url_to_fs(url)
    store.put(f"{coco_folder}/", f"{root}/", recursive=True)
    here = load_split(tiny_config().data, "train")
    there = load_split(tiny_config(**{"data.path": url}).data, "train")
    assert there.fingerprint == here.fingerprint
    assert pixel_digest(there) == pixel_digest(here)


@pytest.mark.parametrize("argument", [
    ["--config.cache.path=gs://b/features"], ["--config.data.train_list", "s3://b/list"],
    ["--output=https://x/y"], ["gs://b/photo.jpg"],
])  # fmt: skip
def test_a_url_where_a_disk_is_needed_is_refused(argument):
    with pytest.raises(UserError, match="must be a path on a disk"):
        cli._refuse_urls(["predict", "--workdir", "s3://b/run", *argument])


def test_a_url_in_a_config_where_a_disk_is_needed_is_a_mistake(tiny_config):
    config = tiny_config(**{"cache.path": "gs://b/features"})
    assert any("cache.path='gs://b/features' must be a path on a disk" in mistake
               for mistake in find_mistakes(config, 1))  # fmt: skip
