"""What the workers of one Collector have of the script: parts, each pickled once.

A *part* holds new versions of some names of modules that travel
(`collector.process.pickling.places`): names that the code of a call uses, and whose present values
were not sent before.

Runs in:    the parent. `Script.pack` in any thread, `Delivered` in the supervising one.
Owns:       what was sent last under each name; the bytes of each part that somebody may need.
Invariants: I1  a new worker that loads the parts of a call, in the order of their numbers, has each
                name that the call needs, as it was at `submit`.
            I2  a name whose value has not changed in the parent is not sent again, whatever jobs
                have done to it in a worker; but for a call that a signal handler or a finalizer
                submits while its own thread is about to note what it sends.
            I3  a part is dropped once it holds the newest version of no name, and no open job
                needs it.
"""

import io
import itertools
import pickle
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final, final

from collector import settings
from collector.process.pickling import calls, places, rebuild
from collector.process.pickling.places import Key
from collector.process.pickling.versions import DEFINED, Needs, Version, look_at, refusal
from collector.wire.messages import LoadPart

_LOOKS: Final = 10
"""So often the names are looked through while other threads change what was sent."""

_OF_A_MODULE: Final = ("__package__", "__path__", "__file__")


class Part:
    """New versions of some names; nobody changes it."""

    __slots__ = ("__weakref__", "blob", "keys", "number", "starts")

    def __init__(
        self, number: int, keys: tuple[Key, ...], starts: tuple[int, ...], blob: bytes
    ) -> None:
        self.number = number
        self.keys = keys
        self.starts = starts
        self.blob = blob


Parts = tuple[Part, ...]

Needed = tuple[Parts, bytes]
"""Parts, in the order of their numbers, and the numbers of the names that are needed."""


@final
class Script:
    """Keeps what the workers of one Collector are sent of the modules that travel."""

    def __init__(self) -> None:
        self._versions: Mapping[Key, Version] = {}
        """Never changed, but replaced: it is read without the lock."""
        self._holds: dict[Key, Part] = {}
        self._known: dict[frozenset[Key], Needed] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()  # only such a lock tells whether this thread holds it

    def pack(self, call: Any, reducers: calls.Reducers | None = None) -> tuple[bytes, Parts, bytes]:
        """Pickle a call, and what is new of the names that it needs.

        Returns the call, the parts that it needs, and which of their names.

        Args:
            call: A function and its arguments.
            reducers: How to pickle objects of these classes among them.

        Raises:
            TypeError: A global, or the call itself, cannot travel; the message names it.
            Exception: The call cannot be pickled (whatever pickling it raises).
        """
        needs = Needs()
        try:
            data = calls.pickled(call, needs, reducers)
        except Exception as error:  # code of the user's may run: what that raises goes on as it is
            if not calls.is_refusal(error):
                raise
            what = f"the call of {calls.call_name(call[0])}() cannot be sent to a worker"
            instead = "make what cannot be pickled in the job, or in an initializer"
            instead = calls.instead_of(error, instead)
            raise calls.refusal(what, error, instead) from error
        if not needs.first and not needs.later:
            return data, (), b""
        asked = {**dict.fromkeys(needs.first, calls.call_name(call[0])), **needs.later}
        return data, *self._needed(asked)

    def _needed(self, asked: Mapping[Key, str]) -> Needed:
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - as Condition asks
            return self._apart(asked)
        looks = 0
        while True:
            looks += 1
            versions = self._versions
            found, new = _look_through(versions, asked)
            contents = _pickled(new) if new else None
            with self._lock:  # not before: to look and to pickle runs code of the user's
                if self._versions is not versions and looks < _LOOKS:
                    continue  # another thread was faster: what it has sent is not sent again (I2)
                if contents is not None:
                    part = Part(next(self._numbers), *contents)
                    self._holds.update(dict.fromkeys(new, part))
                    self._versions = {**self._versions, **new}
                    self._known.clear()
                return self._known_of(asked, found)

    def _apart(self, asked: Mapping[Key, str]) -> Needed:
        """Return a part with all that is needed, of which nothing is noted: that is under way."""
        _, new = _look_through({}, asked)
        parts = (Part(next(self._numbers), *_pickled(new)),) if new else ()
        return parts, _numbers_of(new, parts)

    def _known_of(self, asked: Iterable[Key], found: Iterable[Key]) -> Needed:
        key = frozenset(asked)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= settings.SCRIPT_CALLS_KNOWN:
                self._known.clear()
            parts = self._whole(found)
            known = self._known[key] = parts, _numbers_of(found, parts)
        return known

    def _whole(self, keys: Iterable[Key]) -> Parts:
        """Return the parts that hold these names, with those that they need in turn (I1)."""
        parts: dict[int, Part] = {}
        todo, seen = list(keys), set(keys)
        while todo:
            part = self._holds[todo.pop()]
            if part.number in parts:
                continue
            parts[part.number] = part
            others = [*part.keys, *(k for own in part.keys for k in self._versions[own].first)]
            for key in others:
                if key not in seen and key in self._holds:
                    seen.add(key)
                    todo.append(key)
        return tuple(parts[number] for number in sorted(parts))


