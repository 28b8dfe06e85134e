"""A batch of gated jobs, and what `top` says of it, held against the events that it writes itself.

Job n writes ten bytes and waits at a FIFO of its own (`askingjobs.step`), so that whoever looks
knows what must be true: at every moment but those in which a job is let go.
"""

import itertools
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from collector.cli.asking import AskError, ask
from collector.wire.questions import Question
from tests.support.leaks import wait_until

JOBS = 200
WORKERS = 2
HELD_BYTES = 10
WHOLE_BYTES = 13


@final
class Told:
    """What the events of a batch have said so far.

    Attributes:
        running: The jobs that run: for each its name, its attempt, and what it has written.
        done: How many are over.
        failed: How many of them have failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.running: dict[int, tuple[str, int, int]] = {}
        self.done = self.failed = 0

    def read(self) -> None:
        """Read what has come."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole + newline)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        job = event.get("job")
        if job is None:
            return
        if event["event"] == "started":
            self.running[job] = event["name"], event["attempt"], 0
        elif event["event"] == "progressed" and job in self.running:
            name, attempt, _ = self.running[job]
            self.running[job] = name, attempt, event["bytes"]
        elif event["event"] == "ended":
            self.running.pop(job, None)
            if not event.get("again"):
                self.done += 1
                self.failed += event.get("failed") or event.get("status") == "failed"

    def is_at_rest(self, done: int, jobs: int) -> bool:
        """Whether so many jobs are over, and all others wait that may run."""
        self.read()
        waiting = [name for name, _, size in self.running.values() if size == HELD_BYTES]
        return self.done == done and len(waiting) == min(WORKERS, jobs - done)


def make_gates(here: Path, jobs: int = JOBS) -> None:
    """Make the FIFO of each job."""
    here.mkdir(exist_ok=True)
    for number in range(1, jobs + 1):
        os.mkfifo(here / f"go-{number}")


def compare(run: Path, events: Path, here: Path, jobs: int = JOBS) -> None:
    """Let go one job after the other, and ask at every rest; and all the time in between."""
    told = Told(events)
    with asked_all_the_time(run) as answers:
        for done in range(jobs):
            assert wait_until(lambda done=done: told.is_at_rest(done, jobs))  # type: ignore[misc]
            said = ask(os.fspath(run), Question("top"))
            assert (said["done"], said["failed"], said["total"]) == (done, told.failed, jobs)
            now = {
                job["job"]: (job["name"], job["attempt"], job["bytes"]) for job in said["running"]
            }
            assert now == told.running
            assert said["bytes"] == WHOLE_BYTES * done + HELD_BYTES * len(now)
            with (here / f"go-{min(told.running)}").open("wb"):
                pass  # it has waited for this
    assert len(answers) > jobs
    for before, after in itertools.pairwise(answers):
        assert before["done"] <= after["done"]
        assert before["failed"] <= after["failed"]
        assert after["total"] == jobs
        assert after["done"] + len(after["running"]) <= jobs


@contextmanager
def asked_all_the_time(run: Path) -> Iterator[list[dict[str, Any]]]:
    """Ask again and again, in a thread; yield what is answered."""
    answers: list[dict[str, Any]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                answers.append(ask(os.fspath(run), Question("top")))
            except AskError:  # it has ended
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()
