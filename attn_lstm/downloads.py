"""Published weights by name: fetched once into a folder of this machine.

`resnet152-394f9c45` is a file of torchvision, whose name tells the sha256 that its content must
have. `hf://OWNER/NAME/FILE` is a file of the Hugging Face hub, which huggingface_hub fetches and
keeps. A file of that name that is there already wins over both.
"""

import contextlib
import functools
import hashlib
import http.client
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from attn_lstm import progress, remote
from attn_lstm.errors import UserError, first_line
from attn_lstm.storage import writing

# What torchvision offers; a name ends as the sha256 of its file begins.
PUBLISHED = (
    "resnet18-f37072fd.pth",
    "resnet34-b627a593.pth",
    "resnet50-0676ba61.pth",
    "resnet50-11ad3fa6.pth",
    "resnet101-63fe2227.pth",
    "resnet101-cd907fc2.pth",
    "resnet152-394f9c45.pth",
    "resnet152-f82ba261.pth",
)
_TORCHVISION = "https://download.pytorch.org/models"

HUB = "hf://"
_ON_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([^/@]+))?(?:/([^/].*))?", re.ASCII)
_USUAL = "model.safetensors"

_TIMEOUT = 30.0  # seconds in which a server must say something
_CHUNK = 2**20  # bytes that are read at once
_MB = 1e6


def is_name(weights: str) -> bool:
    """Whether it names published weights; a file of that name may be there all the same."""
    return weights.startswith(HUB) or _published(weights) is not None


def names() -> str:
    """All that `is_name` takes, in words."""
    return f"{', '.join(name.removesuffix('.pth') for name in PUBLISHED)}, {HUB}OWNER/NAME/FILE"


def stated_sha256(name: str) -> str | None:
    """The 8 hexadecimal digits in a file's name such as resnet18-f37072fd.pth."""
    match = re.search(r"-([0-9a-f]{8})\.", name)
    return match and match[1]


def on_disk(weights: str) -> str:
    """The path of what `config.backbone.weights` names, which is fetched where it is not there.

    What torchvision publishes lies in `$XDG_CACHE_HOME/attn_lstm/weights` or ~/.cache/…, what is on
    the hub where huggingface_hub keeps it; URLs as `remote.on_disk`.

    Args:
      weights: a file, a name or a URL.

    Returns:
      The path; that of a file that is named by its path may lead nowhere.

    Raises:
      UserError: it cannot be fetched or written, or has come damaged.
    """
    if weights.startswith(HUB):
        return _from_hub(weights)
    if os.path.exists(weights) or (name := _published(weights)) is None:
        return remote.on_disk(weights)
    return name if os.path.exists(name) else _from_torchvision(name)


def _published(weights: str) -> str | None:
    """The name of torchvision's file; the ending may be left out."""
    name = f"{weights.removesuffix('.pth')}.pth"
    return name if name in PUBLISHED else None


# ------------------------------------------------------------------------------- from torchvision


def _from_torchvision(name: str) -> str:
    folder = remote.cache_folder("weights")
    place = folder / name
    # Hosts may share the folder, and not all file systems make them wait for each other.
    part = folder / f".{name}.{socket.gethostname()}.part"
    if not place.exists():
        with writing(folder), remote.alone(folder):
            if not place.exists():  # another process may have fetched it in the meantime
                _complete(f"{_TORCHVISION}/{name}", part, place)
                part.replace(place)
    return str(place)


