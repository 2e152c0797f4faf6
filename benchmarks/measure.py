"""What the benchmarks share: clocks that take turns, this machine's limits, and tables."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import flags

from attn_lstm import cli, process
from attn_lstm.text import markdown_table

_TABLES = flags.DEFINE_string("tables", None, "file that gets each table too, a line of JSON")


def run(
    main: Callable[[], int], define_flags: Callable[[Sequence[str]], None] = lambda _: None
) -> NoReturn:
    """Starts a script as commands start.

    Args:
      main: does the work; returns an exit code.
      define_flags: as in `cli.run`; needless where the import of the script defines all flags.
    """
    process.settle(result_on_stdout=True)
    cli.run(main, define_flags, sys.argv, sys.modules["__main__"].__doc__ or "")


def turns(names: Sequence[str], rounds: int) -> Iterator[str]:
    """The names in turn, every other round backwards: what else the machine does hits all alike."""
    for index in range(rounds):
        yield from names[::-1] if index % 2 else names


def alternate(
    functions: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call, the functions taking turns.

    Args:
      functions: by name; JAX arrays that they return are waited for.
      rounds: timed calls of each.
      warm_up: calls of each before that, not timed: they compile, and fill caches.
    """
    for function in functions.values():
        for _ in range(warm_up):
            jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for name in turns(list(functions), rounds):
        start = time.perf_counter()
        jax.block_until_ready(functions[name]())
        seconds[name].append(time.perf_counter() - start)
    return seconds


def median_seconds(function: Callable[[], Any], rounds: int, warm_up: int = 1) -> float:
    """The median of `alternate` for a function that has no rival."""
    return statistics.median(alternate({"": function}, rounds, warm_up)[""])


def median_ratio(seconds: Sequence[float], of: Sequence[float]) -> float:
    """Median over the rounds of `seconds / of`: steadier than the ratio of two medians."""
    return statistics.median(a / b for a, b in zip(seconds, of, strict=True))


def machine() -> str:
    """Processor, cores, devices, versions and load, in one line. Starts JAX's devices."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{processor}, {os.cpu_count()} cores; JAX {jax.__version__} on {devices}; "
        f"Python {platform.python_version()}; load {load}"
    )


def cost(compiled: jax.stages.Compiled) -> tuple[float, float]:
    """(FLOPs, bytes read and written) of one call, as XLA counts them.

    Its count has the body of a loop once, however often that runs.
    """
    analysis = compiled.cost_analysis() or {}
    return analysis.get("flops", 0.0), analysis.get("bytes accessed", 0.0)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a Markdown table: the first column to the left, numbers behind it to the right."""
    shown = [[*map(str, row)] for row in rows]
    print(f"\n{title}\n\n{markdown_table(columns, shown)}")
    if _TABLES.value is not None:
        with open(_TABLES.value, "a") as file:
            print(json.dumps({"title": title, "columns": columns, "rows": shown}), file=file)


def print_seconds(title: str, seconds: Mapping[str, Sequence[float]], digits: int) -> None:
    """Prints a table of what `alternate` gives: the median, the least and the most of each."""
    rows = [
        (name, *(f"{x:.{digits}f}" for x in (statistics.median(times), min(times), max(times))))
        for name, times in seconds.items()
    ]
    print_table(title, ("", "s (median)", "least", "most"), rows)
