"""Image files from the web."""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from attn_lstm.errors import UserError

MAX_BYTES = 32 * 2**20  # of an image file

_SILENCE = 10.0  # seconds without a byte
_SECONDS = 60.0  # for the whole file
_CHUNK = 2**16
_KEPT = "%/:=&?~#+!$,;'@()*[]"  # what a URL holds beside letters, digits, '-', '_' and '.'


def is_url(image: Any) -> bool:
    """Whether it is the address of a file on the web."""
    return isinstance(image, str) and re.match("https?://", image, re.IGNORECASE) is not None


def name_in(url: str) -> str:
    """The last part of a URL's path."""
    return os.path.basename(re.split("[?#]", url)[0])


def fetch(url: str, seconds: float = _SECONDS) -> bytes:
    """The content of a file of `MAX_BYTES` at most.

    Args:
      url: http:// or https://.
      seconds: that all of it may take.

    Raises:
      UserError: naming a URL that gives none, one that is too large, or not in time.
    """
    end = time.monotonic() + seconds
    content = bytearray()
    try:
        # Some servers answer no client without a name.
        request = urllib.request.Request(quote(url, _KEPT), headers={"User-Agent": "attn_lstm"})
        with urllib.request.urlopen(request, timeout=min(_SILENCE, seconds)) as response:
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise UserError(
                        f"{url} is larger than {MAX_BYTES >> 20} MB: give a smaller one"
                    )
                if time.monotonic() > end:
                    raise TimeoutError
    except TimeoutError:
        raise UserError(f"{url} did not arrive in time: try again, or give the file") from None
    except HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be fetched: {reason}") from None
    return bytes(content)
