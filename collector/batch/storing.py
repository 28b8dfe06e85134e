"""Put the bytes of one attempt in their places, or take all of them back.

Runs in:    the process that writes a batch.
Owns:       what it has put there, until the block ends well.
Invariants: I1  what small bytes an attempt has lie behind each other in one pack, by one append.
            I2  if the block raises, nothing of it is left; but what a line tells of that cannot be
                taken back is left to that line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

from collector.batch.keeping import Keeper
from collector.batch.lines import Error, Filed, Packed, Place
from collector.settings import PACKED_BYTES
from collector.store.output.output import Output


@final
@dataclass(slots=True, kw_only=True)
class Attempt:
    """How an attempt has ended.

    Attributes:
        status: One of `lines.STATUSES`.
        start: Seconds since the epoch, as `end`.
        worker: Number of the worker that ran it.
        exitcode: Of the process, if one died: a negative one is a signal.
        error: Why it failed.
        meters: What it has counted.
        output: What it wrote; from then on it reads from where it is stored.
        log: What it printed.
        value: The pickled value, or the pickled exception; b"" for none.
        save: The name that the user wants the output to have; "" for none.
    """

    status: str
    start: float
    end: float
    worker: int | None = None
    exitcode: int | None = None
    error: Error | None = None
    meters: Mapping[str, float] | None = None
    output: Output | None = None
    log: Output | None = None
    value: bytes = b""
    save: str = ""


@final
class Storing:
    """The bytes of one or more attempts, which count when the block has ended well.

    Args:
        keeper: Writes them.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._files: list[str] = []
        self._packed: list[Packed] = []

    def put(
        self, key: str, number: int, attempt: Attempt, *, saved: Place | None
    ) -> tuple[Place | None, Place | None, Place | None]:
        """Put output, log and value where they belong, small ones behind each other.

        Args:
            key: Of the job.
            number: Of the attempt.
            attempt: Has them.
            saved: Where the output is, if it was saved already.

        Raises:
            SpillError: They cannot be written.
            OutputLostError: They cannot be read.
        """
        found: dict[str, Place | None] = {"out": saved, "log": None, "value": None}
        small: dict[str, bytes] = {}
        value = Output.in_memory(attempt.value, chunks=1) if attempt.value else None
        wanted = {"out": None if saved else attempt.output, "log": attempt.log, "value": value}
        for kind, output in wanted.items():
            if output is None or not output.size:
                continue
            if output.size < PACKED_BYTES:
                small[kind] = output.read()
            else:
                found[kind] = file = self._keeper.file(output, key, number, kind)
                self._files.append(file.name)
        if small:
            found.update(self._pack(small))
        return found["out"], found["log"], found["value"]

    def _pack(self, small: Mapping[str, bytes]) -> dict[str, Packed]:
        packed = self._keeper.pack(b"".join(small.values()))
        self._packed.append(packed)
        found = {}
        at = packed.at
        for kind, data in small.items():
            found[kind] = Packed(packed.pack, at, len(data))
            at += len(data)
        return found

    def take_back(self, *places: Place | None) -> None:
        """Count these, too, as what is taken back if the block raises."""
        for place in places:
            if isinstance(place, Filed):
                self._files.append(place.name)
            elif isinstance(place, Packed):
                self._packed.append(place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is not None and self._keeper.is_uncut:
            self._keeper.leaves = True
        elif kind is not None:
            for name in self._files:
                self._keeper.remove(name)
            for place in sorted(self._packed, reverse=True):
                self._keeper.cut(place)
