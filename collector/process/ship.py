"""Calls, values and exceptions as bytes; what cannot be imported travels by value.

Runs in:    the parent (`submit`, results) and the worker. Never in the sink.
Source:     docs/decisions/0005-shipping-functions.md: cloudpickle carries what `dill` cannot (an
            Enum of the script, with the globals of a function), and its pickler is the C one.
"""

import functools
import io
import pickle
import sys
import traceback
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Final

from collector import settings
from collector.errors import JobError

_PROTOCOL: Final = 5
_Cached: Final = type(functools.cache(len))


class _ByValueError(Exception):
    """Something in here cannot be imported by its name."""


class _Pickler(pickle.Pickler):
    """The C pickler; it gives up at the first function or class that must travel by value."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        named = kind is FunctionType or kind is _Cached or isinstance(obj, type)
        if named and not _importable(obj):
            raise _ByValueError
        return NotImplemented


def _importable(obj: Any) -> bool:
    module = getattr(obj, "__module__", None)
    if module == "__main__":
        return False
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def dumps(obj: object) -> bytes:
    """Pickle anything; functions and classes of the script, lambdas and the like by value.

    Raises:
        Exception: Whatever the object's own pickling raises; it cannot be pickled.
    """
    if "cloudpickle" not in sys.modules:
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, _PROTOCOL).dump(obj)
        except _ByValueError:
            pass  # nothing was sent yet: from now on cloudpickle does it all
        else:
            return buffer.getvalue()
    with io.BytesIO() as buffer:
        _by_value()(buffer, _PROTOCOL).dump(obj)
        return buffer.getvalue()


@functools.cache
def _by_value() -> Callable[..., Any]:
    """Return cloudpickle's pickler, taught what `functools` makes of functions."""
    import cloudpickle  # 40 ms that a batch of importable functions never pays

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(
            {_Cached: _cached_parts, functools.cached_property: _property_parts}
        )

    return ByValue


def _cached_parts(obj: Any) -> Any:
    if _importable(obj):
        return obj.__reduce__()
    return _cached, (obj.__wrapped__, obj.cache_parameters())


def _cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Return the function with a cache of its own, which is empty."""
    return functools.lru_cache(**parameters)(fn)


def _property_parts(obj: "functools.cached_property[Any]") -> Any:
    return _property, (obj.func, obj.attrname)


def _property(fn: Callable[[Any], Any], name: str) -> "functools.cached_property[Any]":
    """Return the property under the name that its class gave it."""
    made = functools.cached_property(fn)
    made.__set_name__(object, name)
    return made


def loads(data: bytes) -> Any:
    """Return what `dumps` was given."""
    return pickle.loads(data)


class RemoteTraceback(Exception):  # noqa: N818 - as `concurrent.futures` shows it: a cause, not an error of its own
    """The traceback of an exception, as text from the worker; the cause of that exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def dump_exception(error: BaseException) -> bytes:
    """Pickle an exception and its traceback; one that cannot be pickled goes as text alone."""
    try:
        pickled = dumps(error)
    except BaseException:  # noqa: BLE001 - user code runs in pickling; the text of the error goes instead
        pickled = b""
    return pickle.dumps((pickled, type(error).__qualname__, _text(error), _traceback(error)))


def load_exception(data: bytes, job_id: int, name: str, attempt: int) -> BaseException:
    """Return the exception that `dump_exception` was given, its remote traceback as its cause."""
    pickled, kind, text, trace = pickle.loads(data)
    why = "cannot be pickled"
    error: object = None
    if pickled:
        try:
            error = loads(pickled)
        except BaseException as failure:  # noqa: BLE001 - user code runs in unpickling; said in the message
            why = f"cannot be unpickled ({type(failure).__name__}: {_text(failure)})"
    if not isinstance(error, BaseException):
        error = JobError(
            f"job {name} raised {kind}: {text} (the exception itself {why})", job_id, name, attempt
        )
    error.__cause__ = RemoteTraceback(trace)
    return error


def describe(error: BaseException) -> str:
    """Return the traceback of an exception, cut and escaped."""
    return _traceback(error)


def _text(error: BaseException) -> str:
    try:
        return shorten(str(error))
    except BaseException as failure:  # noqa: BLE001 - a __str__ of the user's that raises
        return f"<its text cannot be had: {type(failure).__name__}>"


def _traceback(error: BaseException) -> str:
    try:
        return shorten("".join(traceback.format_exception(error)))
    except BaseException as failure:  # noqa: BLE001 - as above
        return f"<its traceback cannot be had: {type(failure).__name__}>\n"


def shorten(text: str) -> str:
    """Cut the middle of a long text out and escape what a terminal would act on."""
    most = settings.TRACEBACK_CHARS
    if len(text) > most:
        left_out = len(text) - most
        text = (
            f"{text[: most // 2]}\n... {left_out} characters left out ...\n{text[-(most // 2) :]}"
        )
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def call_name(fn: object) -> str:
    """Return a short name for a callable, for bars and messages."""
    while isinstance(fn, MethodType):
        fn = fn.__func__
    inner = getattr(fn, "func", None)  # functools.partial
    name = getattr(fn, "__name__", None) or getattr(inner, "__name__", None)
    return str(name or type(fn).__name__)
