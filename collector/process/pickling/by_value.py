"""Pickles what nobody can import: functions and classes with all that they are made of.

Runs in:    the parent and the worker, from the first such thing on: this loads cloudpickle.
Source:     docs/decisions/0005-shipping-functions.md, 0010-the-script-travels-once.md.
"""

import dis
import enum
import functools
import inspect
import marshal
import operator
import re
import sys
import typing
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    GenericAlias,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    UnionType,
)
from typing import Any, Final

from cloudpickle import cloudpickle

from collector.process.pickling import places, rebuild
from collector.process.pickling.by_name import (
    CACHED,
    FROM_TYPING,
    NAMED_BY_NAME,
    Names,
    SupportsWrite,
    exception_parts,
    lone_parts,
    refuse_number,
)

_NAMES_A_GLOBAL: Final = frozenset(
    {
        "LOAD_GLOBAL",
        "STORE_GLOBAL",
        "DELETE_GLOBAL",
        "LOAD_NAME",
        "STORE_NAME",
        "LOAD_FROM_DICT_OR_GLOBALS",
    }
)


def _code_inside(fn: Any, name: str) -> CodeType:
    """Return the code of a function that this one makes."""
    return next(
        code
        for code in fn.__code__.co_consts
        if isinstance(code, CodeType) and code.co_name == name
    )


_DISPATCHING: Final = _code_inside(functools.singledispatch, "wrapper")
_BOUND_DISPATCHING: Final = _code_inside(functools.singledispatchmethod.__get__, "_method")
_CODE: Final = (FunctionType, classmethod, staticmethod, property)
_PLAIN: Final = (int, float, complex, str, bytes, bool, type(None))
_ASKED_BY_CODE: Final = ("__dataclass_fields__", "__dataclass_params__", "__attrs_attrs__")
_IN_ANNOTATIONS: Final = (
    *(type, FunctionType, ModuleType, GenericAlias, UnionType),
    *(int, float, complex, str, bytes),
)
_MAKE_TYPES: Final = ("typing", "typing_extensions")
"""`Optional`, `List[int]`, a `TypeVar` and the like are objects of classes of these."""
_MADE_BY_ENUM: Final = (
    "_generate_next_value_",
    "_hashable_values_",
    "_member_map_",
    "_member_names_",
    "_member_type_",
    "_unhashable_values_",
    "_unhashable_values_map_",
    "_value2member_map_",
)
_MADE_FOR_A_MEMBER: Final = ("__objclass__", "_inverted_", "_name_", "_sort_order_", "_value_")
_WORD: Final = re.compile(r"\b[^\W\d]\w*")


