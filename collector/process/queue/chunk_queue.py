"""The chunk queue of one worker: a pipe of frames, shared slots, and a pipe of credits back.

Once an output lies in a file, the worker writes to the end of that itself, as far as it is granted
(`file_end.py`), and the frames tell how much.

Runs in:    the parent makes it, the worker writes it, the sink reads it (`reader.py`).
Owns:       write end of the frames, read end of the credits, a mapping of the slots; while a job
            writes to its file, that. The parent closes what it has made once both ends have theirs.
Invariants: I1  a slot belongs to the worker until a frame publishes it, then to the sink until its
                credit is back.
            I2  what a writer had published when it died is read; what it had not is never seen.
            I3  neither end takes a lock that the other process could hold.
            I4  either the worker or the sink appends to the file of a job, never both: the worker
                begins when all that it has published is stored, and stops for good when it
                publishes a slot.
            I5  if an exception interrupts a publish (of a signal handler, or for want of memory),
                the queue's state is unknown: the worker exits and publishes nothing more.
Source:     docs/decisions/0002-chunk-queue.md, 0021-extents.md.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Final

from collector import settings
from collector.errors import EXIT_BROKEN_OFF, EXIT_SINK_GONE
from collector.process.queue.file_end import FileEnd
from collector.process.queue.held import Held
from collector.process.queue.shared_slots import (
    group_of,
    map_slots,
    note_begun,
    note_group,
    note_loaded,
    shared_memory,
)
from collector.process.queue.stream import DISOWNED, OVER, JobStream
from collector.wire.credits import CreditDecoder, Grant
from collector.wire.frames import Frame, FrameEncoder, Kind, Stream
from collector.wire.outcome import Outcome

_CREDIT_BYTES: Final = 4 * settings.KIB


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
        self._frames, self._credits = map(Held, descriptors[:2])
        self._slots = map_slots(descriptors)
        self._free = deque(range(settings.SLOT_COUNT))
        self._filling: int | None = None
        self._filled = 0
        self._filled_chunks = 0
        self._said_bytes = 0
        self._offered: Grant | None = None
        self._file: FileEnd | None = None
        self._credit_decoder = CreditDecoder()
        self._encoder = FrameEncoder()
        self._stream: JobStream | None = None
        self._unsaid = b""
        # Re-entrant, since only such a lock tells whether this thread holds it: a finalizer or a
        # signal handler may write or log while its own thread publishes. The flushing thread
        # publishes that then.
        self._lock = threading.RLock()
        self._within = False
        self._records: deque[tuple[Stream, bytes]] = deque()
        # Any item wakes the flushing thread. Unlike `Event.set`, `put` may interrupt itself.
        self.stale: Final[SimpleQueue[None]] = SimpleQueue()
        threading.Thread(target=self._flush_late, name="collector-flush", daemon=True).start()

    def disown(self) -> None:
        """In a process that a job forked: close our descriptors and refuse every further chunk."""
        if self._stream is not None:
            self._stream.close(DISOWNED)
            self._stream = None
        self._lock = threading.RLock()  # another thread may have held it at the fork
        self._within = False
        self._close_file()
        self._frames.close()
        self._credits.close()

    def say(self, kind: Kind, ticket: int = 0, payload: bytes = b"") -> None:
        """Publish a frame that carries no chunk."""
        with self._lock:
            self._begin()
            self._send(kind, ticket, payload)
            self._within = False

    def carry(self, frame: Frame, payload: bytes | memoryview) -> None:
        """Publish what a worker elsewhere has said; a large payload in several frames.

        Args:
            frame: Its kind, detail, chunks and ticket count.
            payload: Its bytes.
        """
        with self._lock:
            self._begin()
            if frame.kind == Kind.DATA:
                self._publish(Stream(frame.detail), payload, frame.chunks, frame.ticket)
            else:
                self._send(Kind(frame.kind), frame.ticket, payload, detail=frame.detail)
            self._within = False

    def start(self, ticket: int, options: bytes, name: str = "") -> JobStream:
        """Say that this job runs from now on; returns what takes its chunks until `end`."""
        with self._lock:
            self._begin()
            stream = self._stream = JobStream(self, ticket, name)
            self._said_bytes, self._offered = 0, None
            if self._slots is not None:
                note_begun(self._slots, ticket)
            self._send(Kind.START, ticket, options)
            self._within = False
            return stream

    def loaded(self) -> None:
        """Note that the call of the running job is loaded: its time begins."""
        if self._slots is not None and self._stream is not None:
            note_loaded(self._slots, self._stream.ticket)

    def lead(self, group: int) -> bool:
        """Have this process group ended with the worker, until another one, or 0, is named.

        Returns:
            False where that cannot be noted.
        """
        if self._slots is None:
            return False
        note_group(self._slots, group)
        return True

    def group(self) -> int:
        """Return the process group that was named last."""
        return 0 if self._slots is None else group_of(self._slots)

    def write_now(self, stream: JobStream, data: bytes) -> None:
        """Publish a large chunk at once, behind the small ones before it."""
        if self._left_for_later():
            stream.append(data)
            return
        with self._lock:
            if stream is not self._stream:
                stream.append(data)  # raises: its job is over
            self._begin()
            if stream.pending or self._records:
                self._drain()
            if self._file is not None:
                stream.gather(large=True)
            self._fill(stream, data, 1)
            stream.taken_bytes += len(data)
            self._within = False

    def drain(self) -> None:
        """Move the pending chunks of the running job to a slot, which is published once full."""
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
            self._publish_extent()
            self._within = False

    def position(self, stream: JobStream) -> int:
        """Return how many bytes a job has written so far."""
        with self._lock:
            return stream.taken_bytes + stream.pending_bytes()

    def record(self, packed: bytes) -> None:
        """Publish one log record, of the running job or of none."""
        self._publish_beside(Stream.RECORD, packed)

    def remark(self, text: bytes) -> None:
        """Publish something that is to be known of the running job beside its output."""
        self._publish_beside(Stream.REMARK, text)

    def _publish_beside(self, stream: Stream, data: bytes) -> None:
        self._records.append((stream, data))
        if self._left_for_later():
            return
        with self._lock:
            self._begin()
            self._send_records()
            self._within = False

    def _left_for_later(self) -> bool:
        """Whether this is called in the midst of publishing, by a finalizer for example."""
        within = self.is_publishing()
        if within and self.stale.empty():
            self.stale.put(None)
        return within

    def is_publishing(self) -> bool:
        """Whether the calling thread is in the midst of publishing."""
        within: bool = self._lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001 - as Condition asks
        return within

    def _send_records(self) -> None:
        while self._records:
            ticket = self._stream.ticket if self._stream else 0
            stream, data = self._records.popleft()
            self._publish(stream, data, 1, ticket)

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
                stream.close(OVER)  # first: a thread of the job may still write
                ticket = stream.ticket
            self._drain(last=True)
            self._publish_slot()
            self._close_file()  # before END: from then on the file is others'
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
        """Begin to publish; if an exception interrupted the last time, exit (I5)."""
        if self._within:
            os._exit(EXIT_BROKEN_OFF)
        self._within = True

    def _drain(self, *, last: bool = False) -> None:
        """Move the pending chunks of the running job to its file, or to a slot.

        The last ones of a job go without a slot if none was begun.
        """
        self._send_records()
        stream = self._stream
        chunks = stream.take() if stream is not None else []
        if stream is None or not chunks:
            return
        size, done = sum(map(len, chunks)), 0
        stream.taken_bytes += size
        if self._file is not None:
            stream.gather(large=size >= len(chunks) * settings.DIRECT_BYTES // 2)
            done = self._append_together(self._file, chunks, size)
            if done == size:
                return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if last and self._filling is None and self._file is None:
            self._publish(Stream.OUTPUT, data, len(chunks), stream.ticket)
        else:
            self._fill(stream, data, len(chunks), done)

    def _append_together(self, file: FileEnd, chunks: list[bytes], size: int) -> int:
        """Write chunks to the end of the job's file, if it takes them; returns how much it took."""
        done = file.append_together(chunks, size)
        if done == size:
            file.chunks += len(chunks)
            if file.at >= file.due:
                self._publish_extent()
        return done

    def _fill(self, stream: JobStream, data: bytes, chunks: int, start: int = 0) -> None:
        """Copy bytes into the slot that is being filled, and publish each one that is full.

        Whole slots, not chunks, are what the sink is woken for and writes: with 64 KiB chunks this
        is a quarter of the frames, credits and writes (docs/decisions/0002-chunk-queue.md).
        """
        if self._slots is None:
            self._publish(Stream.OUTPUT, data, chunks, stream.ticket)
            return
        while True:
            if self._file is not None or self._begin_file():
                start = self._append(data, start, chunks)
                if self._file is not None:
                    return
            start = self._fill_slot(data, start)
            done = start == len(data)
            if done:
                self._filled_chunks += chunks
            if self._filled == settings.SLOT_BYTES:
                self._publish_slot()
            if done:
                return

    def _fill_slot(self, data: bytes, start: int) -> int:
        """Copy what there is room for into the slot that is being filled; returns what follows."""
        assert self._slots is not None
        if self._filling is None:
            self._filling = self._take_slot()
        step = min(len(data) - start, settings.SLOT_BYTES - self._filled)
        at = self._filling * settings.SLOT_BYTES + self._filled
        self._slots[at : at + step] = memoryview(data)[start : start + step]
        self._filled += step
        return start + step

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
        self._said_bytes += self._filled
        self._filling, self._filled, self._filled_chunks = None, 0, 0
        self._put(head)

    def _begin_file(self) -> bool:
        """Write to the end of the job's file from now on, if that was granted and can be done."""
        if self._offered is None or self._filling is not None:
            return False
        while len(self._free) < settings.SLOT_COUNT:
            self._read_credits()  # until the sink has stored all that was published (I4)
        self._file = FileEnd.open(self._offered, self._said_bytes)
        self._offered = None
        if self._file is not None and self._stream is not None:
            self._stream.gather(large=True)
        return self._file is not None

    def _append(self, data: bytes, start: int, chunks: int) -> int:
        """Write the rest of `data` to the end of the job's file.

        Returns:
            Where what the disk refused begins: the file is closed then, and the sink is to meet the
            refusal itself.
        """
        file, size = self._file, len(data)
        assert file is not None
        while start < size:
            while file.at == file.end:
                self._publish_extent()
                self._read_credits()  # until more is granted
            taken = file.append(data, start)
            if not taken:
                self._close_file()
                return start
            start += taken
            if file.at >= file.due:
                self._publish_extent()
        file.chunks += chunks
        return start

    def _publish_extent(self) -> None:
        """Publish what was written to the end of the file."""
        file, stream = self._file, self._stream
        if file is None or stream is None:
            return
        length, chunks = file.take()
        if length or chunks:
            astray = file.is_astray()
            self._put(self._encoder.encode_extent(stream.ticket, length, chunks, astray=astray))

    def _close_file(self) -> None:
        """Publish what was written, and write there no more."""
        file = self._file
        if file is not None:
            if self._stream is not None:
                self._publish_extent()
                self._stream.gather(large=False)
            self._file = None
            file.close()

    def _publish(self, stream: Stream, data: bytes | memoryview, chunks: int, ticket: int) -> None:
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
        self,
        kind: Kind,
        ticket: int,
        payload: bytes | memoryview,
        *,
        detail: int = 0,
        chunks: int = 0,
    ) -> None:
        head = self._encoder.encode(kind, ticket, detail=detail, chunks=chunks, length=len(payload))
        self._put(head + payload)

    def _put(self, data: bytes) -> None:
        if self._unsaid:
            data, self._unsaid = self._unsaid + data, b""
        frames = self._frames.check()
        try:
            while data:
                data = data[os.write(frames, data) :]
        except OSError:
            os._exit(EXIT_SINK_GONE)

    def _take_slot(self) -> int:
        while not self._free:
            self._read_credits()
        return self._free.popleft()  # in turn, as the sink gives them back

    def _read_credits(self) -> None:
        """Wait for something from the sink: slots that are free, or a grant."""
        credit = self._credits.check()
        try:
            data = os.read(credit, _CREDIT_BYTES)
        except OSError:
            data = b""
        if not data:
            os._exit(EXIT_SINK_GONE)
        slots, grants = self._credit_decoder.feed(data)
        self._free.extend(slots)
        for grant in grants:
            if self._stream is None or grant.ticket != self._stream.ticket:
                continue  # of a job that is over
            if grant.path:
                self._offered = grant
            elif self._file is not None:
                self._file.end = grant.end

    def _flush_late(self) -> None:
        pause = threading.Event()
        while True:
            self.stale.get()
            pause.wait(settings.FLUSH_DEADLINE_S)
            self.flush()
