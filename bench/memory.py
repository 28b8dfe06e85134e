"""What processes hold in memory over time: their PSS, sampled from outside.

PSS counts a page that n processes share as one n-th in each, so the sum over a tree is what the
tree costs. Pages of files that are only written, and not mapped, belong to nobody.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Final

from bench.host import MissingError

INTERVAL_S: Final = 0.005
_KIB: Final = 1024


def pss_bytes(pid: int) -> int:
    """Return the PSS of a process; 0 when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    return 0


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found.extend(map(int, file.read().split()))
    return found


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


class Program:
    """A program of `bench/under_load.py`, which says when it idles and when it is done."""

    def __init__(self, load: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "bench.under_load", load, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid: Final = self._process.pid
        self.workers: list[int] = self._answer()

    def sink(self) -> int:
        """Return the process that is a child of the server that its workers are children of."""
        [server] = [child for child in children(self.pid) if child not in self.workers]
        [sink] = [pid for pid in children(server) if pid not in self.workers]
        return sink

    def run(self, sample: Callable[[], None]) -> Any:
        """Let the load run, and sample until it is done; returns what it says."""
        answer: list[Any] = []
        waiting = threading.Thread(target=lambda: answer.append(self._ask()))
        waiting.start()
        while waiting.is_alive():
            sample()
            waiting.join(INTERVAL_S)
        sample()
        if not answer:
            raise MissingError("the load ended early")
        return answer[0]

    def close(self) -> None:
        """Let the program end."""
        self._process.communicate()

    def _ask(self) -> Any:
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise MissingError("the load ended early")
        return json.loads(line)


def growth(load: str, allowed: dict[str, int], **arguments: int) -> Iterator[dict[str, float]]:
    """Yield the most bytes above idle, and above what is allowed, of worker, sink and parent."""
    while True:
        with contextlib.closing(Program(load, *arguments.values())) as program:
            roles = {"worker": program.workers[0], "sink": program.sink(), "parent": program.pid}
            idle = {role: pss_bytes(pid) for role, pid in roles.items()}
            peak = dict(idle)

            def sample(roles: dict[str, int] = roles, peak: dict[str, int] = peak) -> None:
                for role, pid in roles.items():
                    peak[role] = max(peak[role], pss_bytes(pid))

            program.run(sample)
            yield {role: max(0, peak[role] - idle[role] - allowed[role]) for role in roles}


def each_queued(peer: str, count: int) -> Iterator[float]:
    """Yield the bytes of the parent that one job costs which waits."""
    while True:
        with contextlib.closing(Program("queued", peer, count)) as program:
            before = pss_bytes(program.pid)
            program.run(lambda: None)
            yield (pss_bytes(program.pid) - before) / count


def over_time(peer: str, size: int, count: int) -> tuple[list[float], list[float]]:
    """Return seconds, and the bytes of the whole tree then, while outputs are made and saved."""
    with contextlib.closing(Program("saved", peer, size, count)) as program:
        seconds: list[float] = []
        held: list[float] = []
        start = monotonic()

        def sample() -> None:
            seconds.append(monotonic() - start)
            held.append(float(sum(map(pss_bytes, tree(program.pid)))))

        program.run(sample)
    return seconds, held


def tree_peak(peer: str, size: int, count: int) -> Iterator[float]:
    """Yield the most that the whole tree held."""
    while True:
        yield max(over_time(peer, size, count)[1])