class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, but what has a name there goes by name.

    Args:
        file: Where the pickle is written.
        names: Tells what has a name there; learns what this pickle needs.
    """

    def __init__(self, file: SupportsWrite, names: Names, protocol: int) -> None:
        super().__init__(file, protocol)
        self._names = names

    def reducer_override(self, obj: Any) -> Any:  # noqa: PLR0911 - one case a kind
        """Say how to pickle an object: the C pickler asks for each that is not a plain one."""
        kind = type(obj)
        if isinstance(obj, type) or kind in NAMED_BY_NAME:
            if self._has_a_name(obj):
                return NotImplemented
            if kind is FunctionType:
                return self._function(obj)
            if kind in FROM_TYPING:
                return _typing_parts(obj)
            return self._class(obj) if isinstance(obj, type) else NotImplemented
        if kind is MethodType or kind is BuiltinMethodType:
            return self._method(obj)
        if isinstance(obj, ModuleType):
            return self._module(obj)
        if isinstance(obj, BaseException):
            return exception_parts(obj)
        refuse_number(obj, self.dispatch_table)
        return lone_parts(obj, self._names)

    def _function(self, fn: FunctionType) -> Any:
        if fn.__code__ is _DISPATCHING:
            return rebuild.dispatching, _registered(fn)
        if fn.__code__ is _BOUND_DISPATCHING:
            held = inspect.getclosurevars(fn).nonlocals
            return getattr, (held["obj"] if held["obj"] is not None else held["cls"], fn.__name__)
        home = places.home(fn) if self._names.shared else None
        if home is None:
            return self._dynamic_function_reduce(fn)
        cells = [_content(cell) for cell in fn.__closure__ or ()]
        values = self._needs_of(fn, home)
        slots = {
            "__name__": fn.__name__,
            "__qualname__": fn.__qualname__,
            "__annotations__": fn.__annotations__,
            "__kwdefaults__": fn.__kwdefaults__,
            "__defaults__": fn.__defaults__,
            "__module__": fn.__module__,
            "__doc__": fn.__doc__,
            "cells": cells,
            "modules": cloudpickle._find_imported_submodules(fn.__code__, [*values, *cells]),  # noqa: SLF001
        }
        made = (fn.__code__, home, len(cells))
        return rebuild.function, made, (dict(vars(fn)), slots), None, None, rebuild.fill_function

    def _needs_of(self, fn: FunctionType, home: str) -> list[Any]:
        """Note the names that a function's code and annotations use; return their values."""
        by = fn.__qualname__
        namespace = places.names_of(home)
        used, everything = names_in(fn.__code__)
        values = [namespace[name] for name in used if name in namespace]
        for name in used:
            self._names.need(home, name, by)
        for name in types_in(vars(fn).get("__annotations__") or fn.__annotations__, namespace):
            self._names.need(home, name, by)
        for module in self._modules_in(values, everything, namespace):
            inside = places.names_of(module)
            for name in ("__name__", *everything):
                if name in inside:
                    self._names.need(module, name, by)
        return values

    @staticmethod
    def _modules_in(
        values: list[Any], words: Iterable[str], namespace: dict[str, Any]
    ) -> Iterator[str]:
        """Yield the travelling modules that code has among its globals, or imports itself."""
        package = namespace.get("__package__") or ""
        imported = [sys.modules.get(name) for word in words for name in (word, f"{package}.{word}")]
        for module in (*values, *imported):
            if isinstance(module, ModuleType) and (name := places.travelling(module)):
                yield name

    def _method(self, method: MethodType | BuiltinMethodType) -> Any:
        """Pickle a method as the C pickler does, if it is found by its name; else as it is made.

        In a class that is just being made, which may hold methods of its own, none is found.
        """
        place = places.import_of(method)
        if place is not None:
            return rebuild.imported, place
        if isinstance(method, BuiltinMethodType):
            return NotImplemented
        owner, name = method.__self__, getattr(method.__func__, "__name__", None)
        is_there = self._has_a_name(owner if isinstance(owner, type) else type(owner))
        if is_there and isinstance(name, str) and getattr(owner, name, None) == method:
            return getattr, (owner, name)
        return MethodType, (method.__func__, owner)

    def _has_a_name(self, obj: Any) -> bool:
        place = places.place(obj)
        return bool(place and (places.importable(place[0]) or self._names.has(*place)))

    def _module(self, module: ModuleType) -> Any:
        name = places.travelling(module) if self._names.shared else None
        if name is not None:
            self._names.need(name, "__name__", name)
            return rebuild.module_named, (name,)
        return NotImplemented

    def _class(self, cls: type) -> Any:
        if cls.__module__ == "builtins":  # those that have no name there
            return cloudpickle._class_reduce(cls)  # noqa: SLF001
        home = cls.__module__
        namespace = places.names_of(home)
        if self._names.shared and not places.importable(home):
            for name in types_in(vars(cls).get("__annotations__"), namespace):
                self._names.need(home, name, cls.__qualname__)
        fill = rebuild.fill_class if self._names.shared else rebuild.fill_new_class
        if issubclass(cls, enum.Enum):
            return *_enum_parts(cls), None, None, fill
        make, arguments, (attributes, slots) = _class_parts(cls)
        early = [k for k, v in attributes.items() if _is_early(k, v)]
        functions = {name: attributes.pop(name) for name in early}
        first = rebuild.Functions(cls, functions, anew=self._names.shared)
        return make, arguments, (first, attributes, slots), None, None, fill


def _is_early(name: str, held: Any) -> bool:
    """Tell whether a class has this before the objects that it holds are made by its functions."""
    return isinstance(held, _CODE) or type(held) in _PLAIN or name in _ASKED_BY_CODE


def _class_parts(cls: type) -> tuple[Any, Any, Any]:
    """Return what makes a class, its arguments, and what the class is given then."""
    kind, name, _, namespace, number, _ = cloudpickle._class_getnewargs(cls)  # noqa: SLF001
    attributes, slots = cloudpickle._class_getstate(cls)  # noqa: SLF001
    for held in [k for k, v in attributes.items() if isinstance(v, MemberDescriptorType)]:
        del attributes[held]  # made of `__slots__`
    for needed in ("__slots__", "__orig_bases__"):
        if needed in vars(cls):
            attributes.pop(needed, None)
            namespace[needed] = vars(cls)[needed]
    namespace["__qualname__"] = cls.__qualname__
    return rebuild.skeleton, (kind, name, cls.__bases__, namespace, number), (attributes, slots)


