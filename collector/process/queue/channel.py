"""Messages over a descriptor that never blocks: what cannot be written yet waits in order.

Runs in:    parent, sink and worker; a worker only receives.
Owns:       its descriptor, and descriptors that came along with messages until they are taken.
Invariants: I1  messages arrive whole and in order, or the channel is at its end.
"""

import contextlib
import itertools
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from collector import settings
from collector.wire.messages import Message, MessageDecoder, encode

_READ_BYTES: Final = 64 * settings.KIB
_MOST_DESCRIPTORS: Final = 64


class Channel:
    """One end of a connection of messages.

    Args:
        end: A pipe's descriptor, or a socket where descriptors are to travel along.
        takes_descriptors: Whether this end is the one that gets them.
    """

    def __init__(self, end: int | socket.socket, *, takes_descriptors: bool = False) -> None:
        self._takes_descriptors = takes_descriptors
        self._socket = end if isinstance(end, socket.socket) else None
        self.fd = end if isinstance(end, int) else end.fileno()
        os.set_blocking(self.fd, False)
        self._decoder = MessageDecoder()
        self._waiting: deque[bytes | memoryview] = deque()
        self._arrived: deque[list[int]] = deque()
        self.backlog_bytes = 0
        self.closed = False

    def post(self, message: Message) -> None:
        """Queue a message; `flush` writes it."""
        for piece in encode(message):
            self._waiting.append(piece)
            self.backlog_bytes += len(piece)

    def post_with(self, message: Message, descriptors: Sequence[int]) -> None:
        """Write a small message at once, with descriptors, over a socket.

        Raises:
            OSError: The other end is gone.
        """
        if self._socket is None:
            raise TypeError("descriptors travel over sockets only")
        data = b"".join(encode(message))
        self._socket.setblocking(True)
        try:
            while self.backlog_bytes:
                self.flush()
            socket.send_fds(self._socket, [data], descriptors)
        finally:
            self._socket.setblocking(False)

    def flush(self) -> bool:
        """Write what can be written now; True when nothing waits any more.

        Raises:
            OSError: The other end is gone.
        """
        waiting = self._waiting
        while waiting:
            if len(waiting) > 1 and len(waiting[0]) + len(waiting[1]) <= settings.JOIN_BYTES:
                self._join()
            piece = waiting[0]
            try:
                written = os.write(self.fd, piece)
            except BlockingIOError:
                return False
            self.backlog_bytes -= written
            if written == len(piece):
                waiting.popleft()
            else:
                waiting[0] = memoryview(piece)[written:]
        return True

    def _join(self) -> None:
        """Join small messages at the head of the line, so that one call writes them all."""
        waiting, pieces, size = self._waiting, list[bytes | memoryview](), 0
        if self.backlog_bytes <= settings.JOIN_BYTES:
            pieces.extend(waiting)
            waiting.clear()
        while waiting and size + len(waiting[0]) <= settings.JOIN_BYTES:
            pieces.append(waiting.popleft())
            size += len(pieces[-1])
        waiting.appendleft(b"".join(pieces))

    def receive(self) -> list[Message] | None:
        """Return the messages that have come, none if nothing is there; None at the end.

        Raises:
            ProtocolError: What came are no messages of ours.
        """
        while (data := self._read()) != b"":
            messages = list(self._decoder.feed(data or b""))
            if messages or data is None:
                return messages
        return None

    def _read(self) -> bytes | None:
        """Return what is there now; None if that is nothing, no bytes at the end."""
        try:
            if self._socket is None or not self._takes_descriptors:
                data = os.read(self.fd, _READ_BYTES)
            else:
                data, descriptors, flags, _ = socket.recv_fds(
                    self._socket, _READ_BYTES, _MOST_DESCRIPTORS
                )
                if descriptors or flags & socket.MSG_CTRUNC:
                    self._arrived.append(descriptors)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""
        return data

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came with the next message that had some.

        They are the caller's from now on. There are fewer than were sent, or none, if this process
        may have no more.
        """
        return self._arrived.popleft()

    def detach(self) -> int:
        """Give up the descriptor and return it."""
        self.closed = True
        return self.fd if self._socket is None else self._socket.detach()

    def close(self) -> None:
        """Close the descriptor, once: its number may soon be another's; what waits is dropped."""
        if self.closed:
            return
        self.closed = True
        for fd in itertools.chain.from_iterable(self._arrived):
            os.close(fd)
        self._arrived.clear()
        self._waiting.clear()
        self.backlog_bytes = 0
        if self._socket is not None:
            self._socket.close()
        else:
            with contextlib.suppress(OSError):
                os.close(self.fd)
