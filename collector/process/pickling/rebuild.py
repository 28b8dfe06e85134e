"""What a pickle of ours calls where it is unpickled: it makes functions and classes again.

Runs in:    the worker; for values that come back, the parent.
Owns:       nothing; the register of classes that came or went by value is cloudpickle's.
Invariants: I1  a class that comes back to the process that sent it is the class that is there,
                unchanged.
"""

import abc
import contextlib
import enum
import functools
import importlib
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, Final, final

from collector.process.pickling import arrived

_new: Final[weakref.WeakSet[type]] = weakref.WeakSet()
_DICT: Final[Any] = BaseException.__dict__["__dict__"]


class EmptyCell:
    """Stands for the content of a cell that has none."""


def module_named(name: str) -> ModuleType:
    """Return the module that stands for one of the parent's."""
    return sys.modules[name]


def function(code: CodeType, module: str, cells: int) -> FunctionType:
    """Return a function that sees the names of that module; its cells are still empty."""
    closure = tuple(CellType() for _ in range(cells)) or None
    return FunctionType(code, vars(sys.modules[module]), None, None, closure)


def fill_function(fn: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a function that was made by `function` the rest."""
    attributes, slots = state
    vars(fn).update(attributes)
    for cell, content in zip(fn.__closure__ or (), slots.pop("cells"), strict=True):
        if content is not EmptyCell:
            cell.cell_contents = content
    del slots["modules"]  # they are loaded: that is all
    for name, value in slots.items():
        setattr(fn, name, value)


def cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Return the function with a cache of its own, which is empty."""
    return functools.lru_cache(**parameters)(fn)


def cached_property(fn: Callable[[Any], Any], name: str) -> "functools.cached_property[Any]":
    """Return the property under the name that its class gave it."""
    made = functools.cached_property(fn)
    made.__set_name__(object, name)
    return made


def dispatching(fn: Callable[..., Any], registered: list[tuple[Any, Any]]) -> Any:
    """Return what `functools.singledispatch` makes of these functions."""
    made = functools.singledispatch(fn)
    for kind, implementation in registered:
        made.register(kind, implementation)
    return made


def dispatching_method(
    fn: Any, base: Callable[..., Any], registered: list[tuple[Any, Any]]
) -> "functools.singledispatchmethod[Any]":
    """Return what `functools.singledispatchmethod` makes of these functions."""
    made = functools.singledispatchmethod(fn)
    made.dispatcher = dispatching(base, registered)
    return made


def from_typing(kind: Any, module: str, arguments: tuple[Any, ...], how: dict[str, Any]) -> Any:
    """Return what a generic is made with, as if it had been made in that module."""
    made = kind(*arguments, **how)
    with contextlib.suppress(AttributeError):  # a type alias has the module of its caller
        made.__module__ = module
    return made


def fill_exception(error: BaseException, state: dict[str, Any]) -> None:
    """Give an exception its attributes, though its class forbids that they are set."""
    _DICT.__get__(error).update(state)


def skeleton(
    kind: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any], number: str
) -> type:
    """Return a class that is still empty; the one that is here already, if it came before.

    The class statement has run in the parent, with its metaclass and `__init_subclass__`. Those of
    the script are not called again here. Those of a library are, if they need no keywords: the
    library may keep a register of the classes in each process.
    """
    known = _known(number)
    if known is not None:
        return known
    plain = next((m for m in kind.__mro__ if m.__module__ not in arrived.modules()), type)
    if plain is not kind:
        with _unasked(bases):
            return _keep(number, plain.__new__(kind, name, bases, namespace))
    try:
        with _unasked(bases):
            made = types.new_class(name, bases, {"metaclass": kind}, lambda n: n.update(namespace))
    except TypeError:
        bare = abc.ABCMeta if issubclass(kind, abc.ABCMeta) else type
        with _unasked(bases, always=True):
            made = bare.__new__(kind, name, bases, namespace)
    return _keep(number, made)


