"""What becomes of what a job has left: it is kept, saved, logged and printed.

Runs in:    the parent, in the main thread; with `--line-buffer` a thread for each running job
            prints its lines.
Owns:       outputs and logs from the end of their job until they are printed.
Invariants: I1  what is to be kept is in its place before it is printed.
            I2  with `ordered`, blocks are printed in the order of the inputs; at the end also those
                that waited for one that never came. Lines of a running job come at its turn.
"""

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from collector.batch.command.joblog import Entry, JobLog
from collector.batch.command.outcome import Outcome
from collector.batch.command.printing import (
    ClosedStdoutError,
    Printer,
    PrintError,
    pieces_of,
)
from collector.batch.command.saving import SaveName
from collector.batch.command.template import Inputs
from collector.errors import ClosedError, OutputLostError
from collector.executor.job import Job
from collector.process.pool.follow import RunsAgainError
from collector.store.absolute import absolute_path
from collector.store.output.output import Output
from collector.store.output.target import refuse_taken

if TYPE_CHECKING:
    from collector.batch.command.results import Results
    from collector.batch.storing import Task


class Finished(NamedTuple):
    """An attempt that is over."""

    seq: int
    values: tuple[str, ...]
    name: str
    task: "Task | None"
    outcome: Outcome
    output: Output
    log: Output | None


class FinishSettings(NamedTuple):
    """What is done with it.

    Attributes:
        ordered: Print in the order of the inputs.
        line_buffer: Print each line when it comes.
        only_new: Do not print what earlier runs have finished.
        prints_output: Whether stdout of jobs is printed at all.
        save: The name of a job's output, if it gets one.
    """

    ordered: bool = False
    line_buffer: bool = False
    only_new: bool = False
    prints_output: bool = True
    save: SaveName | None = None


