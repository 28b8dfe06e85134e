"""Which function a batch runs: its name, and a hash of its source and of what it is bound to.

Runs in:    the parent, when a `collect` begins.
Invariants: I1  the name alone decides whether it is the batch's function; the hash is advice.
            I2  a function that is bound to nothing has the hash of its source alone.
            I3  of what it is bound to no more than a few values are looked at, and none is asked:
                what has no key text, or a long one, says of what class it is.
"""

import contextlib
import functools
import hashlib
import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

from collector.batch.directory import What
from collector.batch.keys import key_text

_MOST: Final = 300
"""So many values are looked at, and as many parts of each."""
_DEEPEST: Final = 1
"""The attributes of the object of a method, and no attributes of these."""
_DEEPEST_FUNCTION: Final = 4
"""As deep decorators are looked through: a function may be bound to itself, too."""
_FUNCTIONS: Final = (functools.partial, types.FunctionType, types.MethodType)


def what_of(fn: Callable[..., Any]) -> What:
    """Say what is run: the function by its name, with a hash of what else makes it."""
    return What("function", _name_of(fn), _hash_of(fn))


def _name_of(fn: Any) -> str:
    if isinstance(fn, functools.partial):
        return f"{_name_of(fn.func)}{_bound_text(_bound_by(fn))}"
    if not hasattr(fn, "__qualname__"):
        fn = type(fn)  # an object that can be called
    return f"{getattr(fn, '__module__', None) or '?'}:{fn.__qualname__}"


def _bound_by(partial: "functools.partial[Any]") -> list[Any]:
    return [*partial.args, *sorted(partial.keywords.items())]


def _bound_text(bound: list[Any]) -> str:
    """Say what a partial is bound to; what has no key says nothing."""
    try:
        digest = hashlib.blake2b(key_text(bound), digest_size=8).hexdigest()
    except TypeError:
        return ""
    return f"({digest})"


def _hash_of(fn: Any) -> str | None:
    source = _source_of(fn)
    bound: list[bytes] = []
    with contextlib.suppress(Exception):  # what passes for another class may run code of the user's
        bound += itertools.islice(_bound_to(fn, 0), _MOST)
    if source is None and not bound:
        return None
    digest = hashlib.blake2b((source or "").encode(errors="surrogatepass"), digest_size=16)
    for text in bound:
        digest.update(b"%d:%b" % (len(text), text))
    return digest.hexdigest()


def _source_of(fn: Any) -> str | None:
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        return inspect.getsource(fn if hasattr(fn, "__qualname__") else type(fn))
    except Exception:  # noqa: BLE001 - it may be of any kind, and the hash is advice only
        return None


def _bound_to(thing: Any, deep: int) -> Iterator[bytes]:
    """Yield a text for each value that a function, or an object, has with it."""
    for name, value in _parts_of(thing):
        yield f"{name} ".encode(errors="surrogatepass") + _text_of(value)
        deepest = _DEEPEST_FUNCTION if isinstance(value, _FUNCTIONS) else _DEEPEST
        if deep < deepest:
            yield from _bound_to(value, deep + 1)


def _parts_of(thing: Any) -> Iterator[tuple[str, Any]]:
    match thing:
        case functools.partial():
            yield from _parts_of(thing.func)
            if not _bound_text(_bound_by(thing)):  # else its name says it
                yield from ((str(number), value) for number, value in enumerate(thing.args))
                yield from thing.keywords.items()
        case types.FunctionType():
            for name, cell in zip(
                thing.__code__.co_freevars, thing.__closure__ or (), strict=False
            ):
                with contextlib.suppress(ValueError):  # nothing is in it yet
                    yield name, cell.cell_contents
        case types.MethodType():
            yield "", thing.__func__
            yield "self", thing.__self__
        case types.BuiltinMethodType() if not isinstance(thing.__self__, types.ModuleType):
            yield "self", thing.__self__
        case types.ModuleType() | type():
            pass
        case _:
            yield from _attributes_of(thing)


def _attributes_of(thing: object) -> Iterator[tuple[str, Any]]:
    """Yield what an object has by itself, without asking it."""
    get = object.__getattribute__
    with contextlib.suppress(AttributeError, TypeError):
        yield from get(thing, "__dict__").items()
    for one in type(thing).__mro__:
        for name in vars(one).get("__slots__", ()):
            with contextlib.suppress(AttributeError, TypeError):
                yield name, get(thing, name)


def _text_of(value: Any) -> bytes:
    if isinstance(value, type):
        return _name_of(value).encode(errors="surrogatepass")
    if isinstance(value, _FUNCTIONS):
        text = f"{_name_of(value)} {_source_of(value)}"
        return text.encode(errors="surrogatepass")
    with contextlib.suppress(Exception):  # it has no key
        if sum(1 for _ in itertools.islice(_all_in(value), _MOST + 1)) <= _MOST:
            return key_text(value)
    return _name_of(type(value)).encode(errors="surrogatepass")


def _all_in(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for one in value:
            yield from _all_in(one)
