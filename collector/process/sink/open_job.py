"""A job that has started and not ended, as the sink keeps it: its output, and its value if large.

Runs in:    the sink.
Owns:       a SpillManager for each of the two streams that has bytes, until they are sealed.
States:     as `TABLE` says. What a REFUSED job still says is dropped until its END.
Invariants: I1  `end` and `fail` never raise: whatever has become of the bytes, there is a message.
            I2  a stream that failed has no file left.
"""

import contextlib
import errno
import time
from collections.abc import Callable
from typing import Final, final

from collector import settings
from collector.errors import SPARE_IT, OutputLostError, ProtocolError, SpillError
from collector.process.sink.file_grant import FileGrant
from collector.states import TableEnum, move
from collector.store.budget import Budget
from collector.store.output.spill_file import lost_error
from collector.store.spill import Sealed, SpillManager
from collector.wire.credits import Grant
from collector.wire.frames import ASTRAY, Frame, PayloadPlace, Stream
from collector.wire.messages import JobEnded, JobProgressed
from collector.wire.outcome import Outcome

_NOTHING = Sealed(None, None, 0, 0)


class JobState(TableEnum):
    """How far a job that has started has come, in the sink."""

    OPEN = "open"
    REFUSED = "refused"
    """Its output could not be kept; the parent was told."""
    ENDED = "ended"


class JobEvent(TableEnum):
    """What happens to it."""

    FAILED = "its output cannot be kept"
    ENDED = "END, or death"


TABLE: Final = {
    JobState.OPEN: {JobEvent.FAILED: JobState.REFUSED, JobEvent.ENDED: JobState.ENDED},
    JobState.REFUSED: {JobEvent.ENDED: JobState.ENDED},
    JobState.ENDED: {},
}


