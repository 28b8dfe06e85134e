"""Read the output of a job while it runs.

The sink spills the job's output early, and the reader reads the file: no second path for the data,
and a slow reader holds back nobody.

Runs in:    the parent, in a thread or an event loop of the user's.
Owns:       a descriptor of the file, from the first byte to the end.
Invariants: I1  no byte is read that was not reported: what a failed write leaves for a moment is
                not seen.
            I2  one attempt only: when another attempt begins, following ends with an error.
"""

import codecs
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import AnyStr, Generic, Protocol, final

from collector import settings
from collector.errors import JobError
from collector.store.output.output import Output
from collector.store.rundir.current_directory import CurrentDirectory


class Watched(Protocol):
    """A job, as all see it who follow it: in this process, or from another one."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def attempt(self) -> int:
        """The attempt that runs or ran last."""

    @property
    def reruns(self) -> int:
        """How often it has been run again, also where that is no further attempt."""

    def written(self) -> tuple[int, str]:
        """Bytes that are in its file by now, and the name of the file (or none yet)."""

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called, in any thread, at news of the job; returns what ends that."""


class Followed(Watched, Protocol):
    """A job, as its followers in this process see it."""

    def done(self) -> bool:
        """Whether it is over."""

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Its error."""

    def output(self, timeout: float | None = None) -> Output:
        """Its output, once it is over."""


def as_bytes() -> Callable[[bytes, bool], bytes]:
    """Return what gives a follower the bytes as they come."""
    return lambda block, _last: block


def as_text() -> Callable[[bytes, bool], str]:
    """Return what gives a follower whole characters, of one output in UTF-8.

    It is called with the next bytes, and whether they are the last; and raises UnicodeDecodeError
    where they are no UTF-8, with a note that says where in the output that is.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    decoded_bytes = 0

    def decode(block: bytes, last: bool) -> str:
        nonlocal decoded_bytes
        try:
            text = decoder.decode(block, last)
        except UnicodeDecodeError as error:
            at = decoded_bytes - (len(error.object) - len(block)) + error.start
            error.add_note(f"byte {at} of the output; follow() without text=True gives the bytes")
            raise
        decoded_bytes += len(block)
        return text

    return decode


@final
class RunsAgainError(JobError):
    """What was followed is no part of the job's output: it is run again."""


@final
class Following(Generic[AnyStr]):
    """A job's output from its first byte on, as it comes: iterate, or `async for`.

    Raises (while iterating, after the last byte):
        BaseException: What the job raised, if it failed.
        JobError: The job failed, or asked to be run later, and is run again; follow it anew.
        CancelledError: The job was cancelled.
        UnicodeDecodeError: As text, where a byte is no UTF-8; or a job that has not failed ended
            within a character.
    """

    def __init__(
        self,
        job: Followed,
        directory: CurrentDirectory,
        decoding: Callable[[], Callable[[bytes, bool], AnyStr]],
    ) -> None:
        self._job = job
        self._directory = directory
        self._decoding: Callable[[], Callable[[bytes, bool], AnyStr]] = decoding

    def __iter__(self) -> Iterator[AnyStr]:
        """Yield what has come; waits for more."""
        news = threading.Event()
        reader, decode = _Reader(self._job, self._directory), self._decoding()
        forget = self._job.watch(news.set)
        try:
            while True:
                news.clear()
                over = self._job.done()
                for block in reader.come(over=over):
                    if piece := decode(block, False):
                        yield piece
                if over:
                    break
                news.wait()
        finally:
            forget()
            reader.close()
        reader.check()
        decode(b"", True)

    async def __aiter__(self) -> AsyncIterator[AnyStr]:
        """Yield what has come; the event loop waits for one read at a time."""
        import asyncio  # noqa: PLC0415 - 45 ms that only those pay who are in it already

        loop, news = asyncio.get_running_loop(), asyncio.Event()
        reader, decode = _Reader(self._job, self._directory), self._decoding()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(news.set)

        forget = self._job.watch(wake)
        try:
            while True:
                news.clear()
                over = self._job.done()
                for block in reader.come(over=over):
                    if piece := decode(block, False):
                        yield piece
                    await asyncio.sleep(0)  # others have a turn, and it can be cancelled
                if over:
                    break
                await news.wait()
        finally:
            forget()
            reader.close()
        reader.check()
        decode(b"", True)


class _Reader:
    def __init__(self, job: Followed, directory: CurrentDirectory) -> None:
        self._job = job
        self._directory = directory
        self._attempt = job.attempt
        self._reruns = job.reruns
        self._fd: int | None = None
        self._offset = 0

    def come(self, *, over: bool) -> Iterator[bytes]:
        """Yield what has come by now; of a job that is over, everything."""
        yield from self.read()
        if over:
            yield from self.rest()

    def read(self) -> Iterator[bytes]:
        """Yield what is there by now."""
        written, name = self._job.written()
        self._check_attempt()  # not before: that file could be of the next attempt already
        if self._fd is None and name:
            try:
                self._fd = self._directory.holding(name).open_file(name)
            except FileNotFoundError:
                return  # sealed and moved meanwhile: the rest comes from the output
        yield from self._until(written)

    def rest(self) -> Iterator[bytes]:
        """Yield what the finished job's output has beyond what was read."""
        self._check_attempt()
        output = self._job.output()
        yield from self._until(output.size)
        if self._offset == output.size and self._fd is not None:
            return
        with output.open() as file:  # it was never in a file, or is cut: then this says so
            file.seek(self._offset)
            while block := file.read(settings.READ_BLOCK_BYTES):
                yield block

    def _until(self, end: int) -> Iterator[bytes]:
        while self._fd is not None and self._offset < end:
            size = min(settings.READ_BLOCK_BYTES, end - self._offset)
            block = os.pread(self._fd, size, self._offset)
            if not block:
                return
            self._offset += len(block)
            yield block

    def _check_attempt(self) -> None:
        job = self._job
        if job.reruns != self._reruns:
            message = (
                f"attempt {self._attempt} of job {job.name} failed and it runs again: what was "
                "followed is no part of the output; call follow() again"
            )
            if job.attempt == self._attempt:
                message = (
                    f"attempt {self._attempt} of job {job.name} asked to be run later and it runs "
                    "again: what was followed is no part of the output; call follow() again"
                )
            raise RunsAgainError(message, job.id, job.name, self._attempt)

    def check(self) -> None:
        """Raise what the job raised."""
        error = self._job.exception()
        if error is not None:
            raise error

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
