"""What XLA is asked for, and compiled functions that are kept from one start to the next."""

import functools
import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# Seconds of compilation from which a function is kept; JAX's own 1.0 leaves out half of them.
_WORTH_KEEPING = 0.2
# Options of JAX.
_FOLDER, _USED = "jax_compilation_cache_dir", "jax_enable_compilation_cache"


def compiler_options(platform: str) -> dict[str, str]:
    """For `jax.jit`, of functions that run on a platform.

    `jax.lax.optimization_barrier` keeps a result from being computed again for each of its users.
    XLA heeds that on accelerators; for CPUs it takes the barriers out before it chooses what to
    fuse, unless that pass is left out.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else {}


def with_whole_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with all digits of float32 in products of float32 numbers, on every platform.

    By JAX's default TPUs round these numbers to bfloat16 first and GPUs to TF32. Whoever wants that
    speed has it from numbers that are bfloat16, whose products stay what they are.
    """

    @functools.wraps(function)
    def whole(*args: Any) -> Any:
        with jax.default_matmul_precision("float32"):
            return function(*args)

    return whole


def keep_compiled() -> None:
    """Has JAX keep compiled functions under $XDG_CACHE_HOME, or ~/.cache, in attn_lstm/.

    Every kind of processor has a folder of its own: hosts of several kinds may share a home
    directory, and JAX's key does not tell them apart. Nothing happens where that cannot be written,
    or where JAX was told of another folder.
    """
    if getattr(jax.config, _FOLDER) is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = home / "attn_lstm" / f"compiled-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update(_FOLDER, str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)


def kept_folder() -> Path | None:
    """The folder in which JAX keeps compiled functions, where it does and this is one of files."""
    folder, used = getattr(jax.config, _FOLDER), getattr(jax.config, _USED)
    return Path(folder) if used and folder and os.path.isdir(folder) else None


def _processor() -> str:
    """A name for what this processor can do."""
    known = [platform.machine(), platform.processor()]
    information = Path("/proc/cpuinfo")
    if information.exists():  # Linux
        lines = information.read_text(errors="replace").splitlines()
        known += sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
