"""Folders of object stores (gs://, s3://), worked on as copies on this machine.

Data and weights are fetched once, and again where an object has changed.

What keeps a run whole when it is killed is renaming, appending and locking, and an object store has
none of it. So a run works in a copy, and what it writes follows into the store: an object is there
as a whole or not at all; the file of checksums of a checkpoint comes last and goes first, so that a
checkpoint without one is none; and the store never holds a checkpoint without the log of what led
to it. A run that is killed goes on from what the store holds, to the same bits.

In the place of a lock stands a lease, an object that its owner renews. Whoever finds one waits for
that, and takes it over when it does not come.
"""

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from attn_lstm import progress
from attn_lstm.errors import UserError, first_line
from attn_lstm.storage import LOCK, read_json, write_json, writing

_SCHEMES = ("gs", "s3")
NEEDS_DISK = (
    "must be a path on a disk: --workdir, config.data.path and config.backbone.weights alone take "
    "gs:// and s3://"
)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://", re.ASCII)

_LEASE = ".lease"
_RENEWED = 10.0  # seconds between two renewals of a lease
_PATIENCE = 40.0  # after which one that was not renewed has no owner
FOLLOWS = 20.0  # seconds between two looks at what has changed in a copy
_AT_ONCE = 500  # objects that are fetched before it is noted that they are there
_ATTEMPTS = 10  # at a moment in which no checkpoint is deleted
_AGAIN = 0.2  # seconds between them

# Stays on the machine: it is computed again where it is not.
_FEATURES = "features"
_CHECKSUMS = "checksums.json"
_LATEST = "checkpoints/latest/"
_CHECKPOINT = re.compile(r"(?:.+/)?checkpoints/(?P<kind>best|latest)/[^/]+")

Stamp = tuple[int, int]  # size and time of the last change of a file

_copies: dict[str, str] = {}  # the URL of each copy that is open


def is_url(path: str) -> bool:
    """Whether it names something that is no file of this machine."""
    return _URL.match(path) is not None


def shown(text: str | Path) -> str:
    """A text or path in which URLs stand in the place of their copies."""
    text = str(text)
    for copy, url in _copies.items():
        text = text.replace(copy, url)
    return text


