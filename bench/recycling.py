"""A sink whose spilled bytes go round in files that stay, for the rows of resident files.

The sink is the real one. Each spilled output has its real file in the run directory, which is made,
checked, sealed and removed as ever; only the `write` of its bytes goes to a recycled descriptor, as
it does for every rival in these rows, and at the end the real file is given its length.
"""

import contextlib
import os
import pickle
from collections.abc import Iterator, Sequence

from bench.target import Resident
from collector.process import sink
from collector.store.chunk import Buffer
from collector.store.spillfile import SpillFile

_sink_main = sink.main


@contextlib.contextmanager
def recycled() -> Iterator[None]:
    """Let the sinks of Collectors that are made meanwhile recycle their files."""
    sink.main = main
    try:
        yield
    finally:
        sink.main = _sink_main


def main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Be a sink that recycles; its files lie beside the root of the run directory."""
    run_directory = pickle.loads(arguments).run_directory
    beside = os.path.dirname(os.path.dirname(run_directory))
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