def enum_class(
    kind: Any,
    named: tuple[str, str, str],
    bases: tuple[type, ...],
    members: list[tuple[str, Any, tuple[Any, ...]]],
    boundary: Any,
    number: str,
) -> type:
    """Return an Enum with its members, which are not given to its own `__new__` and `__init__`."""
    known = _known(number)
    if known is not None:
        return known

    def new(cls: Any, at: Any) -> Any:
        while isinstance(at, tuple):
            (at,) = at
        _, value, given = members[at]
        base = cls._member_type_
        member = base.__new__(cls, *given) if given else object.__new__(cls)
        member._value_ = value
        return member

    namespace = kind.__prepare__(named[0], bases)
    for at, (name, _, _) in enumerate(members):
        namespace[name] = at
    namespace["__new__"] = new
    namespace["__init__"] = _ask_nothing
    keywords = {} if boundary is None else {"boundary": boundary}
    with _unasked(bases, always=True):
        made = kind.__new__(kind, named[0], bases, namespace, **keywords)
    for left in ("__init__", "__new_member__"):
        if left in vars(made):
            type.__delattr__(made, left)
    _, made.__qualname__, made.__module__ = named
    return _keep(number, made)


def _known(number: str) -> type | None:
    from cloudpickle import cloudpickle

    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(number)  # noqa: SLF001 - one register for all
    return known if isinstance(known, type) else None


def _keep(number: str, made: Any) -> type:
    from cloudpickle import cloudpickle

    _new.add(made)
    kept: type = cloudpickle._lookup_class_or_track(number, made)  # noqa: SLF001 - as above
    return kept


@contextlib.contextmanager
def _unasked(bases: tuple[type, ...], *, always: bool = False) -> Iterator[None]:
    """Keep `__init_subclass__` of the script's classes from being called for a class that arrives.

    With `always`, that of any class.
    """
    order = (above for base in bases for above in base.__mro__)
    asked = next((base for base in order if "__init_subclass__" in vars(base)), object)
    if asked is object or not (always or asked.__module__ in arrived.modules()):
        yield
        return
    hook = vars(asked)["__init_subclass__"]
    type.__setattr__(asked, "__init_subclass__", classmethod(_ask_nothing))
    try:
        yield
    finally:
        type.__setattr__(asked, "__init_subclass__", hook)


def _ask_nothing(_cls: object, /, *_arguments: object, **_keywords: object) -> None:
    """Do nothing: what it stands for was done in the parent."""


@final
class Functions:
    """The functions of a class, which it has before anything that it holds is unpickled.

    That may be objects of the class, which are made by its functions.

    Args:
        of: The class.
        functions: By name.
        anew: Whether a class that was here already gets them, too.
    """

    def __init__(self, of: type, functions: dict[str, Any], *, anew: bool) -> None:
        self._parts = of, functions, anew

    def __reduce__(self) -> tuple[Any, ...]:
        return give_functions, self._parts


def give_functions(made: type, functions: dict[str, Any], anew: bool) -> None:
    """Give a class its functions."""
    from cloudpickle import cloudpickle

    if anew or made in _new:
        cloudpickle._class_setstate(made, (functions, {}))  # noqa: SLF001 - as `fill_class`
    arrived.is_made(made)


def fill_class(made: type, state: tuple[None, dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give a class its attributes; one that was here already is brought up to date."""
    from cloudpickle import cloudpickle

    is_new = made in _new
    _new.discard(made)
    _, attributes, of_members = state
    if issubclass(made, enum.Enum):
        if not is_new:
            return  # its members are what they were
        for name, further in of_members.items():
            vars(made[name]).update(further)
    cloudpickle._class_setstate(made, (attributes, {}))  # noqa: SLF001 - it knows what each Python wants


def fill_new_class(made: type, state: tuple[None, dict[str, Any], Any]) -> None:
    """Give a class its attributes, unless it was here already (I1)."""
    if made in _new:
        fill_class(made, state)


@final
class Imported:
    """Stands for what a module that can be imported has under a name.

    Args:
        module: The module.
        name: The name.
    """

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def __reduce__(self) -> tuple[Any, ...]:
        return imported, self._place


def imported(module: str, name: str) -> Any:
    """Return what has this name in a module, which is loaded now if it was not."""
    return getattr(importlib.import_module(module), name)


def global_named(module: str, name: str) -> Any:
    """Return what has this name in a module."""
    return getattr(sys.modules[module], name)
