"""A worker and a parent for a sink, both driven by hand from the test."""

import mmap
import os
import select
import socket
import threading
from typing import Any, TypeVar

from collector import settings
from collector.process.queue.channel import Channel
from collector.process.queue.chunk_queue import make_queue
from collector.process.sink.begin import SinkArguments
from collector.process.sink.main import Sink
from collector.store.rundir.directory import RunDirectory
from collector.wire import messages
from collector.wire.frames import START, FrameEncoder, Kind, Stream
from collector.wire.messages import Message
from tests.support.jobs import MIB

M = TypeVar("M", bound=Message)
THRESHOLD = START.pack(5 * MIB)


class HandWorker:
    """A worker that says what the test wants it to say, byte by byte."""

    def __init__(self, number: int, *, slots: bool = True) -> None:
        writer, self.reader = make_queue(slots=slots)
        self.number = number
        self.frames, self.credits = writer[:2]
        self.slots = mmap.mmap(writer[2], 0) if slots else None
        for fd in writer[2:]:
            os.close(fd)
        self.life, self.death = os.pipe()
        self.encoder = FrameEncoder()
        self.dead = False

    def frame(self, kind: int, ticket: int = 0, payload: bytes = b"", **fields: Any) -> bytes:
        """The bytes of the next frame, its payload behind it."""
        fields.setdefault("length", len(payload))
        return self.encoder.encode(kind, ticket, **fields) + payload

    def raw(self, data: bytes) -> None:
        """Say these bytes."""
        while data:
            data = data[os.write(self.frames, data) :]

    def say(self, kind: int, ticket: int = 0, payload: bytes = b"", **fields: Any) -> None:
        """Say a frame."""
        self.raw(self.frame(kind, ticket, payload, **fields))

    def chunk(self, ticket: int, data: bytes, stream: Stream = Stream.OUTPUT) -> None:
        """Say a chunk, in a slot if it is large."""
        if len(data) <= settings.INLINE_BYTES or self.slots is None:
            self.say(Kind.DATA, ticket, data, detail=stream, chunks=1)
            return
        self.slots[: len(data)] = data
        self.say(Kind.DATA, ticket, detail=stream, chunks=1, slot=0, length=len(data))
        assert os.read(self.credits, 1) == b"\0"

    def die(self) -> None:
        """Be dead: first the process, then its descriptors."""
        if not self.dead:
            self.dead = True
            for fd in (self.death, self.frames, self.credits):
                os.close(fd)
            if self.slots is not None:
                self.slots.close()


class HandParent:
    """The parent of a sink that runs in a thread of the test."""

    def __init__(self, directory: RunDirectory, **told: Any) -> None:
        arguments = {
            "run_directory": str(directory.path),
            "run_identity": directory.identity,
            "temp_file_base_name": "out",
            "memory_budget": 256 * MIB,
            "elsewhere_bytes": 0,
            "farewell": messages.Farewell(),
        }
        self.directory = directory
        self._socket, theirs = socket.socketpair()
        self.life, self.death = os.pipe()
        self.channel = Channel(self._socket)
        self.control = Channel(theirs, takes_descriptors=True)
        self.sink = Sink(
            self.control,
            self.life,
            RunDirectory.join(directory.path),
            SinkArguments(**arguments | told),  # type: ignore[arg-type]
        )
        self.thread = threading.Thread(target=self.sink.run)
        self.thread.start()
        self.workers: list[HandWorker] = []
        self.heard: list[Message] = []

    def worker(
        self, *, slots: bool = True, pid: int = 2**22 + 1, life: int | None = None
    ) -> HandWorker:
        """Let a new worker join, whose number is that of no process; or one with a pidfd."""
        worker = HandWorker(len(self.workers) + 1, slots=slots)
        if life is not None:
            os.close(worker.life)
            worker.life = life
        self.workers.append(worker)
        joined = messages.WorkerJoined(worker=worker.number, pid=pid, slots=slots)
        self.channel.post_with(joined, [*worker.reader, worker.life])
        for fd in (*worker.reader, worker.life):
            os.close(fd)
        return worker

    def tell(self, message: Message) -> None:
        """Send a message to the sink."""
        self.channel.post(message)
        while not self.channel.flush():
            select.select([], [self.channel.fd], [])

    def hear(self, kind: type[M], timeout_s: float = 60) -> M:
        """Wait for the next message of this kind; those before it are kept in `heard`."""
        poll = select.poll()
        poll.register(self.channel.fd, select.POLLIN)
        while True:
            for at, message in enumerate(self.heard):
                if isinstance(message, kind):
                    del self.heard[at]
                    return message
            assert poll.poll(timeout_s * 1000), f"the sink says nothing of {kind.__name__}"
            came = self.channel.receive()
            assert came is not None, "the sink is gone"
            self.heard.extend(came)

    def close(self) -> None:
        """Stop the sink."""
        for worker in self.workers:
            worker.die()
        self.tell(messages.Stop())
        self.thread.join()
        self.let_go()

    def let_go(self) -> None:
        """Close what is left; the sink has stopped."""
        self.sink._watch.close()
        for source in self.sink._sources.values():
            source.queue.close()
            os.close(source.death_fd)
        self.control.close()
        self.channel.close()
        os.close(self.life)
        if self.death >= 0:
            os.close(self.death)


def data_of(parent: HandParent, ended: messages.JobEnded) -> bytes:
    """The bytes of a sealed output."""
    if not ended.name:
        return ended.data
    data = (parent.directory.path / ended.name).read_bytes()
    parent.directory.remove_file(ended.name)
    return data
