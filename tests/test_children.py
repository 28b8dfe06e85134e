"""A worker is a child of the program for `multiprocessing` and `multiprocess`, with its keys."""

import importlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from collector import Collector
from tests.support import children
from tests.support.jobs import kill_self
from tests.support.leaks import wait_until
from tests.support.tiers import each_method, everyday_are
from tests.support.tree import script

LIBRARIES: Final = ("multiprocessing", "multiprocess")
each_library = pytest.mark.parametrize("library", LIBRARIES)
one_library_everyday = pytest.mark.parametrize("library", everyday_are(LIBRARIES[:1], of=LIBRARIES))


def fine(source: str, *arguments: str) -> bool:
    """Whether a script comes to its end; one that starts trackers and managers of its own."""
    with script(f"{BEGIN}{source}\nprint('fine', flush=True)\n", *arguments) as running:
        return running.hear() == "fine" and running.process.wait() == 0 and running.gone()


BEGIN: Final = """
import importlib, os, sys
from concurrent.futures import ProcessPoolExecutor
from collector import Collector
from tests.support import children
def make(kind, library, method):
    context = importlib.import_module(library).get_context(method)
    return Collector(1, context) if kind == "collector" else ProcessPoolExecutor(1, context)
"""


# -- who it is -------------------------------------------------------------------------------------


@each_library
@each_method
def test_a_worker_is_a_named_child_that_knows_its_parent(method: str, library: str) -> None:
    name = importlib.import_module(library).current_process().name
    with Collector(1, method) as collector:
        parents = [collector.submit(children.identity, library).result() for _ in range(2)]
        assert parents == [("collector-worker-1", False, os.getpid(), name, True)] * 2
        collector.submit(kill_self).exception()
        named, *rest = collector.submit(children.identity, library).result()
        assert named != parents[0][0]  # another one
        assert named.startswith("collector-worker-")
        assert rest == [False, os.getpid(), name, True]


@pytest.mark.slow
@each_method
def test_a_worker_of_a_process_pool_says_the_same_of_its_parent(method: str) -> None:
    source = """
seen = []
for kind in ("collector", "standard"):
    with make(kind, "multiprocessing", sys.argv[1]) as executor:
        seen.append(executor.submit(children.identity, "multiprocessing").result()[1:])
assert seen[0] == seen[1], seen
"""
    assert fine(source, method)


@each_library
@each_method
def test_a_job_may_start_children_that_are_its_workers(method: str, library: str) -> None:
    with Collector(1, method) as collector:
        for number in (1, 2):
            name, code, before, right = collector.submit(children.children, library).result()
            assert (code, before, right) == (0, 0, True)
            assert name.endswith(f"-1:{number}")


