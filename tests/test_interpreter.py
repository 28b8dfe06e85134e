"""The first Collector loads most of its modules; a program sees no difference, but for the time."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.tiers import each_method

ROOT: Final = Path(__file__).parents[1]
PATIENCE: Final = 60
ENDS_EARLY: Final = (3, 12) <= sys.version_info[:3] < (3, 12, 3)
"""Whether no thread and no fork is to be had from the end of the main thread on (gh-113964)."""

IMPORTS: Final = {
    "the class": "from collector import Collector",
    "in a thread": """
thread = threading.Thread(target=exec, args=("from collector import Collector", {}))
thread.start()
thread.join()
""",
}
slowly = functools.partial(pytest.param, marks=pytest.mark.slow)
each_import = pytest.mark.parametrize(
    "imported",
    [*list(IMPORTS.values())[:1], *map(slowly, list(IMPORTS.values())[1:])],
    ids=IMPORTS,
)

BEGIN: Final = """
import atexit, os, signal, sys, threading
from pathlib import Path

def chunks():
    yield b"what the job "
    yield b"has written"

def mark():
    (Path(sys.argv[1]) / "marked").touch()

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "collector.process.pool.pool":
            sys.meta_path.remove(self)
            act()
"""


def run(tmp_path: Path, *parts: str) -> tuple[int, str, str]:
    """Run a script; return its status and what it said. No run directory may be left."""
    (tmp_path / "root").mkdir(mode=0o700)
    (tmp_path / "script.py").write_text("\n".join((BEGIN, *parts)))
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "script.py", os.fspath(tmp_path)],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.fspath(ROOT), "COLLECTOR_TMPDIR": os.fspath(tmp_path / "root")},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert [path.name for path in (tmp_path / "root").iterdir()] == []
    return done.returncode, done.stdout, done.stderr


# -- at the end of the program ---------------------------------------------------------------------


@each_import
@pytest.mark.parametrize("end", ["", slowly("pool.shutdown()")], ids=["open", "shut down"])
def test_a_handler_from_before_the_first_collector_still_finds_the_files_of_outputs(
    imported: str, end: str, tmp_path: Path
) -> None:
    body = f"""
atexit.register(lambda: print(job.output().path.read_bytes()))
from collector import Collector
pool = Collector(1, memory_threshold=1)
job = pool.submit(chunks)
{end}
"""
    assert run(tmp_path, imported, body) == (0, "b'what the job has written'\n", "")


@each_import
def test_a_handler_from_before_a_spill_manager_still_finds_its_file(
    imported: str, tmp_path: Path
) -> None:
    body = """
atexit.register(lambda: print(output.path.read_bytes()))
from collector import SpillManager
manager = SpillManager(memory_threshold=1)
manager.write(b"abc")
output = manager.finalize()
"""
    assert run(tmp_path, imported, body) == (0, "b'abc'\n", "")


@pytest.mark.parametrize("order", ["after the import", slowly("before the import")])
@pytest.mark.parametrize("wait", [".result()", slowly("")], ids=["waited for", "left running"])
def test_the_first_collector_may_be_made_in_a_handler(
    order: str, wait: str, tmp_path: Path
) -> None:
    # Before the import means: it runs after everything of ours has ended.
    handler = f"""
import concurrent.futures.process  # nobody can load it so late
@atexit.register
def first():
    global pool
    from collector import Collector
    try:
        pool = Collector(1)
        pool.submit(mark){wait}
        print("made")
    except RuntimeError as error:  # no thread can be started any more
        assert {ENDS_EARLY}, error
    if {order == "before the import"}:
        pool.shutdown()
