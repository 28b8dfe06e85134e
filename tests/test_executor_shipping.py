"""What travels to a worker and back: from a script, from stdin, from a module."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Collector, current_job
from tests.support.jobs import square
from tests.support.tiers import each_method

ROOT: Final = Path(__file__).parents[1]

# No `if __name__ == "__main__"` around anything: that is the point.
PIPELINE: Final = '''
import dataclasses, enum, functools, json, os, sys
from collector import Collector, current_job

with open(os.environ["TOP_LEVEL_LOG"], "a") as log:
    log.write(f"{__name__} {os.getpid()}\\n")

FACTOR = 3
seen = []

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int

    def moved(self, by):
        return Point(self.x + by, self.y + FACTOR)

class Special(Point):
    """A subclass."""

class Refused(Exception):
    def __init__(self, what, code):
        super().__init__(what, code)
        self.code = code

def scaled(number):
    return number * FACTOR

def scaled_twice(number):
    return scaled(scaled(number))

def lines(count):
    for number in range(count):
        yield f"{scaled(number)}\\n"
    return count

def adder(amount):
    def add(number):
        return number + amount
    return add

def counter():
    total = 0
    def count(steps):
        nonlocal total
        for _ in range(steps):
            total += 1
        return total
    return count

def what_is(thing):
    return [isinstance(thing, Point), type(thing) is Special, thing is Colour.RED]

def factorial(number):
    return 1 if number == 0 else number * factorial(number - 1)

@functools.cache
def tripled(number):
    return scaled(number)

@functools.lru_cache(maxsize=7, typed=True)
def fibonacci(number):
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

def uses_cached(number):
    return [tripled(number), fibonacci(number), fibonacci.cache_parameters()]

def remember(number):
    seen.append(number)
    return len(seen)

def writes(text):
    print(text, file=current_job(), end="")

def refuse(code):
    raise Refused("no", code)

class Shop:
    def __init__(self, price):
        self.price = price
    def total(self, count):
        return self.price * count * FACTOR
    def stream(self, count):
        for _ in range(count):
            yield str(self.price)
    @staticmethod
    def double(number):
        return 2 * number
    @classmethod
    def of(cls, price):
        return cls(price)
    def __call__(self, number):
        return self.price - number
    @functools.cached_property
    def tax(self):
        return self.price / 4
    @functools.lru_cache
    def priced(self, count):
        return self.price * count
    def receipt(self):
        return [self.tax, self.tax, self.priced(2)]

def run(method):
    told = {}
    with Collector(2, method) as collector:
        job = collector.submit(lines, 4)
        told["generator"] = [job.result(), job.output().text()]
        told["lambda"] = collector.submit(lambda n: scaled(n) + 1, 5).result()
        told["closure"] = collector.submit(adder(10), 5).result()
        told["closure with state"] = collector.submit(counter(), 7).result()
        told["globals"] = collector.submit(scaled_twice, 5).result()
        told["recursion"] = collector.submit(factorial, 10).result()
        point = collector.submit(Point(1, 2).moved, 10).result()
        told["dataclass"] = [point == Point(11, 5), type(point) is Point, point.x, point.y]
        told["isinstance"] = [
            collector.submit(what_is, thing).result()
            for thing in (Point(0, 0), Special(0, 0), Colour.RED, 7)
        ]
        colour = collector.submit(lambda: Colour.BLUE).result()
        told["enum"] = colour is Colour.BLUE
        told["enum in a container"] = (
            collector.submit(lambda: {"colours": [Colour.RED, Colour("blue")]}).result()
            == {"colours": [Colour.RED, Colour.BLUE]}
        )
        told["method"] = collector.submit(Shop(2).total, 5).result()
        told["generator method"] = collector.submit(Shop(2).stream, 3).output().text()
        told["static method"] = collector.submit(Shop.double, 21).result()
        told["class method"] = type(collector.submit(Shop.of, 8).result()) is Shop
        told["class"] = type(collector.submit(Shop, 8).result()) is Shop
        told["callable object"] = collector.submit(Shop(5), 3).result()
        told["partial"] = collector.submit(functools.partial(scaled, number=4)).result()
        told["cached"] = [
            collector.submit(tripled, 5).result(),
            collector.submit(fibonacci, 20).result(),
            collector.submit(uses_cached, 10).result(),
        ]
        told["cached in a class"] = collector.submit(Shop(8).receipt).result()
        told["map"] = list(collector.map(scaled, range(3)))
        told["collect"] = sorted(job.output().text() for job in collector.collect(lines, range(3)))
        told["writes"] = collector.submit(writes, "h\\u00e9").output().text()
        try:
            collector.submit(refuse, 42).result()
        except Refused as error:
            told["exception"] = [error.code, error.args]
        collector.submit(remember, 1).result()
        told["our global"] = seen
        returned = collector.submit(lambda: adder(100)).result()
        told["function returned"] = returned(1)
    return told
'''
RUN: Final = "json.dump(run(sys.argv[1]), sys.stdout)\n"
TOLD: Final = {
    "generator": [4, "0\n3\n6\n9\n"],
    "lambda": 16,
    "closure": 15,
    "closure with state": 7,
    "globals": 45,
    "recursion": 3628800,
    "dataclass": [True, True, 11, 5],
    "isinstance": [
        [True, False, False],
        [True, True, False],
        [False, False, True],
        [False, False, False],
    ],
    "enum": True,
    "enum in a container": True,
    "method": 30,
    "generator method": "222",
    "static method": 42,
    "class method": True,
    "class": True,
    "callable object": 2,
    "partial": 12,
    "cached": [15, 6765, [30, 55, {"maxsize": 7, "typed": True}]],
    "cached in a class": [2.0, 2.0, 16],
    "map": [0, 3, 6],
    "collect": ["", "0\n", "0\n3\n"],
    "writes": "hé",
    "exception": [42, ["no", 42]],
    "our global": [],
    "function returned": 101,
}


def run_python(
    *arguments: str, cwd: Path, log: Path, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an interpreter in `cwd` that finds the package of this tree."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "TOP_LEVEL_LOG": os.fspath(log)},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@each_method
@pytest.mark.parametrize(
    "way",
    [
        "script",
        pytest.param("stdin", marks=pytest.mark.slow),
        pytest.param("option c", marks=pytest.mark.slow),
        pytest.param("option m", marks=pytest.mark.slow),
    ],
)
def test_everything_of_an_unguarded_script_travels_and_its_top_level_runs_once(
    method: str, way: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (tmp_path / "pipeline.py").write_text(PIPELINE + RUN)
    arguments = {
        "script": ("pipeline.py", method),
        "stdin": ("-", method),
        "option c": ("-c", PIPELINE + RUN, method),
        "option m": ("-m", "pipeline", method),
    }[way]
    done = run_python(
        *arguments, cwd=tmp_path, log=log, stdin=PIPELINE + RUN if way == "stdin" else None
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == TOLD
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["__main__"]


@each_method
def test_everything_of_an_importable_module_travels_by_its_name(
    method: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    command = "import json, sys, pipeline; json.dump(pipeline.run(sys.argv[1]), sys.stdout)"
    done = run_python("-c", command, method, cwd=tmp_path, log=log)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == TOLD
    names = [line.split()[0] for line in log.read_text().splitlines()]
    assert set(names) == {"pipeline"}
    # Once here and, where it is not inherited, once in each of the two workers.
    assert len(names) <= 3


@each_method
def test_a_worker_has_the_directory_the_path_and_the_arguments_of_its_parent(
    method: str, tmp_path: Path
) -> None:
    # Each is changed after the start and before the first job; what counts is what they are then.
    script = f"""
