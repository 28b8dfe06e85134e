"""The inputs of jobs as they are read: each has its number, and its place in a batch directory.

Runs in:    the parent, in the main thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from collector.batch.command.feeder import Feeder
from collector.batch.command.sources import Row
from collector.batch.command.template import Inputs

if TYPE_CHECKING:
    from collector.batch.command.results import Results
    from collector.batch.storing import Task


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
    """

    seq: int
    values: Row
    name: str
    label: str
    task: "Task | None"
    attempt: int = 1
    since: float = 0.0
    has_begun: bool = False

    @property
    def job(self) -> tuple[int, Row, str]:
        """Its number, its inputs, its name."""
        return self.seq, self.values, self.name


@final
class JobReader:
    """Reads the inputs of one job after the other, those of this run's shard.

    Args:
        shown: Says a command with its inputs.
        label: Says a job in a few words; is given what `shown` says.
        results: The batch directory, if there is one.
        skipped: Is told the number of each job that is another shard's.
    """

    def __init__(
        self,
        shown: Callable[[Inputs], str],
        label: Callable[[Inputs, str], str],
        results: "Results | None",
        skipped: Callable[[int], object],
    ) -> None:
        self._shown = shown
        self._label = label
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
            name, task = self._shown(inputs), None
            if self._results is not None and not (task := self._results.task(row, name)):
                self._skipped(self._seq)
                continue
            self.count += 1
            return JobInputs(self._seq, row, name, self._label(inputs, name), task)
        return None

    def _number_after(self, last: int) -> int:
        # Also of what another shard has: `{#}` is to name one job of all.
        return last + 1 if self._results is None else self._results.number(last)
