"""A worker and the sink as the supervisor sees them: a handle, and how far its life has come.

Runs in:    the supervising thread of the parent.
States:     as `TABLE` says. READ_OUT never happens to a sink: the supervisor has heard all that it
            said before it takes note of its death.
Invariants: I1  a worker is GONE when it is dead *and* its queue is read to the end: then what it
                leaves behind is settled, once.
"""

import math
import signal
import time
from typing import Final, Generic, TypeVar, final

from collector import settings
from collector.process.engine import Exit, Handle, SinkHandle, WorkerHandle
from collector.states import TableEnum, move
from collector.wire.messages import JobEnded


class State(TableEnum):
    """How far the life of a process has come."""

    LIVING = "living"
    LEAVING = "leaving"
    """It was told to stop, and is killed if it does not in time."""
    DRAINED = "drained"
    """Its queue is closed, and it is not dead yet."""
    DEAD = "dead"
    """What it has published is not read to the end yet."""
    GONE = "gone"


class Event(TableEnum):
    """What is heard of a process, or done to it."""

    STOPPED = "stopped"
    READ_OUT = "read out"
    DIED = "died"


TABLE: Final = {
    State.LIVING: {
        Event.STOPPED: State.LEAVING,
        Event.READ_OUT: State.DRAINED,
        Event.DIED: State.DEAD,
    },
    State.LEAVING: {Event.READ_OUT: State.DRAINED, Event.DIED: State.DEAD},
    State.DRAINED: {Event.READ_OUT: State.DRAINED, Event.DIED: State.GONE},
    State.DEAD: {Event.READ_OUT: State.GONE},
    State.GONE: {},
}

H = TypeVar("H", bound=Handle)


class _Supervised(Generic[H]):
    """What is supervised."""

    def __init__(self, handle: H) -> None:
        self.handle: Final = handle
        self.state = State.LIVING
        self.kill_by_s = math.inf
        """When it is killed if it is still there; never, as long as nobody wants it to leave."""
        self.exit = Exit()
        """How it ended, from its death on."""
        self.was_killed = False
        """Whether we have killed it: then it did not die by itself, nor for its memory."""

    def kill(self) -> None:
        """End it and its group at once."""
        self.was_killed = True
        self.handle.kill()

    def stop(self) -> None:
        """Let it leave; it is killed if it does not go in time."""
        self.state = move(TABLE, self.state, Event.STOPPED)
        self.handle.stop()
        self.kill_by_s = time.monotonic() + settings.STOP_DEADLINE_S

    def died(self) -> None:
        """Collect it: its descriptor has told of its death."""
        self.state = move(TABLE, self.state, Event.DIED)
        self.kill_by_s = math.inf
        self.exit = self.handle.reap()

    def kill_if_late(self, now_s: float) -> None:
        """Kill it if its time is up, once."""
        if self.kill_by_s <= now_s:
            self.kill_by_s = math.inf
            self.kill()


@final
class SupervisedWorker(_Supervised[WorkerHandle]):
    """A worker."""

    def __init__(self, handle: WorkerHandle) -> None:
        super().__init__(handle)
        self.number: Final = handle.number
        self.sealed_job: JobEnded | None = None
        """What the sink has sealed of the job that it ran when it died; settled once it is GONE."""
        self.broken = ""
        """Why the sink gave up its queue, if it did."""
        self.refusal = ""
        """Why it takes no jobs, if its initializer has failed; told once it is GONE."""
        self.ended_by = ""
        """What the user called to end it, if somebody did."""

    def sealed(self, said: JobEnded) -> None:
        """The sink has sealed the job that this worker ran when it died."""
        self.sealed_job = said

    def read_out(self, broken: str = "") -> None:
        """Nothing further of its queue will be heard; with a text, because it was given up."""
        self.state = move(TABLE, self.state, Event.READ_OUT)
        self.broken = broken or self.broken

    @property
    def why(self) -> str:
        """Why it died, where that says more than its exit code; else nothing."""
        if (
            not self.broken
            and self.ended_by
            and self.exit.code in (-signal.SIGKILL, -signal.SIGTERM)
        ):
            return f"was ended by {self.ended_by}"
        return self.broken or self.exit.why


@final
class SupervisedSink(_Supervised[SinkHandle]):
    """The sink."""
