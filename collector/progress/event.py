"""What the object given as `progress=` is told.

Runs in:    the parent.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, final

from collector.store.output.progress import Mode


@final
class Happening(enum.StrEnum):
    """What has happened. The first and the last of a batch are about no job."""

    OPENED = "opened"
    """A batch begins."""

    STARTED = "started"
    """A job runs. A job that ends at once may be told of by its end alone."""

    PROGRESSED = "progressed"
    """A job has written more; at most ten times a second and job."""

    ENDED = "ended"
    """A job is over: done, failed or cancelled."""

    CLOSED = "closed"
    """Nothing more comes of this batch: its last job is over."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """One thing that happened in a batch, with the totals of the batch as they are then.

    A batch is one running `collect`, or everything that comes through `submit` and `map`.

    Attributes:
        happened: What.
        batch: Number of the batch in this process, from 1.
        desc: The text that `collect` was given for it, or "".
        job_id: Number of the job in its Collector; None if it is about the batch.
        name: The job's name, or "".
        attempt: Which attempt of the job in this run; the first is 1.
        bytes_written: Bytes that this attempt has written.
        mode: Where they are.
        failed: Whether the job is over and has failed.
        jobs_done: Jobs that are over, without cancelled ones.
        jobs_total: Jobs that there will be; None while that is not known.
        jobs_failed: Jobs that have failed.
        bytes_total: Bytes that all jobs have written.
        spilled: Outputs that went to a file.
        meters: What the job has counted by now, over all its attempts.
    """

    happened: Happening
    batch: int
    desc: str
    job_id: int | None
    name: str
    attempt: int
    bytes_written: int
    mode: Mode
    failed: bool
    jobs_done: int
    jobs_total: int | None
    jobs_failed: int
    bytes_total: int
    spilled: int
    meters: Mapping[str, float] = field(default_factory=dict)


class ProgressSink(Protocol):
    """Whatever is to be told of the progress of a Collector's jobs: `progress=` takes it.

    Both methods are called in one thread, which is there for that alone: they may take their time.
    """

    def update(self, event: ProgressEvent, /) -> object:
        """Something has happened."""

    def close(self) -> object:
        """The Collector has ended: nothing more comes. Called once."""
