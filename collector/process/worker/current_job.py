"""What a job sees of itself: its number, its name, its output.

Runs in:    the worker.
Owns:       the scratch directory of the running job, and the pipe behind its descriptor, if it
            asked for one.
"""

import contextlib
import errno
import os
import threading
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from collector.checks import as_float
from collector.errors import SPARE_IT, CollectorError, OutputLostError, SpillError
from collector.process.queue.chunk_queue import QueueWriter
from collector.process.queue.stream import OVER, JobStream
from collector.process.worker.own_log import OwnLog
from collector.process.worker.run_directory import WorkerDirectory
from collector.store.output.binary_file import BinaryFile
from collector.store.output.chunk import Chunk, chunk_buffer
from collector.store.rundir.locks import loading
from collector.store.rundir.scratch import make_scratch_in, remove_scratch
from collector.wire import remarks
from collector.wire.capture import Capture
from collector.wire.messages import RunJob

if TYPE_CHECKING:
    from collector.process.worker.job_pipe import JobPipe

_METER_CHARS: Final = 1000
_pipes_change: Final = threading.RLock()


@final
class CurrentJob(BinaryFile):
    """The job that runs in this worker; a binary file that is open for writing, to its output."""

    __slots__ = (
        "_back",
        "_directory",
        "_pipe",
        "_put",
        "_scratch",
        "_scratch_name",
        "_stream",
        "_writer",
        "attempt",
        "id",
        "log",
        "name",
    )

    def __init__(
        self,
        job: RunJob,
        stream: JobStream,
        writer: QueueWriter,
        directory: WorkerDirectory,
        scratch_name: str,
    ) -> None:
        self.id: Final = job.job_id
        self.name: Final = job.name
        self.attempt: Final = job.attempt
        self._stream = stream
        self._put = stream.write
        self._writer = writer
        self._pipe: JobPipe | None = None
        self._directory = directory
        self.log: OwnLog | None = None
        """What its function writes as its log, if it does that itself."""
        if job.capture == Capture.BY_ITSELF:
            self.log = OwnLog(directory, job.log_name)
        self._scratch_name = scratch_name
        self._scratch: Path | None = None
        self._back = ""

    def write(self, chunk: Chunk) -> int:
        """Add one chunk to the job's output; returns the number of bytes taken.

        Args:
            chunk: Any C-contiguous buffer (bytes, a bytearray, memoryview, array, mmap, a numpy
                array, a buffer of pyarrow or pickle), or text, which is taken as UTF-8.

        Raises:
            TypeError: The chunk is something else.
            ClosedError: The job is over, or this is a process that it forked.

        Guarantees: the bytes are taken as they are now, and reach the sink within 50 ms; when the
            output cannot be kept (a full disk) the job is ended and fails with `SpillError`.
        """
        data = chunk if type(chunk) is bytes else bytes(chunk_buffer(chunk))
        put = self._put
        put(data)
        return len(data)

    def fileno(self) -> int:
        """Return a descriptor whose bytes go to the output too; `stdout=` of a subprocess takes it.

        It is the end of a pipe, made when it is first asked for and closed with the job. When the
        job ends all is taken that was written by then, and nothing later, whoever still holds it.
        What comes by it stays in order, and so does what comes by `write`. What a program had
        written when it ended stands before what is written after that.

        Raises:
            ClosedError: As `write`.
            OSError: No descriptor is to be had.
        """
        self._check_open()  # first: a forked child waits for no thread of its parent
        with _pipes_change:
            self._check_open()
            if self._pipe is None:
                self._make_pipe()
            assert self._pipe is not None
            return self._pipe.fileno()

    def flush(self) -> None:
        """Hand over at once what was written so far.

        Raises:
            ClosedError: As `write`; so `tell`.
        """
        self._check_open()
        if self._pipe is not None:
            self._pipe.settle()
        self._writer.flush()

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        self._check_open()
        if self._pipe is not None:
            self._pipe.settle()
        return self._writer.position(self._stream)

    def count(self, **meters: float) -> None:
        """Add to meters of the job, each by its name: `count(usd=0.02, tokens=512)`.

        They are the job's own, over all its attempts, failed ones too: `job.meters` has the sums,
        and so do progress events, a batch directory and the budget of `collect`. What was counted
        before a crash counts.

        Raises:
            TypeError: A value is no number.
            ValueError: It is beyond 1e100 either way, or the name is longer than 1,000 characters.
            ClosedError: As `write`.
        """
        self._check_open()
        numbers = {name: _meter(name, value) for name, value in meters.items()}
        if numbers:
            self._writer.remark(remarks.counted(numbers))

    @property
    def closed(self) -> bool:
        """Whether the job is over, or this is a process that it forked; `close` ends nothing."""
        return bool(self._stream.over)

    @property
    def scratch_dir(self) -> Path:
        """A directory of this attempt's own, made at first use, gone with the job or its worker.

        If the job ends in it, the worker goes back to the working directory of before that use.

        Raises:
            SpillError: It cannot be made.
            OutputLostError: Others have removed it with the run directory, since its first use.
        """
        made = self._scratch
        if made is not None and not self._directory.is_at(os.fspath(made.parent)):
            raise _lost(made)
        try:
            with self._directory.current() as (path, fd):
                make_scratch_in(fd, self._scratch_name)
        except OSError as error:
            message = f"cannot make the scratch directory of job {self.name}: {error.strerror}"
            where = error.filename if isinstance(error, CollectorError) else made
            raise SpillError(error.errno or errno.EIO, message, where or "") from error
        if made is None:
            with contextlib.suppress(OSError):  # it is gone
                self._back = os.getcwd()
        self._scratch = Path(path, self._scratch_name)
        return self._scratch

    def explain(self, error: BaseException) -> BaseException:
        """Return what the job raised, or an error that says that its scratch directory is gone."""
        scratch = self._scratch
        if scratch is None or not isinstance(error, FileNotFoundError) or os.path.isdir(scratch):
            return error
        named = error.filename
        if not isinstance(named, str | bytes) or scratch not in Path(os.fsdecode(named)).parents:
            return error
        lost = _lost(scratch)
        lost.__cause__ = error
        return lost

    def end(self) -> None:
        """Take no more, and let go of the descriptor and of the scratch directory.

        What cannot be removed of that directory goes with the run directory.

        Raises:
            OSError: What came by the descriptor is not complete.
        """
        try:
            if self.log is not None:
                self.log.close()
            with _pipes_change:
                if self._pipe is not None:
                    self._pipe.end()
                self._stream.close(OVER)
        finally:
            if self._scratch is not None:
                _leave(self._scratch, self._back)
                remove_scratch(self._scratch)

    def lead(self, group: int) -> bool:
        """Have a process group that the job has begun end with the worker, until 0 is named.

        Args:
            group: Its number; or, before it is there, the negated inode number of a pipe that only
                its processes will write to.

        Returns:
            False where that cannot be: let its processes stay in the worker's group.
        """
        return self._writer.lead(group)

    def disown(self) -> None:
        """In a process that the job forked: keep the descriptor, and close what is behind it."""
        self._directory.disown()
        if self._pipe is not None:
            self._pipe.disown()

    def _make_pipe(self) -> None:
        with loading("collector.process.worker.job_pipe"):
            from collector.process.worker.job_pipe import JobPipe  # noqa: PLC0415 - for few

        pipe = JobPipe(self._stream.write, self._writer.is_publishing)
        if self._pipe is not None:  # a signal handler of the job's was faster
            pipe.end()
            return

        def put_behind(data: bytes) -> None:
            pipe.settle()
            self._stream.write(data)

        self._put, self._pipe = put_behind, pipe

    def _check_open(self) -> None:
        if self._stream.over:
            self._stream.refuse()


def _meter(name: str, value: object) -> float:
    number = as_float(f"count({name}=)", value)
    if not -remarks.LARGEST <= number <= remarks.LARGEST:
        raise ValueError(f"count({name}=) must be within {remarks.LARGEST:g}, not {value!r}")
    if len(name) > _METER_CHARS:
        raise ValueError("the name of a meter is longer than 1,000 characters")
    return int(value) if isinstance(value, Integral) else number


def _leave(scratch: Path, back: str) -> None:
    """Go back, if the next job would begin in a directory that is gone."""
    with contextlib.suppress(OSError):
        try:
            here = Path(os.getcwd())
        except FileNotFoundError:
            stays = False
        else:
            stays = not here.is_relative_to(os.path.realpath(scratch))
        if not stays:
            os.chdir(back)


def _lost(scratch: Path) -> OutputLostError:
    message = (
        "the scratch directory of the job is gone: something else than collector removed it; "
        f"{SPARE_IT}"
    )
    return OutputLostError(errno.ENOENT, message, scratch)
