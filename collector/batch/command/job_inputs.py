"""The inputs of jobs as they are read: each has its number, and its place in a batch directory.

Runs in:    the parent, in the main thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

from collector.batch.command.amounts import Share
from collector.batch.command.child import Call
from collector.batch.command.feeder import Feeder
from collector.batch.command.sources import Row
from collector.batch.command.template import Inputs
from collector.progress.ends import Ended, How

if TYPE_CHECKING:
    from collector.batch.command.outcome import Outcome
    from collector.batch.command.results import Results
    from collector.batch.storing import Task


class RunSettings(NamedTuple):
    """How jobs are run.

    Attributes:
        function: What a worker runs.
        jobs: At a time.
        attempts: Of each job, all together.
        timeout: Of each attempt.
        grace_s: Between SIGTERM and SIGKILL.
        shown: Says a command with its inputs.
        label: Says a job in a few words, on the screen; is given what `shown` says.
        ends_workers: Whether SIGTERM goes to the workers: where functions of Python run there.
    """

    function: Callable[[Call], object]
    jobs: int
    attempts: int
    timeout: Share | None
    grace_s: float
    shown: Callable[[Inputs], str]
    label: Callable[[Inputs, str], str]
    ends_workers: bool

    @property
    def most_ahead(self) -> int:
        """So many jobs may be at workers, waiting or running."""
        return 3 * self.jobs + 32


@final
@dataclass(slots=True)
class JobInputs:
    """The inputs of one job, and how far it is.

    Attributes:
        seq: Its number.
        values: They.
        name: Its command.
        label: The same in a few words, for the screen.
        task: The job in the batch directory, if there is one.
        attempt: Which one comes next, or runs.
        since: When it has begun.
        has_begun: Whether an attempt ever has.
        attempts: How many it may have, all together.
    """

    seq: int
    values: Row
    name: str
    label: str
    task: "Task | None"
    attempt: int = 1
    since: float = 0.0
    has_begun: bool = False
    attempts: int = 1

    @property
    def job(self) -> tuple[int, Row, str]:
        """Its number, its inputs, its name."""
        return self.seq, self.values, self.name

    @property
    def job_name(self) -> str:
        """The name of its job, for those who ask."""
        return self.label[:1000] or "job"

    def ended(
        self,
        outcome: "Outcome",
        how: How,
        size: int = 0,
        *,
        again: bool = False,
        resumed: bool = False,
        tail: bytes = b"",
    ) -> Ended:
        """Return what is told of the end of an attempt."""
        return Ended(
            job=self.seq,
            name=self.label,
            how=how,
            attempt=self.attempt,
            attempts=self.attempts,
            again=again,
            resumed=resumed,
            seconds=outcome.seconds,
            size_bytes=size,
            why=outcome.why,
            tail=tail,
            meters=outcome.meters,
        )


@final
class JobReader:
    """Reads the inputs of one job after the other, those of this run's shard.

    Args:
        settings: Say a job, and how many attempts it may have.
        results: The batch directory, if there is one.
        skipped: Is told the number of each job that is another shard's.
    """

    def __init__(
        self,
        settings: RunSettings,
        results: "Results | None",
        skipped: Callable[[int], object],
    ) -> None:
        self._settings = settings
        self._results = results
        self._skipped = skipped
        self._seq = 0
        self.count = 0
        """Jobs of this run so far."""

    def read(self, feeder: Feeder) -> JobInputs | None:
        """Return the next inputs of this run's; None if there are none by now.

        Raises:
            SourceError: They cannot be read.
            SpillError: They cannot be stored.
        """
        while (row := feeder.take()) is not None:
            before, self._seq = self._seq, self._number_after(self._seq)
            for others in range(before + 1, self._seq):
                self._skipped(others)
            inputs = Inputs(row, self._seq)
            name, task = self._settings.shown(inputs), None
            if self._results is not None and not (task := self._results.task(row, name)):
                self._skipped(self._seq)
                continue
            self.count += 1
            label, attempts = self._settings.label(inputs, name), self._settings.attempts
            return JobInputs(self._seq, row, name, label, task, attempts=attempts)
        return None

    def _number_after(self, last: int) -> int:
        # Also of what another shard has: `{#}` is to name one job of all.
        return last + 1 if self._results is None else self._results.number(last)
