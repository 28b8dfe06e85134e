"""The messages between parent and sink, and from the parent to a worker.

A message is a named tuple whose fields are numbers, then texts and bytes (a dataclass takes three
times as long to be defined, in every process). On the wire it is a fixed header (kind, counts,
length of the body), the numbers, the lengths of the texts and bytes, and these.

Invariants: I1  nothing in a message is ever unpickled to understand it; values of jobs are opaque
                bytes.
            I2  the decoder delivers the same messages however the bytes were split.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from collector.errors import ProtocolError

_HEADER: Final = struct.Struct("<BBHQ")
PUMP: Final = 0
"""As the number of a worker that joins: it carries what many workers say, each START with the
number of its own. No worker has this number."""

_SMALL_BYTES: Final = 4096
"""Texts and bytes of a message up to this size are one piece with its header."""


class RunJob(NamedTuple):
    """Parent to worker: run this job next."""

    ticket: int
    job_id: int
    attempt: int
    memory_threshold: int
    capture: int
    """A `Capture`."""
    log_name: str
    name: str
    call: bytes
    names: bytes
    """What it needs of the script: numbers of eight bytes each."""


class LoadPart(NamedTuple):
    """Parent to worker: have these names of a part of the script when this attempt is run.

    Starts and wanted are numbers of eight bytes each.
    """

    before: int
    number: int
    starts: bytes
    wanted: bytes
    blob: bytes


class AuthKeys(NamedTuple):
    """Parent to worker: the keys of these libraries are new here; an empty one is not loaded."""

    multiprocessing: bytes
    multiprocess: bytes


class WorkerJoined(NamedTuple):
    """Parent to sink: read this worker's queue; the reader's descriptors come along."""

    worker: int
    pid: int
    slots: int


class WorkerLeft(NamedTuple):
    """Parent to sink: this worker is dead; said only where no pidfd tells the sink so.

    What a pump had carried of it is in the pump's queue by then.
    """

    worker: int


class FollowJob(NamedTuple):
    """Parent to sink: spill this job's output now, and report its progress more often."""

    ticket: int


class MemoryHeld(NamedTuple):
    """Parent to sink: what the parent holds in memory has changed by so many bytes."""

    change: int


class Farewell(NamedTuple):
    """Parent to sink: should the parent die, write this to stderr; it gives the terminal back.

    `mode` is JSON: the two modes of that terminal, as `termios` has them, that it is to have and
    that it has if nobody has changed it since; empty if its mode is as it was.
    """

    text: bytes = b""
    mode: str = ""


class RunDirectoryAt(NamedTuple):
    """Parent to sink or worker: where to make files now; or, with a text, why nowhere.

    It answers the question of that number; 0 if nobody has asked. `identity` is device and inode.
    """

    question: int
    error_number: int
    path: str
    identity: str
    error: str


class Stop(NamedTuple):
    """Parent to sink: no worker is left; leave."""


class WorkerReady(NamedTuple):
    """Sink to parent: the worker is up; or, with a text, it refuses to work and says why."""

    worker: int
    refusal: str


class JobStarted(NamedTuple):
    """Sink to parent: the worker has begun to run the job."""

    worker: int
    ticket: int


class JobProgressed(NamedTuple):
    """Sink to parent: how far a running job's output is; name is its file, if any."""

    ticket: int
    bytes_written: int
    chunks: int
    name: str


class LogRecord(NamedTuple):
    """Sink to parent: a job logged something; the record is an opaque pickle."""

    ticket: int
    record: bytes


class JobRemarked(NamedTuple):
    """Sink to parent: the worker says something of its job (`collector.wire.remarks`)."""

    worker: int
    ticket: int
    text: bytes


class JobEnded(NamedTuple):
    """Sink to parent: the job is over and its streams are sealed.

    A sealed stream is `size` bytes in `chunks` chunks: in the file `name` of the run directory, or
    in `data`; so is the value, of `value_size` bytes.
    """

    worker: int
    ticket: int
    outcome: int
    size: int
    chunks: int
    value_size: int
    error_number: int
    name: str
    data: bytes
    value_name: str
    value: bytes
    error: str


class RunDirectoryWanted(NamedTuple):
    """Sink to parent: others removed the run directory; it asks itself, or for this worker."""

    worker: int
    question: int


class JobHandedBack(NamedTuple):
    """Sink to parent: the worker had not started this job and will not."""

    worker: int
    ticket: int


class WorkerDrained(NamedTuple):
    """Sink to parent: the worker's queue is read and closed; with a text, refused."""

    worker: int
    broken: str