"""
    imported = "from collector import Collector"
    parts = (imported, handler) if order == "after the import" else (handler, imported)
    status, said, errors = run(tmp_path, *parts)
    assert (status, errors) == (0, "")
    assert said == ("" if ENDS_EARLY else "made\n")
    assert (tmp_path / "marked").exists() == bool(said)


@each_method
@pytest.mark.parametrize(
    ("settings", "act"),
    [
        pytest.param("max_tasks_per_child=1", "pass", id="a worker for each job"),
        slowly("retries=1", "current_job().attempt > 1 or os._exit(3)", id="a worker that dies"),
    ],
)
def test_jobs_that_need_a_new_worker_at_the_end_of_the_program_get_one(
    settings: str, act: str, method: str, tmp_path: Path
) -> None:
    body = f"""
import time
from collector import BrokenCollectorError, Collector, current_job
def job():
    while not (Path(sys.argv[1]) / "marked").exists():
        time.sleep(0.01)
    {act}
def tell(job):
    error = job.exception()
    print("refused" if isinstance(error, BrokenCollectorError) else error, flush=True)
pool = Collector(1, {method!r}, {settings})
threading.Thread(target=lambda: (threading.main_thread().join(), mark())).start()
for _ in range(3):
    pool.submit(job).add_done_callback(tell)
"""
    status, said, errors = run(tmp_path, body)
    assert (status, errors) == (0, "")
    if method != "fork" or not ENDS_EARLY:
        assert said == "None\n" * 3
    else:  # no code runs between the end of the script and that refusal: they are told
        assert said == ("None\n" if "max" in settings else "refused\n") + "refused\n" * 2


LATE: Final = {
    "in a thread": "threading.Thread(target=late).start()",
    "in a handler": "atexit.register(late)",
}


@pytest.mark.parametrize("where", ["in a thread", slowly("in a handler")])
@each_method
@pytest.mark.parametrize("which", ["first", "second"])
def test_a_collector_that_is_made_at_the_end_works_or_is_refused_with_advice(
    which: str, method: str, where: str, tmp_path: Path
) -> None:
    body = f"""
{"Collector(1).shutdown()" if which == "second" else ""}
def descriptors():
    for thread in threading.enumerate():
        if thread.name == "collector-sweep":
            thread.join()
    return os.listdir("/proc/self/fd")
def late():
    thread, main = threading.current_thread(), threading.main_thread()
    if thread is not main:
        main.join()
    before = descriptors()
    try:
        with Collector(1, {method!r}) as pool:
            print(pool.submit(pow, 2, 3).result())
    except RuntimeError as error:
        print(error)
        assert "shutdown" in str(error.__cause__), error.__cause__
    assert descriptors() == before
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    else:
        print("a process is left")
{LATE[where]}
"""
    status, said, errors = run(tmp_path, "from collector import Collector", body)
    assert (status, errors) == (0, "")
    if which == "first" or ENDS_EARLY:
        assert said.startswith("cannot start a Collector when the program is ending: make it")
        assert said.count("\n") == 1
    else:
        assert said == "8\n"


def test_an_error_of_another_cause_at_the_start_of_a_collector_is_left_as_it_is(
    tmp_path: Path,
) -> None:
    body = """
from collector import Collector
def act():
    raise RuntimeError("something else")
sys.meta_path.insert(0, Watch())
def refuse(thread):
    raise RuntimeError("can't start new thread")
try:
    Collector(1)
except RuntimeError as error:
    print(error)
with Collector(1) as pool:
    start, threading.Thread.start = threading.Thread.start, refuse
    try:
        pool.submit(abs, -1)
    except RuntimeError as error:
        print(error)
    threading.Thread.start = start
    print(pool.submit(abs, -1).result())
"""
    assert run(tmp_path, body) == (0, "something else\ncan't start new thread\n1\n", "")


def test_a_handler_of_ours_that_raises_stops_no_other(tmp_path: Path) -> None:
    body = """
