"""The chunk queue of one worker: a pipe of frames, shared slots, and a pipe of credits back.

Runs in:    the parent makes it, the worker writes it, the sink reads it.
Owns:       writer: write end of the frames, read end of the credits, a mapping of the slots;
            reader: the other ends, a mapping. The parent closes all once both have theirs.
Invariants: I1  a slot belongs to the worker until a frame publishes it, then to the sink until its
                credit is back.
            I2  what a writer had not published when it died is never seen; what it had published
                is.
            I3  neither end takes a lock that the other process could hold.
            I4  the reader never waits: not for frames, and not to give a credit.
            I5  nothing is published after a step of publishing that an exception broke off (of a
                signal handler, or for want of memory): what it had done is not known.
Source:     docs/decisions/0002-chunk-queue.md.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Final

from collector import settings
from collector.errors import EXIT_BROKEN_OFF, ProtocolError
from collector.process.slots import map_slots, note_begun, shared_memory
from collector.process.stream import JobStream
from collector.wire.frames import Frame, FrameDecoder, FrameEncoder, Kind, Outcome, Place, Stream

_READ_BYTES: Final = 64 * settings.KIB

EXIT_SINK_GONE: Final = 70
"""Status of a worker that leaves because nobody reads its queue any more."""
_OVER: Final = "this job is over: a thread that outlives its job cannot write to its output"
_DISOWNED: Final = "this process was forked by a job: only the job's own process can write to it"


def make_queue(*, slots: bool = True) -> tuple[list[int], list[int]]:
    """Return the descriptors of a new queue: those of its writer and those of its reader.

    Args:
        slots: False makes a queue without shared memory, whose payloads follow their headers in the
            pipe.

    Raises:
        OSError: No descriptors are to be had.
    """
    with contextlib.ExitStack() as undo:
        frames_r, frames_w = os.pipe()
        undo.callback(_close, (frames_r, frames_w))
        credits_r, credits_w = os.pipe()
        undo.callback(_close, (credits_r, credits_w))
        writer, reader = [frames_w, credits_r], [frames_r, credits_w]
        memory = shared_memory() if slots else None
        if memory is not None:
            undo.callback(os.close, memory)
            other = os.dup(memory)
            writer.append(memory)
            reader.append(other)
        undo.pop_all()
    return writer, reader


def _close(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)


class QueueWriter:
    """The worker's end. Chunks may be written by any thread of the job.

    Guarantees: `write` has copied a mutable buffer when it returns; a small chunk is published at
        the latest `FLUSH_DEADLINE_S` after it was written, however long the job computes; the
        process ends when the sink is gone.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._frames, self._credits = descriptors[:2]
        self._slots = map_slots(descriptors)
        self._free = deque(range(settings.SLOT_COUNT))
        self._filling: int | None = None
        self._filled = 0
        self._filled_chunks = 0
        self._encoder = FrameEncoder()
        self._stream: JobStream | None = None
        self._unsaid = b""
        # Re-entrant, so as to know who holds it: a finalizer or a signal handler may write or log
        # while its own thread publishes. It leaves what it has to the flushing thread.
        self._lock = threading.RLock()
        self._within = False
        self._records: deque[bytes] = deque()
        # Put one in, and the flushing thread comes. Its `put` is re-entrant, as `Event.set` is not.
        self.stale: Final[SimpleQueue[None]] = SimpleQueue()
        threading.Thread(target=self._flush_late, name="collector-flush", daemon=True).start()

    def disown(self) -> None:
        """In a process that a job forked: close our descriptors and refuse every further chunk."""
        if self._stream is not None:
            self._stream.close(_DISOWNED)
            self._stream = None
        self._lock = threading.RLock()  # another thread may have held it at the fork
        self._within = False
        _close((self._frames, self._credits))

    def say(self, kind: Kind, ticket: int = 0, payload: bytes = b"") -> None:
        """Publish a frame that carries no chunk."""
        with self._lock:
            self._begin()
            self._send(kind, ticket, payload)
            self._within = False

    def start(self, ticket: int, options: bytes) -> JobStream:
        """Say that this job runs from now on; returns what takes its chunks until `end`."""
        with self._lock:
            self._begin()
            stream = self._stream = JobStream(self, ticket)
            if self._slots is not None:
                note_begun(self._slots, ticket)
            self._send(Kind.START, ticket, options)
            self._within = False
            return stream

    def write_now(self, stream: JobStream, data: bytes) -> None:
        """Publish a large chunk at once, behind the small ones before it."""
        if self._left_for_later():
            stream.append(data)
            return
        with self._lock:
            if stream is not self._stream:
                stream.append(data)  # raises: its job is over
            self._begin()
            self._drain()
            self._fill(stream, data, 1)
            self._within = False

    def drain(self) -> None:
        """Take what the running job has pending into a slot; it is published when that is full."""
        if self._left_for_later():
            return
        with self._lock:
            self._begin()
            self._drain()
            self._within = False

    def flush(self) -> None:
        """Publish what was written so far."""
        if self._left_for_later():
            return
        with self._lock:
            self._begin()
            self._drain()
            self._publish_slot()
            self._within = False

    def record(self, packed: bytes) -> None:
        """Publish one log record, of the running job or of none."""
        self._records.append(packed)
        if self._left_for_later():
            return
        with self._lock:
            self._begin()
            self._send_records()
            self._within = False

    def _left_for_later(self) -> bool:
        """Whether this is called in the midst of publishing, by a finalizer for example."""
        within: bool = self._lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001 - as Condition asks
        if within and self.stale.empty():
            self.stale.put(None)
        return within

    def _send_records(self) -> None:
        while self._records:
            ticket = self._stream.ticket if self._stream else 0
            self._publish(Stream.RECORD, self._records.popleft(), 1, ticket)

    def end(self, outcome: Outcome, value: bytes, *, hold: bool = False) -> None:
        """Say that the job has ended.

        Args:
            outcome: How.
            value: What it returned or raised, pickled.
            hold: Another frame follows at once: say both together.
        """
        with self._lock:
            self._begin()
            stream, ticket = self._stream, 0
            if stream is not None:
                stream.close(_OVER)  # first: a thread of the job may still write
                ticket = stream.ticket
            self._drain(last=True)
            self._publish_slot()
            self._stream = None
            if len(value) > settings.INLINE_BYTES:
                self._publish(Stream.VALUE, value, 1, ticket)
                value = b""
            head = self._encoder.encode(Kind.END, ticket, detail=outcome, length=len(value))
            if hold:
                self._unsaid += head + value
            else:
                self._put(head + value)
            self._within = False

    def _begin(self) -> None:
        """Begin a step of publishing; if the last one was broken off, leave (I5)."""
        if self._within:
            os._exit(EXIT_BROKEN_OFF)
        self._within = True

    def _drain(self, *, last: bool = False) -> None:
        """Take the chunks that the running job has pending; the last ones may need no slot."""
        self._send_records()
        stream = self._stream
        chunks = stream.take() if stream is not None else []
        if stream is None or not chunks:
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if last and self._filling is None:
            self._publish(Stream.OUTPUT, data, len(chunks), stream.ticket)
        else:
            self._fill(stream, data, len(chunks))

    def _fill(self, stream: JobStream, data: bytes, chunks: int) -> None:
        """Copy bytes into the slot that is being filled, and publish each one that is full.

        Whole slots, not chunks, are what the sink is woken for and writes: with 64 KiB chunks this
        is a quarter of the frames, credits and writes (docs/decisions/0002-chunk-queue.md).
        """
        if self._slots is None:
            self._publish(Stream.OUTPUT, data, chunks, stream.ticket)
            return
        view, start, size = memoryview(data), 0, len(data)
        while True:
            if self._filling is None:
                self._filling = self._take_slot()
            step = min(size - start, settings.SLOT_BYTES - self._filled)
            at = self._filling * settings.SLOT_BYTES + self._filled
            self._slots[at : at + step] = view[start : start + step]
            self._filled += step
            start += step
            if start == size:
                self._filled_chunks += chunks
            if self._filled == settings.SLOT_BYTES:
                self._publish_slot()
            if start == size:
                return

    def _publish_slot(self) -> None:
        """Publish the slot that is being filled, as full as it is."""
        if self._filling is None or self._stream is None:
            return
        head = self._encoder.encode(
            Kind.DATA,
            self._stream.ticket,
            detail=Stream.OUTPUT,
            chunks=self._filled_chunks,
            slot=self._filling,
            length=self._filled,
        )
        self._filling, self._filled, self._filled_chunks = None, 0, 0
        self._put(head)

    def _publish(self, stream: Stream, data: bytes, chunks: int, ticket: int) -> None:
        """Send `data` in as many frames as it needs; the last one carries the number of chunks."""
        view, size = memoryview(data), len(data)
        inline = settings.INLINE_BYTES if self._slots else settings.PIPE_PAYLOAD_BYTES
        if size <= inline:
            self._send(Kind.DATA, ticket, data, detail=stream, chunks=chunks)
            return
        step = settings.SLOT_BYTES if self._slots else settings.PIPE_PAYLOAD_BYTES
        for start in range(0, size, step):
            piece = view[start : start + step]
            count = chunks if start + step >= size else 0
            if self._slots is None:
                self._send(Kind.DATA, ticket, bytes(piece), detail=stream, chunks=count)
                continue
            slot = self._take_slot()
            base = slot * settings.SLOT_BYTES
            self._slots[base : base + len(piece)] = piece
            self._put(
                self._encoder.encode(
                    Kind.DATA, ticket, detail=stream, chunks=count, slot=slot, length=len(piece)
                )
            )

    def _send(
        self, kind: Kind, ticket: int, payload: bytes, *, detail: int = 0, chunks: int = 0
    ) -> None:
        head = self._encoder.encode(kind, ticket, detail=detail, chunks=chunks, length=len(payload))
        self._put(head + payload)

    def _put(self, data: bytes) -> None:
        if self._unsaid:
            data, self._unsaid = self._unsaid + data, b""
        try:
            while data:
                data = data[os.write(self._frames, data) :]
        except OSError:
            os._exit(EXIT_SINK_GONE)

    def _take_slot(self) -> int:
        if not self._free:
            try:
                back = os.read(self._credits, settings.SLOT_COUNT)
            except OSError:
                back = b""
            if not back:
                os._exit(EXIT_SINK_GONE)
            self._free.extend(back)
        return self._free.popleft()  # in turn, as the sink gives them back

    def _flush_late(self) -> None:
        pause = threading.Event()
        while True:
            self.stale.get()
            pause.wait(settings.FLUSH_DEADLINE_S)
            self.flush()


