"""What was sent last under a name of the script, and whether that name still stands for it.

Runs in:    the parent.
Owns:       nothing.
"""

import functools
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any, Final, NamedTuple, final

from collector import settings
from collector.process.pickling import calls, places
from collector.process.pickling.by_name import CACHED, ByValueError
from collector.process.pickling.places import Key
from collector.store.rundir.locks import loading

_GONE: Final = object()
_ATOMS: Final = (int, float, complex, str, bytes, bool, type(None))
DEFINED: Final = (type, FunctionType, CACHED)
_FIXED: Final = (
    *_ATOMS,
    *DEFINED,
    CodeType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    functools.cached_property,
    functools.partialmethod,
    functools.singledispatchmethod,
    property,
)
"""Nothing inside these can change, but for what is looked at by itself."""
_NOT_SENT: Final = ("__builtins__", "__spec__", "__loader__", "__cached__")


@final
class Needs:
    """The names that a pickle needs of modules that travel, without those that it defines."""

    __slots__ = ("_defined", "first", "later")
    shared = True

    def __init__(self, defined: Collection[Key] = ()) -> None:
        self.first: dict[Key, object] = {}
        """Names that must be there when it is unpickled, with their values here."""
        self.later: dict[Key, str] = {}
        """Names that its code uses when it runs, each with the function that uses it."""
        self._defined = defined

    def has(self, module: str, name: str) -> bool:
        """See `Names.has`."""
        key = module, name.partition(".")[0]
        value = places.names_of(module).get(key[1], _GONE)
        if value is _GONE or key in self._defined:
            return False
        self.first[key] = value
        return True

    def need(self, module: str, name: str, by: str) -> None:
        """See `Names.need`."""
        if name not in _NOT_SENT:
            self.later.setdefault((module, name), by)

    def called(self, obj: object) -> Key | None:
        """See `Names.called`."""
        for module in {"__main__", *(module for module, _ in (*self.first, *self.later))}:
            for name, value in list(places.names_of(module).items()):
                if value is obj:
                    return (module, name) if self.has(module, name) else None
        return None


class Version(NamedTuple):
    """What was sent last under one name."""

    value: Any
    first: Mapping[Key, object]
    later: Mapping[Key, str]
    made_of: tuple[Any, ...] = ()
    """Of a function or class: what it is made of, to be compared one by one."""
    content: bytes | None = None
    """Of data that is not large: what it was pickled to, or the digest of that."""

    def is_current(self, key: Key) -> bool:
        """Tell whether the name still has this value, unchanged."""
        value = places.names_of(key[0]).get(key[1], _GONE)
        if value is not self.value:
            return False
        for (module, name), then in self.first.items():
            if places.names_of(module).get(name, _GONE) is not then:
                return False
        if self.made_of:
            now = tuple(_made_of(value))
            if len(now) != len(self.made_of) or not all(map(_is_same, now, self.made_of)):
                return False
        if self.content is None:
            return True
        try:
            return self.content == _content(_data_of(value), key)
        except Exception:  # noqa: BLE001 - it cannot be pickled now: sending it anew says why
            return False


def look_at(key: Key, by: str) -> Version | None:
    """Pickle what a name stands for, to learn what it needs; None if there is no such name."""
    value = places.names_of(key[0]).get(key[1], _GONE)
    if value is _GONE:
        return None
    if type(value) in _ATOMS or places.import_of(value, key[1]):
        return Version(value, {}, {})
    needs = Needs((key,))
    try:
        calls.by_value(_Head(), needs).dump(value)
    except Exception as error:  # code of the user's: said with the name
        raise refusal(key, by, error) from error
    try:
        content = _content(_data_of(value), key)
    except Exception:  # noqa: BLE001 - a function may travel although what it holds does not
        content = None
    return Version(value, needs.first, needs.later, tuple(_made_of(value)), content)