class _Folder:
    """A folder of an object store."""

    def __init__(self, url: str):
        scheme = url.partition("://")[0]
        if scheme not in _SCHEMES:
            kinds = " and ".join(f"{known}://" for known in _SCHEMES)
            raise UserError(f"{url}: folders of the kinds {kinds} can be used, not {scheme}://")
        self.url = url.rstrip("/")
        try:
            from fsspec.core import url_to_fs

            self._fs, self._root = url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise UserError(
                f"{url}: {scheme}:// needs packages that are not installed: "
                "pip install 'attn_lstm[cloud]'"
            ) from error

    @contextlib.contextmanager
    def naming(self, what: str) -> Iterator[None]:
        """Names the folder in what a store's library raises, which may be anything."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = first_line(error) or type(error).__name__
            raise UserError(f"{self.url} cannot be {what}: {reason}") from error

    def names(self) -> list[str]:
        """All objects below it."""
        return sorted(self.versions())

    def versions(self) -> dict[str, str]:
        """What tells an object from what it was before, by the names of all below the folder."""
        self._fs.invalidate_cache()
        start = len(self._root) + 1
        versions = {}
        for path, known in self._fs.find(self._root, detail=True).items():
            name = path[start:]
            if name and not name.endswith("/"):
                if {"", ".", ".."} & {*name.split("/")}:
                    raise UserError(f"{self.url} holds {name!r}, which no folder of a disk can")
                versions[name] = _version(known)
        return versions

    def version(self, name: str) -> str | None:
        """As `versions`, of one object; None if there is none."""
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            known = self._fs.info(f"{self._root}/{name}")
            return _version(known) if known["type"] == "file" else None
        return None

    def read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return self._fs.cat_file(f"{self._root}/{name}")
        return None

    def write(self, name: str, content: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", content)

    def upload(self, path: Path, name: str) -> None:
        self._fs.put_file(str(path), f"{self._root}/{name}")

    def download(self, names: Iterable[str], into: Path) -> None:
        names = [*names]
        if names:
            there = [f"{self._root}/{name}" for name in names]
            self._fs.get(there, [str(into / name) for name in names])

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._root}/{name}")


@functools.cache
def on_disk(path: str) -> str:
    """A path on a disk: the same, or that of what a URL names, which is fetched.

    It lies in `$XDG_CACHE_HOME/attn_lstm/fetched` or ~/.cache/…; each process looks once for what
    has changed in the store.

    Raises:
      UserError: the store cannot be reached, holds nothing there, or the disk cannot be written.
    """
    if not is_url(path):
        return path
    url = path.rstrip("/")
    above, _, name = url.rpartition("/")
    place = _kept_place("fetched", url)
    with alone(place), progress.doing(f"looking for {url}"):
        folder = _Folder(url)
        with folder.naming("read"):
            there = folder.versions()
            if not there and (version := _Folder(above).version(name)):
                folder, there = _Folder(above), {name: version}
                _fetch(folder, there, place, place)
            else:
                _fetch(folder, there, place / name, place)
    if not there:
        raise UserError(f"{path}: there is no such file or folder")
    _copies[str(place / name)] = url
    return str(place / name)


def _fetch(folder: _Folder, there: Mapping[str, str], into: Path, place: Path) -> None:
    """Makes a folder of this machine hold the objects of these versions, and no others."""
    noted = place / "versions.json"
    kept = read_json(noted) if noted.exists() else {}
    for name in kept.keys() - there.keys():
        (into / name).unlink(missing_ok=True)
        del kept[name]
    missing = [n for n in there if kept.get(n) != there[n] or not (into / n).is_file()]
    with writing(into), progress.doing(f"fetching {folder.url}", len(missing), "files") as shown_:
        for start in range(0, len(missing), _AT_ONCE):
            names = missing[start : start + _AT_ONCE]
            folder.download(names, into)
            kept |= {name: there[name] for name in names}
            write_json(noted, kept)
            shown_.advance(start + len(names))


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """Other processes of this machine wait at the same folder until the block has ended."""
    with (place / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def reading(workdir: str | os.PathLike[str], *, step: str) -> Iterator[Path]:
    """A work directory on a disk: the same, or a copy for the block; as `working_copy`."""
    if is_url(os.fspath(workdir)):
        with working_copy(os.fspath(workdir), owned=False, step=step) as copy:
            yield copy
    else:
        yield Path(workdir)


@contextlib.contextmanager
def working_copy(url: str, *, owned: bool, step: str = "") -> Iterator[Path]:
    """A copy of a folder of an object store; what is written there follows into the store.

    Args:
      url: of the folder.
      owned: nobody else may have it as long, and what is deleted from the copy is deleted there.
        Else new and changed files follow at the end.
      step: 'best' where no other checkpoint is needed.

    Raises:
      UserError: the store cannot be reached, read or written; or somebody else has the folder.
    """
    folder = _Folder(url)
    with contextlib.ExitStack() as stack:
        if owned:
            lease = _Lease(folder)
            with folder.naming("taken"):
                lease.take()
            stack.callback(lease.release)
            local = _kept_place("copies", folder.url)
            _clear(local)
        else:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="attn_lstm_"))
            local = Path(name)
        _copies[str(local)] = folder.url
        with folder.naming("read"), progress.doing(f"reading {folder.url}"):
            follower = _Follower(folder, local, deletes=owned)
            follower.pull(None if owned or step != "best" else _LATEST)
        if not owned:
            yield local
            with folder.naming("written"):
                follower.push()
            return

        def lost() -> None:
            for lock in local.rglob(LOCK):  # whoever works in the copy misses it, and ends
                lock.unlink(missing_ok=True)

        following = _Repeated(follower.push, FOLLOWS, folder.url)
        stack.callback(_Repeated(lambda: lease.renew(lost), _RENEWED, folder.url).close)
        try:
            yield local
        except UserError:
            lease.check()  # what it says is why
            raise
        finally:
            following.close()
            if not lease.lost:
                with folder.naming("written"), progress.doing(f"writing {folder.url}"):
                    follower.push()
        lease.check()
        _clear(local)


def cache_folder(*names: str) -> Path:
    """A folder of this machine, `$XDG_CACHE_HOME/attn_lstm/…` or ~/.cache/…, which is made."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    place = home.joinpath("attn_lstm", *names)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    return place