import os, sys
from collector import Collector
sys.path.append("/nowhere/special")
os.mkdir("below")
os.chdir("below")
sys.argv.append("late")
os.environ["LATE"] = "yes"
def surroundings():
    return os.getcwd(), sys.path[-1], sys.argv, os.environ["LATE"]
with Collector(1, {method!r}) as collector:
    assert collector.submit(surroundings).result() == surroundings()
"""
    (tmp_path / "script.py").write_text(script)
    done = run_python("script.py", "argument", cwd=tmp_path, log=tmp_path / "log")
    assert (done.returncode, done.stderr) == (0, "")


@each_method
def test_an_entry_of_the_path_that_is_no_text_is_skipped_as_python_does(
    method: str, tmp_path: Path
) -> None:
    script = f"""
import pathlib, sys
from collector import Collector
sys.path.insert(0, pathlib.Path("lib").absolute())
with Collector(1, {method!r}) as collector:
    assert collector.submit(lambda: sys.path).result() == sys.path
"""
    (tmp_path / "script.py").write_text(script)
    done = run_python("script.py", cwd=tmp_path, log=tmp_path / "log")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("method", ["forkserver", pytest.param("fork", marks=pytest.mark.slow)])
def test_a_worker_starts_although_the_directory_of_its_parent_is_gone(
    method: str, tmp_path: Path
) -> None:
    # Gone before the first worker, then before the one that takes the place of a dead one.
    script = f"""
