"""Weights by name, from servers on the loopback: whole, resumed, cut off, damaged and absent."""

import contextlib
import errno
import hashlib
import io
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ml_collections
import numpy as np
import pytest
import safetensors.numpy
import torch

from attn_lstm import cli, downloads
from attn_lstm.errors import UserError
from attn_lstm.export import card
from attn_lstm.safe_pickle import read_state_dict

TENSORS = {"fc.weight": np.arange(3000, dtype=np.float32).reshape(3, 1000)}
COMMIT = "0123456789" * 4


class Server(ThreadingHTTPServer):
    """What is asked for, and what is answered.

    Attributes:
      files: by their path.
      statuses: by the path of what is refused.
      cuts: after so many bytes the answers end, one for each; those behind them are whole.
      ranges: whether a part can be asked for.
      asked: method, path and range of each request.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.cuts: list[int] = []
        self.ranges = True
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def gets(self) -> list[str | None]:
        """The ranges of what was downloaded; huggingface_hub asks for more than files."""
        return [r for method, path, r in self.asked if method == "GET" and path in self.files]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        content = self.answer()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[:cut])

    def answer(self) -> bytes:
        asked = self.headers.get("Range")
        self.server.asked.append((self.command, self.path, asked))
        whole = self.server.files.get(self.path, b"")
        status = 200 if self.path in self.server.files else 404
        start = 0
        if asked and self.server.ranges and status == 200:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            status = 206 if start < len(whole) else 416
        status = self.server.statuses.get(self.path, status)
        content = whole[start:] if status < 400 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        # As the hub answers, whose files in LFS have their sha256 as ETag.
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            known = any(path.startswith(self.repository()) for path in self.server.files)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.end_headers()
        return content

    def repository(self) -> str:
        return "/".join(self.path.split("/")[:3]) + "/"

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as found:
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        yield found
        found.shutdown()


# ------------------------------------------------------------------------------- from torchvision


@pytest.fixture(scope="module")
def pth() -> bytes:
    """A file of torch.save."""
    file = io.BytesIO()
    torch.save({name: torch.tensor(value) for name, value in TENSORS.items()}, file)
    return file.getvalue()


@pytest.fixture
def name(server, pth, monkeypatch) -> str:
    """Of that file on the server, as torchvision names its files, without the ending."""
    name = f"resnet18-{hashlib.sha256(pth).hexdigest()[:8]}"
    monkeypatch.setattr(downloads, "PUBLISHED", (f"{name}.pth",))
    monkeypatch.setattr(downloads, "_TORCHVISION", server.url)
    server.files[f"/{name}.pth"] = pth
    return name


def kept(tmp_path: Path) -> dict[str, bytes]:
    """What lies in the cache, drafts too."""
    folder = tmp_path / "cache/attn_lstm/weights"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("ending", ["", ".pth"])
def test_a_file_is_fetched_once(ending, name, server, pth, tmp_path):
    path = downloads.on_disk(name + ending)
    assert path == str(tmp_path / f"cache/attn_lstm/weights/{name}.pth")
    np.testing.assert_equal(read_state_dict(Path(path).read_bytes()), TENSORS)
    assert downloads.on_disk(name) == path
    assert server.gets() == [None]
    assert kept(tmp_path) == {f"{name}.pth": pth}


@pytest.mark.parametrize("cuts", [[1], [5000], [100, 200, 1]])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_goes_on(cuts, ranges, name, server, pth, tmp_path):
    server.cuts, server.ranges = sorted(cuts) if not ranges else [*cuts], ranges
    ends = [sum(cuts[: i + 1]) for i in range(len(cuts))] if ranges else sorted(cuts)
    downloads.on_disk(name)
    assert server.gets() == [None, *(f"bytes={end}-" for end in ends)]
    assert kept(tmp_path) == {f"{name}.pth": pth}


def test_the_next_start_goes_on_where_a_download_was_cut(name, server, pth, tmp_path):
    server.cuts = [4000, 0]
    message = f"cut off after 4,000 of {len(pth):,} bytes: start again to go on from there"
    with pytest.raises(UserError, match=message):
        downloads.on_disk(name)
    (part,) = kept(tmp_path).values()
    assert part == pth[:4000]
    server.asked.clear()
    downloads.on_disk(name)
    assert server.gets() == ["bytes=4000-"]
    assert kept(tmp_path) == {f"{name}.pth": pth}


def test_a_part_that_is_whole_already_is_taken(name, server, pth, tmp_path, monkeypatch):
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)  # killed just before
    with pytest.raises(ZeroDivisionError):
        downloads.on_disk(name)
    monkeypatch.setattr(Path, "replace", replace)
    downloads.on_disk(name)
    assert kept(tmp_path) == {f"{name}.pth": pth}


@pytest.mark.parametrize("first", [[], [3000, 0]])
def test_a_file_with_another_sha256_is_not_kept(first, name, server, pth, tmp_path):
    server.cuts = first
    with contextlib.suppress(UserError):
        server.files[f"/{name}.pth"] = bytes(len(pth))
        downloads.on_disk(name)
    with pytest.raises(UserError, match="damaged: its sha256 begins with"):
        downloads.on_disk(name)
    assert not kept(tmp_path)
    server.files[f"/{name}.pth"] = pth
    downloads.on_disk(name)
    assert kept(tmp_path) == {f"{name}.pth": pth}


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal_says_where_to_get_the_file_and_where_to_put_it(status, name, server, tmp_path):
    server.statuses[f"/{name}.pth"] = status
    with pytest.raises(UserError) as caught:
        downloads.on_disk(name)
    place = tmp_path / f"cache/attn_lstm/weights/{name}.pth"
    assert f"HTTP Error {status}" in str(caught.value)
    assert f"download {server.url}/{name}.pth where you can, and put it at {place}" in str(
        caught.value
    )


def test_without_a_server_the_file_can_be_put_there(name, server, pth, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_TORCHVISION", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="Connection refused; download") as caught:
        cli.fetch_weights(config_with(name), tmp_path / "run")
    place = Path(str(caught.value).split("put it at ")[1].split(", or")[0])
    place.write_bytes(pth)
    assert downloads.on_disk(name) == str(place)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ending", ["", ".pth"])
def test_a_local_file_wins(ending, name, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.pth").write_bytes(b"mine")
    assert downloads.on_disk(name + ending) == f"{name}.pth"
    assert not server.asked


def test_processes_that_ask_at_once_download_once(name, server, pth, tmp_path):
    with ThreadPoolExecutor(4) as threads:
        paths = {*threads.map(downloads.on_disk, [name] * 4)}
    assert len(paths) == len(server.gets()) == 1
    assert kept(tmp_path) == {f"{name}.pth": pth}


def test_a_folder_that_cannot_be_written_is_named(name, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(UserError, match="attn_lstm/weights cannot be written"):
        downloads.on_disk(name)


def test_a_full_disk_is_named(name, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(downloads, "_append", full)
    with pytest.raises(UserError, match="weights cannot be written: No space left on device"):
        downloads.on_disk(name)


def test_a_run_that_goes_on_needs_no_weights(name, server, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    cli.fetch_weights(config_with(name), tmp_path)
    assert not server.asked


def test_a_name_is_no_missing_file(name):
    for known in (name, f"{name}.pth", "hf://owner/name"):
        cli._look_for_places(["train", f"--config.backbone.weights={known}"])
    with pytest.raises(UserError, match=f"no such file or folder; by name there are {name}, hf://"):
        cli._look_for_places(["train", "--config.backbone.weights=resnet18"])


def config_with(weights: str) -> ml_collections.ConfigDict:
    backbone = {"weights": weights, "name": "resnet", "depth": 18, "preset": "", "frozen": True}
    return ml_collections.ConfigDict({"backbone": backbone})


@pytest.mark.parametrize(("given", "shown"), [
    ("resnet152-394f9c45", "resnet152-394f9c45"), ("hf://a/b/c.safetensors",) * 2,
    ("/home/me/mine.pth", "mine.pth"),
])  # fmt: skip
def test_the_model_card_names_them_as_given(given, shown):
    assert f"`{shown}`" in card._backbone(config_with(given))


# ------------------------------------------------------------------------------------ from the hub


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The repository `owner/name` with one file, on a server that answers as the hub does."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    server.files["/owner/name/resolve/main/model.safetensors"] = safetensors.numpy.save(TENSORS)
    downloads._from_hub.cache_clear()
    return server


@pytest.mark.parametrize(("given", "path"), [
    ("hf://owner/name", "main/model.safetensors"),
    ("hf://owner/name/model.safetensors", "main/model.safetensors"),
    ("hf://owner/name@v1/timm/a.safetensors", "v1/timm/a.safetensors"),
])  # fmt: skip
def test_a_file_of_the_hub_is_fetched_once(given, path, hub):
    content = hub.files["/owner/name/resolve/main/model.safetensors"]
    hub.files[f"/owner/name/resolve/{path}"] = content
    found = Path(downloads.on_disk(given))
    assert found.name == path.rpartition("/")[2]
    np.testing.assert_equal(safetensors.numpy.load_file(found), TENSORS)
    downloads._from_hub.cache_clear()
    assert downloads.on_disk(given) == str(found)
    assert len(hub.gets()) == 1


def test_a_file_of_the_hub_that_has_come_damaged_is_named(hub, monkeypatch):
    path = "/owner/name/resolve/main/model.safetensors"
    found = Path(downloads.on_disk("hf://owner/name"))
    found.resolve().write_bytes(bytes(len(hub.files[path])))
    downloads._from_hub.cache_clear()
    with pytest.raises(UserError, match="is damaged: its sha256 is not") as caught:
        downloads.on_disk("hf://owner/name")
    Path(str(caught.value).split("delete ")[1].split(" and start")[0]).unlink()
    downloads.on_disk("hf://owner/name")


def test_what_has_come_before_needs_no_network(hub, monkeypatch):
    found = downloads.on_disk("hf://owner/name")
    downloads._from_hub.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert downloads.on_disk("hf://owner/name") == found


def test_without_a_network_a_file_of_the_hub_can_be_put_there(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"download {hub.url}/owner/name/resolve/main/") as caught:
        downloads.on_disk("hf://owner/name")
    place = Path(str(caught.value).split("put it at ")[1])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    assert downloads.on_disk("hf://owner/name") == str(place)


@pytest.mark.parametrize(("given", "complaint"), [
    ("hf://owner/name/b.safetensors", "b.safetensors does not exist; give the file"),
    ("hf://owner/other", "there is no such repository, or it is not open"),
    ("hf://owner", "give hf://OWNER/NAME"),
    ("hf://owner/name/", "give hf://OWNER/NAME"),
])  # fmt: skip
def test_what_the_hub_has_not_is_named(given, complaint, hub):
    with pytest.raises(UserError, match=complaint):
        downloads.on_disk(given)


def test_without_huggingface_hub_its_extra_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'attn_lstm\[hub\]'"):
        downloads.on_disk("hf://owner/without")
