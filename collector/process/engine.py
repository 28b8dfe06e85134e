"""The seam between the pool and what runs its jobs: an engine, and the handles of what it starts.

Runs in:    the parent, in the supervising thread.
Invariants: I1  nothing behind the seam decides anything: it does what it is told, and a death is
                told by a descriptor.
            I2  only `reap` waits for a living process, and not for ever.
            I3  a call on the handle of a dead process harms no other process, and does not raise
                because that one is dead.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from collector.errors import describe_exit
from collector.process.pickling.script import Parts
from collector.wire.messages import Farewell, Message, RunJob


class Exit(NamedTuple):
    """How a process ended."""

    code: int | None = None
    """As of `subprocess`: negative for a signal; None where it is not known."""
    begun: int | None = None
    """Ticket of the last attempt that a worker had begun; None where workers cannot note that."""
    why: str = ""
    """What is known of the end beyond the exit code, such as "was ended for want of memory"."""
    unheard: bool = False
    """Whether attempts up to `begun` may have run though the sink has heard nothing of them.

    They count as crashed then: put back into the line, they would run a second time.
    """

    out_of_memory: bool = False
    """Whether it was ended for want of memory, as far as the engine can tell."""

    @property
    def how(self) -> str:
        """The end in words, after the name of the process."""
        return self.why or describe_exit(self.code)


class Handle(Protocol):
    """A process, or what stands for one."""

    @property
    def pid(self) -> int:
        """Its number, for what is logged."""

    @property
    def death_fd(self) -> int:
        """A descriptor that becomes readable when it is dead."""

    @property
    def room_fd(self) -> int | None:
        """A descriptor that becomes writable when `flush` can go on; None once it is stopped."""

    @property
    def backlog_bytes(self) -> int:
        """How much `flush` has to write."""

    def tell(self, message: Message) -> None:
        """Queue a message, which `flush` writes; drop it if the process was stopped."""

    def flush(self) -> bool:
        """Write what can be written now; True when nothing waits any more."""

    def stop(self) -> None:
        """Let the process leave once it has done what it was sent."""

    def kill(self) -> None:
        """End the process at once, with all that it has started."""

    def reap(self) -> Exit:
        """Wait for the end of the process, at most `STOP_DEADLINE_S`, and say how it ended.

        What the process has started and left behind is ended. May be called again.
        """

    def close(self) -> None:
        """Close the parent's ends, after `reap`."""

    def descriptors(self) -> list[int]:
        """Give up the parent's ends and return them: a forked child closes them, once."""


class WorkerHandle(Handle, Protocol):
    """A worker."""

    @property
    def number(self) -> int:
        """Its number, never used again by this Collector."""

    @property
    def scratch_prefix(self) -> str:
        """How the names of its jobs' scratch directories begin."""

    @property
    def sink_sees_death(self) -> bool:
        """Whether the sink is sure to see its death by itself; else the parent tells the sink."""

    def send(self, job: RunJob, parts: Parts) -> None:
        """Queue a job, and before it what the worker lacks of the script; `flush` writes both."""

    def recall(self) -> None:
        """Ask for the jobs that it has not started."""

    def terminate(self) -> None:
        """Ask it to end, as SIGTERM does."""

    def signal(self, number: int, *, itself: bool) -> None:
        """Send a signal to the process group that its job has begun, and to its own if asked."""

    def loaded_s(self, ticket: int, started_s: float) -> float | None:
        """Return when it had loaded the call of a job that was started then; None: not yet."""


class SinkHandle(Handle, Protocol):
    """The sink."""

    @property
    def control_fd(self) -> int:
        """A descriptor that becomes readable when `receive` has something to return."""

    def receive(self) -> list[Message] | None:
        """Return the messages that have come, none if nothing is there; None at the end."""


class Engine(Protocol):
    """Starts the sink and the workers of one Collector."""

    @property
    def forks(self) -> bool:
        """Whether its workers are forked from this very process."""

    def start_sink(self, held_bytes: int, farewell: Farewell) -> SinkHandle:
        """Start a sink, to which the workers that are started from now on will write.

        Args:
            held_bytes: What finished outputs hold in the memory of this process.
            farewell: What gives the terminal back if this process dies.

        Raises:
            OSError: No process or descriptor is to be had.
        """

    def start_worker(self, number: int) -> WorkerHandle:
        """Start a worker whose chunks the sink reads; it lives no longer than this process.

        Raises:
            OSError: No process or descriptor is to be had now.
            NoPythonError: No process can be started, now or later.
        """

    def abandon(self, others: Iterable[int]) -> None:
        """In a forked child of the parent: close what is the parent's, also these descriptors."""

    def close(self) -> None:
        """Let go of what starting needed; no process is left, or none was ever started."""
