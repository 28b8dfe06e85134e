"""How a batch is, at one instant: what the rows on a terminal show.

Runs in:    anywhere: values.
"""

from typing import NamedTuple, final

from collector.store.output.progress import Mode


@final
class ShownJob(NamedTuple):
    """A job that runs, as of now.

    Attributes:
        batch: Number of its batch.
        id: Its own number.
        name: Its name.
        attempt: Which attempt runs; the first is 1.
        size_bytes: What this attempt has written.
        mode: Where that is; None where it does not matter.
        elapsed_s: How long this attempt has run.
        quiet_s: How long ago its last byte came, or it began.
        slow: Whether it has run for longer than jobs should.
        quiet: Whether no byte has come for longer than it should.
    """

    batch: int
    id: int
    name: str
    attempt: int
    size_bytes: int
    mode: Mode | None
    elapsed_s: float
    quiet_s: float = 0.0
    slow: bool = False
    quiet: bool = False


@final
class View(NamedTuple):
    """A batch, as of now.

    Attributes:
        batch: Its number in this process.
        desc: A text of the user's.
        done: Jobs that are over.
        total: Jobs that there will be; None while that is not known.
        failed: Jobs that have failed.
        spilled: Outputs that went to a file; None where that does not matter.
        bytes_total: What all jobs have written.
        elapsed_s: How long the batch has run.
        running: Its running jobs, those that have run for longest first.
        retried: Attempts that came after one that failed.
        resumed: How many of the done jobs an earlier run had finished.
        waiting: What the batch waits for, and why; "" if it does not wait.
        stays: Whether its row stays, as a line, when the batch is over.
        hidden: Whether it has no row just now: the process is about to be stopped.
    """

    batch: int
    desc: str
    done: int
    total: int | None
    failed: int
    spilled: int | None
    bytes_total: int
    elapsed_s: float
    running: tuple[ShownJob, ...]
    retried: int = 0
    resumed: int = 0
    waiting: str = ""
    stays: bool = True
    hidden: bool = False
