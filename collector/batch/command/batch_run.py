"""One call of `collector run`, from what was asked for to its exit status.

Runs in:    the parent, in the main thread.
Owns:       everything of the run, until it is over.
"""

import contextlib
import functools
import os
import queue
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from collector import settings
from collector.batch.command import amounts, child, function
from collector.batch.command.exit_status import OTHER_ERROR, exit_status
from collector.batch.command.feeder import Feeder
from collector.batch.command.finishing import CLOSED_STDOUT, Finisher, FinishSettings
from collector.batch.command.gates import Gate, Limits
from collector.batch.command.job_inputs import RunSettings
from collector.batch.command.joblog import JobLog
from collector.batch.command.last_line import last_line
from collector.batch.command.printing import Printer, say
from collector.batch.command.rehearsal import rehearse
from collector.batch.command.request import (
    Command,
    Given,
    Request,
    RequestError,
    command_of,
    given,
    of_directory,
)
from collector.batch.command.runner import Events, Runner
from collector.batch.command.saving import SaveName
from collector.batch.command.signals import Handlers, Signals, StoppedError
from collector.batch.command.sources import (
    SEPARATORS,
    STDIN,
    Known,
    Row,
    SourceError,
    split_command_line,
)
from collector.batch.command.template import TemplateError
from collector.executor.collector import Collector
from collector.executor.cpus import usable_cpus
from collector.executor.halting import Halting
from collector.executor.inner import Inner
from collector.executor.job import Job
from collector.progress.ends import Level
from collector.progress.show import Show, ShowOptions
from collector.store.absolute import absolute_path
from collector.wire.capture import Capture

if TYPE_CHECKING:
    from collector.batch.command.results import Results

_SIGNALLED: Final = 128


def run_batch(request: Request) -> int:
    """Do what was asked for.

    Returns:
        The exit status.

    Raises:
        RequestError: It cannot be done as it was asked for; nothing has run.
        OSError: A file or directory cannot be used; nothing has run.
    """
    words, sources = split_command_line(_without_dashes(request.words))
    if request.retry is not None:
        request, stored, inputs = of_directory(request, words, sources)
        words = list(stored.words)
    else:
        inputs = given(request, sources)
    if request.shard and request.output is None:
        raise RequestError("--shard runs a part of a batch directory: name that with -o DIR")
    try:
        command = command_of(request, words, inputs.names)
        save = SaveName(request.save, command.finder) if request.save else None
    except (TemplateError, ValueError) as error:
        raise RequestError(str(error)) from None
    if request.dry_run:
        return rehearse(request, command, _of_shard(request, command, inputs))
    with _naming("--nice"):
        _check_niceness(request.nice)
    if request.shard:
        inputs = inputs._replace(total=None)
    if request.halt is not None and request.halt.percent and inputs.total is None:
        inputs = _counted(request, command, inputs)
    try:
        return _run(request, command, save, inputs)
    except StoppedError as error:
        return _SIGNALLED + error.number


def _counted(request: Request, command: Command, inputs: Given) -> Given:
    """Read all inputs: so many percent of how many?

    Raises:
        RequestError: They cannot be read.
    """
    try:
        everything = list(inputs.rows)
    except SourceError as error:
        raise RequestError(str(error)) from None
    count = sum(1 for _ in _of_shard(request, command, inputs._replace(rows=iter(everything))))
    whole = len(everything) if inputs.whole is None else inputs.whole
    return inputs._replace(rows=iter(everything), total=count, waits=False, whole=whole)


def _of_shard(request: Request, command: Command, inputs: Given) -> Iterator[tuple[Row, Known]]:
    """Yield the inputs that are this run's, each with its key and its number."""
    if request.output is None:
        return ((row, Known("", number)) for number, row in enumerate(inputs.rows, 1))
    from collector.batch.command.results import of_shard  # noqa: PLC0415 - 30 ms, with -o

    return of_shard(command.name, request.shard, inputs)


def _without_dashes(words: list[str]) -> list[str]:
    return words[1:] if words[:1] == ["--"] else words


