"""The states of a job of a batch, and what they mean for the next run: what runs, and why.

Runs in:    any process; pure.
States:     WAITING, INTERRUPTED, FAILED, DONE; the moves are `TABLE`.
Invariants: I1  a start changes only what has no result.
            I2  the last attempt that has ended decides.
            I3  a result whose bytes are not all there is none.
"""

import enum
from collections.abc import Mapping
from typing import Final

from collector.errors import ProtocolError
from collector.states import TableEnum


class State(TableEnum):
    """How far a job of a batch is; the values are the names that `status` shows."""

    WAITING = "waiting"
    """It has never been started, as far as anybody knows, or its result is not all there."""
    INTERRUPTED = "interrupted"
    """It was started and has never ended."""
    FAILED = "failed"
    DONE = "done"


class Event(TableEnum):
    """What the journal tells of a job."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """Not all bytes are there that its line promises."""


TABLE: Final[Mapping[State, Mapping[Event, State]]] = {
    State.WAITING: {
        Event.STARTED: State.INTERRUPTED,
        Event.SUCCEEDED: State.DONE,
        Event.FAILED: State.FAILED,
    },
    State.INTERRUPTED: {
        Event.STARTED: State.INTERRUPTED,
        Event.SUCCEEDED: State.DONE,
        Event.FAILED: State.FAILED,
    },
    State.FAILED: {
        Event.STARTED: State.FAILED,
        Event.SUCCEEDED: State.DONE,
        Event.FAILED: State.FAILED,
        Event.LOST: State.WAITING,
    },
    State.DONE: {
        Event.STARTED: State.DONE,
        Event.SUCCEEDED: State.DONE,
        Event.FAILED: State.FAILED,
        Event.LOST: State.WAITING,
    },
}


def moved(state: State, event: Event) -> State:
    """Return the state after an event.

    Raises:
        ProtocolError: The event cannot come in that state.
    """
    try:
        return TABLE[state][event]
    except KeyError:
        message = f"a job of a batch that is {state.value} cannot be told: {event.value}"
        raise ProtocolError(message) from None


class Resume(enum.Enum):
    """What a run does with the results that are there."""

    FAILED = "failed"
    """It runs what has not succeeded."""
    NEW = "new"
    """It runs what has no result at all."""
    ALL = "all"
    """It runs everything, replacing results one by one."""
    NEVER = "never"
    """It refuses a directory that has results."""


def resume_of(name: str) -> Resume:
    """Return the value of an option.

    Raises:
        ValueError: There is no such value.
    """
    try:
        return Resume(name)
    except ValueError:
        known = ", ".join(repr(resume.value) for resume in Resume)
        raise ValueError(f"resume must be one of {known}, not {name!r}") from None


_RUNS: Final[Mapping[Resume, frozenset[State]]] = {
    Resume.FAILED: frozenset({State.WAITING, State.INTERRUPTED, State.FAILED}),
    Resume.NEW: frozenset({State.WAITING, State.INTERRUPTED}),
    Resume.ALL: frozenset(State),
    Resume.NEVER: frozenset({State.WAITING, State.INTERRUPTED, State.FAILED}),
}


def runs(state: State, resume: Resume) -> bool:
    """Tell whether a job in that state is run."""
    return state in _RUNS[resume]


def why(state: State, resume: Resume, attempt: int, lost: str = "") -> str:
    """Say in a sentence whether a job would run, and the reason.

    Args:
        state: Of the job.
        resume: Of the run.
        attempt: The last one that has ended.
        lost: What is missing of its result, if something is.
    """
    if lost:
        return f"runs: the result of attempt {attempt} is not all there ({lost})"
    verb = "runs" if runs(state, resume) else "does not run"
    because = "" if resume is Resume.FAILED else f", and resume is {resume.value!r}"
    reason = {
        State.WAITING: "it has not run yet",
        State.INTERRUPTED: "it was started and has never ended",
        State.FAILED: f"attempt {attempt} failed{because}",
        State.DONE: f"attempt {attempt} succeeded{because}",
    }
    return f"{verb}: {reason[state]}"
