"""What a process can be given only while it starts may be among the arguments of an initializer."""

import os
from pathlib import Path
from typing import Final

import pytest

from collector import Collector
from tests.support.inside import initializer_descriptors
from tests.support.jobs import nothing
from tests.support.tiers import each_method
from tests.support.tree import script

LIBRARIES: Final = ("multiprocessing", "multiprocess")
SYNCHRONIZES: Final = (
    *("Lock", "RLock", "Semaphore", "Event", "Condition", "Queue", "SimpleQueue", "Value"),
)
each_library = pytest.mark.parametrize(
    "library", [LIBRARIES[0], pytest.param(LIBRARIES[1], marks=pytest.mark.slow)]
)
each_that_pickles = pytest.mark.parametrize(
    "method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)]
)

BEGIN: Final = """
import importlib, os, socket, sys
from concurrent.futures import ProcessPoolExecutor
from collector import Collector
from tests.support import children
method, library = sys.argv[1:3]
context = importlib.import_module(library).get_context(method)
"""


def fine(source: str, *arguments: str) -> bool:
    """Whether a script comes to its end: it has trackers of its own, which tests must not leave."""
    with script(f"{BEGIN}{source}\nprint('fine', flush=True)\n", *arguments) as running:
        return running.hear() == "fine" and running.process.wait() == 0 and running.gone()


USE_ALL: Final = """
things = children.make_all(context)
how = dict(mp_context=context, initializer=children.take, initargs=(things,))
with (Collector if sys.argv[3] == "collector" else ProcessPoolExecutor)(2, **how) as pool:
    for number in (1, 2, 3):
        pool.submit(children.use_all, number).result()
        for name in ("queue", "joinable", "simple"):
            assert things[name].get() == (name, number)
        assert (things["array"][1], things["raw"][1]) == (number, number)
        assert things["pipe"][0].recv() == number
    things["joinable"].task_done()
assert things["value"].value == 6
assert things["event"].is_set()
"""


@each_library
@each_method
def test_whatever_synchronizes_or_shares_may_be_among_them(method: str, library: str) -> None:
    assert fine(USE_ALL, method, library, "collector")


@each_method
def test_so_it_may_with_a_process_pool(method: str) -> None:
    assert fine(USE_ALL, method, "multiprocessing", "standard")


@each_library
@each_method
def test_workers_that_replace_others_get_them_too_whatever_became_of_the_callers(
    method: str, library: str
) -> None:
    source = """
simple = context.SimpleQueue()
initargs = ({"lock": context.Lock(), "simple": simple},)
with Collector(1, method, children.take, initargs) as collector:
    del initargs
    for number in range(3):
        assert collector.submit(children.is_held, "lock").result() is False
        assert collector.submit(children.put_and_crash, number).exception().exitcode == 3
        assert simple.get() == number
with Collector(2, method, children.take, ({"simple": simple},), max_tasks_per_child=1) as collector:
    for number in range(6):
        assert collector.submit(children.put_shared, "simple", number).result() > 0
    assert sorted(simple.get() for _ in range(6)) == [*range(6)]
"""
    assert fine(source, method, library)


@each_library
@each_that_pickles
def test_a_connection_that_the_caller_has_closed_is_still_the_workers(
    method: str, library: str
) -> None:
    source = """
from tests.support.inside import initializer_descriptors
ours, theirs = context.Pipe()
with Collector(1, method, children.take, ({"pipe": (None, theirs)},)) as collector:
    theirs.close()
    for _ in range(2):
        collector.submit(children.send_shared, "there").result()
        assert ours.recv() == "there"
        collector.submit(os._exit, 1).exception()
try:  # nobody has the other end any more
    ours.recv()
except EOFError:
    pass
else:
    raise AssertionError
"""
    assert fine(source, method, library)


@each_library
@each_method
def test_a_lock_is_the_same_one(method: str, library: str) -> None:
    source = """
lock = context.Lock()
with Collector(1, method, children.take, ({"lock": lock},)) as collector:
    for held in (True, False):
        with lock if held else context.Lock():
            assert collector.submit(children.is_held, "lock").result() is held
"""
    assert fine(source, method, library)


@each_library
@each_method
def test_they_may_lie_in_objects_of_the_script_and_go_to_a_function_of_it(
    method: str, library: str
) -> None:
    source = """
class Box:
    def __init__(self, **things):
        self.things = things
def begin(box, *, number=7):
    children.take(box.things)
ours, theirs = context.Pipe()
box = Box(lock=context.RLock(), pipe=(None, theirs), value=context.Value("i"))
import functools
for initializer in (begin, lambda b: children.take(b.things), functools.partial(begin, number=8)):
    with Collector(1, method, initializer, (box,)) as collector:
        assert collector.submit(children.is_held, "lock").result() is False
        collector.submit(children.send_shared, "there").result()
        assert ours.recv() == "there"
"""
    assert fine(source, method, library)


@each_method
def test_more_of_them_than_go_over_a_socket_at_once_and_sockets(method: str) -> None:
    source = """
pairs = [context.Pipe() for _ in range(300)]
ours, theirs = socket.socketpair()
things = {"many": pairs, "socket": theirs}
with Collector(1, method, children.take, (things,)) as collector:
    ours.send(b"by socket")
    assert collector.submit(children.receive_bytes, "socket").result() == b"by socket"
    assert collector.submit(children.send_on_each, "many").result() == 300
    assert [ours.recv() for ours, _ in pairs] == [*range(300)]
ours.close()
"""
    assert fine(source, method, "multiprocessing")


