"""Fault 19: random processes of the tree are killed every 50 ms while a batch with retries runs.

The kills come in gusts, and after each the storm waits until one more job has come through: on a
machine that takes longer than 50 ms to start a process none ever would.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, final

import pytest

from collector import BrokenCollectorError, Collector, Job
from tests.support.jobs import random_chunks, sha256, square
from tests.support.leaks import descendants, wait_until
from tests.support.tiers import each_method_but, each_method_in_one_tier

PAUSE_S: Final = 0.05
GUST: Final = 10
FEWEST: Final = 3
"""A tree of fewer processes is left alone: it is one that has just begun."""


@final
class Storm:
    """Kills one descendant of this process after the other until its block ends."""

    def __init__(self, seed: int) -> None:
        self.kills = 0
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self.came_through = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._rage, name="storm")

    def __enter__(self) -> "Storm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.abate()
        self._thread.join()

    def abate(self) -> None:
        """Kill nothing any more."""
        self._over.set()
        self.came_through.release()

    def _rage(self) -> None:
        while not self._over.wait(PAUSE_S):
            alive = [process for process in descendants() if process.state not in "ZX"]
            if len(alive) >= FEWEST:
                self._kill(self._chance.choice(alive).pid)
                if self.kills % GUST == 0:
                    self._lull()

    def _lull(self) -> None:
        while self.came_through.acquire(blocking=False):
            pass
        self.came_through.acquire()

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            handle = os.pidfd_open(pid)
            try:
                if pid in {process.pid for process in descendants()}:  # the number is still its own
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    self.kills += 1
            finally:
                os.close(handle)


def pieces(seed: int) -> Iterator[bytes]:
    yield from random_chunks(seed, random.Random(seed).randrange(30), 200_000)


def is_exact(job: Job[None]) -> bool:
    expected = list(pieces(job.args[0]))
    with job.output() as output:
        return output.chunks == len(expected) and sha256(output) == sha256(expected)


def survive(method: str, seconds: float) -> None:
    """Run a batch in a storm; a Collector that the storm breaks is replaced by a new one."""
    outcomes: Counter[str] = Counter()
    wrong: list[int] = []
    end_s = time.monotonic() + seconds
    numbers = iter(range(10**9))

    def rages() -> bool:
        return time.monotonic() < end_s or storm.kills < 2 * GUST

    def inputs() -> Iterator[int]:
        while rages():
            yield next(numbers)
        storm.abate()

    with Storm(seed=1) as storm:
        while rages():
            with (
                Collector(4, method, retries=1000) as collector,
                contextlib.suppress(BrokenCollectorError),
            ):
                for job in collector.collect(pieces, inputs()):
                    error = job.exception()
                    outcomes[type(error).__name__] += 1
                    if error is None:
                        storm.came_through.release()
                        if not is_exact(job):
                            wrong.append(job.args[0])
    assert not wrong
    assert storm.kills >= 2 * GUST, outcomes
    assert outcomes["NoneType"] >= storm.kills // GUST - 1, outcomes
    assert outcomes.keys() <= {"NoneType", "BrokenCollectorError"}, outcomes
    with Collector(1, method) as calm:
        assert calm.submit(square, 3).result() == 9
    assert wait_until(lambda: all(process.state in "ZX" for process in descendants()))


@each_method_but("spawn")
def test_a_batch_in_a_storm_of_kills_is_exact_and_leaves_nothing(method: str) -> None:
    survive(method, 5)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
@each_method_in_one_tier
def test_a_batch_in_a_storm_of_ten_minutes_is_exact_and_leaves_nothing(method: str) -> None:
    survive(method, 600)
