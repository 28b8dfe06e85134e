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
    """Yield the seconds to a first result."""
    with target.directory() as path:
        while True:
            yield time_of_first_result(peer, function, path)


def time_of_first_result(peer: str, function: str, root: str) -> float:
    """Return the seconds from starting an interpreter to the byte that says: the job is done."""
    command = [sys.executable, SCRIPT, peer, function]
    environment = os.environ | {"COLLECTOR_TMPDIR": root}
    start = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as program:
        said = os.read(program.stdout.fileno(), 1) if program.stdout else b""
        seconds = perf_counter() - start
    if not said:
        raise MissingError("it ended without a result")
    return seconds


def cases(scale: Scale) -> Iterator[Case]:
    """A function that can be imported, and one of the script."""
    peers = ("collector", "ProcessPoolExecutor", "loky", "mpire", "pebble")
    for function in ("imported", "own"):
        yield Case(
            name=f"start-up-{function}",
            unit="ms",
            contenders={
                peer: Contender(
                    "bench.cases.startup:first_result", {"peer": peer, "function": function}
                )
                for peer in (peers if scale.quick else NAMES)
            },
            figure=times(1e3),
            goals=tuple(Goal(peer, 1) for peer in ("loky", "mpire", "pebble")),
            less_is_better=True,
            repetitions=scale.pick(15, 5),
        )
