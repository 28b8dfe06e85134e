"""The jobs that wait for a worker, in the order in which they are to run.

Pure: as the scheduler, which has one.
"""

import heapq
from collections import OrderedDict
from typing import final

from collector.process.scheduler.decisions import Entry

Turn = tuple[bool, int]
"""What orders the first jobs of several lines: whether it is a new one, and its number."""


@final
class Line(OrderedDict[int, Entry]):
    """Jobs by their numbers, first come first served.

    Those that came back go before all others, the oldest first: several workers hand back in turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._back: list[int] = []

    def put_back(self, entry: Entry) -> None:
        """Take a job that was at a worker already."""
        self[entry.job_id] = entry
        heapq.heappush(self._back, entry.job_id)

    def take_first(self) -> Entry | None:
        """Take out the job whose turn it is; None if there is none."""
        while self._back:
            entry = self.pop(heapq.heappop(self._back), None)
            if entry is not None:  # else it was cancelled meanwhile
                return entry
        return self.popitem(last=False)[1] if self else None

    def turn(self) -> Turn:
        """Return the turn of the first job; there must be one."""
        while self._back and self._back[0] not in self:
            heapq.heappop(self._back)
        return (False, self._back[0]) if self._back else (True, next(iter(self)))