def _enum_parts(cls: type[enum.Enum]) -> tuple[Any, Any, Any]:
    """Do the same for an Enum. Its members are made with it, without a call of its `__new__`."""
    attributes, _ = cloudpickle._class_getstate(cls)  # noqa: SLF001
    for made in (*cls.__members__, *_MADE_BY_ENUM):
        attributes.pop(made, None)
    base = cls._member_type_  # type: ignore[attr-defined]
    given = getattr(base, "__getnewargs__", None)
    members = [
        (name, member.value, given(member) if given else ())
        for name, member in cls.__members__.items()
    ]
    further = {
        member.name: {k: v for k, v in vars(member).items() if k not in _MADE_FOR_A_MEMBER}
        for member in cls.__members__.values()
    }
    named = (cls.__name__, cls.__qualname__, cls.__module__)
    number = cloudpickle._get_or_create_tracker_id(cls)  # noqa: SLF001
    boundary = getattr(cls, "_boundary_", None)
    arguments = (type(cls), named, cls.__bases__, members, boundary, number)
    return rebuild.enum_class, arguments, (None, attributes, further)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return rebuild.EmptyCell


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the globals that code names, and all names in it: also of attributes and imports."""
    used: dict[str, None] = {}
    everything: dict[str, None] = dict.fromkeys(code.co_names)
    for instruction in dis.get_instructions(code):
        if instruction.opname in _NAMES_A_GLOBAL:
            used[instruction.argval] = None
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            its_used, its_everything = names_in(inner)
            used.update(dict.fromkeys(its_used))
            everything.update(dict.fromkeys(its_everything))
    return tuple(used), tuple(everything)


def types_in(annotations: Any, namespace: dict[str, Any]) -> Iterator[str]:
    """Yield the names in annotations that are texts, or hold texts, if they may mean types.

    So may numbers and texts, in `Literal` and `Annotated`. A table, or a lock, may not: it has its
    name in common with a word of a text that is no more than a remark.
    """
    for name in words_in(annotations):
        value = namespace.get(name)
        if isinstance(value, _IN_ANNOTATIONS) or type(value).__module__ in _MAKE_TYPES:
            yield name


def words_in(annotations: Any) -> Iterator[str]:
    """Yield the words in annotations that are texts, or hold texts."""
    todo = list(annotations.values()) if isinstance(annotations, dict) else []
    while todo:
        annotation = todo.pop()
        if isinstance(annotation, str):
            yield from _WORD.findall(annotation)
        elif isinstance(annotation, typing.ForwardRef):
            todo.append(annotation.__forward_arg__)
        else:
            inner = getattr(annotation, "__args__", ())
            todo.extend(inner if isinstance(inner, tuple) else ())


def _typing_parts(obj: Any) -> Any:
    """Pickle a TypeVar and the like by value: by name it would refer to what is just being sent."""
    kind, how = type(obj), dict[str, Any]()
    arguments: tuple[Any, ...] = (obj.__name__,)
    if kind is typing.NewType:
        arguments += (obj.__supertype__,)
    elif kind is typing.TypeVar:
        arguments += obj.__constraints__
        how = {"bound": obj.__bound__, "covariant": obj.__covariant__}
        how["contravariant"] = obj.__contravariant__
        if getattr(obj, "__infer_variance__", False):
            how = {"bound": obj.__bound__, "infer_variance": True}
    elif kind not in (typing.ParamSpec, typing.TypeVarTuple):  # `type X = ...` of Python 3.12
        arguments += (obj.__value__,)
        how = {"type_params": obj.__type_params__}
    if getattr(obj, "has_default", bool)():
        how["default"] = obj.__default__
    return rebuild.from_typing, (kind, obj.__module__, arguments, how)


def _code_parts(code: CodeType) -> Any:
    """Pickle code as it is, with the name of its file: tracebacks and log records show that."""
    try:
        return marshal.loads, (marshal.dumps(code, 2),)
    except ValueError:  # code that a program made, with constants that no compiler produces
        make, parts = cloudpickle._code_reduce(code)  # noqa: SLF001
        place = parts.index("<dynamic-code>") if "<dynamic-code>" in parts else None
        named = [code.co_filename if at == place else part for at, part in enumerate(parts)]
        return make, tuple(named)


def _cached_parts(fn: Any) -> Any:
    return rebuild.cached, (fn.__wrapped__, fn.cache_parameters())


def _registered(dispatching: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    registered = dict(dispatching.registry)
    return registered.pop(object), list(registered.items())


def _dispatching_parts(obj: "functools.singledispatchmethod[Any]") -> Any:
    return rebuild.dispatching_method, (obj.func, *_registered(obj.dispatcher))


def _property_parts(obj: "functools.cached_property[Any]") -> Any:
    return rebuild.cached_property, (obj.func, obj.attrname)


def _file_parts(file: TextIOWrapper) -> Any:
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    raise TypeError(f"cannot pickle an open file: {file!r}")


ByValue.dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(
    {
        CACHED: _cached_parts,
        functools.cached_property: _property_parts,
        functools.singledispatchmethod: _dispatching_parts,
        CodeType: _code_parts,
        TextIOWrapper: _file_parts,
        typing.TypeVar: operator.attrgetter("__name__"),  # one that has a name there
    }
)
