"""The script travels once: one namespace in each worker, and versions in the order of `submit`."""

from pathlib import Path

import pytest

from tests.support.scripts import run_well
from tests.support.tiers import each_method

EACH_WAY = ("script", "stdin", "option c", "option m")
TWO_WAYS = [*EACH_WAY[:2], *(pytest.param(way, marks=pytest.mark.slow) for way in EACH_WAY[2:])]

SHARED = """
import functools, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from collector import Collector

state = None
loads = 0
class Model:
    made = 0
    def __init__(self):
        Model.made += 1
class Only:
    one = None
    def __new__(cls):
        if cls.one is None:
            cls.one = super().__new__(cls)
            cls.one.calls = 0
        return cls.one
NOTES = []

def init(value):
    global state
    state = value
def job(_):
    return state
def count(_):
    global loads
    loads += 1
    return loads
def helper():
    return state + loads
def calls_helper(_):
    return helper()
@functools.lru_cache
def model(name):
    Model()
    return Model.made
def load(name):
    return model(name)
def only(_):
    Only().calls += 1
    return Only().calls
def note(what):
    NOTES.append(what)
    return list(NOTES)
def first_seen(_, seen=[]):
    seen.append(1)
    return len(seen)
def forget(_):
    global loads
    del loads
def is_there(_):
    return "loads" in globals()

with ProcessPoolExecutor(1, get_context("fork"), initializer=init, initargs=(5,)) as standard:
    assert standard.submit(job, 1).result() == 5
    assert list(standard.map(count, range(4))) == [1, 2, 3, 4]
    assert [standard.submit(load, "x").result() for _ in range(3)] == [1, 1, 1]
    assert list(standard.map(only, range(3))) == [1, 2, 3]
with Collector(1, sys.argv[1], initializer=init, initargs=(5,)) as c:
    assert c.submit(job, 1).result() == 5
    assert list(c.map(count, range(4))) == [1, 2, 3, 4]
    assert c.submit(calls_helper, 1).result() == 9
    assert c.submit(lambda: state + loads).result() == 9
    assert [c.submit(load, "x").result() for _ in range(3)] == [1, 1, 1]
    assert list(c.map(only, range(3))) == [1, 2, 3]
    assert list(c.map(note, "ab")) == [["a"], ["a", "b"]]
    assert list(c.map(first_seen, range(2))) == [1, 2]
    assert (state, loads, Model.made, Only.one, NOTES) == (None, 0, 0, None, [])
    c.submit(forget, 1).result()
    assert c.submit(is_there, 1).result() is False
"""


@each_method
@pytest.mark.parametrize("way", TWO_WAYS)
def test_the_initializer_and_all_jobs_of_a_worker_share_one_namespace(
    method: str, way: str, tmp_path: Path
) -> None:
    run_well(tmp_path, SHARED, method, way=way)


def test_state_of_a_worker_goes_with_it_and_the_initializer_runs_in_the_next(
    tmp_path: Path,
) -> None:
    script = """
    import os, signal
    from collector import Collector
    state = None
    calls = 0
    def init(value):
        global state
        state = value
    def job():
        global calls
        calls += 1
        return state, calls
    with Collector(1, initializer=init, initargs=(5,)) as c:
        print(c.submit(job).result(), c.submit(job).result())
        c.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).exception()
        print(c.submit(job).result(), c.submit(job).result())
    with Collector(1, initializer=init, initargs=(6,), max_tasks_per_child=1) as c:
        print(c.submit(job).result(), c.submit(job).result())
    """
    assert run_well(tmp_path, script) == "(5, 1) (5, 2)\n(5, 1) (5, 2)\n(6, 1) (6, 1)\n"


