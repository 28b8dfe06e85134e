"""Calls, values and exceptions as bytes; what cannot be imported travels by value.

Runs in:    the parent (`submit`, results) and the worker. Never in the sink.
Source:     docs/decisions/0005-shipping-functions.md: cloudpickle carries what `dill` cannot (an
            Enum of the script, with the globals of a function), and its pickler is the C one.
            What goes by name to which process: 0010-the-script-travels-once.md.
"""

import copyreg
import io
import pickle
import traceback
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Final

from collector import settings
from collector.errors import JobError
from collector.process.pickling import arrived, places
from collector.process.pickling.by_name import ByName, ByValueError, Names, SupportsWrite
from collector.process.pickling.places import Key
from collector.store.rundir.locks import loading

Reducers = Mapping[type, Callable[[Any], Any]]

_PROTOCOL: Final = 5
_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
"""They hold nothing that could need a name in the other process."""
_SHARED: Final = "should only be shared between processes through inheritance"
_REFUSALS: Final = (
    _SHARED,  # `multiprocessing`, with a RuntimeError
    "pool objects cannot be passed between processes",  # likewise, of a kind of that
    "ctypes objects containing pointers cannot be pickled",  # a ValueError
)
_CAUSE: Final[Any] = BaseException.__dict__["__cause__"]
_TRACEBACK: Final[Any] = BaseException.__dict__["__traceback__"]
_ATTRIBUTES: Final[Any] = BaseException.__dict__["__dict__"]
"""A class may have properties of these names, or forbid that they are set."""


class _Came:
    """What the other process has sent here, and therefore has itself: see `Names`."""

    shared = False

    def has(self, module: str, name: str) -> bool:
        top = name.partition(".")[0]
        return arrived.came_from_the_parent((module, top), places.names_of(module).get(top))

    def need(self, module: str, name: str, by: str) -> None:
        """Note nothing: the other process gets no further names."""

    def called(self, obj: object) -> Key | None:
        return arrived.name_that_came(obj)


_came: Final = _Came()


def dumps(obj: object) -> bytes:
    """Pickle a value; what has no name in the process that gets it goes by value.

    Raises:
        Exception: Whatever the object's own pickling raises; it cannot be pickled.
    """
    return pickled(obj, _came)


def pickled(obj: object, names: Names, reducers: Reducers | None = None) -> bytes:
    """Pickle anything for a process that has these names; raises as `dumps`.

    Args:
        obj: What to pickle.
        names: What it has.
        reducers: How to pickle objects of these classes; as `Pickler.dispatch_table`.
    """
    buffer = io.BytesIO()
    pickler = ByName(buffer, _PROTOCOL)
    pickler.names = names
    if reducers:
        pickler.dispatch_table = copyreg.dispatch_table | dict(reducers)
    try:
        pickler.dump(obj)
    except ByValueError:
        buffer = io.BytesIO()  # nothing was sent yet: from now on cloudpickle does it all
        by_value(buffer, names, reducers).dump(obj)
    return buffer.getvalue()


def dump_value(value: object, job: str) -> bytes:
    """Pickle what a job returned; raises as `dumps`, naming the job where no pickler takes it."""
    if type(value) in _PLAIN:
        return pickle.dumps(value, _PROTOCOL)  # the same bytes in a third of the time
    try:
        return dumps(value)
    except Exception as error:  # code of the user's may run: what that raises goes on as it is
        if not is_refusal(error):
            raise
        what = f"what job {job} returned cannot be pickled"
        raise refusal(what, error, "return plain values, or write them to the output") from error


def is_refusal(error: Exception) -> bool:
    """Tell whether a pickler, or a library, refuses what it is given; else code of the user's."""
    if isinstance(error, TypeError | pickle.PicklingError):
        return True
    text = text_of(error)
    return any(known in text for known in _REFUSALS)


def instead_of(error: Exception, otherwise: str) -> str:
    """Return what to do in place of sending what was refused so."""
    is_shared = _SHARED in text_of(error)
    return "put it among the initargs, or use one of a Manager" if is_shared else otherwise


def refusal(what: str, error: Exception, instead: str) -> Exception:
    """Return the error that says what no pickler takes, why, and what to do instead."""
    kinds = (TypeError, RuntimeError) if is_refusal(error) else (TypeError,)
    kind = next((kind for kind in kinds if isinstance(error, kind)), pickle.PicklingError)
    return kind(f"{what} ({type(error).__name__}: {_text(error)}); {instead}")


def by_name(file: SupportsWrite, names: Names) -> pickle.Pickler:
    """Return a pickler that raises `ByValueError` at what has none of these names."""
    pickler = ByName(file, _PROTOCOL)
    pickler.names = names
    return pickler


def by_value(file: SupportsWrite, names: Names, reducers: Reducers | None = None) -> pickle.Pickler:
    """Return a pickler that pickles by value what has none of these names."""
    with loading("collector.process.pickling.by_value"):
        # 40 ms, for cloudpickle, that a batch of importable functions never pays.
        from collector.process.pickling.by_value import ByValue  # noqa: PLC0415

    kind: Any = ByValue
    if reducers:  # of the class: it looks there when it is made
        table = ByValue.dispatch_table.new_child(dict(reducers))
        kind = type(ByValue.__name__, (ByValue,), {"dispatch_table": table})
    made: pickle.Pickler = kind(file, names, _PROTOCOL)
    return made


def loads(data: bytes) -> Any:
    """Return what `dumps` was given."""
    return pickle.loads(data)


def dump_exception(
    error: BaseException, pickling: Callable[[object], bytes] | None = None
) -> bytes:
    """Pickle an exception and its traceback; one that cannot be pickled goes as text alone.

    The `output` that some errors of ours have stays here if it cannot be pickled.

    Args:
        error: The exception.
        pickling: Pickles it; None for `dumps`.
    """
    pickled = _tried(error, pickling or dumps)
    attributes = _ATTRIBUTES.__get__(error)
    if not pickled and "output" in attributes:
        output = attributes.pop("output")
        pickled = _tried(error, pickling or dumps)
        attributes["output"] = output
    return pickle.dumps((pickled, type(error).__qualname__, _text(error), _traceback(error)))


def _tried(error: BaseException, pickling: Callable[[object], bytes]) -> bytes:
    try:
        return pickling(error)
    except BaseException:  # noqa: BLE001 - user code runs in pickling; the text of the error goes instead
        return b""


def load_exception(data: bytes, job_id: int, name: str, attempt: int) -> BaseException:
    """Return the exception that `dump_exception` was given, its remote traceback as its cause."""
    from concurrent.futures.process import _RemoteTraceback  # noqa: PLC0415 - no worker needs it

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
    _CAUSE.__set__(error, _RemoteTraceback(f'\n"""\n{trace}"""'))  # type: ignore[arg-type]  # it is a str
    return error


def describe(error: BaseException) -> str:
    """Return the traceback of an exception, cut and escaped."""
    return _traceback(error)


def text_of(error: BaseException) -> str:
    """Return the text of an exception of the user's, whatever its class makes of that."""
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001 - a __str__ of the user's that raises, or exits
        return f"<its text cannot be had: {type(failure).__name__}>"


def _text(error: BaseException) -> str:
    return shorten(text_of(error))


def _traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, _TRACEBACK.__get__(error))
        return shorten("".join(lines))
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
    try:
        name = getattr(fn, "__name__", None)
        if not name:  # of a `functools.partial`
            name = getattr(getattr(fn, "func", None), "__name__", None)
        return str(name or type(fn).__name__)
    except Exception:  # noqa: BLE001 - a proxy may raise whatever it likes
        return type(fn).__name__
