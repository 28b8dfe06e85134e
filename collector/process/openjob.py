"""A job that has started and not ended, as the sink keeps it: its output, and its value if large.

Runs in:    the sink.
Owns:       a SpillManager for each of the two streams that has bytes, until they are sealed.
States:     OPEN -> ENDED (sealed or failed, once)
Invariants: I1  `end` and `fail` never raise: whatever has become of the bytes, there is a message.
            I2  a stream that failed has no file left.
"""

import contextlib
import errno
import time
from collections.abc import Callable
from typing import final

from collector import settings
from collector.errors import OutputLostError, SpillError
from collector.store.budget import Budget
from collector.store.spill import Sealed, SpillManager
from collector.wire.frames import Outcome, Stream
from collector.wire.messages import JobEnded, JobProgressed

_NOTHING = Sealed(None, None, 0, 0)


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
        self.over = False
        self._threshold = memory_threshold
        self._new_output = new_output
        self._budget = budget
        self._output: SpillManager | None = None
        self._value: SpillManager | None = None
        self._reported = (0, 0, "")

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

    def _open(self, threshold: int) -> SpillManager:
        """Begin a stream: the first bytes have come. Most jobs have none, or only a small value."""
        stream = self._new_output(threshold)
        self._budget.join(stream)
        return stream

    def follow(self) -> None:
        """Have the output in a file from now on.

        Raises:
            SpillError: It cannot be.
        """
        self.followed = True
        self._output = self._output or self._open(self._threshold)
        self._output.spill()

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

    def end(self, outcome: Outcome, value: bytes) -> JobEnded:
        """Seal the streams; `value` is what came with the END frame."""
        kept = Sealed(value, None, 0, 0)
        try:
            if self._value is not None:
                kept = self._value.seal()
            output = _NOTHING if self._output is None else self._output.seal()
            return self._ended(outcome, output, kept)
        except (SpillError, OutputLostError) as error:
            return self.fail(error, kept)
        except (MemoryError, ValueError):  # a buffer that could not grow has lost what it held
            lost = OutputLostError(errno.ENOMEM, "the collector process had no memory for it")
            died = outcome is Outcome.DIED
            return self._ended(outcome if died else Outcome.LOST, _NOTHING, _NOTHING, lost)

    def fail(self, error: SpillError | OutputLostError, value: Sealed = _NOTHING) -> JobEnded:
        """Drop what is on disk, which makes room for others at once, and seal what is in memory."""
        output = _NOTHING
        if self._output is not None and self._output.in_memory:
            with contextlib.suppress(MemoryError, ValueError):  # as in `end`: nothing is held
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
        self.over = True
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
            name=output.name or "",
            data=data,
            value_name=value.name or "",
            value=value.data or b"",
            error_number=number,
            error=text,
        )