def _run(request: Request, command: Command, save: SaveName | None, inputs: Given) -> int:
    cpus = usable_cpus()
    with _naming("-j/--jobs"):
        jobs = amounts.jobs(request.jobs or "100%", cpus)
    with _naming("--load"):
        load = amounts.load(request.load, cpus) if request.load is not None else None
    with contextlib.ExitStack() as stack:
        results, root = _results(stack, request, command, inputs)
        halting = Halting(request.halt)
        halting.total = inputs.total
        running: dict[int, Job[Any]] = {}
        # Before anything is shown: it may be a FIFO, which waits for who reads it.
        joblog = _joblog(stack, request)
        show = stack.enter_context(_show(request, inputs.total, running))
        finisher = _finisher(request, save, results, joblog, show)
        stopped = _Stopped(show)
        events: Events = queue.SimpleQueue()
        # Around the Collector: signals that come while it ends are heard too.
        stack.enter_context(_handlers(events, stopped, show, finisher))
        runner = Runner(
            _settings(request, command, jobs),
            show=show,
            finisher=finisher,
            halting=halting,
            gate=Gate(Limits(request.delay, request.memfree, load)),
            results=results,
            events=events,
            running=running,
        )
        inner = stopped.inner = _inner(stack, runner, request, command, jobs, root)
        _join(request, show, inner)
        finisher.on_trouble = runner.stop
        try:
            runner.run(inner, Feeder(inputs.rows, waits=inputs.waits, wake=runner.wake))
        except BaseException:
            inner.kill()
            raise
        finisher.close()
        if results is not None:
            results.complete = _is_complete(halting, runner, finisher)
        _say_unread(request, inputs, show, finisher)
        _finish(request, show, halting, runner)
        return _status(request, halting, runner, finisher)


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Say what is wrong with an option as of one that needs no knowledge of this machine."""
    try:
        yield
    except ValueError as error:
        raise RequestError(f"argument {option}: {error}") from None


def _check_niceness(more: int) -> None:
    """Try, and take back, what each worker will ask for: there it would fail with a traceback.

    Raises:
        ValueError: The system refuses it.
    """
    if more >= 0:
        return
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, before + more)
    except PermissionError as error:
        raise ValueError(f"{more} is not for this user: {error.strerror}") from None
    os.setpriority(os.PRIO_PROCESS, 0, before)


def _handlers(events: Events, stopped: "_Stopped", show: Show, finisher: Finisher) -> Handlers:
    def heard(signals: Signals) -> None:
        show.hurry()
        events.put(signals)

    return Handlers(heard, stopped.stop, stopped.go_on, lambda: finisher.waits or show.waits)


def _join(request: Request, show: Show, inner: Inner) -> None:
    """Join screen and Collector: what jobs wait for, what those who ask hear, the terminal."""
    batch = absolute_path(request.output) if request.output else None

    def told() -> dict[str, object]:
        view = show.view()
        counts = {"done": view.done, "failed": view.failed, "total": view.total}
        return {"batch": batch, **counts, "bytes": view.bytes_total}

    show.ask_waits = inner.waits
    inner.tell(told)
    inner.say_last_words()


def _results(
    stack: contextlib.ExitStack, request: Request, command: Command, inputs: Given
) -> "tuple[Results | None, str | None]":
    """Open the batch directory, if there is to be one; returns it, and the temp root."""
    if request.output is None:
        return None, request.temp_root
    from collector.batch.command import results  # noqa: PLC0415 - 30 ms, with -o

    writer = results.open_writer(
        request.output, command, request.resume, request.shard, inputs.whole
    )
    kept = stack.enter_context(results.Results(writer, request.shard, inputs.known))
    return kept, request.temp_root or writer.run_root


def _joblog(stack: contextlib.ExitStack, request: Request) -> JobLog | None:
    if not request.joblog:
        return None
    joblog = JobLog(request.joblog)
    stack.callback(joblog.close)
    return joblog


def _finisher(
    request: Request,
    save: SaveName | None,
    results: "Results | None",
    joblog: JobLog | None,
    show: Show,
) -> Finisher:
    return Finisher(
        FinishSettings(
            request.keep_order, request.line_buffer, request.only_new, save is None, save
        ),
        Printer(tagged=request.tag),
        results,
        joblog,
        lambda text: show.say(f"collector: {text}"),
    )


def _slots(stack: contextlib.ExitStack) -> str:
    """Return the path of a nameless file for the slots; "" where there is none."""
    try:
        fd = os.memfd_create("collector-slots")
    except (AttributeError, OSError):  # neither every system nor every sandbox has them
        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    stack.callback(os.close, fd)
    path = f"/proc/{os.getpid()}/fd/{fd}"
    return path if os.path.exists(path) else ""


def _settings(request: Request, command: Command, jobs: int) -> RunSettings:
    return RunSettings(
        child.run if command.template is not None else function.run,
        jobs,
        request.attempts,
        request.timeout,
        request.grace,
        command.shown,
        command.label,
        command.template is None,
    )


def inputs_are_given(request: Request) -> bool:
    """Whether stdin is not read for inputs."""
    given = request.retry or any(word in SEPARATORS for word in request.words) or request.arg_file
    return bool(given) and STDIN not in (*request.words, *request.arg_file)


def _show(request: Request, total: int | None, running: dict[int, Job[Any]]) -> Show:
    reads_stdin = not inputs_are_given(request)
    return Show(
        ShowOptions(
            show=Level(request.show),
            final_show=Level(request.final_show),
            slow_s=request.slow,
            quiet_s=request.slow,
            events=Path(request.events) if request.events else None,
            keys=not reads_stdin,
            total=total,
        ),
        last_line=functools.partial(last_line, running),
    )


def _collector(
    request: Request,
    command: Command,
    jobs: int,
    slots: str,
    root: str | None,
) -> Collector:
    where = absolute_path(request.output) if request.output else ""
    plan: Any
    if command.template is None:
        assert request.python is not None
        plan = function.FunctionPlan(request.python, request.nice, where, slots, jobs)
        prepare: Callable[[Any], None] = function.prepare
    else:
        plan = child.Plan(
            command.template,
            request.shell or "/bin/sh",
            request.grace,
            request.max_output,
            request.nice,
            where,
            slots,
            jobs,
            request.later,
        )
        prepare = child.prepare
    resource, limit = request.resource or (None, None)
    collector = Collector(
        jobs,
        mp_context="fork",
        initializer=prepare,
        initargs=(plan,),
        progress=False,
        resources={} if resource is None or limit is None else {resource: limit},
        temp_root=root,
        memory_threshold=_or(request.memory_threshold, settings.MEMORY_THRESHOLD_BYTES),
        memory_budget=_or(request.memory_budget, settings.MEMORY_BUDGET_BYTES),
    )
    return collector.with_options(resource=resource)


def _inner(
    stack: contextlib.ExitStack,
    runner: Runner,
    request: Request,
    command: Command,
    jobs: int,
    root: str | None,
) -> Inner:
    collector = _collector(request, command, jobs, _slots(stack), root)
    kind = Capture.STDERR if command.template is None else Capture.BY_ITSELF
    return Inner(stack.enter_context(collector), kind, runner)


def _or(number: int | None, default: int) -> int:
    return default if number is None else number


@final
class _Stopped:
    """Stops the jobs with this process, and has them go on (Ctrl-Z).

    Args:
        show: Gives the terminal back meanwhile.
    """

    def __init__(self, show: Show) -> None:
        self.inner: Inner | None = None
        self._show = show

    def stop(self) -> None:
        """This process is about to be stopped."""
        self._show.suspend()
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """It goes on."""
        self._send(signal.SIGCONT)
        self._show.resume()

    def _send(self, number: int) -> None:
        if self.inner is not None:
            self.inner.signal(number, workers=True)


def _say_unread(request: Request, inputs: Given, show: Show, finisher: Finisher) -> None:
    """Say how many inputs a directory does not know that is run as it was."""
    unread = (inputs.whole or 0) - len(inputs.known)
    if request.retry is not None and unread > 0:
        message = f"{unread} of its inputs are not known to {request.retry}: no run has read them"
        show.say(f"collector: {message}; give them again, with -o")
        finisher.left_out |= request.shard is None


def _finish(request: Request, show: Show, halting: Halting, runner: Runner) -> None:
    if halting.reason and request.final_show != Level.NONE:
        show.say(f"collector: the batch stops: {halting.reason}")
    if runner.cannot_load:
        show.hush()
    show.finish(_missing(request, halting, runner))


def _is_complete(halting: Halting, runner: Runner, finisher: Finisher) -> bool:
    return not (runner.signal or runner.failure or halting.reason or finisher.stuck)


def _missing(request: Request, halting: Halting, runner: Runner) -> str | None:
    if request.output is None:
        return None
    line = f"collector run --retry {shlex.quote(request.output)}"
    if runner.has_unread and request.retry is None:
        return f"the same line again ({line} knows only the inputs that were read)"
    if not (halting.failed or runner.interrupted or runner.signal):
        return None
    return line + (" --shard {}/{}".format(*request.shard) if request.shard else "")


def _status(request: Request, halting: Halting, runner: Runner, finisher: Finisher) -> int:
    trouble = finisher.broken or runner.failure
    if runner.signal:
        return _SIGNALLED + runner.signal
    if finisher.closed_stdout:
        return CLOSED_STDOUT
    if trouble:
        with finisher.waiting():
            say(str(trouble))
        return OTHER_ERROR
    status = exit_status(halting, request.halt, runner.halted_by)
    return OTHER_ERROR if not status and finisher.left_out else status
