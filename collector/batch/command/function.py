"""Run a Python function of the user's as a job: `--python MODULE:FUNCTION`.

Runs in:    the worker.
"""

import contextlib
import fcntl
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from collector.batch.command.child import Call, leave_terminal, take_slot
from collector.batch.command.ended import Ended
from collector.errors import CollectorError
from collector.process.pickling import calls
from collector.process.worker.main import finish
from collector.process.worker.running import current_job

if TYPE_CHECKING:
    from collector.batch.command.environment import Variable


_SIGNALS_OF_THE_PARENT: Final = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGUSR1,
)
"""A forked worker has the handlers of the run, which would hear them here and end nothing."""

_STDOUT: Final = 1
_STDERR: Final = 2
_LONGEST: Final = 64
"""Bytes of a variable that says which job it is: a number, or a key of 32 digits."""


class FunctionPlan(NamedTuple):
    """What all jobs of a batch have in common.

    Attributes:
        target: `module:function`, where the function may be an attribute of an attribute.
        nice: Is added to the niceness.
        batch: The batch directory, or "".
        slots: As in `child.Plan`.
        jobs: How many slots there are.
    """

    target: str
    nice: int
    batch: str
    slots: str
    jobs: int


class CannotLoadError(CollectorError):
    """There is no such function: no job can run."""


class Returned(NamedTuple):
    """What a function has returned, pickled, and when it ran."""

    ended: Ended
    value: bytes


@final
class _Prepared:
    def __init__(self) -> None:
        self.function: Callable[..., Any] | None = None
        self.failure = ""
        self.variables: tuple[Variable, ...] = ()
        self.slot = 1


_prepared: Final = _Prepared()


def split_target(text: str) -> tuple[str, str]:
    """Return the module and the function that a text names.

    Raises:
        ValueError: It names none.
    """
    module, colon, name = text.partition(":")
    if not (colon and module and name):
        raise ValueError(f"{text!r} names no function: write MODULE:FUNCTION")
    if os.sep in module or (module.endswith(".py") and os.path.isfile(module)):
        raise ValueError(
            f"{text!r} names a file: write its module as `import` does, "
            f"{os.path.basename(module).removesuffix('.py')}:{name}; it is looked for in the "
            "working directory and in $PYTHONPATH"
        )
    return module, name


def prepare(plan: FunctionPlan) -> None:
    """Load the function, before the first job of a worker; where that fails, each job says so."""
    for number in _SIGNALS_OF_THE_PARENT:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    leave_terminal()
    try:
        with _stdout_led_to_stderr():
            _prepared.function = _load(plan.target)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module: `run` tells of it
        _prepared.failure = (
            f"cannot load {plan.target}: {type(error).__name__}: {calls.text_of(error)}"
        )
    from collector.batch.command.environment import Variable  # noqa: PLC0415 - ctypes: no parent needs it

    names = ("COLLECTOR_SEQ", "COLLECTOR_KEY", "COLLECTOR_ATTEMPT")
    _prepared.variables = tuple(Variable(name, _LONGEST) for name in names)
    _prepared.slot = take_slot(plan.slots, plan.jobs)
    os.environ["COLLECTOR_SLOT"] = str(_prepared.slot)
    if plan.batch:
        os.environ["COLLECTOR_BATCH"] = plan.batch
    else:  # that of a batch of which this run is a job
        os.environ.pop("COLLECTOR_BATCH", None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # inputs are text that was made so
            stream.reconfigure(errors="surrogateescape")
    if plan.nice:
        os.nice(plan.nice)


@contextlib.contextmanager
def _stdout_led_to_stderr() -> Iterator[None]:
    """Keep what is printed out of all outputs: it is of no job, and each worker prints it."""
    kept, nothing = os.dup(_STDOUT), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    is_closed = fcntl.fcntl(_STDERR, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    os.dup2(nothing if is_closed else _STDERR, _STDOUT)
    try:
        yield
    finally:
        for to in (nothing, kept):  # what stderr does not take goes nowhere
            with contextlib.suppress(Exception):  # None, closed, or an object of the user's
                sys.stdout.flush()
            os.dup2(to, _STDOUT)
        os.close(kept)
        os.close(nothing)


def _load(target: str) -> Callable[..., Any]:
    module, name = split_target(target)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"it is no function but a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def run(call: Call) -> Returned:
    """Call the function with the inputs of one job; what it raises is the job's error.

    Raises:
        CannotLoadError: There is none.
    """
    function = _prepared.function
    if function is None:
        raise CannotLoadError(_prepared.failure)
    texts = str(call.seq), call.key, str(call.attempt)
    for variable, text in zip(_prepared.variables, texts, strict=True):
        variable.set(text)
    start, start_s = time.time(), time.monotonic()
    value = finish(function(*call.values), current_job())
    ended = Ended(start, time.monotonic() - start_s, slot=_prepared.slot)
    return Returned(ended, b"" if value is None else calls.dumps(value))