@each_library
@each_method
def test_what_a_worker_has_put_into_a_queue_arrives_also_after_its_end(
    method: str, library: str
) -> None:
    source = """
queue = context.Queue()
with Collector(1, method, children.take, ({"queue": queue},)) as collector:
    job = collector.submit(children.put_many, 4, 100_000)
    collector.shutdown(wait=False)
    assert [queue.get()[0] for _ in range(4)] == [0, 1, 2, 3]
    assert job.result() > 0
"""
    assert fine(source, method, library)


@each_library
@each_method
def test_what_a_library_is_to_do_at_the_end_of_a_worker_is_done(
    method: str, library: str, tmp_path: Path
) -> None:
    """That a queue's thread is waited for is such a thing: else what was put last may be lost."""
    source = """
with Collector(1, method) as collector:
    collector.submit(children.leave_for_the_end, library, sys.argv[3]).result()
    assert not os.path.exists(sys.argv[3])
assert os.path.exists(sys.argv[3])
"""
    assert fine(source, method, library, os.fspath(tmp_path / "ended"))


@each_library
def test_a_queue_of_a_module_works_by_fork_though_the_program_has_put_into_it(library: str) -> None:
    """Its thread that sends is not there in a child, which the library has to be told."""
    source = """
children.SHARED["queue"] = queue = context.Queue()
queue.put("from the program")
assert queue.get() == "from the program"
with Collector(1, method) as collector:
    collector.submit(children.put_many, 1, 10).result()
    assert queue.get() == bytes(10)
"""
    assert fine(source, "fork", library)


@pytest.mark.slow
@each_library
@each_that_pickles
def test_one_of_another_start_method_is_refused_before_anything_starts(
    method: str, library: str
) -> None:
    source = """
from tests.support.leaks import descendants
fork = importlib.import_module(library).get_context("fork")
for what in sys.argv[3:]:
    thing = getattr(fork, what)(*(["i"] if what == "Value" else []))
    fds = os.listdir("/proc/self/fd")
    try:
        Collector(1, method, children.take, ({"pipe": context.Pipe(), "other": thing},))
    except RuntimeError as error:
        assert "of the context 'fork', and workers are started by " + method in str(error), error
        assert f"make it with {library}.get_context({method!r})" in str(error), error
    else:
        raise AssertionError(what)
    assert descendants() == [], what
    assert os.listdir("/proc/self/fd") == fds, what
"""
    assert fine(source, method, library, *SYNCHRONIZES)


LEAVES_NOTHING: Final = """
import gc
gc.disable()
tracker = importlib.import_module(library + ".resource_tracker")
os.dup2(os.open("tracker.log", os.O_WRONLY | os.O_CREAT), 2)
tracker.ensure_running()
def run(pool, name):
    initializer, initargs = getattr(children, name), (children.make_all(context),)
    with pool(2, context, initializer, initargs) as executor:
        executor.submit(abs, -1).exception()
run(Collector if sys.argv[3] == "collector" else ProcessPoolExecutor, sys.argv[4])
tracker._resource_tracker._stop()
said = open("tracker.log").read()
assert ("leaked" in said, "Error: [Errno" in said) == (False, False), said
"""


@each_library
@each_method
@pytest.mark.parametrize("initializer", ["take", "take_and_fail"])
def test_at_the_end_the_resource_tracker_finds_nothing_left(
    method: str,
    library: str,
    initializer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fine(LEAVES_NOTHING, method, library, "collector", initializer)


@each_method
def test_so_it_is_with_a_process_pool(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fine(LEAVES_NOTHING, method, "multiprocessing", "standard", "take")


@each_method
def test_what_only_a_start_can_hand_on_is_refused_as_an_argument_of_a_job(method: str) -> None:
    """As by a process pool: the worker is there already."""
    source = """
with Collector(1, method) as collector:
    for what in ("Lock", "Queue", "Event"):
        try:
            collector.submit(children.take, {"it": getattr(context, what)()})
        except RuntimeError as error:
            assert "only be shared between processes through inheritance" in str(error)
            assert str(error).startswith("the call of take() cannot be sent to a worker (")
            assert str(error).endswith("; put it among the initargs, or use one of a Manager")
        else:
            raise AssertionError
    assert collector.submit(abs, -1).result() == 1
"""
    assert fine(source, method, "multiprocessing")


@each_method
def test_a_child_that_the_program_forks_keeps_no_end_of_a_connection(
    method: str, tmp_path: Path
) -> None:
    source = """
from tests.support.inside import initializer_descriptors
ours, theirs = context.Pipe()
with Collector(1, method, children.take, ({"pipe": (None, theirs)},)) as collector:
    collector.submit(abs, 1).result()
    copies = initializer_descriptors(collector)
    assert len(copies) == (method != "fork")
    if not (pid := os.fork()):
        for fd in copies:
            try:
                os.fstat(fd)
            except OSError:
                continue
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
    assert fine(source, method, "multiprocessing")


def test_a_collector_without_them_holds_no_descriptor() -> None:
    with Collector(1, initializer=nothing) as collector:
        assert collector.submit(os.getpid).result() > 0
        assert initializer_descriptors(collector) == []
