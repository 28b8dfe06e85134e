"""Sinks and workers whose outputs go round in files that stay, for the rows of resident files.

They are the real ones. Each spilled output has its real file in the run directory, which is made,
granted, checked, sealed and removed as ever; only the `write` of its bytes goes to a recycled
descriptor, as it does for every rival in these rows, and at the end the real file is given its
length.
"""

import contextlib
import os
import pickle
from collections.abc import Iterator, Sequence

from bench.target import Resident
from collector import settings
from collector.process.queue.file_end import FileEnd
from collector.process.queue.held import Held
from collector.process.sink import begin as sink
from collector.process.worker import begin as worker
from collector.store.output.chunk import Buffer
from collector.store.output.spill_file import SpillFile
from collector.wire.credits import Grant

_sink_main = sink.main
_worker_main = worker.main


@contextlib.contextmanager
def recycled() -> Iterator[None]:
    """Let sinks and workers of Collectors that are made meanwhile recycle their files."""
    sink.main, worker.main = sink_main, worker_main
    try:
        yield
    finally:
        sink.main, worker.main = _sink_main, _worker_main


def worker_main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Be a worker that recycles what it writes to its jobs' files itself."""
    beside = _beside(pickle.loads(arguments).run_directory.path)
    resident = Resident(os.path.join(beside, f"recycled-by-{os.getpid()}"))

    def recycled_open(_cls: type[FileEnd], grant: Grant, size: int) -> FileEnd:
        return FileEnd(Held(os.open(grant.path, os.O_WRONLY | os.O_CLOEXEC)), size, grant.end)

    def recycled_append(file: FileEnd, data: bytes, start: int) -> int:
        file._checked()  # noqa: SLF001 - as the real one
        room = file.end - file.at
        piece: bytes | memoryview = data
        if start or len(data) > room:
            piece = memoryview(data)[start : start + room]
        resident.write(piece)
        file.at += len(piece)
        return len(piece)

    def recycled_together(file: FileEnd, chunks: Sequence[bytes], size: int) -> int:
        if size > file.end - file.at or len(chunks) > settings.TOGETHER_CHUNKS:
            return 0
        file._checked()  # noqa: SLF001 - as the real one
        resident.write_together(chunks)
        file.at += size
        return size

    FileEnd.append_together = recycled_together  # type: ignore[method-assign]
    FileEnd.open = classmethod(recycled_open)  # type: ignore[assignment]
    FileEnd.append = recycled_append  # type: ignore[method-assign]
    FileEnd.is_astray = lambda _file: False  # type: ignore[method-assign]
    _worker_main(descriptors, arguments)


def _beside(run_directory: str) -> str:
    return os.path.dirname(os.path.dirname(run_directory))


def sink_main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Be a sink that recycles; its files lie beside the root of the run directory."""
    beside = _beside(pickle.loads(arguments).run_directory)
    free: list[Resident] = []
    used: dict[str, Resident] = {}
    seal = SpillFile.seal

    def recycled_append(file: SpillFile, data: Buffer) -> None:
        resident = used.get(file.name)
        if resident is None:
            number = len(used)
            resident = free.pop() if free else Resident(os.path.join(beside, f"recycled-{number}"))
            used[file.name] = resident
        resident.write(data)

    def recycled_seal(file: SpillFile, size: int) -> None:
        free.append(used.pop(file.name))
        os.truncate(file.path, size)
        seal(file, size)

    SpillFile.append = recycled_append  # type: ignore[method-assign]
    SpillFile.seal = recycled_seal  # type: ignore[method-assign]
    _sink_main(descriptors, arguments)
