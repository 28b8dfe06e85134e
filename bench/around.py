"""Measure a contender beside busy loops, or what its processes take of the cores.

Each is a contender itself, which has another one measured, named as in `bench/case.py`.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from bench.memory import tree

_BUSY = "while True: pass"
_STAT_TICKS = slice(11, 15)
"""User and system time, of a process and of its children that have ended; behind its name."""


def _measurements(of: str, arguments: dict[str, Any]) -> Iterator[float]:
    module, _, function = of.partition(":")
    measurements: Iterator[float] = getattr(import_module(module), function)(**arguments)
    return measurements


def beside_busy_loops(of: str, loops: int, **arguments: Any) -> Iterator[float]:
    """Yield what is measured while so many programs do nothing but count."""
    measurements = _measurements(of, arguments)
    while True:
        with contextlib.ExitStack() as done:
            for _ in range(loops):
                busy = done.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY]))
                done.callback(busy.kill)
            measured = next(measurements)
        yield measured


def core_seconds(of: str, **arguments: Any) -> Iterator[float]:
    """Yield the seconds of a core that all children take for a measurement.

    The process that asks them is left out: it prepares files for everybody alike.
    """
    measurements = _measurements(of, arguments)
    next(measurements)  # all children are there from now on
    while True:
        before = _children_s()
        next(measurements)
        yield _children_s() - before


def _children_s() -> float:
    ticks = 0
    for pid in tree(os.getpid())[1:]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[_STAT_TICKS]))
    return ticks / os.sysconf("SC_CLK_TCK")