VERSIONS = """
import sys
from collector import Collector
FACTOR = 3
TABLE = {"a": 1}
LARGE = list(range(100_000))
class Shape:
    corners = 3
    def area(self):
        return 1
def work():
    return "first", FACTOR, TABLE, Shape.corners, Shape().area()
def large():
    return len(LARGE)
seen = 0
def counted():
    global seen
    seen += 1
    return seen, TABLE["a"]
with Collector(1, sys.argv[1]) as c:
    jobs = [c.submit(work)]
    assert [c.submit(counted).result() for _ in range(2)] == [(1, 1), (2, 1)]
    FACTOR = 4
    TABLE["a"] = 2
    Shape.corners = 4
    jobs.append(c.submit(work))
    assert c.submit(counted).result() == (3, 2), "what has not changed here was sent again"
    def work():
        return "second", FACTOR
    jobs.append(c.submit(work))
    class Shape:
        corners = 5
        def area(self):
            return 2
    def work():
        return "third", Shape.corners, Shape().area()
    jobs.append(c.submit(work))
    made = c.submit(Shape).result()
    assert type(made) is Shape
    assert [job.result() for job in jobs] == [
        ("first", 3, {"a": 1}, 3, 1),
        ("first", 4, {"a": 2}, 4, 1),
        ("second", 4),
        ("third", 5, 2),
    ]
    assert c.submit(large).result() == 100_000
    LARGE.append(1)
    assert c.submit(large).result() == 100_000, "a large value is known by identity"
    LARGE = LARGE + [2]
    assert c.submit(large).result() == 100_002
"""


@each_method
def test_a_job_sees_the_globals_as_they_were_when_it_was_submitted(
    method: str, tmp_path: Path
) -> None:
    run_well(tmp_path, VERSIONS, method)


def test_an_older_job_that_runs_again_finds_its_own_version(tmp_path: Path) -> None:
    script = """
    import os, signal
    from collector import Collector
    FACTOR = 1
    def once(mark):
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return FACTOR
    def get():
        return FACTOR
    with Collector(1, retries=1) as c:
        old = c.submit(once, "mark")
        new = []
        for FACTOR in range(2, 5):
            new.append(c.submit(get))
        print(old.result(), [job.result() for job in new], c.submit(get).result())
    """
    assert run_well(tmp_path, script) == "1 [2, 3, 4] 4\n"


@each_method
def test_cells_that_are_executed_as_in_a_notebook_see_each_other(
    method: str, tmp_path: Path
) -> None:
    script = """
    import sys
    import __main__
    CELLS = ['''
    from collector import Collector
    c = Collector(1, sys.argv[1])
    def f(): return 1
    ''', '''
    first = c.submit(f)
    def g(): return f() + 1
    second = c.submit(g)
    ''', '''
    def f(): return 10
    third = c.submit(g)
    print(first.result(), second.result(), third.result())
    c.shutdown()
    ''']
    for number, cell in enumerate(CELLS):
        exec(compile(cell.replace("\\n    ", "\\n"), f"<cell {number}>", "exec"), vars(__main__))
    """
    assert run_well(tmp_path, script, method) == "1 2 11\n"


@pytest.mark.slow
def test_sixty_calls_that_use_a_table_of_20_mib_cost_the_parent_it_once(tmp_path: Path) -> None:
    script = """
    from collector import Collector
    TABLE = [float(number) for number in range(2_330_000)]
    def use(number):
        return len(TABLE) + number
    def mib():
        with open("/proc/self/status") as status:
            return [int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")][0]
    before = mib()
    with Collector(2, progress=False) as c:
        assert list(c.map(use, range(60))) == [len(TABLE) + number for number in range(60)]
    print(int(mib() - before))
    """
    assert int(run_well(tmp_path, script)) < 60


def test_a_removed_run_directory_takes_nothing_of_the_script_with_it(tmp_path: Path) -> None:
    script = """
    import os, shutil, signal
    from collector import Collector
    TABLE = list(range(300_000))
    def use(number):
        return TABLE[number]
    with Collector(1, temp_root="root") as c:
        print(c.submit(use, 1).result())
        for run in os.listdir("root"):
            shutil.rmtree(f"root/{run}")
        print(c.submit(use, 2).result())
        c.submit(os.kill, os.getpid(), 0).result()
        c.submit(os.abort).exception()
        print(c.submit(use, 3).result())
    """
    assert run_well(tmp_path, script) == "1\n2\n3\n"
