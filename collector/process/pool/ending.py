"""How a job ended, made of what the sink and the kernel said: its value or error, and its output.

Runs in:    the parent, outside the supervising thread: unpickling runs code of the user's.
Owns:       nothing; the files and bytes it is given pass to the Output that it makes.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, assert_never

from collector import errors, settings
from collector.errors import SPARE_IT, ClosedError, OutputLostError
from collector.process.pickling import calls
from collector.process.scheduler.decisions import End
from collector.store.output.output import Output
from collector.store.rundir.current_directory import CurrentDirectory
from collector.wire.messages import JobEnded
from collector.wire.outcome import BY_ITS_FUNCTION, Outcome


class Named(Protocol):
    """Something with a name, which is made up when it is asked for."""

    @property
    def name(self) -> str:
        """The name."""


class Ending(NamedTuple):
    """How an attempt ended, and whose it was."""

    job_id: int
    owner: Named
    attempt: int
    timeout: float | None
    spilled: str
    """The last file of the output that was heard of."""
    log_name: str
    """The file of the captured prints, if they were captured."""
    log_may_lack: bool
    """Whether there is no such file where nothing was written."""
    end: End
    worker: int = 0
    """Number of the worker that it was last sent to; 0 if to none."""
    began_s: float = 0.0
    """When it was heard to have begun, in seconds since the epoch; 0 of a job that was over before
    anybody could hear of it."""
    meters: Mapping[str, float] = MappingProxyType({})
    """What the attempt has counted."""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.owner.name


def output_of(
    ending: Ending, directory: CurrentDirectory, release: Callable[[int], None], *, complete: bool
) -> Output:
    """Return what the job left, complete or not; it takes over the bytes or the file."""
    said = ending.end.said
    if said is None:
        return _rescued(ending.spilled, directory)
    if said.name:
        return Output.on_disk(
            directory.holding(said.name),
            said.name,
            size=said.size,
            chunks=said.chunks,
            complete=complete,
        )
    size = len(said.data)
    return Output.in_memory(
        said.data,
        chunks=said.chunks,
        complete=complete,
        temp_root=directory.root,
        on_close=(lambda: release(size)) if size else None,
    )


def _rescued(name: str, directory: CurrentDirectory) -> Output:
    """Return what a dead sink had in a file: a prefix of the output; what it held is lost."""
    if name:
        holding = directory.holding(name)
        try:
            fd = holding.open_file(name)
        except OSError:
            pass  # it had not been made, or is gone: nothing was kept
        else:
            size = os.fstat(fd).st_size
            os.close(fd)
            return Output.on_disk(holding, name, size=size, chunks=0, complete=False)
    return Output.in_memory(b"", chunks=0, complete=False, temp_root=directory.root)


def log_of(ending: Ending, directory: CurrentDirectory) -> Output | None:
    """Return what the job and its subprocesses printed, if that was to be captured."""
    if not ending.log_name:
        return None
    name = ending.log_name
    holding = directory.holding(name)
    complete = ending.end.outcome is Outcome.RETURNED
    try:
        size = os.stat(name, dir_fd=holding.fd, follow_symlinks=False).st_size
    except OSError:  # the worker died before it had made the file, or others have removed it
        size, complete = None, complete and ending.log_may_lack
    if not size:
        if size is not None:
            holding.remove_file(name)
        return Output.in_memory(b"", chunks=0, complete=complete, temp_root=directory.root)
    # What the job left running may print on; the log is what was printed by now.
    return Output.on_disk(holding, name, size=size, chunks=0, complete=complete, may_grow=True)


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
    return f"; the last lines of its log:\n{calls.shorten(text)}"


def discard(ending: Ending, directory: CurrentDirectory, release: Callable[[int], None]) -> None:
    """Drop what an attempt has left, since another one follows."""
    output_of(ending, directory, release, complete=False).close()
    log = log_of(ending, directory)
    if log is not None:
        log.close()
    _drop_value(ending.end.said, directory)


def outcome_of(
    ending: Ending, log: Output | None, directory: CurrentDirectory
) -> tuple[Any, BaseException | None]:
    """Return the job's value, or its error."""
    if ending.end.outcome not in BY_ITS_FUNCTION:
        _drop_value(ending.end.said, directory)
        return None, _error(ending, _tail(log))
    if ending.end.outcome is Outcome.RETURNED and log is not None and not log.complete:
        _drop_value(ending.end.said, directory)
        return None, _lost(ending, "what it printed", directory.latest.path / ending.log_name)
    try:
        pickled = _value(ending, directory)
        if ending.end.outcome is Outcome.RAISED:
            return None, calls.load_exception(pickled, ending.job_id, ending.name, ending.attempt)
        return calls.loads(pickled), None
    except OutputLostError as lost:
        _drop_value(ending.end.said, directory)
        return None, lost.with_traceback(None)
    except BaseException as failure:  # noqa: BLE001 - user code runs in unpickling: it fails this job
        _drop_value(ending.end.said, directory)  # where it could not be read
        error = errors.JobError(
            f"what job {ending.name} returned cannot be unpickled: {calls.describe(failure)}",
            ending.job_id,
            ending.name,
            ending.attempt,
        )
        # Without its traceback, whose frames hold the job; its text is in the message.
        error.__cause__ = failure.with_traceback(None)
        return None, error


