"""What of a script cannot travel, and what its failures look like."""

import functools
from concurrent.futures.process import _RemoteTraceback
from pathlib import Path

import pytest

from collector.process.pickling import calls
from tests.support.scripts import run_well
from tests.support.tiers import each_method

REFUSED = """
import sqlite3, sys, threading, _thread
from collector import Collector
LOCK = threading.Lock()
FILE = open(__file__)
CONNECTION = sqlite3.connect(":memory:")
LINES = (line for line in "ab")
class Holder:
    def __init__(self):
        self.event = threading.Event()
HOLDER = Holder()
class Counter:
    lock = threading.Lock()
    def up(self):
        with self.lock:
            return 1
def locks():
    with LOCK:
        return 1
def reads():
    return FILE.read()
def asks():
    return CONNECTION.execute("select 1")
def takes():
    return next(LINES)
def holds():
    return HOLDER.event
def counts():
    return Counter().up()
def deeper():
    return locks()
class Method:
    def locks(self):
        return LOCK
with Collector(1, sys.argv[1]) as c:
    for fn, name, by in (
        (locks, "LOCK", "locks"),
        (deeper, "LOCK", "locks"),
        (lambda: locks(), "LOCK", "locks"),
        (lambda: LOCK, "LOCK", "<lambda>"),
        (Method().locks, "LOCK", "Method.locks"),
        (reads, "FILE", "reads"),
        (asks, "CONNECTION", "asks"),
        (takes, "LINES", "takes"),
        (holds, "HOLDER", "holds"),
        (counts, "Counter", "counts"),
    ):
        for submit in (c.submit, lambda fn: c.map(lambda _, f=fn: f(), [1])):
            try:
                submit(fn)
            except TypeError as error:
                text = str(error)
                assert f"the global {name!r} of __main__" in text, text
                assert f"{by}() uses" in text or submit is not c.submit, text
                assert "initializer" in text and "cannot pickle" in text, text
                assert ("define it in a module that the script imports" in text) == (
                    name == "Counter"
                ), text
                assert isinstance(error.__cause__, TypeError)
            else:
                raise AssertionError(name)
    assert c.submit(lambda: 7).result() == 7
    LOCK = None
    assert c.submit(lambda: LOCK).result() is None

def init():
    global LOCK
    LOCK = threading.Lock()
with Collector(1, sys.argv[1], initializer=init) as c:
    assert c.submit(locks).result() == 1
FILE.close()
CONNECTION.close()
"""


@each_method
def test_a_global_that_cannot_travel_is_named_in_submit(method: str, tmp_path: Path) -> None:
    run_well(tmp_path, REFUSED, method)


TRACED = """
import json, logging, sys
from collector import Collector
logging.basicConfig(format="%(pathname)s:%(lineno)d %(funcName)s", level="INFO", stream=sys.stdout)
def decorate(fn):
    def wrapper(*args):
        return fn(*args)
    return wrapper
class Shop:
    def sell(self):
        raise ValueError("sold out")  # in a method
@decorate
def wrapped():
    raise ValueError("wrapped")  # in a function
def logs():
    logging.getLogger("shop").info("hello")
def places(fn):
    cause = str(c.submit(fn).exception().__cause__)
    return [line.strip() for line in cause.splitlines() if "script" in line or "raise V" in line]
def local():
    def inner():
        raise ValueError("inner")  # in a local function
    return inner
with Collector(1, sys.argv[1], progress=False) as c:
    c.submit(logs).result()
    for fn in (Shop().sell, wrapped, local(), lambda: Shop().sell()):
        print(places(fn))
"""


@each_method
def test_tracebacks_and_log_records_name_the_file_and_the_line_of_the_script(
    method: str, tmp_path: Path
) -> None:
    file = tmp_path / "script.py"
    lines = run_well(tmp_path, TRACED, method).splitlines()
    source = TRACED.splitlines()

    def line(text: str) -> int:
        return next(number for number, whole in enumerate(source, 1) if text in whole)

    assert lines[0] == f"{file}:{line('hello')} logs"
    for said, text in zip(
        lines[1:], ["in a method", "in a function", "in a local function"] * 2, strict=False
    ):
        shown = [source[line(text) - 1].strip()]
        assert f'File "{file}", line {line(text)}' in said, said
        assert shown[0] in said, said
        if text == "in a local function":
            break
    assert "dynamic-code" not in "".join(lines)


