"""What `collect(batch=)` does beyond `collect`: which items run, and what the others were.

It is loaded by name, when somebody asks for it (docs/decisions/0020).

Runs in:    the parent, in the thread that iterates.
Owns:       the recorder, until it is left.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, final

from collector.batch.functions import what_of
from collector.batch.jobs import Earlier, KeptJob, ResumedJob
from collector.batch.keys import input_text, key_text, part_of
from collector.batch.lines import LEFT_EARLY
from collector.batch.names import Template, names_a_file
from collector.batch.parts import shard_name
from collector.batch.recorder import Recorder, wait_for_left
from collector.batch.saved_later import save_stored, unsaved
from collector.batch.scan import meters_of
from collector.batch.states import Resume, State, resume_of
from collector.batch.storing import Task
from collector.batch.writer import BatchWriter, Options
from collector.executor.collecting import Submitting
from collector.executor.core import Core
from collector.executor.job import Job
from collector.executor.options import BatchOptions
from collector.executor.options import Options as JobOptions
from collector.logger import PackageLogger
from collector.process.pickling import calls
from collector.progress.board import OpenBatch
from collector.store.absolute import absolute_path, working_directory

T = TypeVar("T")

_logger = PackageLogger()
_TOLD: Final = 10
"""So many outputs that are not saved are named."""
_FAILED: Final = State.FAILED
"""Up to Python 3.11 the attribute of an `Enum` takes 0.1 us, and each finished job asks for it."""


def submitting(
    core: Core,
    options: JobOptions,
    fn: Callable[[T], Any],
    keeping: BatchOptions,
    total: int | None,
    numbers: Iterator[int],
) -> Submitting[T]:
    """Return what opens the directory and submits the jobs of a `collect`.

    Raises:
        ValueError: `batch`, `resume` or `save` makes no sense.
    """
    resume = resume_of(keeping.resume)
    names = Template(keeping.save) if isinstance(keeping.save, str) else keeping.save
    shard = shard_name(keeping.shard)
    base = working_directory()  # of now: the loop may begin elsewhere, or go there
    writing = Options(resume, keeping.durable, keeping.keep_failed, shard, base)
    path = os.fsdecode(keeping.batch or "")
    if not path:
        raise ValueError("batch must be the path of a directory, not an empty one")
    path = absolute_path(path)
    what = what_of(fn)

    def begin(batch: OpenBatch) -> "_Kept[T]":
        wait_for_left(path, shard)
        writer = None
        try:
            writer = BatchWriter.open(path, what, writing, inputs=total)
            return _Kept(
                core, options, fn, keeping, numbers=numbers, names=names, writer=writer, batch=batch
            )
        except BaseException:
            if writer is not None:
                writer.close(LEFT_EARLY)
            raise

    return begin


@final
class _Kept(Generic[T]):
    """Submits what is to run, and stands for the rest with what is there."""

    def __init__(  # noqa: PLR0913 - the parts of a `collect`
        self,
        core: Core,
        options: JobOptions,
        fn: Callable[[T], Any],
        keeping: BatchOptions,
        *,
        numbers: Iterator[int],
        names: Template | Callable[[Any], Any] | None,
        writer: BatchWriter,
        batch: OpenBatch,
    ) -> None:
        self._core = core
        self._options = options
        self._fn = fn
        self._numbers = numbers
        self._key = keeping.key
        self._names = _Names(names, writer.directory.base)
        self._shard = keeping.shard
        self._writer = writer
        self._batch = batch
        self._label = options.name or calls.call_name(fn)
        self._source = writer.history, writer.directory.is_ours_alone()
        self._recorder = Recorder(writer, core.pool.drop)
        core.recorders.add(self._recorder)
        self._recorder.start()

    def submit(self, item: T, /) -> Job[Any] | None:
        """See `Submits.submit`."""
        text = None if self._key is None else key_text(self._key(item))
        task = self._writer.task(item, text)
        if self._shard is not None and part_of(task.key, self._shard[1]) != self._shard[0]:
            return None
        if task.runs:
            return self._run(task, item)
        failed = task.state is _FAILED
        if not failed:
            self._names.save_again(task, item, self._writer)
        return self._resumed(task.row, item, failed=failed)

    def complete(self) -> None:
        """See `Submits.complete`."""
        self._recorder.complete()

    def leave(self) -> None:
        """See `Submits.leave`."""
        self._recorder.leave()

    def spent(self) -> Mapping[str, float]:
        """See `Submits.spent`."""
        return dict(self._writer.history.findings.meters)

    def has(self) -> int:
        """See `Submits.has`."""
        runs_all = self._writer.options.resume is Resume.ALL
        return 0 if runs_all else self._writer.history.table.done_and_not_met()

    def continued_by(self) -> str:
        """See `Submits.continued_by`."""
        return "the same call with this batch= goes on with what is left"

    def _run(self, task: Task, item: T) -> Job[Any]:
        made: list[KeptJob] = []
        number, options = next(self._numbers), self._options
        fn: Callable[[Any], Any] = self._fn
        task.name = options.name or f"{self._label}-{number}"
        self._names.want(task, item)
        self._names.look(task, self._writer)
        if task.refused is not None:  # the job fails whatever it does: so it does nothing
            fn, options = id, options._replace(name=task.name)

        def make(*arguments: Any, **options: Any) -> Job[Any]:
            job = KeptJob(self._recorder, task, self._earlier(task), *arguments, **options)
            made.append(job)
            self._recorder.expect(job)
            return job

        try:
            return self._core.submit(
                (fn, (item,), {}), options, self._batch.belonging, make, iter((number,))
            )
        except BaseException:
            for job in made:  # nobody else knows it
                job.cancel()
            raise

    def _earlier(self, task: Task) -> Earlier:
        history, attempts = self._writer.history, self._writer.attempts(task)
        if not (attempts or history.findings.has_spent):
            return Earlier(0, {})
        ended = (one.meters for _, one in history.attempts(task.row))
        meters = meters_of((history.spent(task.key), *ended))
        return Earlier(attempts, meters)

    def _resumed(self, row: int, item: T, *, failed: bool) -> Job[Any]:
        core = self._core
        job = ResumedJob(
            core.pool,
            core.number_of_resumed(self._numbers, failed=failed),
            item,
            self._label,
            self._source,
            row,
            failed=failed,
            numbered=not self._options.name,
        )
        shown = self._batch.belonging()
        if shown is not None:
            shown.submitted()
            shown.ended(job)
        return job


@final
class _Names:
    """The names that the outputs of a run are saved under; no two of them are one.

    Args:
        make: A template, or a function of the input; None if nothing is saved.
        base: Where relative names begin.
    """

    def __init__(self, make: Template | Callable[[Any], Any] | None, base: str) -> None:
        self._make = make
        self._base = base
        self._first: dict[str, tuple[str, str]] = {}
        self._refused = 0

    def save_again(self, task: Task, item: Any, writer: BatchWriter) -> None:
        """Save the output of a job that is done, if it has no name of the user's yet.

        Its result counts whether or not that can be: it is said.
        """
        found = None if self._make is None else unsaved(writer.history, task.row)
        if found is None:
            return
        task.name, task.input = found[1].name, input_text(item)
        self.want(task, item)
        error = task.refused
        if error is None:
            path = absolute_path(os.path.join(self._base, task.save))
            try:
                save_stored(*found, path, sync=writer.options.durable)
            except OSError as failure:
                error = failure
        if error is not None:
            self._refused += 1
            if self._refused <= _TOLD:
                more = "; others are not told of" if self._refused == _TOLD else ""
                _logger.warning(
                    "%s: the output of %r is not saved: %s%s",
                    writer.directory.path,
                    task.input,
                    calls.text_of(error),  # its traceback holds the batch
                    more,
                )

    def want(self, task: Task, item: Any) -> None:
        """Note the name that the output of a task is to have, or why it cannot have one."""
        if self._make is None:
            return
        try:
            task.save = self._name(self._make, task, item)
        except Exception as error:  # noqa: BLE001 - a function of the user's: the job fails with it
            task.refused = error.with_traceback(None)

    def look(self, task: Task, writer: BatchWriter) -> None:
        """See, before a task runs, whether something has the name that its output is to have."""
        if task.save:
            try:
                writer.refuse_taken(task, task.save)
            except OSError as error:
                task.refused = error.with_traceback(None)

    def _name(self, make: Template | Callable[[Any], Any], task: Task, item: Any) -> str:
        if isinstance(make, Template):
            name = make.name(item, key=task.key, seq=task.seq, name=task.name)
        else:
            made = make(item)
            if not isinstance(made, str | bytes | os.PathLike):
                raise TypeError(f"the function save= must return a path, not {made!r}")
            name = os.fsdecode(made)
            if not names_a_file(name):
                raise ValueError(f"{name!r}, of the function save=, names no file")
        path = os.path.abspath(os.path.join(self._base, name))
        key, text = self._first.setdefault(path, (task.key, task.input))
        if key != task.key:
            message = f"the output of {text!r} has that name already"
            raise FileExistsError(errno.EEXIST, message, name)
        return name
