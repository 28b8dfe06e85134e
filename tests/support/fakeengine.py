"""An engine without processes: a test says what its workers and its sink say, and when they die."""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterable
from typing import Any

from collector.process.engine import Exit
from collector.process.pickling import calls
from collector.process.pickling.script import Parts
from collector.wire import messages
from collector.wire.messages import Message, RunJob
from collector.wire.outcome import Outcome


class FakeProcess:
    """What is told to it is kept, and it dies when it is told to."""

    room_fd: int | None = None
    backlog_bytes = 0

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.death_fd, self._life = os.pipe()
        self.exit = Exit()
        self.told: list[Message] = []
        self.dead = self.killed = self.stopped = self.closed = False

    def tell(self, message: Message) -> None:
        self.told.append(message)

    def flush(self) -> bool:
        return True

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = True

    def die(self, code: int = -9) -> None:
        """Be dead; whoever watches can see it."""
        assert not self.dead
        self.exit = Exit(code, self.exit.begun)
        self.dead = True
        os.close(self._life)

    def reap(self) -> Exit:
        if not self.dead:  # the supervising thread has failed, or it is waited for
            assert self.killed
            self.die()
        return self.exit

    def close(self) -> None:
        assert self.dead
        assert not self.closed
        self.closed = True
        os.close(self.death_fd)

    def descriptors(self) -> list[int]:
        return [self.death_fd]


class FakeWorker(FakeProcess):
    """A worker: has jobs, and runs one if the test lets it."""

    def __init__(self, number: int, sink: "FakeSink") -> None:
        super().__init__(1000 + number)
        self.number = number
        self.scratch_prefix = f"scratch-{number:08x}"
        self.sink = sink
        self.inbox: deque[RunJob] = deque()
        self.running: RunJob | None = None
        self.ready = self.recalled = self.terminated = False
        self.signalled = (0, False)
        self.sink_sees_death = True
        self.read_out = False
        self.exit = Exit(None, 0)

    def send(self, job: RunJob, parts: Parts) -> None:
        assert not self.stopped, "a job for a worker that was told to stop"
        self.inbox.append(job)

    def recall(self) -> None:
        self.recalled = True

    def terminate(self) -> None:
        self.terminated = True

    def signal(self, number: int, *, itself: bool) -> None:
        self.signalled = number, itself

    def loaded_s(self, ticket: int, started_s: float) -> float | None:
        return started_s

    # -- what the test has it do -------------------------------------------------------------------

    def say_ready(self) -> None:
        self.ready = True
        self.sink.report(messages.WorkerReady(self.number, ""))

    def start(self) -> RunJob:
        """Begin with the next job."""
        job = self.running = self.inbox.popleft()
        self.exit = Exit(None, job.ticket)
        self.recalled = False
        return job

    def end(self, value: Any = None) -> None:
        """Return from the running job; the sink reports it."""
        job, self.running = self.running, None
        assert job is not None
        self.sink.report(ended(self.number, job.ticket, Outcome.RETURNED, calls.dumps(value)))

    def hand_back(self) -> None:
        """Give back all jobs that have not started, the last one first."""
        while self.inbox:
            self.sink.report(messages.JobHandedBack(self.number, self.inbox.pop().ticket))

    def go_on(self) -> None:
        """Do what can be expected of it next."""
        if self.killed or self.terminated:
            self.die()
        elif self.sink.dead:
            self.die(1)  # it has lost its queue
        elif not self.ready:
            self.say_ready()
        else:
            self._work()

    def _work(self) -> None:
        if self.running is not None:
            self.end(self.running.job_id)
        elif self.inbox:
            self.start()
        elif self.stopped:
            self.die(0)

    def be_read_out(self) -> None:
        """Have the sink see the death: it seals what ran, and says that nothing else will come."""
        assert self.dead
        self.read_out = True
        if self.running is not None:
            self.sink.report(ended(self.number, self.running.ticket, Outcome.CRASHED))
        self.sink.report(messages.WorkerDrained(self.number, ""))


class FakeSink(FakeProcess):
    """A sink: what it reports is on its way until the test lets it arrive."""

    def __init__(self, number: int) -> None:
        super().__init__(2000 + number)
        self.control_fd, self._control = os.pipe()
        os.set_blocking(self.control_fd, False)
        self.on_its_way: deque[Message] = deque()
        self._arrived: deque[Message] = deque()

    def report(self, message: Message) -> None:
        if not self.dead:
            self.on_its_way.append(message)

    def arrive(self, count: int = 1) -> None:
        """Let so many of its messages arrive."""
        for _ in range(min(count, len(self.on_its_way))):
            self._arrived.append(self.on_its_way.popleft())
            os.write(self._control, b"!")

    def receive(self) -> list[Message] | None:
        heard = list(self._arrived)
        self._arrived.clear()
        if self.dead:
            return heard or None
        with contextlib.suppress(BlockingIOError):
            os.read(self.control_fd, 4096)
        return heard

    def die(self, code: int = -9, having_said: int = 0) -> None:
        """Be dead, which is seen first: so many of its messages have arrived, others are lost."""
        super().die(code)
        self._arrived.extend(itertools.islice(self.on_its_way, having_said))
        self.on_its_way.clear()

    def close(self) -> None:
        super().close()
        os.close(self._control)
        os.close(self.control_fd)

    def descriptors(self) -> list[int]:
        return [*super().descriptors(), self.control_fd]


class FakeEngine:
    """Starts what only the test moves."""

    forks = False

    def __init__(self) -> None:
        self.sinks: list[FakeSink] = []
        self.workers: dict[int, FakeWorker] = {}
        self.refuses: Exception | None = None
        """What the next starts of workers raise."""
        self.closed = False

    def start_sink(self, held_bytes: int, farewell: messages.Farewell) -> FakeSink:
        assert all(sink.dead for sink in self.sinks), "two sinks at once"
        self.sinks.append(FakeSink(len(self.sinks)))
        return self.sinks[-1]

    def start_worker(self, number: int) -> FakeWorker:
        if self.refuses is not None:
            raise self.refuses
        assert number not in self.workers, "a worker's number was used again"
        self.workers[number] = FakeWorker(number, self.sinks[-1])
        return self.workers[number]

    def living(self) -> list[FakeWorker]:
        return [worker for worker in self.workers.values() if not worker.dead]

    def abandon(self, others: Iterable[int]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        assert all(p.closed for p in [*self.workers.values(), *self.sinks]), "a handle was left"
        self.closed = True


def ended(worker: int, ticket: int, outcome: Outcome, value: bytes = b"") -> messages.JobEnded:
    """What the sink says of the end of an attempt that has written the number of its ticket."""
    data = b"%d" % ticket
    return messages.JobEnded(
        worker, ticket, outcome, len(data), 1, len(value), 0, "", data, "", value, ""
    )
