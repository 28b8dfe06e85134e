"""The workers that are not gone: which of them has the fewest jobs, and where something is due.

Pure: as the scheduler, which has one.

Invariants: I1  what is asked at the end of a job takes a number of steps that grows with the
                logarithm of the number of workers; only what concerns all of them grows with that.
            I2  a seat that was asked for by its number, or with all others, may have been changed:
                it is looked at again before the next answer.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeVar, final

from collector.process.scheduler.worker_state import Seat

K = TypeVar("K", bound=float)
_OUT_OF_DATE: Final = 64  # so many more than twice the seats: then an order is made anew


class _Order(Generic[K]):
    """Workers in the order of something that changes.

    Args:
        seats: The workers; one that is not there any more does not count.
        key: Returns what orders a worker; None for one that does not count now.
    """

    def __init__(self, seats: Mapping[int, Seat], key: Callable[[Seat], K | None]) -> None:
        self._seats = seats
        self._key = key
        self._keys: dict[int, K] = {}
        self._heap: list[tuple[K, int]] = []
        """The newest of several comes first; some are out of date."""
        self.changed: set[int] = set()

    def first(self) -> tuple[K, Seat] | None:
        """Return the least key, and the worker that it is of."""
        while self.changed:
            self._put(self.changed.pop())
        while self._heap:
            key, number = self._heap[0]
            if self._keys.get(-number) == key:
                return key, self._seats[-number]
            heapq.heappop(self._heap)
        return None

    def leave_out(self, worker: int) -> None:
        """Do not count a worker until it changes."""
        self._keys.pop(worker, None)

    def _put(self, worker: int) -> None:
        seat = self._seats.get(worker)
        key = None if seat is None else self._key(seat)
        if key is None:
            self._keys.pop(worker, None)
        elif self._keys.get(worker) != key:
            self._keys[worker] = key
            heapq.heappush(self._heap, (key, -worker))
            if len(self._heap) > 2 * len(self._keys) + _OUT_OF_DATE:
                self._heap = sorted((key, -worker) for worker, key in self._keys.items())


@final
class Seats:
    """The seats of all workers, by their numbers.

    Args:
        due_s: Tells when something is due at a worker; None for never.
    """

    def __init__(self, due_s: Callable[[Seat], float | None]) -> None:
        self._seats: dict[int, Seat] = {}
        self._dues = _Order(self._seats, due_s)
        self._loads = _Order(self._seats, _load_of)

    def __len__(self) -> int:
        return len(self._seats)

    def __getitem__(self, worker: int) -> Seat:
        self._dues.changed.add(worker)
        self._loads.changed.add(worker)
        return self._seats[worker]

    def get(self, worker: int) -> Seat | None:
        """Return the seat of a worker, if it is not gone."""
        return self[worker] if worker in self._seats else None

    def add(self, seat: Seat) -> None:
        """A worker is started."""
        self._seats[seat.worker] = seat

    def pop(self, worker: int) -> Seat:
        """A worker is gone."""
        seat = self[worker]
        del self._seats[worker]
        return seat

    def values(self) -> Iterable[Seat]:
        """Return all of them."""
        self.look_at_all()
        return self._seats.values()

    def look_at_all(self) -> None:
        """Something has changed that concerns all of them."""
        self._dues.changed.update(self._seats)
        self._loads.changed.update(self._seats)

    def next_s(self) -> float:
        """When something is due first."""
        first = self._dues.first()
        return math.inf if first is None else first[0]

    def due(self, now_s: float) -> list[Seat]:
        """Return the workers where something is due."""
        found = list[int]()
        while (first := self._dues.first()) is not None and first[0] <= now_s:
            found.append(first[1].worker)
            self._dues.leave_out(first[1].worker)
        return [self[worker] for worker in found]

    def least(self) -> Seat | None:
        """Return one of those with the fewest jobs that may get another one; None if none may."""
        first = self._loads.first()
        return None if first is None else first[1]

    def leave_out(self, seat: Seat) -> None:
        """Give this one no job until it changes."""
        self._loads.leave_out(seat.worker)


def _load_of(seat: Seat) -> int | None:
    return len(seat.entries) if seat.takes_more or seat.idle else None
