"""A scheduler with a clock that the test moves, and workers and jobs as they really are."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from collector import settings
from collector.process.scheduler.decisions import Action, Dispatch, End, Entry
from collector.process.scheduler.scheduler import Scheduler
from collector.wire.outcome import Outcome

BRISK: Final = settings.BRISK_S / 10


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make(workers: int = 1, **options: Any) -> tuple[Scheduler, Clock]:
    clock = Clock()
    return Scheduler(workers, clock=clock, **options), clock


def submit(schedule: Scheduler, *entries: Entry) -> list[Action]:
    return [action for entry in entries for action in schedule.submitted(entry)]


def brisk(schedule: Scheduler, clock: Clock, worker: int = 1, takes_s: float = BRISK) -> None:
    """Let one worker that is ready do so many jobs so fast that more are sent ahead."""
    for number in range(1000, 1080):
        entry = Entry(number)
        assert Dispatch(worker, entry) in submit(schedule, entry)
        clock.now_s += takes_s
        list(schedule.ended(entry.ticket, End(Outcome.RETURNED)))


@dataclass(eq=False)
class Worker:
    """A worker as it is, with what it has said and the parent has not heard yet."""

    number: int
    unheard: deque[tuple[str, Entry | None, Outcome | None]] = field(default_factory=deque)
    inbox: deque[Entry] = field(default_factory=deque)
    running: Entry | None = None
    begun: int = 0
    loaded_s: float | None = None
    tickets: dict[int, int] = field(default_factory=dict)
    up: bool = False
    stopped: bool = False
    killed: bool = False
    recalled: bool = False
    refused: bool = False
    """Its running job was failed by the sink: nothing is said of its end any more."""


@dataclass(eq=False)
class Job:
    """A job as its owner sees it."""

    entry: Entry
    retries: int
    claimed: bool = False
    cancelled: bool = False
    settled: Outcome | None = None
    attempts: int = 0
    """Attempts that were judged."""
    runs: int = 0
    loaded: bool = False
    """Whether its call was loaded in the last of them."""
    kills: int = 0
    unwanted: bool = False
