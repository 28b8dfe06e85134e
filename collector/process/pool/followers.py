"""What those hear of a job who follow it from another process.

They are given a descriptor of the file in which its output lies, and told how far it has come. So a
slow reader costs the Collector nothing, and one who reads after the end has all of it.

Runs in:    the parent, in the answering thread; `Followers.started` in the supervising one and
            `ended` in the settling one.
Owns:       descriptors of files, until they were sent.
Invariants: I1  the file of a job that is over is opened for its followers before its future is
                settled: right after that its owner may close the output, or save it elsewhere.
            I2  at most `ASKING_NEWS` pieces of news wait while those before them are sent to a
                follower that does not read.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, final

from collector.errors import CollectorError
from collector.process.pickling import calls
from collector.process.pool.follow import Watched
from collector.store.output.output import Output
from collector.store.rundir.current_directory import CurrentDirectory
from collector.wire.questions import NO_JOB, pack_answer, shortened

News = tuple[bytes, int | None]
"""A line, and a descriptor that goes with it."""


class Followable(Watched, Protocol):
    """A job, as those see it who follow it from another process.

    Attributes:
        known_as: The number by which they know it; 0 if that is its own.
        wanted_dead: Whether one of them wanted it killed.
    """

    known_as: int
    wanted_dead: bool

    def cancelled(self) -> bool:
        """Whether it was cancelled."""


@final
@dataclass(slots=True, eq=False)
class _Stream:
    """One attempt of a job, as one follower has it."""

    job: Followable
    attempt: int
    reruns: int
    forget: Callable[[], None]
    bytes: int = 0
    has_file: bool = False


@final
@dataclass(slots=True, eq=False)
class Follower:
    """One who follows a job, or all.

    Attributes:
        only: Number of the job that is followed; None for all.
        news: What is to be sent.
        over: Whether nothing more will come.
    """

    only: int | None
    directory: CurrentDirectory
    wake: Callable[[], None]
    news: deque[News] = field(default_factory=deque)
    over: bool = False
    _streams: dict[int, _Stream] = field(default_factory=dict)

    def greet(self) -> None:
        """Say to one who follows all jobs that he is heard: nothing may run for long."""
        self._say(NO_JOB, {})

    def begin(self, job: Followable) -> None:
        """Follow this job from its first byte on, unless that is done already."""
        if job.id not in self._streams and not self.over:
            attempt, reruns = job.attempt, job.reruns
            self._streams[job.id] = _Stream(job, attempt, reruns, job.watch(self.wake))
            self._say(job.id, {"name": shortened(job.name), "attempt": attempt})

    def look(self) -> None:
        """See what has come of the jobs that are followed."""
        for stream in list(self._streams.values()):
            self._look_at(stream)

    def _look_at(self, stream: _Stream) -> None:
        job = stream.job
        written, name = job.written()
        if job.reruns != stream.reruns:
            failed = job.attempt != stream.attempt
            why = f"attempt {stream.attempt} failed" if failed else "it asked to be run later"
            self._end(job.id, f"{why}, and the job runs again")
            if self.only is None:
                self.begin(job)
        elif job.cancelled():
            self._end(job.id, "the job was cancelled")
        elif name and not stream.has_file:
            try:
                fd = self.directory.holding(name).open_file(name)
            except OSError:
                return  # it is over, and in another place: that comes with its end
            stream.has_file, stream.bytes = True, written
            self._say(job.id, {"file": True, "bytes": written}, fd)
        elif stream.has_file and written > stream.bytes and not self.news:
            stream.bytes = written
            self._say(job.id, {"bytes": written})

    def ended(self, job: Followable, left: "Left") -> None:
        """A job is over."""
        if self.over or self.only not in (None, job.id):
            return
        stream = self._streams.get(job.id)
        if stream is not None and stream.reruns != job.reruns:
            self._look_at(stream)
            stream = self._streams.get(job.id)
        if stream is None:
            if self.only is not None:
                return
            self._say(job.id, {"name": shortened(job.name), "attempt": job.attempt})
        more: dict[str, Any] = {"bytes": left.size}
        error, fd = left.error, None
        if left.fd is not None and not (stream is not None and stream.has_file):
            try:
                fd = os.dup(left.fd)
                more["file"] = True
            except OSError as none:  # the others are told all the same
                error = error or f"its output cannot be read: {none}"
        self._end(job.id, error, more, fd)

    def end(self) -> None:
        """The run has ended: say so to one who follows all jobs."""
        if self.only is None:
            self._say(NO_JOB, {"ended": True})
        self.over = True

    def close(self) -> None:
        """Let go of everything."""
        self.over = True
        for stream in self._streams.values():
            stream.forget()
        self._streams.clear()
        while self.news:
            _, fd = self.news.popleft()
            if fd is not None:
                os.close(fd)

    def _end(
        self, job_id: int, error: str, more: dict[str, Any] | None = None, fd: int | None = None
    ) -> None:
        stream = self._streams.pop(job_id, None)
        if stream is not None:
            stream.forget()
        self._say(job_id, {**(more or {}), "ended": True, "error": error or None}, fd)
        self.over = self.only is not None

    def _say(self, job_id: int, what: dict[str, Any], fd: int | None = None) -> None:
        self.news.append((pack_answer({"job": job_id, **what}), fd))


@final
@dataclass(slots=True, eq=False)
class Left:
    """What a job has left: its size, its file if it has one, and why it failed, if it did."""

    size: int
    fd: int | None
    error: str

    def close(self) -> None:
        """Close the file."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

    def __del__(self) -> None:
        self.close()  # whoever followed has gone, and nobody reads the note that has this


@final
class Followers:
    """All who follow jobs of one Collector.

    Args:
        post: Has something done in the answering thread.
    """

    def __init__(self, post: Callable[[Callable[[], object]], None]) -> None:
        self._post = post
        self._all: Final[set[Follower]] = set()
        self.want_all = False
        """Whether somebody follows every job."""
        self._wanted: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Follower]:
        return iter(list(self._all))

    def add(self, follower: Follower) -> None:
        """Add a follower: from now on it is told of the jobs that it follows."""
        self._all.add(follower)
        self._changed()

    def discard(self, follower: Follower) -> None:
        """Remove a follower, and let go of what it has."""
        follower.close()
        self._all.discard(follower)
        self._changed()

    def started(self, job: Followable) -> None:
        """A job has begun, in the supervising thread."""
        if self.want_all:
            self._post(lambda: self._begin(job))

    def ended(self, job: Followable, output: Output, error: BaseException | None) -> None:
        """A job is over and its future not yet settled, in the settling thread."""
        if not (self.want_all or job.id in self._wanted):
            return
        why = "" if error is None else calls.text_of(error) or f"{type(error).__name__}()"
        left = Left(output.size, None, why)
        try:
            if output.size:
                with output.open() as file:
                    left.fd = os.dup(file.fileno())
        except (OSError, CollectorError) as lost:
            left.error = left.error or f"its output cannot be read: {lost}"
        self._post(lambda: self._end(job, left))

    def _begin(self, job: Followable) -> None:
        for follower in self:
            if follower.only is None:
                follower.begin(job)

    def _end(self, job: Followable, left: Left) -> None:
        try:
            for follower in self:
                follower.ended(job, left)
        finally:
            left.close()

    def _changed(self) -> None:
        self.want_all = any(follower.only is None for follower in self._all)
        self._wanted = frozenset(f.only for f in self._all if f.only is not None)