def refusal(key: Key, by: str, error: Exception) -> Exception:
    """Return the error that says which global cannot travel, who uses it and what to do."""
    module, name = key
    user = f" that {by}() uses" if by else ""
    what = f"the global {name!r} of {module}{user} cannot be sent to a worker"
    instead = (
        f"make it in each worker, with an initializer that assigns it by `global {name}`, and "
        "leave it unset, or None, here"
    )
    if isinstance(places.names_of(module).get(name), DEFINED):
        instead = f"define it in a module that the script imports, or {instead}"
    return calls.refusal(what, error, calls.instead_of(error, instead))


class _Head:
    """A file for a pickle that is compared later: what is too large for that is only counted."""

    def __init__(self) -> None:
        self._size = 0
        self._pieces: list[bytes] = []

    def write(self, piece: Any) -> int:
        """Keep it, or count it."""
        self._size += len(piece)
        if self._size <= settings.SCRIPT_COMPARED_BYTES:
            self._pieces.append(bytes(piece))
        else:
            self._pieces.clear()
        return len(piece)

    def digest(self) -> bytes | None:
        """Return what was written, or its digest; None if that was too much."""
        if self._size > settings.SCRIPT_COMPARED_BYTES:
            return None
        data = b"".join(self._pieces)
        if len(data) <= settings.KIB:
            return data
        with loading("hashlib"):
            import hashlib  # noqa: PLC0415 - 4 ms, for data of a script that is large
        return hashlib.blake2b(data).digest()


def _content(data: Any, key: Key) -> bytes | None:
    """Return what a later change of this data is seen by; None if there is none, or it is large."""
    if data is None:
        return None
    needs = Needs((key,))
    head = _Head()
    try:
        calls.by_name(head, needs).dump(data)
    except ByValueError:
        head = _Head()
        calls.by_value(head, needs).dump(data)
    return head.digest()


def _is_same(now: Any, then: Any) -> bool:
    return now is then or (type(now) is type(then) and type(now) in _ATOMS and now == then)


def _data_of(value: Any) -> Any:
    """Return what can change inside a value: itself, or what a function or class holds.

    None if nothing can.
    """
    if isinstance(value, ModuleType):
        return None
    if not isinstance(value, DEFINED):
        return value
    return [part for part in _made_of(value) if not isinstance(part, _FIXED)] or None


def _made_of(value: Any) -> Iterator[Any]:
    """Yield what a function or class is made of, as far as somebody may have changed it."""
    todo, seen = [value], {id(value)}
    while todo:
        for piece in _pieces(todo.pop()):
            inner = piece.__func__ if isinstance(piece, (staticmethod, classmethod)) else piece
            yield inner
            belongs = isinstance(inner, (FunctionType, type)) and not _has_a_name(inner, value)
            if belongs and id(inner) not in seen:
                seen.add(id(inner))
                todo.append(inner)


def _pieces(made: Any) -> Iterator[Any]:
    if isinstance(made, FunctionType):
        yield made.__code__
        registry = vars(made).get("registry")
        if isinstance(registry, MappingProxyType):  # of `functools.singledispatch`
            yield from (*registry, *registry.values())
            return
        yield from made.__defaults__ or ()
        yield from (made.__kwdefaults__ or {}).values()
        yield from (cell.cell_contents for cell in made.__closure__ or () if _is_full(cell))
        yield from list(vars(made).values())
    elif isinstance(made, type) and not issubclass(made, Enum):
        for name, held in list(vars(made).items()):
            if not name.startswith(("__", "_abc_")) or isinstance(held, FunctionType):
                yield held


def _has_a_name(inner: Any, of: Any) -> bool:
    """Tell whether `inner` has a name that does not lead through `of`."""
    place = places.place(inner)
    if place is None:
        return False
    top = place[1].partition(".")[0]
    return places.importable(place[0]) or places.names_of(place[0]).get(top) is not of


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it is asked whether it has any
    except ValueError:
        return False
    return True
