"""How a job ended, made of what the sink and the kernel said: its value or error, and its output.

Runs in:    the parent, outside the supervising thread: unpickling runs code of the user's.
Owns:       nothing; the files and bytes it is given pass to the Output that it makes.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol, assert_never

from collector import errors, settings
from collector.errors import ClosedError, OutputLostError
from collector.process import ship
from collector.process.actions import BY_ITS_FUNCTION, Verdict
from collector.store.output import Output
from collector.store.rundir import RunDirectory
from collector.wire.frames import Outcome
from collector.wire.messages import JobEnded

VERDICTS: Final[Mapping[int, Verdict]] = {
    Outcome.RETURNED: Verdict.RETURNED,
    Outcome.RAISED: Verdict.RAISED,
    Outcome.DIED: Verdict.CRASHED,
    Outcome.SPILL_FAILED: Verdict.SPILL_FAILED,
    Outcome.LOST: Verdict.LOST,
}
"""What the sink's word for an end comes to."""


class Named(Protocol):
    """Something with a name, which costs a little to make."""

    @property
    def name(self) -> str:
        """The name."""


class Ending(NamedTuple):
    """The facts of a job's end."""

    job_id: int
    owner: Named
    attempt: int
    verdict: Verdict
    timeout: float | None
    exitcode: int | None
    said: JobEnded | None
    """What the sink sealed; None when the sink was lost."""
    spilled: str
    """The last file of the output that was heard of."""
    log_name: str
    """The file of the captured prints, if they were captured."""
    reason: str
    """Why the Collector broke, if it did."""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.owner.name


def output_of(
    ending: Ending, directory: RunDirectory, release: Callable[[int], None], *, complete: bool
) -> Output:
    """Return what the job left, complete or not; it takes over the bytes or the file."""
    said = ending.said
    if said is None:
        return _rescued(ending.spilled, directory)
    if said.name:
        return Output.on_disk(
            directory, said.name, size=said.size, chunks=said.chunks, complete=complete
        )
    size = len(said.data)
    return Output.in_memory(
        said.data,
        chunks=said.chunks,
        complete=complete,
        on_close=(lambda: release(size)) if size else None,
    )


def _rescued(name: str, directory: RunDirectory) -> Output:
    """Return what a dead sink had in a file: a prefix of the output; what it held is lost."""
    if name:
        try:
            fd = directory.open_file(name)
        except OSError:
            pass  # it had not been made, or is gone: nothing was kept
        else:
            size = os.fstat(fd).st_size
            os.close(fd)
            return Output.on_disk(directory, name, size=size, chunks=0, complete=False)
    return Output.in_memory(b"", chunks=0, complete=False)


def log_of(ending: Ending, directory: RunDirectory) -> Output | None:
    """Return what the job and its subprocesses printed, if that was to be captured."""
    if not ending.log_name:
        return None
    size = 0
    with contextlib.suppress(OSError):  # the worker died before it had made the file
        size = os.stat(ending.log_name, dir_fd=directory.fd).st_size
    complete = ending.verdict is Verdict.RETURNED
    if not size:
        directory.remove_file(ending.log_name)
        return Output.in_memory(b"", chunks=0, complete=complete)
    # What the job left running may print on; the log is what was printed by now.
    return Output.on_disk(
        directory, ending.log_name, size=size, chunks=0, complete=complete, may_grow=True
    )


def _tail(log: Output | None) -> str:
    """Return the last lines of a log, for a message."""
    if log is None or not log.size:
        return ""
    try:
        with log.open() as file:
            file.seek(max(0, log.size - settings.LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except (OSError, ClosedError):
        return ""
    if log.size > settings.LOG_TAIL_BYTES:
        lines = lines[1:] or lines  # the first is cut: it is shown only if it is the last one too
    text = "\n".join(lines)
    return f"; the last lines of its log:\n{ship.shorten(text)}"


def discard(ending: Ending, directory: RunDirectory, release: Callable[[int], None]) -> None:
    """Drop what an attempt left that is followed by another."""
    output_of(ending, directory, release, complete=False).close()
    log = log_of(ending, directory)
    if log is not None:
        log.close()
    if ending.said is not None and ending.said.value_name:
        directory.remove_file(ending.said.value_name)


def outcome_of(
    ending: Ending, log: Output | None, directory: RunDirectory
) -> tuple[Any, BaseException | None]:
    """Return the job's value, or its error."""
    if ending.verdict not in BY_ITS_FUNCTION:
        if ending.said is not None and ending.said.value_name:
            directory.remove_file(ending.said.value_name)
        return None, _error(ending, _tail(log))
    try:
        pickled = _value(ending, directory)
        if ending.verdict is Verdict.RAISED:
            return None, ship.load_exception(pickled, ending.job_id, ending.name, ending.attempt)
        return ship.loads(pickled), None
    except BaseException as failure:  # noqa: BLE001 - user code runs in unpickling: it fails this job
        error = errors.JobError(
            f"what job {ending.name} returned cannot be unpickled: {ship.describe(failure)}",
            ending.job_id,
            ending.name,
            ending.attempt,
        )
        # Without its traceback, whose frames hold the job; its text is in the message.
        error.__cause__ = failure.with_traceback(None)
        return None, error


def _value(ending: Ending, directory: RunDirectory) -> bytes:
    said = ending.said
    if said is None:
        return b""
    if not said.value_name:
        return said.value
    with open(directory.open_file(said.value_name), "rb") as file:
        pickled = file.read()
    directory.remove_file(said.value_name)
    return pickled


def _error(ending: Ending, tail: str) -> BaseException:  # noqa: PLR0911 - one case a verdict
    from collector import broken  # noqa: PLC0415 - is loaded by now

    said = ending.said
    kept = f"{said.size if said else 0} bytes of its output were kept"
    who = (ending.job_id, ending.name, ending.attempt)
    job = f"job {ending.name} (attempt {ending.attempt})"
    match ending.verdict:
        case Verdict.CRASHED:
            how = ending.reason or errors.describe_exit(ending.exitcode)
            return broken.WorkerCrashError(
                f"the worker of {job} {how}; {kept}{tail}", *who, ending.exitcode
            )
        case Verdict.TIMED_OUT:
            return errors.JobTimeoutError(
                f"{job} ran longer than its {ending.timeout:g} s and was killed; {kept}{tail}",
                *who,
            )
        case Verdict.KILLED:
            return errors.JobKilledError(f"{job} was ended by kill(); {kept}", *who)
        case Verdict.SPILL_FAILED | Verdict.LOST:
            text, _, path = said.error.partition("\0") if said else ("", "", "")
            kind = errors.SpillError if ending.verdict is Verdict.SPILL_FAILED else OutputLostError
            number = said.error_number if said else 0
            return kind(number, f"{job} failed: {text}; {kept}", path)
        case Verdict.SINK_LOST:
            return broken.BrokenCollectorError(
                f"the collector process died while {job} was open; it can be run again (retries=)"
            )
        case Verdict.UNABLE:
            return broken.BrokenCollectorError(f"{job} could not run: {ending.reason}")
        case Verdict.RETURNED | Verdict.RAISED | Verdict.CANCELLED:
            return errors.ProtocolError(f"{job} has no error")
        case _:
            assert_never(ending.verdict)