def _numbers_of(keys: Iterable[Key], parts: Parts) -> bytes:
    """Return the numbers of these names, each in the last of the parts that has it."""
    numbers = {
        key: places.number_of(part.number, at) for part in parts for at, key in enumerate(part.keys)
    }
    return array("Q", [numbers[key] for key in keys if key in numbers]).tobytes()


def _look_through(
    versions: Mapping[Key, Version], asked: Mapping[Key, str]
) -> tuple[list[Key], dict[Key, Version]]:
    """Return all names that are needed, directly or not, and those that must be sent."""
    new: dict[Key, Version] = {}
    found: list[Key] = []
    seen, todo = set(asked), list(asked.items())
    while todo:
        key, by = todo.pop()
        version = versions.get(key)
        if version is None or not version.is_current(key):
            version = look_at(key, by)
            if version is None:
                continue
            new[key] = version
        found.append(key)
        for need in version.first:
            if need not in seen:
                seen.add(need)
                todo.append((need, by))
        for need, user in version.later.items():
            if need not in seen:
                seen.add(need)
                todo.append((need, user))
    return found, new


def _pickled(new: Mapping[Key, Version]) -> tuple[tuple[Key, ...], tuple[int, ...], bytes]:
    """Return what a part of these names holds."""
    needs, keys = Needs(new), _in_order(new)
    starts: list[int] = []
    file = io.BytesIO()
    pickler = calls.by_value(file, needs)
    pickler.dump(_modules(keys))
    for key in keys:
        starts.append(file.tell())
        pickle.dump(key, file)  # by itself: it is needed whatever becomes of the values before it
        try:
            place = places.import_of(new[key].value, key[1])
            pickler.dump(rebuild.Imported(*place) if place else new[key].value)
        except Exception as error:  # code of the user's: said with the name
            raise refusal(key, "", error) from error
    return tuple(keys), tuple(starts), file.getvalue()


def _in_order(new: Mapping[Key, Version]) -> list[Key]:
    """Put modules first, then functions and classes, then data in the order of the script.

    But before each what it needs when it is loaded, with all that the code of that uses.
    """

    def rank(key: Key) -> tuple[int, int]:
        value = new[key].value
        if isinstance(value, ModuleType):
            return 0, 0
        if isinstance(value, DEFINED):
            return 1, 0
        return 2, lines[key[0]].get(key[1], 0)

    lines = {
        module: {name: number for number, name in enumerate(list(places.names_of(module)))}
        for module in {module for module, _ in new}
    }
    order: dict[Key, None] = {}
    seen: set[tuple[Key, bool]] = set()
    todo = [(key, False, False) for key in sorted(new, key=rank, reverse=True)]
    while todo:
        key, is_called, is_next = todo.pop()
        if is_next:
            order.setdefault(key)
        elif key in new and (key, is_called) not in seen:
            seen.add((key, is_called))
            todo.append((key, is_called, True))
            before = [*new[key].first, *(new[key].later if is_called else ())]
            todo.extend((other, True, False) for other in reversed(before))
    return list(order)


def _modules(keys: Iterable[Key]) -> dict[str, dict[str, Any]]:
    """Return what modules must have before anything of them is loaded; packages come first."""
    told: dict[str, dict[str, Any]] = {}
    for name in sorted({module for module, _ in keys}):
        above = name.split(".")
        for depth in range(1, len(above) + 1):
            whole = ".".join(above[:depth])
            if not places.importable(whole):
                told.setdefault(whole, _attributes(whole))
    return told


def _attributes(module: str) -> dict[str, Any]:
    namespace = places.names_of(module)
    if module == "__main__":  # its file is told to those that name it
        return {"__package__": namespace.get("__package__")}
    told = {name: namespace[name] for name in _OF_A_MODULE if namespace.get(name) is not None}
    if "__path__" in told:
        told["__path__"] = list(told["__path__"])
    return told


@final
class Delivered:
    """What one worker has been sent, or is being sent, of the script."""

    def __init__(self) -> None:
        self._has: dict[Key, int] = {}
        self._last: Parts = ()

    def missing(self, parts: Parts, before: int) -> Iterator[LoadPart]:
        """Yield what the worker lacks of these parts, and count that as sent.

        Args:
            parts: What it must have.
            before: Ticket of the attempt before which it is to load them.
        """
        if parts is self._last:
            return
        self._last = parts
        version = {key: part.number for part in parts for key in part.keys}
        for part in parts:
            wanted = [
                at
                for at, key in enumerate(part.keys)
                if version[key] == part.number != self._has.get(key)
            ]
            if wanted:
                self._has.update({part.keys[at]: part.number for at in wanted})
                yield load_part_of(part, wanted, before)


def load_part_of(part: Part, wanted: list[int], before: int) -> LoadPart:
    """Return the message that hands over these names of a part."""
    return LoadPart(
        before=before,
        number=part.number,
        starts=array("Q", part.starts).tobytes(),
        wanted=array("Q", wanted).tobytes(),
        blob=part.blob,
    )