from collector import interpreter
interpreter.at_exit(lambda: print("first"))
interpreter.at_exit(lambda: 1 / 0)
interpreter.at_exit(lambda: print("last"))
interpreter.in_forked_child(lambda: print("child first"))
interpreter.in_forked_child(lambda: 1 / 0)
interpreter.in_forked_child(lambda: print("child last", flush=True))
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
"""
    status, said, errors = run(tmp_path, body)
    assert (status, said.split("\n")) == (0, ["child first", "child last", "last", "first", ""])
    assert errors.count("ZeroDivisionError") == len(("at exit", "in the child"))


@pytest.mark.parametrize(
    "imported", [slowly("import collector"), "from collector import Collector"]
)
def test_what_a_job_uses_and_logs_is_there_until_the_job_has_ended(
    imported: str, tmp_path: Path
) -> None:
    body = """
import logging, tempfile, time
logging.basicConfig(handlers=[logging.FileHandler(Path(sys.argv[1]) / "log")])
directory = tempfile.TemporaryDirectory()
def job(path):
    time.sleep(0.5)
    Path(path, "file").touch()
    logging.getLogger("app").warning("told late")
from collector import Collector
Collector(1).submit(job, directory.name).add_done_callback(lambda job: print(job.exception()))
"""
    assert run(tmp_path, imported, body) == (0, "None\n", "")
    assert "told late" in (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="there it runs no handlers at its end")
def test_a_job_in_a_child_of_multiprocessing_is_waited_for(tmp_path: Path) -> None:
    body = """
import collector, multiprocessing, time
def slow():
    time.sleep(0.5)
    mark()
def child():
    collector.Collector(1).submit(slow)
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
"""
    assert run(tmp_path, body) == (0, "", "")
    assert (tmp_path / "marked").exists()


def test_a_ctrl_c_between_two_handlers_of_ours_stops_no_other(tmp_path: Path) -> None:
    body = """
from collector import interpreter
interpreter.at_exit(lambda: print("last"))
def between(frame, event, argument):
    if event == "line" and frame.f_code is interpreter._run.__code__ and "acts.pop" in line(frame):
        sys.settrace(None)
        raise KeyboardInterrupt
    return between
def line(frame):
    return open(interpreter.__file__).read().split("\\n")[frame.f_lineno - 1]
def begin():
    print("first")
    sys.settrace(between)
    sys._getframe().f_back.f_trace = between
interpreter.at_exit(begin)
"""
    status, said, errors = run(tmp_path, body)
    assert (status, said) == (0, "first\nlast\n")
    assert "KeyboardInterrupt" in errors


# -- in a forked child -----------------------------------------------------------------------------


@each_import
def test_a_fork_handler_from_before_the_first_collector_may_use_one(
    imported: str, tmp_path: Path
) -> None:
    body = """
def in_child():
    global pool, manager
    pool = Collector(1)
    pool.submit(abs, -1).result()
    manager = SpillManager(memory_threshold=1)
    manager.write(b"abc")
os.register_at_fork(after_in_child=in_child)
from collector import Collector, SpillManager
with Collector(1) as ours:
    ours.submit(abs, -1).result()
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        print(pool.submit(abs, -2).result(), manager.finalize().read())
        sys.exit()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print(ours.submit(abs, -3).result())
"""
    assert run(tmp_path, imported, body) == (0, "2 b'abc'\n3\n", "")


@pytest.mark.slow
def test_a_child_that_is_forked_meanwhile_can_make_a_collector(tmp_path: Path) -> None:
    body = """
from collector import Collector
forking, loading = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)
def act():
    loading.set()
    forking.wait()
sys.meta_path.insert(0, Watch())
thread = threading.Thread(target=lambda: Collector(1).shutdown())
thread.start()
loading.wait()
pid = os.fork()
if not pid:
    signal.alarm(30)
    with Collector(1) as pool:
        print(pool.submit(abs, -1).result())
    sys.exit()
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    # filelock has fork handlers of its own, which complain if it is loaded during a fork.
    assert run(tmp_path, "import filelock", body) == (0, "1\n", "")


