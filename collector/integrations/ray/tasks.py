"""Tasks of Ray's that run jobs, and which references go along with each.

Runs in:    the pump, in its loop.
Owns:       references to what every agent must know: the `Beginning`, and the parts of the script.
Invariants: I1  a task is never run twice by Ray: a retry is a new attempt, with a fresh output.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, final

from collector.integrations.ray import cluster
from collector.integrations.ray.orders import BEGINNING, Beginning, Job


@final
class Tasks:
    """Starts them.

    Args:
        options: What each asks of Ray.
        beginning: What agents are to be told.
    """

    def __init__(self, options: Mapping[str, Any], beginning: Beginning) -> None:
        self._ray: Any = sys.modules["ray"]
        self._collector = beginning.collector
        # As plain values: another version of collector has a `Beginning` of other fields.
        told_first = beginning.version, beginning.python, tuple(beginning)
        self._kept: dict[int, Any] = {BEGINNING: self._ray.put(told_first)}
        self._sent: Counter[int] = Counter()
        """How often a reference went along."""
        self._task: Any = cluster.task_of(options)
        self.workers = 0
        """How many may run tasks."""

    def keep(self, number: int, part: Any) -> None:
        """Keep a part of the script."""
        self._kept[number] = self._ray.put(part)

    def forget(self, number: int) -> None:
        """Let go of a part of the script."""
        self._kept.pop(number, None)
        self._sent.pop(number, None)

    def start(self, jobs: Sequence[Job], *, spare: bool) -> Any:
        """Start a task for these jobs; returns the stream of its parcels.

        References cost Ray more than all else about a small job. So, if they are to be spared, they
        go along as often as there are workers, and then with what an agent says that it lacks.

        Args:
            jobs: Run one after the other.
            spare: Whether agents are taken to know what was sent so often.
        """
        wanted = {BEGINNING, *(number for job in jobs for number in job.parts)}
        references = {}
        if not spare or any(self._sent[number] < self.workers for number in wanted):
            self._sent.update(wanted)
            references = {number: self._kept[number] for number in wanted}
        return self._task.remote(
            self._collector, [(job.run, job.parts) for job in jobs], references, tuple(self._kept)
        )

    def cancel(self, task: Any, *, force: bool) -> None:
        """Cancel a task, with its process or without.

        Raises:
            Exception: Of Ray's: it has ended.
        """
        self._ray.cancel(task, force=force)
