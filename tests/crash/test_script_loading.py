"""A part of the script that cannot be loaded, or that ends the worker which loads it."""

from pathlib import Path

import pytest

from tests.support.scripts import run_well
from tests.support.tiers import each_method, each_method_in_one_tier

HEAD = """
import os, sys
from collector import Collector, WorkerCrashError
from tests.support.jobs import Refuses, wait_for
FACTOR = 3
calls = 0
def counted():
    global calls
    calls += 1
    return FACTOR, calls
"""


@each_method
def test_a_global_that_cannot_be_unpickled_fails_only_the_jobs_that_use_it(
    method: str, tmp_path: Path
) -> None:
    script = """
REFUSES = Refuses(at_unpickle=("raise",))
def uses(number):
    return REFUSES, number
with Collector(1, sys.argv[1], progress=False) as c:
    for number in range(1, 4):
        assert isinstance(c.submit(uses, number).exception(), ZeroDivisionError)
        assert c.submit(counted).result() == (3, number)
    REFUSES = 7
    assert c.submit(uses, 9).result() == (7, 9)
    FACTOR = 5
    assert c.submit(counted).result() == (5, 4)
"""
    run_well(tmp_path, HEAD + script, method)


@each_method
def test_what_comes_behind_such_a_global_is_loaded_all_the_same(
    method: str, tmp_path: Path
) -> None:
    """The C unpickler reads ahead, and numbers by counting: it took one object for another."""
    script = """
SHARED = ["shared"]
REFUSES = [SHARED, Refuses(at_unpickle=("raise",)), *map(str, range(100))]
BEHIND = ["behind", SHARED]
LAST = {"last": SHARED, "large": "x" * 100_000}
TIED = [REFUSES]
def uses():
    return SHARED, REFUSES, BEHIND, LAST, TIED
def behind():
    return BEHIND, LAST["last"] is BEHIND[1] is SHARED
def tied():
    return TIED
with Collector(1, sys.argv[1], progress=False) as c:
    for number in range(1, 4):
        for fn in (uses, tied):
            assert isinstance(c.submit(fn).exception(), ZeroDivisionError)
        assert c.submit(behind).result() == (BEHIND, True)  # it came with them
        assert c.submit(counted).result() == (3, number)
    REFUSES = 7
    assert isinstance(c.submit(uses).exception(), ZeroDivisionError)
    TIED = 8
    assert c.submit(uses).result() == (SHARED, 7, BEHIND, LAST, 8)
    assert c.submit(behind).result() == (BEHIND, True)
    assert (c.submit(tied).result(), c.submit(counted).result()) == (8, (3, 4))
"""
    run_well(tmp_path, HEAD + script, method)


@each_method
def test_what_needs_such_a_global_to_be_loaded_fails_with_its_error_and_nothing_else_does(
    method: str, tmp_path: Path
) -> None:
    script = """
class Fine:
    number = 1
    def up(self):
        return self.number + FACTOR
class Bad:
    refuses = Refuses(at_unpickle=("raise",))
class Below(Bad):
    pass
FINE, BELOW = Fine(), Below()
def uses():
    return FINE, BELOW
def fine():
    return FINE.up(), counted()
def below():
    return BELOW
with Collector(1, sys.argv[1], progress=False) as c:
    for number in range(1, 4):
        for fn in (uses, below, Below, lambda: BELOW):
            assert isinstance(c.submit(fn).exception(), ZeroDivisionError)
        assert c.submit(fine).result() == (4, (3, number))
        assert c.submit(Fine().up).result() == 4
    Fine.number = 5
    assert c.submit(fine).result() == (8, (3, 4))
    class Bad:
        pass
    class Below(Bad):
        pass
    BELOW = Below()
    assert [type(of).__name__ for of in c.submit(uses).result()] == ["Fine", "Below"]
"""
    run_well(tmp_path, HEAD + script, method)


@pytest.mark.slow
@each_method_in_one_tier
@pytest.mark.parametrize("how", ["kill", "segfault", "_exit"])
def test_a_worker_that_dies_of_a_part_takes_only_the_job_that_needed_it(
    method: str, how: str, tmp_path: Path
) -> None:
    script = """
ENDS = Refuses(at_unpickle=(sys.argv[2],))
def uses():
    return ENDS
with Collector(1, sys.argv[1], retries=1, progress=False) as c:
    jobs = [c.submit(fn) for fn in (counted, uses, counted, uses, counted)]
    assert [type(job.exception()) for job in jobs] == [
        type(None), WorkerCrashError, type(None), WorkerCrashError, type(None)
    ]
    assert [job.result() for job in jobs[::2]] == [(3, 1), (3, 1), (3, 1)]
    assert [job.attempt for job in jobs] == [1, 2, 1, 2, 1]
"""
    run_well(tmp_path, HEAD + script, method, how)


@each_method
def test_an_initializer_whose_global_cannot_be_loaded_breaks_the_collector(
    method: str, tmp_path: Path
) -> None:
    script = """
import logging
from collector import BrokenCollectorError
class Heard(logging.Handler):
    said = []
    def emit(self, record):
        self.said.append((record.getMessage(), record.exc_text or ""))
logging.getLogger("concurrent.futures").addHandler(Heard())
REFUSES = Refuses(at_unpickle=("raise",))
def init():
    return REFUSES
with Collector(1, sys.argv[1], initializer=init, progress=False) as c:
    error = c.submit(counted).exception()
    assert isinstance(error, BrokenCollectorError) and "ZeroDivisionError" in str(error), error
((said, traceback),) = Heard.said  # as the standard executors say it
assert said == "Exception in initializer:" and "ZeroDivisionError" in traceback, Heard.said
"""
    run_well(tmp_path, HEAD + script, method)


@each_method
def test_versions_reach_jobs_that_one_worker_hands_back_and_another_one_takes(
    method: str, tmp_path: Path
) -> None:
    script = """
def waits():
    wait_for("go")
    return FACTOR
def get():
    return FACTOR
with Collector(2, sys.argv[1], progress=False) as c:
    list(c.map(get, range(0)))
    for _ in range(300):
        c.submit(get)
    first = c.submit(waits)
    jobs = []
    for FACTOR in range(200):
        jobs.append(c.submit(get))
    assert [job.result() for job in jobs] == list(range(200))
    open("go", "w").close()
    assert first.result() == 3
"""
    run_well(tmp_path, HEAD + script, method)


@pytest.mark.slow
def test_workers_that_are_killed_all_the_time_have_every_version_right(tmp_path: Path) -> None:
    script = """
import random, signal
TABLE = list(range(50_000))
class Shape:
    corners = 0
def either(die):
    if die and not os.path.exists(f"mark{die}"):
        open(f"mark{die}", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return FACTOR, len(TABLE), Shape.corners, Shape().corners
with Collector(2, retries=20, progress=False) as c:
    jobs, wanted = [], []
    chance = random.Random(1)
    for number in range(1, 301):
        match chance.randrange(4):
            case 0:
                FACTOR = number
            case 1:
                TABLE = TABLE + [1]
            case 2:
                Shape.corners = number
            case 3:
                class Shape:
                    corners = -number
        wanted.append((FACTOR, len(TABLE), Shape.corners, Shape.corners))
        jobs.append(c.submit(either, number if number % 10 == 0 else 0))
    assert [job.result() for job in jobs] == wanted
"""
    run_well(tmp_path, HEAD + script)
