"""A supervisor over a fake engine, moved round by round, and jobs that remember what they heard."""

import time
from collections.abc import Mapping
from typing import Any

from collector.process.pickling import calls
from collector.process.pool.ending import Ending
from collector.process.pool.job_table import Work
from collector.process.pool.supervisor import Supervisor
from collector.process.scheduler.scheduler import Scheduler
from collector.store.output.output import Output
from collector.store.rundir.current_directory import CurrentDirectory
from tests.support.fakeengine import FakeEngine, FakeSink
from tests.support.inside import is_over, one_round, set_pace_of, settle_now


class FakeJob:
    """Who submitted a job; it may hear of its end once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"job-{number}"
        self.cancelled = self.claimed = self.over = False
        self.attempts = 1
        self.keeps_attempts = False
        self.known_as = self.earlier_attempts = 0
        self.value: Any = None
        self.error: BaseException | None = None
        self.written = b""

    def claim(self) -> bool:
        self.claimed = not self.cancelled
        return self.claimed

    def cancel(self) -> bool:
        if not self.claimed and not self.over:
            self.cancelled = self.over = True
        return self.cancelled

    def unclaim(self) -> None:
        self.claimed = False

    def come_back(self) -> None:
        assert not self.over
        self.cancelled = self.over = True

    def attempted(self, attempt: int) -> None:
        assert attempt == self.attempts + 1
        self.attempts = attempt

    def started(self) -> None:
        assert not self.over

    def progressed(self, bytes_written: int, chunks: int, name: str) -> None:
        """Nobody looks."""

    def attempt_failed(
        self, ending: Ending, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        raise NotImplementedError  # it keeps none

    def counted(self, meters: Mapping[str, float]) -> None:
        raise AssertionError(f"{self.name} counts nothing: {meters}")

    def ran(self, ending: Ending) -> None:
        """Nobody looks."""

    def settle(
        self, value: Any, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        assert not self.over, f"{self.name} is settled twice"
        assert log is None
        self.over = True
        self.value, self.error, self.written = value, error, output.read()
        output.close()


class Desk:
    """A supervisor that the test moves, and the fake engine behind it."""

    def __init__(self, max_workers: int = 1, *, ahead: bool = False) -> None:
        self.engine = FakeEngine()
        self.directory = CurrentDirectory()
        # Far away, a pause of this process between two lines does not count as a long job.
        distance = 1000.0 if ahead else 1.0
        schedule = Scheduler(max_workers, clock=time.monotonic, distance=distance)
        if ahead:
            set_pace_of(schedule, 0.0)
        self.supervisor = Supervisor(self.engine, self.directory, schedule)
        self.schedule = schedule
        self.jobs: dict[int, FakeJob] = {}

    @property
    def sink(self) -> FakeSink:
        return self.engine.sinks[-1]

    def submit(self, retries: int = 0) -> FakeJob:
        job, work = self.work(retries)
        self.supervisor.note(work)
        return job

    def work(self, retries: int = 0) -> tuple[FakeJob, Work]:
        """A job, and what the supervisor is told of it."""
        number = len(self.jobs) + 1
        job = self.jobs[number] = FakeJob(number)
        call = calls.dumps(number)
        return job, Work(number, retries, owner=job, call=call, memory_threshold=1)

    def round(self) -> None:
        """Let the supervisor take in what there is, and the jobs hear of what it decided."""
        self.supervisor.note(lambda: None)
        one_round(self.supervisor)
        settle_now(self.supervisor)

    def go_on(self) -> None:
        """One step of everything that can be expected to happen by itself."""
        for worker in self.engine.living():
            worker.go_on()
        for worker in self.engine.workers.values():
            if worker.dead and not worker.read_out and not worker.sink.dead:
                worker.be_read_out()
        if self.engine.sinks and not self.sink.dead:
            self.sink.arrive(1000)
            if self.sink.stopped or self.sink.killed:
                self.sink.die(0)
        self.round()

    def finish(self) -> None:
        """Take no further job, let all go on, and see that nothing and nobody is left."""
        self.supervisor.note(lambda: self.supervisor.stop(cancel=False, kill=False))
        self.round()
        for _ in range(100):
            if is_over(self.supervisor):
                break
            self.go_on()
        else:
            raise AssertionError("the supervisor waits for something that never comes")
        self.close()
        waiting = [job.name for job in self.jobs.values() if not job.over]
        assert not waiting, f"these jobs hear of no end: {waiting}"

    def close(self) -> None:
        self.supervisor.close()
        settle_now(self.supervisor)
        self.directory.release()
        assert self.engine.closed