def _complete(url: str, part: Path, place: Path) -> None:
    """Makes `part` the whole file, from what it has of it.

    A connection that breaks is made again, as long as each brings something.
    """
    where = f"download {url} where you can, and put it at {place}, or give the path of another"
    with part.open("ab") as file, progress.doing(f"fetching {place.name}", unit="MB") as shown:
        while True:
            start = file.tell()
            try:
                response = _answer(url, start)
            except (OSError, http.client.HTTPException) as error:
                raise UserError(f"{url} cannot be fetched: {_reason(error)}; {where}") from error
            total = None if response is None else _append(response, file, shown)
            if total is None or file.tell() >= total:
                break
            if file.tell() <= start:
                raise UserError(
                    f"{url} was cut off after {start:,} of {total:,} bytes: start again to go on "
                    f"from there, or {where}"
                )
        file.flush()
        os.fsync(file.fileno())
    promised, sha256 = stated_sha256(place.name), _sha256(part)
    if sha256[:8] != promised:
        part.unlink()
        raise UserError(
            f"{url} has come damaged: its sha256 begins with {sha256[:8]}, not with {promised} as "
            f"its name promises; start again, or {where}"
        )


def _answer(url: str, start: int) -> http.client.HTTPResponse | None:
    """What comes from this byte on; None where there is no more, which the sha256 confirms.

    Raises:
      OSError, HTTPException: nothing can come.
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise


def _append(
    response: http.client.HTTPResponse, file: BinaryIO, shown: progress.Doing
) -> int | None:
    """Appends what comes; returns the size of the whole file, None where it is not said."""
    start = file.tell()
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = file.seek(0)
            file.truncate()
        length = response.headers.get("Content-Length")
        total = int(length) + start if length else None
        shown.total = total and round(total / _MB)
        done = start
        for chunk in _chunks(response):
            file.write(chunk)
            done += len(chunk)
            shown.advance(round(done / _MB))
    return total


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What comes before the end, or before the connection breaks."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        while chunk := response.read(_CHUNK):
            yield chunk


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        error = error.reason
    said = error.strerror if isinstance(error, OSError) else None
    return said or first_line(error) or type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------ from the hub


@functools.cache
def _from_hub(weights: str) -> str:
    """Each process looks once for what has changed there."""
    match = _ON_HUB.fullmatch(weights)
    if match is None:
        raise UserError(
            f"{weights} names nothing on the Hugging Face hub: give hf://OWNER/NAME, "
            "hf://OWNER/NAME/FILE or hf://OWNER/NAME@REVISION/FILE"
        )
    repository, revision, file = match[1], match[2], match[3] or _USUAL
    folder = f"{repository}@{revision}" if revision else repository
    place = remote.cache_folder("weights") / folder / file
    if place.is_file():
        return str(place)
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(
            f"{weights} needs a package that is not installed: pip install 'attn_lstm[hub]'"
        ) from error
    url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
    where = f"download {url} where you can, and put it at {place}"
    try:
        with progress.doing(f"fetching {weights}", unit="MB") as shown:
            path = huggingface_hub.hf_hub_download(
                repository, file, revision=revision, tqdm_class=_counting(shown)
            )
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{weights}: there is no such repository, or it is not open to everybody; then accept "
            f"its terms on {url.partition('/resolve/')[0]}, and log in with: hf auth login"
        ) from error
    except (errors.RemoteEntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(
            f"{weights}: {url} does not exist; give the file as hf://OWNER/NAME/FILE"
        ) from error
    except Exception as error:  # also of the libraries below that one
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
        raise UserError(f"{url} cannot be fetched: {_reason(cause or error)}; {where}") from error
    _check_blob(weights, path)
    return path


def _check_blob(weights: str, path: str) -> None:
    """Large files lie under their sha256, to which the name that was asked for is a link."""
    blob = os.path.basename(os.readlink(path)) if os.path.islink(path) else ""
    if re.fullmatch("[0-9a-f]{64}", blob) and _sha256(Path(path)) != blob:
        raise UserError(
            f"{weights} is damaged: its sha256 is not the {blob[:8]}… that the hub states; delete "
            f"{os.path.realpath(path)} and start again"
        )


def _counting(shown: progress.Doing) -> Any:
    """What huggingface_hub takes for a bar, and tells how many bytes have come."""
    from tqdm import tqdm

    class Counting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": True})
            shown.total = self.total and round(self.total / _MB)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            shown.advance(round(self.n / _MB))

    return Counting
