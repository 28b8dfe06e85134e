"""The sink's end of a chunk queue: the frames of one worker, and the credits that it is given.

Runs in:    the sink.
Owns:       read end of the frames, write end of the credits, a mapping of the slots.
Invariants: I1  it never waits: not for frames, and not to give a credit.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Final

from collector import settings
from collector.errors import ProtocolError
from collector.process.queue.shared_slots import group_of, map_slots
from collector.wire.credits import Grant, slot_is_free
from collector.wire.frames import Frame, FrameDecoder, PayloadPlace

_READ_BYTES: Final = 64 * settings.KIB


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
            extent_bytes=settings.EXTENT_BYTES * settings.EXTENT_COUNT if self._slots else 0,
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
            if frame.place != PayloadPlace.SLOT or self._slots is None:
                yield frame, payload
                continue
            base = frame.slot * settings.SLOT_BYTES
            yield frame, self._slots[base : base + frame.length]
            self._give(slot_is_free(frame.slot))

    def grant(self, grant: Grant) -> None:
        """Let the worker write to the end of its job's file.

        Raises:
            ProtocolError: The worker does not read its credits.
        """
        self._give(grant.encode())

    def _give(self, credit: bytes) -> None:
        try:
            os.write(self._credits, credit)
        except BlockingIOError:
            raise ProtocolError("a worker publishes slots that it does not have") from None
        except BrokenPipeError:
            pass  # the worker is gone: its frames pipe tells the rest

    def group(self) -> int:
        """Return the process group that the running job has begun; 0 for none."""
        return 0 if self._slots is None else group_of(self._slots)

    def close(self) -> None:
        """Close both pipes and the mapping."""
        for fd in (self.fd, self._credits):
            os.close(fd)
        if self._slots is not None:
            self._slots.release()