@final
class Finisher:
    """Does that.

    Args:
        settings: What.
        printer: Writes to stdout and stderr.
        results: The batch directory, if there is one.
        joblog: The log of jobs, if one is written.
        complain: Says what went wrong, on stderr.
    """

    def __init__(
        self,
        settings: FinishSettings,
        printer: Printer,
        results: "Results | None",
        joblog: JobLog | None,
        complain: Callable[[str], object],
    ) -> None:
        self._settings = settings
        self._printer = printer
        self._results = results
        self._joblog = joblog
        self._complain = complain
        self._printing = threading.Lock()
        self._ready: dict[int, Finished | None] = {}
        self._next = 1
        self._to_follow: dict[int, tuple[Job[Any], str]] = {}
        """Running jobs that wait for their turn."""
        self._followers: dict[int, threading.Thread] = {}
        self._printed: set[int] = set()
        """Jobs of which all lines are printed, but not yet the log."""
        self._saved: dict[str, tuple[int, str]] = {}
        """The first job of each name: its number and its name."""
        self.closed_stdout = False
        """Whether nobody reads stdout any more."""
        self.broken = ""
        """Why nothing more can be printed, if that is so."""
        self.left_out = False
        """Whether something was to be run or printed, or to get a name, and could not be."""
        self.waits = False
        """Whether the main thread waits for somebody who reads what is written."""
        self.on_trouble: Callable[[], object] = _nothing
        """Called, once, when one of these has become true; possibly in another thread."""

    @property
    def stuck(self) -> bool:
        """Whether stdout takes no more."""
        return self.closed_stdout or bool(self.broken)

    def started(self, job: Job[Any], seq: int, values: tuple[str, ...]) -> None:
        """An attempt may run from now on."""
        if not self._settings.line_buffer or not self._settings.prints_output:
            return
        self._to_follow[seq] = job, " ".join(values)
        if not self._settings.ordered or seq == self._next:
            self._begin_to_follow(seq)

    def _begin_to_follow(self, seq: int) -> None:
        job, tag = self._to_follow.pop(seq)
        thread = threading.Thread(
            target=self._follow, args=(job, tag), name="collector-lines", daemon=True
        )
        self._followers[seq] = thread
        thread.start()

    def keep(self, finished: Finished) -> Exception | None:
        """Store what came of an attempt; returns why what it wrote cannot be kept.

        That is to be told as its failure; if it has failed anyhow, it is said here.
        """
        outcome, output = finished.outcome, finished.output
        try:
            _check_log(finished)
            save = "" if outcome.died is not None else self._name(finished[:3])
            if self._results is not None and finished.task is not None:
                if outcome.storable:
                    self._results.store(finished.task, outcome, output, finished.log, save)
            elif save:
                with _naming_the_file(save):
                    output.save(save)
        except (OSError, ValueError) as error:
            if outcome.died is None:
                return error
            self._complain(f"job {finished.seq} ({finished.name[:200]}): {error}")
        return None

    def refusal(
        self, job: tuple[int, tuple[str, ...], str], task: "Task | None"
    ) -> Exception | None:
        """Return why the output of a job cannot get its name, as far as can be seen before it runs.

        People may pay for what it does.
        """
        try:
            name = self._name(job)
            if name and self._results is not None and task is not None:
                self._results.refuse_taken(task, name)
            elif name:
                with _naming_the_file(name):
                    refuse_taken(absolute_path(name), overwrite=False)
        except (OSError, ValueError) as error:
            return error
        return None

    def _name(self, job: tuple[int, tuple[str, ...], str]) -> str:
        """Return what the output of a job is to be called; "" if it is to have no name."""
        save = self._settings.save
        if save is None:
            return ""
        seq, values, job_name = job
        name = save.name(Inputs(values, seq))
        first, other = self._saved.setdefault(name, (seq, job_name))
        if first != seq:
            raise ValueError(f"{name!r} is the name of the output of {other[:200]} already")
        return name

    def finished(self, finished: Finished, *, again: bool, interrupted: bool) -> None:
        """An attempt is over, and is kept.

        Args:
            finished: What it left.
            again: Whether another one follows.
            interrupted: Whether it was ended because the batch is stopped.
        """
        self._to_follow.pop(finished.seq, None)
        follower = self._followers.pop(finished.seq, None)
        if follower is not None:
            with self.waiting():
                follower.join()
        if again:
            _close(finished)
            return
        self._log(finished)
        if interrupted or not finished.outcome.storable:
            _close(finished)
            self.lost(finished.seq)
        else:
            self._due(finished, printed=follower is not None)

    def resumed(
        self,
        job: tuple[int, tuple[str, ...], str],
        task: "Task",
        outcome: Outcome,
        left: Callable[[], tuple[Output, Output | None]],
    ) -> None:
        """An earlier run has finished it.

        Args:
            job: Its number, its inputs, its name.
            task: The same, for the batch directory.
            outcome: What came of it.
            left: Opens its output and its log.
        """
        seq, _, name = job
        if outcome.died is None:
            self._save_again(job, task)
        if self._settings.only_new:
            self.lost(seq)
            return
        try:
            output, log = left()
        except OSError as error:
            self._cannot_print(name, error)
            self.lost(seq)
        else:
            self._due(Finished(*job, task, outcome, output, log))

    def _save_again(self, job: tuple[int, tuple[str, ...], str], task: "Task") -> None:
        """Save what an earlier run has finished, if that has no name of the user's yet.

        Its result counts whether or not that can be: it is said.
        """
        if self._settings.save is None or self._results is None:
            return
        try:
            self._results.save_again(task, lambda: self._name(job))
        except (OSError, ValueError) as error:
            self.left_out = True
            self._complain(f"cannot save the output of {job[2][:200]}: {error}")

    def lost(self, seq: int) -> None:
        """Nothing of this job will be printed."""
        self._to_follow.pop(seq, None)
        if self._settings.ordered:
            self._ready[seq] = None
            self.flush()

    def flush(self) -> None:
        """Print what may be printed by now."""
        while self._next in self._ready:
            finished = self._ready.pop(self._next)
            self._next += 1
            if finished is not None:
                self._print(finished)
            if self._next in self._to_follow:
                self._begin_to_follow(self._next)

    def close(self) -> None:
        """The batch is over: print what waited for others."""
        for seq in sorted(self._ready):
            finished = self._ready.pop(seq)
            if finished is not None:
                self._print(finished)

    def _due(self, finished: Finished, *, printed: bool = False) -> None:
        if printed:
            self._printed.add(finished.seq)
        if self._settings.ordered:
            self._ready[finished.seq] = finished
            self.flush()
        else:
            self._print(finished)

    def _print(self, finished: Finished) -> None:
        if finished.seq not in self._printed:
            self._print_output(finished)
        self._printed.discard(finished.seq)
        self._print_log(finished)
        _close(finished)

    def _print_output(self, finished: Finished) -> None:
        output = finished.output
        if not output.size or not self._settings.prints_output:
            return
        with self._may_fail(finished.name), self.waiting(), self._printing:
            self._printer.out(pieces_of(output), " ".join(finished.values))

    def _print_log(self, finished: Finished) -> None:
        log = finished.log
        if log is None or not log.size:
            return
        with self._may_fail(finished.name), self.waiting(), self._printing:
            if not self._printer.err(pieces_of(log), " ".join(finished.values)):
                self.left_out = True  # nor can that be said there: the exit status does

    def _follow(self, job: Job[Any], tag: str) -> None:
        """Print the lines of a running job, each when it is whole; in a thread of its own."""
        while True:
            rest: list[bytes] = []
            """The pieces of a line that has no end yet."""
            try:
                self._print_lines(job, tag, rest)
            except RunsAgainError:  # it has asked to be run later: half a line has no end then
                continue
            except Exception:  # noqa: BLE001, S110 - the job's own error is told of by its end
                pass
            if rest:
                with self._may_fail(tag), self._printing:
                    self._printer.out((b"".join(rest),), tag)
            return

    def _print_lines(self, job: Job[Any], tag: str, rest: list[bytes]) -> None:
        for chunk in job.follow():
            whole, newline, last = chunk.rpartition(b"\n")
            if newline:
                line = b"".join((*rest, whole, newline))
                rest.clear()
                with self._may_fail(tag), self._printing:
                    self._printer.out((line,), tag)
            if last:
                rest.append(last)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Have a signal know that the main thread may wait for a reader."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    @contextlib.contextmanager
    def _may_fail(self, name: str) -> Any:
        """Let a stdout that takes no more stop the batch, once, and nothing else."""
        if self.stuck:
            with contextlib.suppress(ClosedStdoutError, PrintError, OSError, ClosedError):
                yield
            return
        try:
            yield
        except ClosedStdoutError:
            self.closed_stdout = True
            self.on_trouble()
        except PrintError as error:
            self.broken = str(error)
            self.on_trouble()
        except (OSError, ClosedError) as error:  # what is to be printed cannot be read
            self._cannot_print(name, error)

    def _cannot_print(self, name: str, error: Exception) -> None:
        self.left_out = True
        self._complain(f"cannot print the output of {name[:200]}: {error}")

    def _log(self, finished: Finished) -> None:
        if self._joblog is None:
            return
        outcome = finished.outcome
        died = outcome.died
        entry = Entry(
            finished.seq,
            outcome.start,
            outcome.seconds,
            finished.output.size,
            0 if died is None else died.exitcode or (0 if died.signal else 1),
            0 if died is None else died.signal or 0,
            finished.name,
        )
        try:
            with self.waiting():  # it may be a FIFO
                self._joblog.add(entry)
        except OSError as error:
            self._complain(f"no more is written to --joblog: {error.strerror}")
            self._joblog.close()
            self._joblog = None


def _check_log(finished: Finished) -> None:
    told, log = finished.outcome.log_bytes, finished.log
    if told is not None and log is not None and log.size != told:
        raise OutputLostError(
            2, f"{told} bytes were written to stderr, and {log.size} of them are there"
        )


@contextlib.contextmanager
def _naming_the_file(path: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:  # which tells of an argument of Python's
        message = "a file of yours has that name: move it away"
        raise FileExistsError(errno.EEXIST, message, path) from error


def left_of(job: Job[Any]) -> tuple[Output, Output | None]:
    """Return the output and the log of a job that is over."""
    return nothing_left() if job.cancelled() else (job.output(), job.log())


def nothing_left() -> tuple[Output, Output | None]:
    """Return the same of one that was not run."""
    return Output.in_memory(b"", chunks=0, complete=False), None


def _close(finished: Finished) -> None:
    finished.output.close()
    if finished.log is not None:
        finished.log.close()


def _nothing() -> None:
    """Nobody wants to know."""


CLOSED_STDOUT: Final = 141
"""What a shell says of a program that SIGPIPE has killed."""
