"""Jobs to be followed, and readers that follow them in threads of their own."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from collector import Collector, Job, RetryLater, current_job
from tests.support.inside import end_at_once
from tests.support.jobs import kill_self, wait_for

FIRST = b"the first chunk\n"
LAST = b"the last chunk\n"


def in_two_parts(until: str) -> Iterator[bytes]:
    """Yield, wait for the file, yield again."""
    yield FIRST
    wait_for(until)
    yield LAST


def then(first: bytes, until: str, end: Callable[[], object]) -> Iterator[bytes]:
    """Yield, wait for the file, and end as told."""
    yield first
    wait_for(until)
    end()


def fails_once(marks: str, first: bytes, second: bytes) -> Iterator[bytes]:
    """Yield `first` and fail once the file `marks/go` is there; yield `second` the next time."""
    if current_job().attempt == 2:
        yield second
        return
    yield first
    wait_for(f"{marks}/go")
    raise ValueError("the first attempt fails")


def asks_once(marks: str, first: bytes, second: bytes) -> Iterator[bytes]:
    """Yield `first` and ask to be run later once `marks/go` is there; then yield `second`."""
    if os.path.exists(f"{marks}/go"):
        yield second
        return
    yield first
    wait_for(f"{marks}/go")
    raise RetryLater(0)


def acknowledged(rounds: int, directory: str) -> Generator[bytes, None, int]:
    """Yield a number and wait until its reader has made the file of that name."""
    for number in range(rounds):
        yield b"%d\n" % number
        wait_for(f"{directory}/{number}")
    return rounds


def crash() -> None:
    kill_self()


@contextlib.contextmanager
def collecting(workers: int, method: str = "forkserver", **options: Any) -> Iterator[Collector]:
    """A Collector whose jobs are ended if the test fails: most of them wait for the test."""
    with Collector(workers, method, progress=False, **options) as collector:
        try:
            yield collector
        except BaseException:
            end_at_once(collector)
            raise


class Reader(threading.Thread):
    """Follows a job in a thread of its own."""

    def __init__(self, job: Job[Any], *, asynchronous: bool = False) -> None:
        super().__init__()
        self.job = job
        self.data = bytearray()
        self.error: BaseException | None = None
        self.has = threading.Condition()
        self._asynchronous = asynchronous
        self.start()

    def run(self) -> None:
        try:
            if self._asynchronous:
                asyncio.run(self._read())
            else:
                for block in self.job.follow():
                    self._take(block)
        except BaseException as error:  # noqa: BLE001 - raised again by `end`
            self.error = error

    async def _read(self) -> None:
        async for block in self.job.follow():
            self._take(block)

    def _take(self, block: bytes) -> None:
        assert block
        with self.has:
            self.data += block
            self.has.notify_all()

    def wait_for(self, size: int) -> None:
        """Wait until so many bytes have come."""
        with self.has:
            assert self.has.wait_for(lambda: len(self.data) >= size or self.error, 120)
        assert self.error is None

    def end(self) -> bytes:
        """Wait for the end, raise what following raised, return what came."""
        self.join(120)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return bytes(self.data)


def open_files_of(directory: Path) -> list[str]:
    """The files below `directory` that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if name.startswith(os.fspath(directory)) and "spill" in name]


def run_directory() -> Path:
    (run,) = Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*")
    return run