@pytest.mark.parametrize("first", [slowly("Collector(1)"), "private_tqdm()"])
def test_a_signal_cleans_while_another_thread_loads_what_waits_for_the_main_thread(
    first: str, tmp_path: Path
) -> None:
    """It takes the gate of forks: whoever holds that must wait for no import."""
    (tmp_path / "slowly.py").write_text(
        "import os, signal, threading\n"
        "main.loading.set()\n"
        "main.waiting.wait()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    body = f"""
import builtins, time
from collector import Collector, SpillManager
from collector.progress.text import private_tqdm
class main:
    loading, waiting = threading.Event(), threading.Event()
builtins.main = main
class Both:
    def find_spec(self, name, path=None, target=None):
        if name in ("collector.process.pool.pool", "tqdm.std"):
            main.waiting.set()
            import slowly
sys.meta_path.insert(0, Both())
manager = SpillManager(memory_threshold=1)
manager.write(b"abc")
signal.alarm(30)
def other():
    main.loading.wait()
    {first}
threading.Thread(target=other, daemon=True).start()
import slowly
"""
    status, said, errors = run(tmp_path, body)
    assert (status, said) == (-signal.SIGTERM, ""), errors


# -- meanwhile -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_left_of_a_collector_whose_modules_cannot_be_loaded(tmp_path: Path) -> None:
    body = """
def act():
    raise KeyboardInterrupt
from collector import Collector
before = os.listdir("/proc/self/fd")
sys.meta_path.insert(0, Watch())
try:
    Collector(1)
except KeyboardInterrupt:
    print("interrupted")
assert os.listdir("/proc/self/fd") == before
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child")
with Collector(1) as pool:
    print(pool.submit(abs, -1).result())
"""
    assert run(tmp_path, body) == (0, "interrupted\nno child\n1\n", "")


def test_a_forkserver_is_started_before_the_rest_is_loaded(tmp_path: Path) -> None:
    body = """
given = set(sys.modules)
from collector import Collector
from collector.process.start.forkserver import ForkServer
start = ForkServer.prepare
def prepare(self):
    print(*heavy & set(sys.modules) - given)
    start(self)
ForkServer.prepare = prepare
heavy = {"collector.store.rundir.root", "collector.process.pool.pool"}
heavy |= {"collector.process.pool.supervisor", "dataclasses"}
with Collector(1) as pool:
    pool.submit(abs, -1).result()
assert heavy <= set(sys.modules)
"""
    assert run(tmp_path, body) == (0, "\n", "")


def test_wrong_arguments_are_told_before_anything_is_started_or_loaded(tmp_path: Path) -> None:
    body = """
from collector import Collector
from collector.process.start.forkserver import ForkServer
ForkServer.prepare = lambda self: print("started")
for wrong in (
    {"max_workers": 0}, {"max_tasks_per_child": 0}, {"memory_budget": -1}, {"initializer": 1},
    {"timeout": 0}, {"retries": -1}, {"memory_threshold": -1}, {"on_progress": 1}, {"capture": 1},
    {"temp_file_base_name": 1}, {"progress": 1}, {"mp_context": "thread"},
):
    try:
        Collector(**wrong)
    except (TypeError, ValueError) as error:
        assert next(iter(wrong)) in str(error), error
    else:
        print("taken:", wrong)
assert "collector.executor.core" not in sys.modules
"""
    assert run(tmp_path, body) == (0, "", "")


def test_the_types_of_the_public_face_can_be_asked_for_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    body = """
import typing, collector
from collector import Collector, current_job
hints = [typing.get_type_hints(getattr(Collector, name)) for name in (
    "__init__", "submit", "map", "collect", "with_options", "shutdown"
)]
assert hints[1]["return"] == collector.Job[typing.Any], hints[1]
assert typing.get_type_hints(current_job)["return"].__name__ == "CurrentJob"
"""
    assert run(tmp_path, body) == (0, "", "")