class QueueReader:
    """The sink's end."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.fd, self._credits = descriptors[:2]
        self._slots = map_slots(descriptors)
        os.set_blocking(self.fd, False)
        os.set_blocking(self._credits, False)
        self._decoder = FrameDecoder(
            slot_bytes=settings.SLOT_BYTES,
            slot_count=settings.SLOT_COUNT if self._slots else 0,
            inline_bytes=settings.PIPE_PAYLOAD_BYTES,
        )

    def read(self) -> Iterator[tuple[Frame, bytes | memoryview]] | None:
        """Return the frames that have come, with their payloads; None at the end of the queue.

        A payload is valid until the next frame is asked for; then its slot goes back to the worker.

        Raises:
            ProtocolError: What came are no frames of ours (while iterating).
        """
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return iter(())
        return self._frames_of(data) if data else None

    def _frames_of(self, data: bytes) -> Iterator[tuple[Frame, bytes | memoryview]]:
        for frame, payload in self._decoder.feed(data):
            if frame.place == Place.INLINE or self._slots is None:
                yield frame, payload
                continue
            base = frame.slot * settings.SLOT_BYTES
            yield frame, self._slots[base : base + frame.length]
            self._give_credit(frame.slot)

    def _give_credit(self, slot: int) -> None:
        try:
            os.write(self._credits, bytes((slot,)))
        except BlockingIOError:
            raise ProtocolError("a worker publishes slots that it does not have") from None
        except BrokenPipeError:
            pass  # the worker is gone: its frames pipe tells the rest

    def close(self) -> None:
        """Close both pipes and the mapping."""
        _close((self.fd, self._credits))
        if self._slots is not None:
            self._slots.release()