def _kept_place(kind: str, url: str) -> Path:
    """A folder of this machine, the same each time for a URL."""
    return cache_folder(kind, sha256(url.encode()).hexdigest()[:16])


def _clear(local: Path) -> None:
    for path in local.iterdir():
        if path.name != _FEATURES:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class _Follower:
    """Brings a folder of an object store to what its copy is."""

    def __init__(self, folder: _Folder, local: Path, *, deletes: bool):
        self._folder, self._local, self._deletes = folder, local, deletes
        self._there: dict[str, Stamp | None] = {}  # objects; None for one that has no file

    def pull(self, skip: str | None) -> None:
        """Copies what is whole, and does not begin with `skip`."""
        for attempt in range(_ATTEMPTS):
            names = {name for name in self._folder.names() if name != _LEASE}
            whole = {name for name in names if _belongs_to_whole(name, names)}
            wanted = {n for n in whole if skip is None or not n.startswith(skip)}
            try:
                self._folder.download(wanted, self._local)
                break
            except FileNotFoundError:  # deleted since, by the run that is being read
                if attempt == _ATTEMPTS - 1:
                    raise
        self._there = {
            name: _stamp(self._local / name) if name in wanted else None for name in names
        }

    def push(self) -> None:
        """Uploads what has changed, in an order in which it may be cut off anywhere."""
        with tempfile.TemporaryDirectory(prefix=".sent_", dir=self._local) as name:
            stage = Path(name)
            files = self._snapshot(stage)
            for name, stamp in files.items():
                if stamp != self._there.get(name):
                    self._folder.upload(stage / name, name)
                    self._there[name] = stamp
        if self._deletes:
            gone = self._there.keys() - files.keys()
            for name in sorted(gone, key=lambda name: not name.endswith(_CHECKSUMS)):
                self._folder.delete([name])
                del self._there[name]

    def _snapshot(self, stage: Path) -> dict[str, Stamp]:
        """Puts what has changed where nobody writes; returns all files in the order to upload them.

        A log that is as new as the newest checkpoint is there before it, and no newer than the best
        one that it tells of.
        """
        for attempt in range(_ATTEMPTS):
            shutil.rmtree(stage)
            stage.mkdir()
            try:
                latest = self._staged("latest", stage)
                others = self._staged(None, stage)
                return self._staged("best", stage) | others | latest
            except FileNotFoundError:  # a checkpoint makes way for another
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_AGAIN)
        raise AssertionError

    def _staged(self, kind: str | None, stage: Path) -> dict[str, Stamp]:
        """The files of the best or latest checkpoints, or all others; checksums come last."""
        files: dict[str, Stamp] = {}
        for name in sorted(self._names(kind), key=lambda name: (name.endswith(_CHECKSUMS), name)):
            path, place = self._local / name, stage / name
            files[name] = _stamp(path)
            if files[name] != self._there.get(name):
                place.parent.mkdir(parents=True, exist_ok=True)
                if kind:
                    os.link(path, place)  # what a checkpoint holds changes no more
                else:
                    shutil.copyfile(path, place)
            if kind and name.endswith(_CHECKSUMS):
                folder = name.removesuffix(_CHECKSUMS)
                for needed in _fields(path.read_bytes()):
                    if folder + needed not in files:
                        raise FileNotFoundError(folder + needed)
        for name in files:
            if not _belongs_to_whole(name, files):
                raise FileNotFoundError(name)
        return files

    def _names(self, kind: str | None) -> Iterator[str]:
        for path in self._local.rglob("*"):
            parts = path.relative_to(self._local).parts
            hidden = any(part.startswith(".") or "orbax-checkpoint-tmp" in part for part in parts)
            if not hidden and _FEATURES not in parts and path.is_file():
                match = _CHECKPOINT.match("/".join(parts))
                if (match["kind"] if match else None) == kind:
                    yield "/".join(parts)


