"""What a program loads before its forkserver starts, before its first result, and after it."""

import contextlib
import gc
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from collector.store.rundir.locks import loading

AHEAD_OF_THE_SERVER = """
import sys
from collector import Collector
from collector.process.start import forkserver
begin = forkserver._begin
def watched(*told):
    late = {"collector.executor.cpus", "collector.executor.collecting", "pathlib", "subprocess"}
    print(*late & set(sys.modules))
    return begin(*told)
forkserver._begin = watched
with Collector() as pool:
    assert pool.submit(abs, -1).result() == 1
assert "collector.executor.cpus" in sys.modules
"""

FIRST_RESULT = """
import sys
from collector import Collector
late = {"collector.progress.batch", "collector.progress.terminal"}
others = {"collector.process.sink.main", "collector.process.worker.main"}
with Collector(1) as pool:
    assert pool.submit(abs, -1).result() == 1
    print(*(late | others) & set(sys.modules))
    assert [job.result() for job in pool.collect(abs, [-2])] == [2]
    print(*sorted(late & set(sys.modules)))
"""

SHOWN = """
import sys
from collector import Collector
class Sink:
    def update(self, event): pass
    def close(self): pass
for progress in (False, None, True, Sink()):
    with Collector(1, progress=progress):
        print("collector.progress.batch" in sys.modules)
"""

GARBAGE = """
import gc, sys, threading
from collector import Collector
class Watch:
    def __init__(self, name, choose):
        self.name, self.choose = name, choose
        sys.meta_path.insert(0, self)
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            sys.meta_path.remove(self)
            thread = threading.Thread(target=self.choose)
            thread.start()
            thread.join()
def disable():
    gc.disable()
def choose():
    print(gc.isenabled())
    gc.set_threshold(321)
Watch("collector.process.pool.pool", disable)
with Collector(1) as pool:
    print(gc.isenabled())
    gc.enable()
    Watch("collector.progress.tally", choose)
    list(pool.collect(abs, [-1]))
print(gc.get_threshold()[0])
assert not any(isinstance(finder, Watch) for finder in sys.meta_path)
"""

OVER = """
import sys
from collector import Collector
class Late:
    def __del__(self, pool=Collector(1), show=print):
        for late in (pool.collect, pool.map):
            try:
                list(late(abs, [-1]))
            except RuntimeError as error:
                show(error)
late = Late()
print("collector.progress.batch" in sys.modules)
"""

FLAGS = """
import subprocess
from collector.process.start import bootstrap
assert bootstrap._flags() == subprocess._args_from_interpreter_flags()
print(bootstrap._has_options())
"""

HOOKS = """
import os, threading
from collector.store.rundir.locks import loading
forking, importing, said = threading.Event(), threading.Event(), []
os.register_at_fork(before=forking.set)
def load():
    with loading("os"):
        importing.set()
        forking.wait()
        os.register_at_fork(
            before=lambda: said.append("shut"), after_in_parent=lambda: said.append("open")
        )
        os.register_at_fork(after_in_parent=lambda: said.append("again"))
def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print(*said)
    said.clear()
thread = threading.Thread(target=load)
thread.start()
importing.wait()
fork()
thread.join()
for _ in range(2):
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
"""


def said(source: str, *options: str) -> list[str]:
    """Run a program; return the lines that it prints."""
    command = [sys.executable, *options, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_server_starts_before_what_it_does_not_need_is_loaded() -> None:
    assert said(AHEAD_OF_THE_SERVER) == [""]


def test_a_first_result_needs_no_bars() -> None:
    assert said(FIRST_RESULT) == ["", "collector.progress.batch"]


def test_what_a_submit_shows_is_loaded_before_it() -> None:
    """A signal handler that submits finds it whole, also while the first submit is at it."""
    assert said(SHOWN) == ["False", "False", "True", "True"]


@pytest.mark.parametrize(
    "options",
    [
        ("-B",),
        ("-O",),
        ("-OO",),
        ("-b",),
        ("-bb",),
        ("-q",),
        ("-d",),
        ("-E",),
        ("-s",),
        ("-P",),
        ("-W", "error"),
        ("-X", "dev"),
        ("-X", "faulthandler"),
        ("-X", "utf8"),
    ],
    ids=" ".join,
)
def test_a_server_has_the_options_of_the_program(options: tuple[str, ...]) -> None:
    assert said(FLAGS, *options) == ["True"]


@pytest.mark.parametrize(
    "variable", ["PYTHONHASHSEED=0", "PYTHONUTF8=1", "PYTHONINTMAXSTRDIGITS=0"]
)
def test_a_variable_is_no_option(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONDEVMODE", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(*variable.split("="))
    assert said(FLAGS) == ["False"]


def test_a_collect_when_all_is_over_loads_nothing_and_is_refused() -> None:
    """Also by a finalizer that runs when nothing can be loaded any more."""
    refused = "cannot schedule new futures after shutdown: make a new Collector"
    assert said(OVER) == ["False", refused, refused]


# -- garbage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [700, 0])
@pytest.mark.parametrize("raises", [False, True])
def test_garbage_is_looked_for_again_after_a_late_import(
    raises: bool, threshold: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"late_{threshold}_{raises}"
    body = f"import gc\ngc.seen = gc.get_threshold()\nif {raises}: raise ImportError"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gc, "seen", None, raising=False)
    before = gc.get_threshold()
    gc.set_threshold(threshold)
    try:
        chosen = gc.get_threshold()
        with contextlib.suppress(ImportError), loading(name):
            importlib.import_module(name)
        assert gc.get_threshold() == chosen
        assert (vars(gc)["seen"] == chosen) is not bool(threshold)
    finally:
        gc.set_threshold(*before)


def test_what_a_thread_chooses_during_a_late_import_stays() -> None:
    """Whether garbage is looked for, and how often, is the program's."""
    assert said(GARBAGE) == ["False", "True", "321"]


def test_hooks_that_come_while_a_fork_waits_for_their_import_undo_nothing_after_it() -> None:
    """filelock has such hooks: each of them complained, and so did ours."""
    lines = said(HOOKS, "-W", "ignore::DeprecationWarning")
    assert lines == ["again", "shut open again", "shut open again"]
