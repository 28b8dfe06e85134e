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
        self._lost: set[int] = set()
        self._error: BaseException | None = None

    def load(self) -> Any:
        """Load the next value.

        Raises:
            BaseException: What loading it raises, or one before it whose objects it shares.
        """
        begin = self._file.tell()
        self._begins.append(begin)
        if self._error is not None:
            shares = not self._lost.isdisjoint(self._noted(begin)[1])
            self._file.seek(begin)
            if shares:
                self._pass_over()
                raise self._error
        try:
            return self._unpickler.load()
        except BaseException as error:
            self._error = self._error or error
            self._pass_over()
            raise

    def _pass_over(self) -> None:
        """Go on behind the last value, which could not be loaded, with the numbers as they are."""
        *before, put = [self._noted(begin)[0] for begin in self._begins]
        made = self._unpickler.memo.copy()
        rest = []
        for number, text in enumerate(put, sum(map(len, before))):
            if not _is_whole(made.get(number, text)):
                self._lost.add(number)
            if number not in made:
                rest.append(_adding(text))
        # An unpickler takes the memo of another one, and loses a dict that it is given.
        filled = pickle.Unpickler(io.BytesIO(b"".join(rest) + pickle.NONE + pickle.STOP))
        filled.memo = self._unpickler.memo
        filled.load()
        self._unpickler = pickle.Unpickler(self._file)
        self._unpickler.memo = filled.memo

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


def _adding(text: object) -> bytes:
    """Return the steps of a pickle that add one object to the memo: a text, or None for others."""
    made = pickle.NONE
    if isinstance(text, str):
        data = text.encode("utf-8", "surrogatepass")
        made = pickle.BINUNICODE8 + len(data).to_bytes(8, "little") + data
    return made + pickle.MEMOIZE + pickle.POP


def _is_whole(made: Any) -> bool:
    """Tell whether an object was not just being made when loading a value was broken off."""
    if type(made) in _ATOMS:
        return True
    place = places.place(made)
    return place is not None and places.importable(place[0])
