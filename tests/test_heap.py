"""Memory that is freed is used again, unless the user told the C library what to do."""

import os
import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, threading
from attn_lstm import cli

PAGES = 16384
touch = lambda: b"x" * (PAGES * resource.getpagesize())
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def main():
    for attempt in range(3):
        before = faults()
        thread = threading.Thread(target=touch)  # as XLA's are not the main one either
        thread.start()
        thread.join()
        print((faults() - before) / PAGES)
    return cli.DONE

cli.run(main, lambda _: None)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")


def shares_of_fresh_pages(**environment: str) -> list[float]:
    """Of an array that is made and freed in a thread, three times."""
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(line) for line in finished.stdout.split()]


def test_freed_memory_is_used_again():
    first, *others = shares_of_fresh_pages()
    assert first > 0.9
    assert max(others) < 0.1


def test_the_users_settings_of_the_allocator_stand():
    environment = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}
    assert min(shares_of_fresh_pages(**environment)) > 0.9
