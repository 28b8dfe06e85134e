"""How long from a fresh interpreter to the first result of two workers?"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from bench import target
from bench.case import Case, Contender, Goal, Scale, times
from bench.host import MissingError
from bench.peers import NAMES

SCRIPT = os.fspath(Path(__file__).parents[1] / "first_result.py")


def first_result(peer: str, function: str) -> Iterator[float]:
    """Yield the seconds from starting an interpreter to the byte that says that the job is done."""
    with target.directory() as path:
        environment = os.environ | {"COLLECTOR_BENCH_DIR": path}
        while True:
            command = [sys.executable, SCRIPT, peer, function]
            start = perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as program:
                said = os.read(program.stdout.fileno(), 1) if program.stdout else b""
                seconds = perf_counter() - start
            if not said:
                raise MissingError("it ended without a result")
            yield seconds


def cases(scale: Scale) -> Iterator[Case]:
    """A function that can be imported, and one of the script."""
    for function in ("imported", "own"):
        yield Case(
            name=f"start-up-{function}",
            unit="ms",
            contenders={
                peer: Contender(
                    "bench.cases.startup:first_result", {"peer": peer, "function": function}
                )
                for peer in NAMES
            },
            figure=times(1e3),
            goals=tuple(Goal(peer, 1) for peer in ("loky", "mpire", "pebble")),
            less_is_better=True,
        )
    del scale