@final
class OpenJob:
    """The streams of one attempt.

    Args:
        worker: Number of the worker that runs it.
        ticket: Number of the attempt.
        memory_threshold: Bytes of the output that may stay in memory.
        new_output: Makes a SpillManager with such a threshold.
        budget: What all outputs may hold together.
    """

    def __init__(
        self,
        worker: int,
        ticket: int,
        memory_threshold: int,
        new_output: Callable[[int], SpillManager],
        budget: Budget,
    ) -> None:
        self.worker = worker
        self.ticket = ticket
        self.announced = False
        self.opened_s = time.monotonic()
        self.followed = False
        self.state = JobState.OPEN
        self._threshold = memory_threshold
        self._new_output = new_output
        self._budget = budget
        self._output: SpillManager | None = None
        self._value: SpillManager | None = None
        self._reported = (0, 0, "")
        self._grant = FileGrant(ticket)
        self._astray = ""

    @property
    def may_grow(self) -> bool:
        """Whether its worker may write to the file of its output as long as it lives."""
        return self._grant.is_out and self.state is JobState.OPEN

    def take(self, frame: Frame, payload: bytes | memoryview) -> Grant | None:
        """Take a frame with bytes; returns what the worker may write to the file itself, if more.

        Raises:
            SpillError: They cannot be kept.
            ProtocolError: They are said to lie where nothing was granted.
        """
        if frame.place != PayloadPlace.EXTENT:
            self.store(Stream(frame.detail), payload, frame.chunks)
            if frame.detail == Stream.VALUE or self._output is None:
                return None
            return self._grant.offer(frame, self._output)
        if self._output is None:
            raise ProtocolError("an extent was published of an output without a file")
        if frame.slot == ASTRAY:
            self.lose("somebody truncated its file, or wrote to it, while it grew")
        return self._grant.publish(frame, self._output)

    def store(self, stream: Stream, data: bytes | memoryview, chunks: int) -> None:
        """Take bytes of a stream.

        Raises:
            SpillError: They cannot be kept.
        """
        if stream is Stream.VALUE:
            output = self._value = self._value or self._open(settings.MEMORY_THRESHOLD_BYTES)
        else:
            output = self._output = self._output or self._open(self._threshold)
        if output.in_memory:
            self._budget.admit(output, len(data))
        output.write_joined(data, chunks)
        if self.followed and stream is Stream.OUTPUT:
            self._show(output)

    def lose(self, why: str) -> None:
        """Have the output lost at the end: its file may hold what the job has not written."""
        self._astray = self._astray or why

    def _open(self, threshold: int) -> SpillManager:
        """Begin a stream: the first bytes have come. Most jobs have none, or only a small value."""
        stream = self._new_output(threshold)
        self._budget.join(stream)
        return stream

    def follow(self) -> None:
        """Have the output in a file from its first byte on, as soon as that can be made."""
        self.followed = True
        self._show(self._output)

    def _show(self, output: SpillManager | None) -> None:
        """Let those who follow read what has come; where the disk is full they wait for the end.

        Nothing goes to a file that is empty: on a full disk it could be made, and not be written.
        """
        if output is not None and output.held_bytes:
            with contextlib.suppress(SpillError):  # who looks on must not cost the job its output
                output.spill()

    def progressed(self) -> JobProgressed | None:
        """Return how far the output is, if that is news."""
        if self._output is None:
            return None
        progress = self._output.progress
        path = progress.temp_file_path
        state = (progress.bytes_written, progress.chunks_processed, path.name if path else "")
        if state == self._reported:
            return None
        self._reported = state
        return JobProgressed(
            ticket=self.ticket, bytes_written=state[0], chunks=state[1], name=state[2]
        )

    def end(self, outcome: Outcome, value: bytes) -> JobEnded | None:
        """Seal the streams of a job that is over.

        If its worker has died, what that had not published is cut off the file: it must be dead by
        now.

        Args:
            outcome: How it ended.
            value: What came with the END frame.

        Returns:
            What the parent is to be told; None of a REFUSED job, of which it was told by `fail`.
        """
        refused = self.state is JobState.REFUSED
        self.state = move(TABLE, self.state, JobEvent.ENDED)
        return None if refused else self._seal(outcome, value)

    def fail(self, error: SpillError) -> JobEnded:
        """Give up an output that cannot be kept, while its job still runs."""
        self.state = move(TABLE, self.state, JobEvent.FAILED)
        return self._drop(error)

    def _seal(self, outcome: Outcome, value: bytes) -> JobEnded:
        kept = Sealed(value, None, len(value), 0)
        try:
            if self._output is not None and (outcome is Outcome.CRASHED or self._astray):
                self._settle_file(self._output)
            if self._value is not None:
                kept = self._value.seal()
            output = _NOTHING if self._output is None else self._output.seal()
            return self._ended(outcome, output, kept)
        except (SpillError, OutputLostError) as error:
            return self._drop(error, kept)
        except (MemoryError, ValueError):  # a buffer that could not grow has lost what it held
            lost = OutputLostError(errno.ENOMEM, "the collector process had no memory for it")
            died = outcome is Outcome.CRASHED
            only_file = Sealed(None, kept.name, 0, 0)  # it is the parent's to remove
            return self._ended(outcome if died else Outcome.LOST, _NOTHING, only_file, lost)

    def _settle_file(self, output: SpillManager) -> None:
        """Take off the file what a dead worker had appended and not published.

        Raises:
            OutputLostError: What the file holds is not what the job has written.
        """
        if self._astray:
            path = output.progress.temp_file_path or ""
            raise lost_error(errno.EIO, f"{self._astray}; {SPARE_IT}", path)
        output.cut()

    def _drop(self, error: SpillError | OutputLostError, value: Sealed = _NOTHING) -> JobEnded:
        """Drop what is on disk, which makes room for others at once, and seal what is in memory."""
        output = _NOTHING
        if self._output is not None and self._output.in_memory:
            with contextlib.suppress(MemoryError, ValueError):  # as in `_seal`: nothing is held
                output = self._output.seal()
        for stream in (self._output, self._value):
            if stream is not None:
                stream.dispose()
        lost = isinstance(error, OutputLostError)
        return self._ended(Outcome.LOST if lost else Outcome.SPILL_FAILED, output, value, error)

    def _ended(
        self,
        outcome: Outcome,
        output: Sealed,
        value: Sealed,
        error: SpillError | OutputLostError | None = None,
    ) -> JobEnded:
        for stream in (self._output, self._value):
            if stream is not None:
                self._budget.leave(stream)
        data = output.data or b""
        self._budget.elsewhere_bytes += len(data)
        number, text = 0, ""
        if error is not None:
            number, text = error.errno or 0, f"{error.strerror}\0{error.filename or ''}"
        return JobEnded(
            worker=self.worker,
            ticket=self.ticket,
            outcome=outcome,
            size=output.size,
            chunks=output.chunks,
            value_size=value.size,
            name=output.name or "",
            data=data,
            value_name=value.name or "",
            value=value.data or b"",
            error_number=number,
            error=text,
        )
