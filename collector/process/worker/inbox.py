"""The jobs that were sent to a worker ahead of their time: taken one by one, or handed back.

Runs in:    the worker: `hand_back` and `recall` in its watching thread, `ask` and `answer` in any
            thread of the job, the others in the main one, while no job runs.
Owns:       the read end of the job pipe, with what has come through it.
Invariants: I1  a job is either run here or handed back, never both: one lock decides.
            I2  a part of the script stays when its job is handed back: the parent counts it as
                delivered.
"""

import _thread
import errno
import itertools
import select
import threading
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Final, final

from collector import settings
from collector.errors import ProtocolError
from collector.process.queue.channel import Channel
from collector.process.queue.held import Held
from collector.process.start.lineage import Lineage
from collector.wire.messages import AuthKeys, LoadPart, RunDirectoryAt, RunJob


@final
class Inbox:
    """What the parent has sent and nobody has taken: jobs, parts of the script, an answer.

    Args:
        held: The read end of the job pipe.
        lineage: Learns of new keys.
    """

    def __init__(self, held: Held, lineage: Lineage) -> None:
        self._held = held
        self.fd: Final = held.fd
        self._lineage = lineage
        self._channel = Channel(held.fd)
        self._recalled = False
        self._jobs: deque[RunJob] = deque()
        self._questions = itertools.count(1)
        self._answer: RunDirectoryAt | None = None
        self._lock = threading.Lock()
        self._ended = False
        self._parts: deque[LoadPart] = deque()
        self._poller = select.poll()
        self._poller.register(held.fd, select.POLLIN)

    def next(self) -> RunJob | None:
        """Wait for the next job; None when there will be none."""
        while True:
            with self._lock:
                self._recalled = False  # nothing waits behind a running job
                if self._jobs:
                    return self._jobs.popleft()
                if self._ended:
                    return None
            self._poller.poll()
            with self._lock:
                self._receive()

    def take(self) -> RunJob | None:
        """Return the next job if it has come already; it cannot be recalled from then on."""
        with self._lock:
            self._recalled = self._recalled and not self._jobs
            return self._jobs.popleft() if self._jobs else None

    @property
    def has_parts(self) -> bool:
        """Whether parts of the script have come that no attempt has found loaded."""
        return bool(self._parts)

    def parts_before(self, ticket: int) -> Iterator[LoadPart]:
        """Yield the parts of the script that this attempt is to find loaded, once."""
        parts = self._parts
        while parts and parts[0].before <= ticket:
            yield parts.popleft()

    def recall(self) -> None:
        """From now on hand back what comes, until the next job begins."""
        with self._lock:
            self._recalled = True

    def hand_back(self) -> list[RunJob] | None:
        """Give up every job that has not started; None if none is wanted back."""
        with self._lock:
            if self._ended or not self._recalled:
                return None
            self._receive()
            jobs = list(self._jobs)
            self._jobs.clear()
            return jobs

    def ask(self) -> int:
        """Return the number of a new question, for which `answer` waits."""
        return next(self._questions)

    def answer(self, question: int) -> RunDirectoryAt:
        """Wait until the parent has answered; jobs that come meanwhile are kept.

        The answer to a later question will do: a signal handler that came in between has asked it,
        and taken the answer to this one. It may come at any step of the main thread and needs the
        lock, too. So that thread only waits, for another one.
        """
        if threading.current_thread() is not threading.main_thread():
            return self._wait_for(question)
        answered: SimpleQueue[RunDirectoryAt | BaseException] = SimpleQueue()

        def wait() -> None:
            try:
                answered.put(self._wait_for(question))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                answered.put(error)

        # Not by `threading`, of which a handler may interrupt a `start`, with the lock of them all.
        _thread.start_new_thread(wait, ())
        answer = answered.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _wait_for(self, question: int) -> RunDirectoryAt:
        while True:
            with self._lock:
                self._receive()
                answer = self._answer
                if answer is not None and answer.question >= question:
                    return answer
                if self._ended:
                    return RunDirectoryAt(question, errno.ESRCH, "", "", "the Collector has ended")
            # Not for ever: the thread that hands jobs back may have received the answer.
            self._poller.poll(settings.ANSWER_LOOK_S * 1000)

    def _receive(self) -> None:
        self._held.check()
        messages = self._channel.receive()
        if messages is None:
            self._ended = True
            return
        for message in messages:
            if isinstance(message, RunJob):
                self._jobs.append(message)
            elif isinstance(message, LoadPart):
                # It stays if its job is handed back: the parent counts it as delivered.
                self._parts.append(message)
            elif isinstance(message, RunDirectoryAt):
                self._answer = message
            elif isinstance(message, AuthKeys):
                self._lineage.learn((message.multiprocessing, message.multiprocess))
            else:
                raise ProtocolError(f"a worker was told {message}")
