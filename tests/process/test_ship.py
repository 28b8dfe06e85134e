"""What is shipped: by name where it can be, by value where it must be, exceptions in any case."""

import functools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import _RemoteTraceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from collector import Output, settings
from collector.errors import JobError
from collector.process.pickling import calls
from tests.support.jobs import (
    HasNoTextError,
    HoldsALockError,
    NeedsAKeywordError,
    RefusesAsError,
    square,
)


def caught(error: BaseException) -> BaseException:
    """The exception with a traceback, as a worker has it."""
    with pytest.raises(type(error)) as raised:
        raise error
    return raised.value


def shipped(error: BaseException) -> BaseException:
    """What arrives of it."""
    return calls.load_exception(calls.dump_exception(caught(error)), 7, "name-7", 2)


def test_an_error_that_has_an_output_arrives_without_it() -> None:
    error: Any = ValueError("of a transform")
    error.line = 3
    with Output.in_memory(b"what had come", chunks=1) as error.output:
        again = shipped(error)
        assert (type(again), again.args, vars(again)) == (ValueError, error.args, {"line": 3})
        assert error.output.read() == b"what had come"


@pytest.mark.parametrize(
    "value", [None, 42, "text", b"bytes", [1, {2: (3,)}], square, Path, Path("x"), ValueError("x")]
)
def test_what_can_be_imported_goes_by_its_name(value: Any) -> None:
    again = calls.loads(calls.dumps(value))
    assert type(again) is type(value)
    assert repr(again) == repr(value)


def test_a_module_s_own_functions_need_no_cloudpickle() -> None:
    script = """
import sys
from collector.process.pickling import calls
from tests.support.jobs import square
data = calls.dumps((square, ([0.5] * 1000, {"a": b"x" * 1000}), {"key": Exception("x")}))
assert calls.loads(data)[0] is square
assert "cloudpickle" not in sys.modules, "it was loaded in vain"
calls.dumps(lambda: 1)
assert "cloudpickle" in sys.modules
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_lambdas_closures_and_local_classes_go_by_value() -> None:
    amount = 3

    class Local:
        def method(self) -> int:
            return amount

    double = functools.partial(lambda a, b: a * b, 2)
    assert calls.loads(calls.dumps(lambda n: n + amount))(1) == 4
    assert calls.loads(calls.dumps(double))(21) == 42
    assert calls.loads(calls.dumps(Local().method))() == 3


def test_what_cannot_be_pickled_raises_what_its_pickling_raises() -> None:
    with pytest.raises(TypeError, match="pickle"):
        calls.dumps((len, (sys._getframe(),), {}))


@pytest.mark.parametrize(
    "error", [ValueError("a", 1), KeyError("k"), OSError(2, "no", "file"), SystemExit(3)], ids=repr
)
def test_an_exception_arrives_as_itself_with_its_traceback(error: BaseException) -> None:
    again = shipped(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert type(again.__cause__) is _RemoteTraceback  # that of `ProcessPoolExecutor`
    assert "raise error" in str(again.__cause__)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (HoldsALockError("its text"), "raised HoldsALockError: its text (the exception itself can"),
        (NeedsAKeywordError(code=3), "code 3 (the exception itself cannot be unpickled (TypeError"),
        (RefusesAsError(at_pickle=("raise",)), "a text of its own"),
        (RefusesAsError(at_unpickle=("exit", 3)), "cannot be unpickled (SystemExit"),
        (RefusesAsError(), "RefusesAsError: a text of its own"),  # unpickles to something else
    ],
    ids=["pickle", "unpickle", "explodes", "exits", "no exception"],
)
def test_an_exception_that_cannot_travel_is_told_in_words(error: Exception, says: str) -> None:
    again = shipped(error)
    assert type(again) is JobError
    assert says in str(again)
    assert (again.job_id, again.name, again.attempt) == (7, "name-7", 2)
    assert "raise error" in str(again.__cause__)


def test_an_exception_whose_text_raises_is_told() -> None:
    assert type(shipped(HasNoTextError())) is HasNoTextError


def test_a_recursive_exception_is_told() -> None:
    error = ValueError("round")
    error.__context__ = KeyError("and")
    error.__context__.__context__ = error
    assert type(shipped(error)) is ValueError


@hypothesis_settings(max_examples=hypothesis_settings().max_examples // 3)
@given(st.text() | st.text(max_size=10).map(lambda text: text * 20_000))
def test_a_text_is_cut_in_the_middle_and_harmless_on_a_terminal(text: str) -> None:
    short = calls.shorten(text)
    assert all(c.isprintable() or c in "\n\t" for c in short)
    assert len(short) <= 10 * (settings.TRACEBACK_CHARS + 100)
    if len(text) <= settings.TRACEBACK_CHARS and text.isprintable():
        assert short == text
    if len(text) > settings.TRACEBACK_CHARS:
        assert f"{len(text) - settings.TRACEBACK_CHARS} characters left out" in short


class CallMe:
    def __call__(self) -> None:
        """Do nothing."""

    def method(self) -> None:
        """Do nothing."""


class Proxy:
    """Raises what no attribute should raise, as those of a framework do outside of a request."""

    def __call__(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a context")


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (square, "square"),
        (len, "len"),
        (CallMe, "CallMe"),
        (CallMe(), "CallMe"),
        (CallMe().method, "method"),
        (functools.partial(square, 3), "square"),
        (functools.partial(functools.partial(square), 3), "square"),
        (lambda: None, "<lambda>"),
    ],
)
def test_a_call_is_named_after_its_function(fn: Callable[..., Any], name: str) -> None:
    assert calls.call_name(fn) == name


def test_a_call_has_a_name_whatever_its_function_raises() -> None:
    assert calls.call_name(Proxy()) == "Proxy"
