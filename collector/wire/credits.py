"""What the sink says back to a worker through its chunk queue: slots that are free, and grants.

A free slot is one byte, its number. A grant says up to where the worker may write to the end of its
job's file; the first one of a job also says which file that is.
`docs/reference/wire-format.md` has the bytes.

Invariants: I1  a credit that is not whole is not delivered.
"""

import struct
from typing import Final, NamedTuple

_GRANT: Final = 0xFF
"""The first byte of a grant: no slot has such a number."""

_HEADER: Final = struct.Struct("<BHQQQQ")
MOST_PATH_BYTES: Final = 600
"""Of a file that can be granted. The grants of four jobs are to fit into a pipe of one page."""


class Grant(NamedTuple):
    """The worker that runs this job may write up to `end` of its file.

    The path is empty but for the first one of a job; so are device and inode, which the file must
    have.
    """

    ticket: int
    end: int
    device: int = 0
    inode: int = 0
    path: bytes = b""

    def encode(self) -> bytes:
        """Return its bytes."""
        numbers = self.ticket, self.end, self.device, self.inode
        return _HEADER.pack(_GRANT, len(self.path), *numbers) + self.path


def slot_is_free(slot: int) -> bytes:
    """Return the bytes that say so."""
    return bytes((slot,))


class CreditDecoder:
    """Turns what came back through the pipe of credits into slots and grants."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> tuple[bytes, list[Grant]]:
        """Return the slots that are free now, a byte for each, and what was granted."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if _GRANT not in data:
            return data, []
        slots, grants, at = bytearray(), list[Grant](), 0
        while at < len(data):
            if data[at] != _GRANT:
                slots.append(data[at])
                at += 1
                continue
            path_at = at + _HEADER.size
            if path_at > len(data):
                break
            _, length, ticket, end, device, inode = _HEADER.unpack_from(data, at)
            if path_at + length > len(data):
                break
            at = path_at + length
            grants.append(Grant(ticket, end, device, inode, data[path_at:at]))
        self._rest = data[at:]
        return bytes(slots), grants