def _version(known: Mapping[str, Any]) -> str:
    """Of what fsspec's file systems know of an object."""
    tags = (known.get(name) for name in ("ETag", "etag", "generation", "mtime", "created"))
    return f"{known.get('size')} {next((tag for tag in tags if tag), '')}"


def _belongs_to_whole(name: str, names: Collection[str]) -> bool:
    """Whether an object is of no checkpoint, or of one that was uploaded to its end."""
    match = _CHECKPOINT.match(name)
    return match is None or f"{match[0]}/{_CHECKSUMS}" in names


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


class _Lease:
    """An object that says who has a folder, and is renewed as long."""

    def __init__(self, folder: _Folder):
        self._folder, self._token, self._beat = folder, uuid.uuid4().hex, 0
        self.lost = ""  # who has it now, or that nobody has

    def take(self) -> None:
        """Raises `UserError` when its owner lives."""
        found = self._folder.read(_LEASE)
        if found is not None and not _was_left_here(found):
            with progress.doing(f"waiting whether {_owner(found)} still has {self._folder.url}"):
                end = time.monotonic() + _PATIENCE
                while time.monotonic() < end:
                    time.sleep(_RENEWED / 5)
                    now = self._folder.read(_LEASE)
                    if now is None:
                        break
                    if now != found:
                        raise UserError(
                            f"{self._folder.url} is in use by {_owner(now)}: wait until that has "
                            "ended or end it, or give another --workdir"
                        )
        self._write()

    def renew(self, lost: Callable[[], None]) -> None:
        """Calls `lost` when another has taken the folder, or it was deleted."""
        found = self._folder.read(_LEASE)
        if found is None or _fields(found).get("token") != self._token:
            self.lost = _owner(found) if found else "nobody"
            lost()
        else:
            self._write()

    def _write(self) -> None:
        self._beat += 1
        owner = {"process": os.getpid(), "host": socket.gethostname()}
        content = {**owner, "token": self._token, "beat": self._beat}
        self._folder.write(_LEASE, json.dumps(content).encode())

    def check(self) -> None:
        """Raises `UserError` when it was lost."""
        if self.lost == "nobody":
            raise UserError(
                f"{self._folder.url} was deleted or moved away while it was written to; put it "
                "back and start again to go on from the last checkpoint in it"
            )
        if self.lost:
            raise UserError(
                f"{self._folder.url} was taken over by {self.lost}, while this process could not "
                "reach it; let one of the two go on"
            )

    def release(self) -> None:
        if not self.lost:
            with contextlib.suppress(Exception):  # it ends by itself, later
                self._folder.delete([_LEASE])


def _fields(lease: bytes) -> Mapping[str, object]:
    with contextlib.suppress(ValueError):
        value = json.loads(lease)
        return value if isinstance(value, dict) else {}
    return {}


def _owner(lease: bytes) -> str:
    fields = _fields(lease)
    return f"process {fields.get('process')} on {fields.get('host')}"


def _was_left_here(lease: bytes) -> bool:
    """Whether its owner was a process of this machine that is no more."""
    fields = _fields(lease)
    process = fields.get("process")
    if fields.get("host") != socket.gethostname() or not isinstance(process, int):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class _Repeated:
    """Calls something now and then in a thread, until it is closed.

    What it raises is said once, until it has gone well again: the store may be out of reach for a
    while, which is no reason to stop.
    """

    def __init__(self, call: Callable[[], None], seconds: float, url: str):
        self._call, self._seconds, self._url = call, seconds, url
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follows {url}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from absl import logging as absl_logging  # takes a while, and commands begin here

        well = True
        while not self._ends.wait(self._seconds):
            try:
                self._call()
                well = True
            except Exception as error:
                if well:
                    absl_logging.warning("%s is out of reach: %s", self._url, first_line(error))
                well = False

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
