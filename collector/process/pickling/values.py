"""The values of a part, which are pickled one behind the other with one memo.

Runs in:    the worker.
Invariants: I1  a value that cannot be loaded fails those behind it that share with it what was not
                made, with its error, and no others.
"""

import io
import pickle
from typing import Any, Final, final

from collector.process.pickling import places
from collector.store.rundir.locks import loading

_NOT_HERE: Final = object()
_ATOMS: Final = (str, bytes, int, float)
_TAKE: Final = pickle.NONE + pickle.BINPERSID + pickle.MEMOIZE + pickle.POP


@final
class Values:
    """Loads the values that one pickler has written to a file.

    An unpickler that was broken off holds what it had read ahead. And it numbers what it makes by
    counting, so that each number behind that would be another one than the pickler's.

    Args:
        file: Where they are. Who calls `load` has put it where one begins.
    """

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file
        self._unpickler = pickle.Unpickler(file)
        self._begins: list[int] = []
        self._numbers_before = 0
        """So many have been given to what comes before the first of `_begins`."""
        self._lost: dict[int, BaseException] = {}
        """The numbers of what was not made, and why."""

    def load(self) -> Any:
        """Load the next value.

        Raises:
            BaseException: What loading it raises, or one before it whose objects it shares.
        """
        begin = self._file.tell()
        self._begins.append(begin)
        if self._lost:
            shared = self._lost.keys() & self._noted(begin)[1]
            self._file.seek(begin)
            if shared:
                number = min(shared)
                self._pass_over(self._lost[number])
                raise self._lost[number]
        try:
            return self._unpickler.load()
        except BaseException as error:
            self._pass_over(error)
            raise

    def close(self) -> None:
        """Let go of the errors: their frames lead here, and to all that was loaded."""
        self._lost.clear()

    def _pass_over(self, error: BaseException) -> None:
        """Go on behind the last value, which could not be loaded, with the numbers as they are."""
        *before, put = [self._noted(begin)[0] for begin in self._begins]
        behind = self._file.tell()
        first = self._numbers_before + sum(map(len, before))
        memo: dict[int, Any] = {**self._unpickler.memo.copy()}
        for number, text in enumerate(put, first):
            if not _is_whole(memo.setdefault(number, text)):
                self._lost[number] = error
        self._begins.clear()
        self._numbers_before = first + len(put)
        self._unpickler = _Taking(self._file, [memo[at] for at in range(self._numbers_before)])
        self._file.seek(behind)

    def _noted(self, begin: int) -> tuple[list[object], set[int]]:
        """Return what a value adds to the memo, as far as it is text, and what it finds there."""
        with loading("pickletools"):
            import pickletools  # noqa: PLC0415 - only where something could not be loaded

        put: list[object] = []
        found: set[int] = set()
        last: object = _NOT_HERE
        self._file.seek(begin)
        for code, argument, _ in pickletools.genops(self._file):
            if code.name == "MEMOIZE":
                put.append(last)
            elif isinstance(argument, int) and code.name in {"BINGET", "LONG_BINGET"}:
                found.add(argument)
            if code.name != "FRAME":
                last = argument if "UNICODE" in code.name else _NOT_HERE
        return put, found


class _Taking(pickle.Unpickler):
    """An unpickler that has these objects in its memo.

    One that is given a memo does not know how much is in there, and counts from 0.
    """

    def __init__(self, file: io.BytesIO, objects: list[Any]) -> None:
        super().__init__(file)
        self._objects = iter(objects)
        begin = file.seek(0, io.SEEK_END)
        file.write(_TAKE * len(objects) + pickle.NONE + pickle.STOP)
        file.seek(begin)
        self.load()

    def persistent_load(self, _number: Any) -> Any:
        """Return the next one."""
        return next(self._objects)


def _is_whole(made: Any) -> bool:
    """Tell whether an object was not just being made when loading a value was broken off."""
    if type(made) in _ATOMS:
        return True
    place = places.place(made)
    return place is not None and places.importable(place[0])