import os
from collector import Collector
def leave():
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
leave()
with Collector(1, {method!r}) as collector:
    assert collector.submit(abs, -1).result() == 1
    os.chdir({os.fspath(tmp_path)!r})
    leave()
    collector.submit(os.abort).exception()
    print(collector.submit(os.readlink, "/proc/self/cwd").result())
"""
    done = run_python("-c", script, cwd=tmp_path, log=tmp_path / "log")
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'gone'} (deleted)\n", "")


def test_a_spawned_child_does_not_look_for_a_temp_directory_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks makes a file there, and leaves it if it is killed just then."""
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))
    with Collector(1, "spawn") as collector:
        assert collector.submit(lambda: tempfile.tempdir).result() == os.fspath(tmp_path)


def local_function() -> Callable[[int], int]:
    def inner(number: int) -> int:
        return number + 1

    return inner


@each_method
def test_lambdas_and_local_functions_of_a_module_travel(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(local_function(), 1).result() == 2
        assert collector.submit(lambda: square(3)).result() == 9
        assert collector.submit(functools.partial(lambda a, b: a - b, 5), 3).result() == 2
        assert list(collector.map(lambda n: -n, range(3))) == [0, -1, -2]


def test_a_name_that_was_rebound_is_not_mistaken_for_what_it_was() -> None:
    def decorate(fn: Callable[[int], int]) -> Callable[[int], int]:
        @functools.wraps(fn)  # the wrapper says that it is called square; it is not
        def wrapper(number: int) -> int:
            return fn(number) + 1000

        return wrapper

    with Collector(1) as collector:
        assert collector.submit(decorate(square), 3).result() == 1009


def chunk_kinds() -> Iterator[Any]:
    yield b"bytes "
    yield bytearray(b"bytearray ")
    yield memoryview(b"memoryview ")
    yield "str"


@each_method
def test_every_kind_of_function_writes_its_output(method: str) -> None:
    def generator() -> Iterator[str]:
        yield "one\n"
        yield "two\n"

    def writing() -> str:
        job = current_job()
        job.write("one\n")
        print("two", file=job)
        return job.name

    with Collector(2, method) as collector:
        yielded, written, plain = (
            collector.submit(generator),
            collector.submit(writing),
            collector.submit(square, 5),
        )
        assert list(yielded.output().lines()) == ["one", "two"]
        assert yielded.result() is None
        assert written.output().read() == b"one\ntwo\n"
        assert written.result() == written.name
        assert plain.output().read() == b""
        assert plain.result() == 25
        kinds = collector.submit(chunk_kinds)
        assert kinds.output().text() == "bytes bytearray memoryview str"
        assert kinds.output().chunks == 4