Message = (
    RunJob
    | LoadPart
    | WorkerJoined
    | WorkerLeft
    | FollowJob
    | MemoryHeld
    | Farewell
    | RunDirectoryAt
    | Stop
    | WorkerReady
    | JobStarted
    | JobProgressed
    | LogRecord
    | JobEnded
    | RunDirectoryWanted
    | JobHandedBack
    | WorkerDrained
    | AuthKeys
    | JobRemarked
)

_KINDS: Final[tuple[type[Message], ...]] = (
    RunJob,
    LoadPart,
    WorkerJoined,
    WorkerLeft,
    FollowJob,
    MemoryHeld,
    Farewell,
    RunDirectoryAt,
    Stop,
    WorkerReady,
    JobStarted,
    JobProgressed,
    LogRecord,
    JobEnded,
    RunDirectoryWanted,
    JobHandedBack,
    WorkerDrained,
    AuthKeys,
    JobRemarked,
)


class _Layout:
    """How the fields of one message class lie on the wire."""

    def __init__(self, kind: int, cls: type[Message]) -> None:
        types = [*cls.__annotations__.values()]
        self.cls = cls
        others = [one for one in types if one is not int]
        self.texts = [at for at, one in enumerate(others) if one is str]
        self.empty: list[Any] = ["" if one is str else b"" for one in others]
        self.count = len(types) - len(others)
        if any(one is not int for one in types[: self.count]):
            raise TypeError(f"the numbers of a {cls.__name__} are not its first fields")
        numbers_and_lengths = f"{self.count}q{len(others)}Q"
        self.fixed = struct.Struct(f"<{numbers_and_lengths}")
        self.whole = struct.Struct(f"{_HEADER.format}{numbers_and_lengths}")
        self.header = (kind, self.count, len(others))


_LAYOUTS: Final = {cls: _Layout(kind, cls) for kind, cls in enumerate(_KINDS)}
_BY_KIND: Final = list(_LAYOUTS.values())


def encode(message: Message) -> list[bytes]:
    """Return the message as pieces to write one by one; large bytes are not copied."""
    layout = _LAYOUTS[type(message)]
    values: tuple[Any, ...] = message
    blobs: list[Any] = [*values[layout.count :]]
    for at in layout.texts:
        blobs[at] = blobs[at].encode("utf-8", "surrogatepass")
    lengths = [*map(len, blobs)]
    size = sum(lengths)
    numbers = values[: layout.count]
    head = layout.whole.pack(*layout.header, layout.fixed.size + size, *numbers, *lengths)
    return [b"".join([head, *blobs])] if size <= _SMALL_BYTES else [*filter(None, [head, *blobs])]


class MessageDecoder:
    """Turns the bytes of one connection back into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = _HEADER.size

    def feed(self, data: bytes | memoryview) -> Iterator[Message]:
        """Yield each message that is now whole.

        Raises:
            ProtocolError: The bytes are no messages of ours.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= self._wanted:
                kind, numbers, blobs, length = _HEADER.unpack_from(buffer, start)
                if kind >= len(_BY_KIND) or _BY_KIND[kind].header != (kind, numbers, blobs):
                    raise ProtocolError(
                        f"unknown message: {kind}, {numbers} numbers, {blobs} texts"
                    )
                layout = _BY_KIND[kind]
                if length < layout.fixed.size:
                    raise ProtocolError(f"a {layout.cls.__name__} of {length} bytes")
                whole = _HEADER.size + length
                if len(buffer) - start < whole:
                    self._wanted = whole
                    break
                message = _body(layout, buffer, start + _HEADER.size, length)
                start += whole
                self._wanted = _HEADER.size
                yield message
        finally:
            del buffer[:start]


def _body(layout: _Layout, buffer: bytearray, start: int, length: int) -> Message:
    values = layout.fixed.unpack_from(buffer, start)
    blobs = layout.empty.copy()
    at = start + layout.fixed.size
    for index, size in enumerate(values[layout.count :]):
        if not size:
            continue
        if size <= _SMALL_BYTES:
            blob = bytes(buffer[at : at + size])
        else:  # without a second copy
            with memoryview(buffer) as view:
                blob = bytes(view[at : at + size])
        blobs[index] = _text(blob) if index in layout.texts else blob
        at += size
    if at != start + length:
        raise ProtocolError(f"a message of {length} bytes holds {at - start}")
    return layout.cls(*values[: layout.count], *blobs)


def _text(blob: bytes) -> str:
    """Read a text: any str, lone surrogates too, for names of jobs and files may have them."""
    try:
        return blob.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a text that is none: {error}") from error
