"""A signal handler, and a fork, that come while something is loaded late."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PATIENCE: Final = 60

BEGIN: Final = """
import importlib.machinery, os, signal, sys, threading
from collector import Collector

class Pause:
    # Finds a module as others do, and does something before its first line is run.
    fired = 0
    def __init__(self, module, act):
        self.module, self.act = module, act
        sys.meta_path.insert(0, self)
    def find_spec(self, name, path=None, target=None):
        if name != self.module or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module
        def exec_module(module):
            Pause.fired += 1
            self.act()
            load(module)
        spec.loader.exec_module = exec_module
        return spec

module, method = sys.argv[1:]
signal.alarm(50)
ONE = 1
def more(number):
    return number + ONE
def chunks():
    yield b"x" * 10
"""

INTERRUPTED: Final = """
begun = threading.Event()
handled = []
def handler(number, frame):
    begun.set()
    handled.append(act())
def interrupt():
    os.kill(os.getpid(), signal.SIGUSR1)
    assert begun.wait(30)
signal.signal(signal.SIGUSR1, handler)
Pause(module, interrupt)
mine = act()
assert handled and Pause.fired == 1
print(handled[0] == mine)
"""

FORKED: Final = """
begun, forking = threading.Event(), threading.Event()
def pause():
    begun.set()
    assert forking.wait(30)
Pause(module, pause)
status = []
def fork():
    begun.wait()
    forking.set()
    pid = os.fork()
    if pid:
        status.append(os.waitpid(pid, 0)[1])
        return
    signal.alarm(30)
    if "pool" in globals():
        globals()["pool"] = Collector(2, method)
    act()
    os._exit(3)
thread = threading.Thread(target=fork)
thread.start()
act()
thread.join()
assert Pause.fired == 1
print(*map(os.waitstatus_to_exitcode, status))
"""

WITH_ONE: Final = "pool = Collector(2, method)\n"
ACTS: Final = {
    "collect": WITH_ONE + "act = lambda: [job.result() for job in pool.collect(abs, [-1])]\n",
    "submit": WITH_ONE + "act = lambda: pool.submit(more, 1).result()\n",
    "save": f"""{WITH_ONE}
import itertools
names = map(str, itertools.count())
act = lambda: pool.submit(chunks).output().save(next(names)).stat().st_size
""",
    "batch": f"""{WITH_ONE}
import itertools
names = map("batch{{}}".format, itertools.count())
act = lambda: [job.result() for job in pool.collect(abs, [-1], batch=next(names))]
""",
    "new": """
def act():
    with Collector(1, method) as pool:
        return pool.submit(abs, -1).result()
""",
}


def run(tmp_path: Path, source: str, module: str, method: str) -> str:
    """Run a script that loads a module; return what it says."""
    (tmp_path / "script.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "script.py", module, method],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def slowly(*case: str) -> object:
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("act", "module", "method"),
    [
        ("collect", "collector.progress.batch", "forkserver"),
        ("collect", "collector.progress.tally", "fork"),  # the worker is forked meanwhile
        slowly("collect", "collector.progress.batch", "spawn"),
        ("submit", "collector.process.pickling.by_value", "forkserver"),
        slowly("submit", "cloudpickle.cloudpickle", "fork"),
        ("batch", "collector.batch.collecting", "forkserver"),
        ("save", "ctypes", "forkserver"),
        ("new", "collector.executor.core", "forkserver"),
        slowly("new", "filelock", "forkserver"),
        slowly("new", "collector.process.start.context", "spawn"),
        ("new", "collector.process.worker.main", "fork"),
    ],
)
def test_a_signal_handler_may_do_what_it_interrupts_the_loading_for(
    act: str, module: str, method: str, tmp_path: Path
) -> None:
    assert run(tmp_path, BEGIN + ACTS[act] + INTERRUPTED, module, method) == "True\n"


@pytest.mark.parametrize(
    ("act", "module", "method"),
    [
        ("submit", "cloudpickle.cloudpickle", "forkserver"),
        slowly("submit", "collector.process.pickling.by_value", "fork"),
        slowly("batch", "collector.batch.collecting", "forkserver"),
        slowly("collect", "collector.progress.batch", "forkserver"),
        slowly("new", "multiprocess", "spawn"),
    ],
)
def test_a_child_that_is_forked_while_something_is_loaded_can_load_it(
    act: str, module: str, method: str, tmp_path: Path
) -> None:
    assert run(tmp_path, BEGIN + ACTS[act] + FORKED, module, method) == "3\n"


ALONE: Final = {
    "a program that holds the lock of loggers": "with logging._lock:\n    act()\n",
    "no thread to be had": """
start = threading.Thread.start
def refuse(thread):
    if thread.name != "collector-load":
        return start(thread)
    refused.append(thread)
    raise RuntimeError("can't start new thread")
refused = []
threading.Thread.start = refuse
act()
assert refused
""",
    "in an import": """
pause = Pause("wave", act)
import wave
assert Pause.fired == 1
""",
    "in an import that it needs itself": """
def meet_it_half_loaded():
    try:
        act()
    except ImportError as error:
        print(error)
pause = Pause("filelock", meet_it_half_loaded)
import filelock
assert Pause.fired == 1
act()
""",
}


@pytest.mark.parametrize("how", ALONE)
def test_what_no_other_thread_can_load_is_loaded_all_the_same(how: str, tmp_path: Path) -> None:
    source = f"{BEGIN}import logging\n{ACTS['new']}{ALONE[how]}print('made')\n"
    said = run(tmp_path, source, "", "forkserver")
    assert said.endswith("made\n")
    assert ("filelock" in said) == ("itself" in how)
