"""Several processes, on one machine or many, as one run: how it starts, ends and fails.

JAX's runtime connects the processes; the first of them is the coordinator. A process that dies
takes the others with it: those notice by the connection, or at the latest when no sign of life has
come for `_HEARTBEAT_SECONDS`. All of them started again go on from the last checkpoint.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax

from attn_lstm import progress
from attn_lstm.errors import DONE, INTERRUPTED, LOST, MISTAKE, UserError, first_line

_abort_handler: Callable[[int], None] | None = None  # C keeps no reference to what it calls

_START_SECONDS = 300  # until all processes must have been started
_HEARTBEAT_SECONDS = 100
_END_SECONDS = 3600  # others wait at the end while the first process writes tables and figures
_GRACE_SECONDS = 20.0  # for the others to come to the same mistake

# How XLA's messages begin, and what they name when a connection failed: the library that made it.
_LOSSES = re.compile(
    r"\A[A-Z_]+: .*(gloo|nccl|rccl|coordination|heartbeat)"
    r"|\A([A-Z_]+: .*)?(UNAVAILABLE|DEADLINE_EXCEEDED)",
    re.IGNORECASE | re.DOTALL,
)


def start(
    address: str | None, count: int | None, index: int | None, *, keeps_sigterm: bool
) -> None:
    """Connects this process with the others of its run, before anything is computed.

    Args:
      address: 'HOST:PORT' on which process 0 listens.
      count: number of processes.
      index: of this one, from 0. All three are None where the environment of the cluster (SLURM,
        Open MPI, a TPU pod, Kubernetes) tells them.
      keeps_sigterm: whether the runtime hears SIGTERM, for `training.stop`; else it ends the
        process as usual.

    Raises:
      UserError: the environment tells nothing, or the address is wrong or taken.
    """
    jax.config.update("jax_enable_preemption_service", keeps_sigterm)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # Python's would wait until all have connected
    where = address or "the coordinator"
    _on_abort(
        f"no contact with all processes through {where} within {_START_SECONDS} s: start all of "
        "them, with the same address and number, each with its own --process_id"
    )
    try:
        with progress.doing("waiting for the other processes"):
            jax.distributed.initialize(
                address,
                count,
                index,
                initialization_timeout=_START_SECONDS,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_END_SECONDS,
            )
    except ValueError as error:
        raise UserError(
            "--distributed finds nothing of a cluster (SLURM, Open MPI, TPU pod, Kubernetes) in "
            "its environment: give --coordinator_address, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        raise UserError(f"cannot start through {where}: {first_line(error)}") from error
    _on_abort(_lost("JAX tells more above"))
    if jax.process_index():
        progress.end()  # the first process speaks for all


def run(main: Callable[[], int]) -> int:
    """Calls `main` between the start and the end of the processes; returns its exit code.

    With an error this ends the process without the usual waiting for the others: they may never
    come. `UserError` is a line and exit code 2 as ever, a lost process a line and `LOST`. Any other
    error is shown at once; the exit code follows when the runtime has had the time to notice a lost
    process, which may be what the error came of.
    """
    try:
        code = main()
        jax.distributed.shutdown()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        # If all have made the same mistake, each shall come to say so.
        _on_abort(None, code=MISTAKE)
        ending = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        ending.start()
        ending.join(_GRACE_SECONDS)
        _leave(MISTAKE)
    except Exception as error:
        if loss := _find_loss(error):
            print(f"error: {_lost(first_line(loss))}", file=sys.stderr)
            _leave(LOST)
        traceback.print_exc()
        # A device that waits for one of a lost host may fail with any message. The runtime ends
        # this process with LOST when it misses a host.
        time.sleep(_HEARTBEAT_SECONDS + _GRACE_SECONDS)
        _leave(1)
    except SystemExit as end:
        _leave(int(end.code or DONE))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _leave(INTERRUPTED)
    except BaseException:
        traceback.print_exc()
        _leave(1)


def _find_loss(error: BaseException | None) -> BaseException | None:
    """The failure of a connection among an error and those that it came of."""
    while error is not None and not _LOSSES.search(str(error)):
        error = error.__cause__ or error.__context__
    return error


def _lost(reason: str) -> str:
    return (
        "this process has lost another one of its run, which died or cannot be reached "
        f"({reason}): see what that one said, and start all of them again to go on from the last "
        "checkpoint"
    )


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _on_abort(message: str | None, code: int = LOST) -> None:
    """What to say, and the exit code, when the runtime ends this process by abort().

    It does so when it loses the coordinator. Python's own handlers are of no use there, since they
    run after C's has returned, and abort() does not let the process live to see that.
    """
    global _abort_handler

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_: int) -> None:
        if message:
            os.write(2, f"error: {message}\n".encode())
        os._exit(code)

    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    _abort_handler = handler