def test_a_traceback_of_a_script_without_a_file_names_the_line(tmp_path: Path) -> None:
    script = """
    from collector import Collector
    def fail():
        raise ValueError("here")
    with Collector(1) as c:
        print(c.submit(fail).exception().__cause__)
    """
    assert 'File "<stdin>", line 4, in fail' in run_well(tmp_path, script, way="stdin")


STRANGE = """
import dataclasses, sys
from collector import Collector
@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int
@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots(Exception):
    code: int
class Sealed(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.__dict__["code"] = code
    def __setattr__(self, name, value):
        raise AttributeError(f"{name} is sealed")
class Property(Exception):
    __cause__ = property(lambda self: None)
    __context__ = property(lambda self: None)
    __traceback__ = property(lambda self: None)
    def __init__(self, code):
        super().__init__(code)
        self.code = code
class Slots(Exception):
    __slots__ = ("code",)
    def __init__(self, code):
        super().__init__(code)
        self.code = code
    def __reduce__(self):
        return Slots, (self.code,)
class Os(OSError):
    def __setattr__(self, name, value):
        raise AttributeError(name)
    code = 7
@dataclasses.dataclass(frozen=True, kw_only=True)
class Keywords(Exception):
    code: int
    def __reduce__(self):
        return from_code, (self.code,)
def from_code(code):
    return Keywords(code=code)
class Many(ExceptionGroup):
    def derive(self, errors):
        return Many(self.message, errors)
def fail_many():
    raise Many("many", [Frozen(1), Many("inner", [FrozenSlots(2), Keywords(code=3)])])
def fail(kind):
    error = kind(7)
    try:
        error.add_note("a note")
    except Exception:
        vars(error)["__notes__"] = ["a note"]
    raise error
def generator(kind):
    yield "x"
    raise kind(7)
with Collector(1, sys.argv[1], progress=False) as c:
    for kind in (Frozen, FrozenSlots, Sealed, Property, Slots, Os):
        for fn in (fail, generator):
            for capture in (False, True):
                job = c.with_options(capture=capture).submit(fn, kind)
                error = job.exception()
                assert type(error) is kind, (kind, fn, error)
                assert error.code == 7 and error.args == (7,), (kind, error.args)
                cause = BaseException.__dict__["__cause__"].__get__(error)
                assert "fail" in str(cause) or "generator" in str(cause)
                if fn is fail and kind is not Slots:
                    assert error.__notes__ == ["a note"]
                try:
                    job.result()
                except kind:
                    pass
    many = c.submit(fail_many).exception()
    first, inner = many.exceptions
    assert [type(error) for error in (many, first, inner)] == [Many, Frozen, Many]
    assert [(type(error), error.code) for error in inner.exceptions] == [
        (FrozenSlots, 2), (Keywords, 3)
    ]
    assert many.subgroup(Keywords).exceptions[0].exceptions[0].code == 3
    back = c.submit(lambda error: error, Frozen(3)).result()
    assert type(back) is Frozen and back.code == 3
"""


@pytest.mark.slow
@each_method
def test_an_exception_whose_class_forbids_that_attributes_are_set_arrives_as_itself(
    method: str, tmp_path: Path
) -> None:
    run_well(tmp_path, STRANGE, method)


class LockedError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


@pytest.mark.parametrize("made", [LockedError("a", 1), functools.partial(LockedError)("b")])
def test_such_an_exception_of_a_module_arrives_too(made: LockedError) -> None:
    again = calls.load_exception(calls.dump_exception(made), 1, "name", 1)
    assert type(again) is LockedError
    assert again.args == made.args
    assert isinstance(again.__cause__, _RemoteTraceback)
