"""Memory of the process that the C library hands out again, instead of giving it back."""

import ctypes
import os

# Of glibc's malloc.h, each with its value: never give back the heap's end, never take an array
# from the system by itself, and one heap for all threads, since those of others end at 64 MiB.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_SETTINGS = {_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0, _M_ARENA_MAX: 1}


def keep_freed_memory() -> None:
    """Has glibc keep what is freed, for the next array of any size.

    XLA takes the arrays of a step anew at every step on CPUs, and glibc would give each gigabyte
    back in between: fresh pages cost a training step of a ResNet a sixth of its time and more. To
    be called before threads of XLA or TensorFlow start. Nothing happens with another C library, or
    where the environment has settings of glibc's allocator.
    """
    set_by_user = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or set_by_user:
        return
    for setting, value in _SETTINGS.items():
        mallopt(setting, value)
