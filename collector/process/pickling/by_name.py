"""Pickles by the C pickler what has a name in the process that unpickles it.

Runs in:    the parent and the worker.
"""

import copyreg
import functools
import pickle
import typing
from collections.abc import Container
from types import (
    BuiltinMethodType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final, Protocol

from collector.process.pickling import places, rebuild
from collector.process.pickling.places import Key

CACHED: Final = type(functools.cache(len))
"""What `functools.cache` makes of a function."""

FROM_TYPING: Final = frozenset(
    getattr(typing, name)
    for name in ("NewType", "ParamSpec", "TypeAliasType", "TypeVar", "TypeVarTuple")
    if hasattr(typing, name)
)
"""What generics are made with."""

NAMED_BY_NAME: Final = frozenset({FunctionType, CACHED}) | FROM_TYPING
"""Besides classes: what is pickled as the name under which it is found."""


HELD_BY_NUMBER: Final = ("multiprocessing.connection", "multiprocess.connection", "ctypes")
"""Modules of objects that any pickler takes, as a number that means nothing elsewhere."""


class SupportsWrite(Protocol):
    """What a pickler needs of a file."""

    def write(self, piece: bytes, /) -> object:
        """Take the next bytes."""


class Names(Protocol):
    """What has a name in the other process."""

    shared: bool
    """Whether a function finds the names of its module there, so that they must be sent too."""

    def need(self, module: str, name: str, by: str) -> None:
        """Note that what is pickled needs this name once it runs."""

    def has(self, module: str, name: str) -> bool:
        """Tell whether a module that travels has this name there; note that it is needed."""

    def called(self, obj: object) -> Key | None:
        """Return under which name a lone object is found there; note that it is needed."""


class ByValueError(Exception):
    """Something in here has no name in the other process."""


class ByName(pickle.Pickler):
    """The C pickler; it gives up at the first thing that has no name in the other process."""

    names: Names
    """Set by whoever makes the pickler: a constructor in Python costs a fifth of a small pickle."""

    def reducer_override(self, obj: Any) -> Any:
        """Say how to pickle an object: the C pickler asks for each that is not a plain one."""
        kind = type(obj)
        if kind in NAMED_BY_NAME or isinstance(obj, type):
            place = places.place(obj)
            if place is None or not (places.importable(place[0]) or self.names.has(*place)):
                raise ByValueError
            return NotImplemented
        if kind is object or type(kind.__reduce__) is FunctionType:
            return lone_parts(obj, self.names)
        if isinstance(obj, BaseException):
            return exception_parts(obj)
        if isinstance(obj, ModuleType):
            raise ByValueError
        if kind.__module__ in HELD_BY_NUMBER:
            refuse_number(obj, getattr(self, "dispatch_table", ()))
        return NotImplemented


def refuse_number(obj: object, known: Container[type]) -> None:
    """Refuse what would come as a number that stands for something else there, or for nothing.

    Args:
        obj: What is pickled.
        known: Classes of which is known how else to pickle them.

    Raises:
        TypeError: It is a connection, or a library, and its class is none of these.
    """
    kind = type(obj)
    if kind.__module__ not in HELD_BY_NUMBER or kind in known:
        return
    if hasattr(kind, "fileno"):
        raise TypeError(
            f"cannot pickle a connection of {kind.__module__.partition('.')[0]}, which is the "
            "number of a descriptor of this process: it can be among the initargs"
        )
    if hasattr(kind, "_func_flags_"):
        raise TypeError(
            f"cannot pickle a library of ctypes ({kind.__name__}), which is the number of a handle "
            "of this process: load it in the other one"
        )


def lone_parts(obj: Any, names: Names) -> Any:
    """Pickle a lone object by its name: a sentinel, which is known by its identity."""
    kind = type(obj)
    if kind is object:
        key = names.called(obj)
        return NotImplemented if key is None else (rebuild.global_named, key)
    if type(kind.__reduce__) is not FunctionType or places.importable(kind.__module__):
        return NotImplemented
    parts: Any = obj.__reduce__()
    if isinstance(parts, str) and not names.has(kind.__module__, parts):
        return copyreg.__newobj__, (kind,), getattr(obj, "__dict__", None)  # type: ignore[attr-defined]
    return parts


def exception_parts(error: BaseException) -> Any:
    """Pickle an exception whose class forbids setting attributes as if it did not."""
    kind = type(error)
    if isinstance(kind.__setattr__, WrapperDescriptorType):
        return NotImplemented
    if not _is_built_in(kind.__reduce__) or not _is_built_in(kind.__reduce_ex__):
        return NotImplemented
    given_by = getattr(kind, "__setstate__", None)
    if not _is_built_in(given_by) and getattr(given_by, "__module__", "") != "dataclasses":
        # The `__setstate__` of dataclasses with slots knows nothing of an exception's state.
        return NotImplemented
    parts: Any = error.__reduce__()
    make, arguments, *state = parts
    if not state or not isinstance(state[0], dict):
        return NotImplemented
    return make, arguments, state[0], None, None, rebuild.fill_exception


def _is_built_in(method: Any) -> bool:
    return isinstance(method, (MethodDescriptorType, BuiltinMethodType, WrapperDescriptorType))