def _value(ending: Ending, directory: CurrentDirectory) -> bytes:
    said = ending.end.said
    if said is None:
        return b""
    if not said.value_name:
        return said.value
    holding, pickled = directory.holding(said.value_name), b""
    with (
        contextlib.suppress(FileNotFoundError),
        open(holding.open_file(said.value_name), "rb") as file,
    ):
        pickled = file.read()
    if len(pickled) != said.value_size:
        raise _lost(ending, "what it returned", holding.path / said.value_name)
    holding.remove_file(said.value_name)
    return pickled


def _drop_value(said: JobEnded | None, directory: CurrentDirectory) -> None:
    if said is not None and said.value_name:
        directory.holding(said.value_name).remove_file(said.value_name)


def _lost(ending: Ending, what: str, path: Path) -> OutputLostError:
    return OutputLostError(
        errno.ENOENT,
        f"job {ending.name} (attempt {ending.attempt}) ran to its end, but {what} is lost: "
        f"something else than collector removed or changed its file; {SPARE_IT}",
        path,
    )


def _error(ending: Ending, tail: str) -> BaseException:  # noqa: PLR0911 - one case an outcome
    from collector import crash_errors  # noqa: PLC0415 - is loaded by now

    said = ending.end.said
    kept = f"{said.size if said else 0} bytes of its output were kept"
    who = (ending.job_id, ending.name, ending.attempt)
    job = f"job {ending.name} (attempt {ending.attempt})"
    match ending.end.outcome:
        case Outcome.CRASHED:
            how = ending.end.reason or errors.describe_exit(ending.end.exitcode)
            return crash_errors.WorkerCrashError(
                f"the worker of {job} {how}; {kept}{tail}", *who, ending.end.exitcode
            )
        case Outcome.TIMED_OUT:
            return errors.JobTimeoutError(
                f"{job} ran longer than its {ending.timeout:g} s and was killed; {kept}{tail}",
                *who,
            )
        case Outcome.KILLED:
            how = ending.end.reason or "was ended by kill()"
            return errors.JobKilledError(f"{job} {how}; {kept}", *who)
        case Outcome.SPILL_FAILED | Outcome.LOST:
            text, _, path = said.error.partition("\0") if said else ("", "", "")
            kind = OutputLostError if ending.end.outcome is Outcome.LOST else errors.SpillError
            number = said.error_number if said else 0
            return kind(number, f"{job} failed: {text}; {kept}", path)
        case Outcome.SINK_LOST:
            return crash_errors.BrokenCollectorError(
                f"the collector process died while {job} was open; it can be run again (retries=)"
            )
        case Outcome.UNABLE:
            return crash_errors.BrokenCollectorError(f"{job} could not run: {ending.end.reason}")
        case Outcome.RETURNED | Outcome.RAISED | Outcome.CANCELLED:
            return errors.ProtocolError(f"{job} has no error")
        case _:
            assert_never(ending.end.outcome)