@each_method
def test_a_job_logs_under_the_name_of_its_worker(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Collector(1, method) as collector:
        collector.submit(children.log_name, "tests.children").result()
    (record,) = (r for r in caplog.records if r.name == "tests.children")
    assert record.processName == "collector-worker-1"
    assert logging.Formatter("%(processName)s").format(record) == "collector-worker-1"


@pytest.mark.slow
@each_method
def test_a_worker_loads_no_multiprocess_that_its_job_does_not(method: str) -> None:
    source = """
import sys
from collector import Collector
from tests.support import children
with Collector(1, sys.argv[1]) as collector:
    print(collector.submit(children.loaded, "multiprocess").result(),
          collector.submit(children.identity, "multiprocess").result()[0], flush=True)
"""
    with script(source, method) as running:
        assert running.hear() == f"{method != 'forkserver'} collector-worker-1"
        assert running.process.wait() == 0


@one_library_everyday
@each_method
def test_a_child_of_multiprocessing_that_has_a_collector_is_the_parent_of_its_workers(
    method: str, library: str
) -> None:
    """Also a daemon, whose children would be refused by the library: the workers are none."""
    source = """
import importlib, os, sys
from collector import Collector
from tests.support import children
method, library = sys.argv[1:]
def work(said):
    with Collector(1, method) as collector:
        said.send((os.getpid(), collector.submit(children.identity, library).result()))
if __name__ == "__main__":
    context = importlib.import_module(library).get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,), name="the parent")
    process.start()
    pid, seen = ours.recv()
    process.join()
    print(seen == ("collector-worker-1", False, pid, "the parent", True), flush=True)
"""
    with script(source, method, library) as running:
        assert running.hear() == "True"
        assert running.process.wait() == 0


@each_method
def test_a_worker_sees_that_its_parent_has_died(method: str, tmp_path: Path) -> None:
    """Asked in a child that it has forked, in a session of its own: the worker dies at once."""
    source = """
import os, sys
from collector import Collector
from tests.support.tree import kill
mark = sys.argv[2]
def job():
    import multiprocessing, time
    parent = multiprocessing.parent_process()
    if os.fork():
        time.sleep(1000)
    os.setsid()
    alive = str(parent.is_alive())  # before the program can see the file
    open(mark + ".begun", "w").write(alive)
    parent.join()
    open(mark, "w").write(str(parent.is_alive()))
    os._exit(0)
with Collector(1, sys.argv[1]) as collector:
    job = collector.submit(job)
    while not os.path.exists(mark + ".begun") or not open(mark + ".begun").read():
        os.sched_yield()
    kill(os.getpid())
"""
    mark = tmp_path / "mark"
    with script(source, method, os.fspath(mark)) as running:
        running.process.wait()
        assert wait_until(lambda: mark.exists() and mark.read_text(), 60)
        assert running.gone()
        assert Path(f"{mark}.begun").read_text() == "True"
        assert mark.read_text() == "False"


# -- keys ------------------------------------------------------------------------------------------


MANAGER: Final = """
method, library, kind = sys.argv[1:]
with importlib.import_module(library).Manager() as manager, make(kind, library, method) as pool:
    queue, mapping, lock = manager.Queue(), manager.dict(), manager.Lock()
    pid = pool.submit(children.fill, queue, mapping, lock).result()
    assert (queue.get(), mapping["pid"]) == ("from a job", pid)
    namespace, event = manager.Namespace(), manager.Event()
    pool.submit(setattr, namespace, "pid", pid).result()
    pool.submit(children.through, event, "set").result()
    assert namespace.pid == pid and event.is_set()
    numbers, value, array = manager.list([1]), manager.Value("i", 3), manager.Array("i", [1, 2])
    pool.submit(children.through, numbers, "append", 2).result()
    pool.submit(children.through, array, "__setitem__", 0, 9).result()
    assert (list(numbers), array[0]) == ([1, 2], 9)
    assert pool.submit(getattr, value, "value").result() == 3
    returned = pool.submit(children.same, numbers).result()
    returned.append(3)
    assert list(numbers) == [1, 2, 3]
"""


@one_library_everyday
@each_method
def test_proxies_of_a_manager_may_be_arguments_and_results(method: str, library: str) -> None:
    assert fine(MANAGER, method, library, "collector")


@pytest.mark.slow
@each_method
def test_so_they_may_with_a_process_pool(method: str) -> None:
    assert fine(MANAGER, method, "multiprocessing", "standard")


@pytest.mark.slow
@each_method
def test_a_manager_that_is_made_after_the_workers_is_known_to_them(method: str) -> None:
    """Its library is loaded only then, and with it its key is made."""
    source = """
import importlib, sys
from collector import Collector
from tests.support import children
with Collector(1, sys.argv[1]) as collector:
    collector.submit(abs, 1).result()
    for library in ("multiprocessing", "multiprocess"):
        with importlib.import_module(library).Manager() as manager:
            queue = manager.Queue()
            collector.submit(children.through, queue, "put", library).result()
            print(queue.get(), flush=True)
"""
    with script(source, method) as running:
        assert [running.hear(), running.hear()] == list(LIBRARIES)
        assert running.process.wait() == 0


@each_library
@each_method
def test_a_key_that_the_program_sets_later_is_the_workers_too(
    method: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = importlib.import_module(library).current_process()
    with Collector(1, method) as collector:
        assert collector.submit(children.key, library).result() == current.authkey
        monkeypatch.setitem(current._config, "authkey", current.authkey)
        current.authkey = b"a key of the user's"
        assert collector.submit(children.key, library).result() == b"a key of the user's"


@each_method
def test_a_proxy_in_initargs_brings_the_key_of_its_manager_along(method: str) -> None:
    """As in a process that is being started: also a key that is not this process's."""
    source = """
from multiprocessing.managers import BaseManager
class OwnManager(BaseManager): pass
OwnManager.register("mapping", dict, exposed=("__getitem__", "__setitem__"))
if __name__ == "__main__":
    with OwnManager(authkey=b"another key") as manager:
        things = {"mapping": manager.mapping()}
        with Collector(1, sys.argv[1], initializer=children.take, initargs=(things,)) as collector:
            collector.submit(children.set_shared, "mapping", "key", 7).result()
        assert things["mapping"]["key"] == 7
"""
    assert fine(source, method)


@each_method
def test_no_key_is_seen_on_a_command_line_in_the_environment_or_in_a_file(
    method: str, tmp_path: Path
) -> None:
    source = """
import multiprocessing, multiprocess, os, sys
from collector import Collector
from tests.support import children
from tests.support.jobs import wait_for
for library in (multiprocessing, multiprocess):
    library.current_process().authkey = bytes.fromhex("534543524554") * 2
with Collector(2, sys.argv[1], temp_root=sys.argv[2]) as collector:
    for library in ("multiprocessing", "multiprocess"):
        current = sys.modules[library].current_process()
        assert collector.submit(children.key, library).result() == current.authkey
    print("ready", flush=True)
    wait_for(sys.argv[3])
"""
    root, until = tmp_path / "root", tmp_path / "until"
    with script(source, method, os.fspath(root), os.fspath(until)) as running:
        assert running.hear() == "ready"
        assert len(running.tree()) >= 3
        for pid in running.tree():
            for what in ("cmdline", "environ"):
                with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    assert b"SECRET" not in Path(f"/proc/{pid}/{what}").read_bytes()
        for file in root.rglob("*"):
            assert not file.is_file() or b"SECRET" not in file.read_bytes()
        until.touch()
        assert running.gone()


# -- resource trackers -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", everyday_are(["forkserver"], of=["forkserver", "spawn"]))
def test_a_collector_starts_no_resource_tracker(method: str) -> None:
    source = """
import sys
from collector import Collector
from tests.support import children
with Collector(2, sys.argv[1], initializer=children.take, initargs=({},)) as collector:
    collector.submit(children.identity, "multiprocess").result()
    print(children.trackers(), collector.submit(children.trackers).result(), flush=True)
"""
    with script(source, method) as running:
        assert running.hear() == "[] []"
        assert running.process.wait() == 0


@pytest.mark.slow
@each_method
def test_shared_memory_of_the_program_outlives_the_workers_that_have_used_it(method: str) -> None:
    """A tracker of a worker's own would remove it at the worker's end."""
    source = """
import sys
from multiprocessing.shared_memory import SharedMemory
from collector import Collector
from tests.support import children
block = SharedMemory(create=True, size=10)
block.buf[0] = 42
for _ in range(2):
    with Collector(1, sys.argv[1]) as collector:
        assert collector.submit(children.attach, block.name).result() == 42
        assert sys.argv[1] == "fork" or collector.submit(children.trackers).result() == []
print(children.attach(block.name), flush=True)
block.close()
block.unlink()
"""
    with script(source, method) as running:
        assert running.hear() == "42"
        assert running.process.wait() == 0
        assert running.gone()
