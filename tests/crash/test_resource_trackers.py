"""Shared memory and semaphores of jobs that end in any way: their resource tracker removes them.

Each test is slow: it waits for trackers to clean up after what was killed.
"""

import contextlib
import importlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Collector
from collector.process import process_group
from tests.support.inside import sink_pid, worker_pids
from tests.support.jobs import square, wait_for
from tests.support.leaks import is_running, wait_until
from tests.support.tiers import each_method, each_method_but
from tests.support.tree import kill, script

LIBRARIES: Final = ("multiprocessing", "multiprocess")
each_library = pytest.mark.parametrize("library", LIBRARIES)


# -- jobs ------------------------------------------------------------------------------------------


def make_memory(library: str, begun: str) -> Any:
    """Make shared memory and leave its name in a file; whoever holds it has it."""
    memory = importlib.import_module(f"{library}.shared_memory").SharedMemory(create=True, size=64)
    _tell(begun, memory.name)
    return memory


def hold_memory(library: str, begun: str) -> None:
    """Hold shared memory for ever."""
    memory = make_memory(library, begun)
    threading.Event().wait()
    del memory


def hold_semaphore(library: str, begun: str) -> None:
    """Hold a named semaphore for ever."""
    lock = importlib.import_module(library).get_context("spawn").Lock()
    _tell(begun, f"sem.{lock._semlock.name.lstrip('/')}")
    threading.Event().wait()


def hold_in_a_forked_process(library: str, begun: str) -> None:
    """Have a child by fork hold memory."""
    _hold_in_a_process(library, begun, "fork")


def hold_in_a_spawned_process(library: str, begun: str) -> None:
    """Have a child by spawn hold memory."""
    _hold_in_a_process(library, begun, "spawn")


def _hold_in_a_process(library: str, begun: str, method: str) -> None:
    context = importlib.import_module(library).get_context(method)
    process = context.Process(target=hold_memory, args=(library, begun))
    process.start()
    process.join()


def hold_in_a_program(library: str, begun: str) -> None:
    """Have a program hold memory that has nothing of ours."""
    source = f"""
import os, threading
from {library}.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=64)
with open({begun!r} + ".part", "w") as file:
    file.write(memory.name)
os.rename({begun!r} + ".part", {begun!r})
threading.Event().wait()
"""
    subprocess.run([sys.executable, "-c", source], check=False)


def hold_beside_a_stopped_process(library: str, begun: str) -> None:
    """Hold memory while a child stands still: the kernel hangs up the group of a dead leader."""
    sleeper = subprocess.Popen(["sleep", "1000"])
    os.kill(sleeper.pid, signal.SIGSTOP)
    hold_memory(library, begun)


def die_with_memory(library: str, begun: str, status: int) -> None:
    """Leave with memory, as a crash does."""
    memory = make_memory(library, begun)
    os._exit(status if memory else 0)


def forget_memory(library: str, begun: str) -> None:
    """Return, and leave memory behind that lives as long as the worker."""
    _kept.append(make_memory(library, begun))


_kept: Final[list[Any]] = []


def _tell(begun: str, name: str) -> None:
    Path(f"{begun}.part").write_text(name)
    os.rename(f"{begun}.part", begun)


HOLDERS: Final = (
    *itertools.product((hold_memory, hold_semaphore, hold_in_a_program), LIBRARIES),
    (hold_in_a_forked_process, "multiprocessing"),
    (hold_in_a_spawned_process, "multiprocess"),
    (hold_beside_a_stopped_process, "multiprocessing"),
)


def name_in(begun: Path) -> Path:
    """Wait until a job has made its memory; return its file."""
    wait_for(begun)
    held = Path("/dev/shm", begun.read_text())
    assert held.exists()
    return held


# -- a job is ended --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("hold", "library"), HOLDERS)
@each_method
def test_what_a_killed_job_held_goes(
    method: str, library: str, hold: Callable[[str, str], None], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method) as collector:
        job = collector.submit(hold, library, os.fspath(begun))
        held = name_in(begun)
        job.kill()
        assert wait_until(lambda: not held.exists())
        assert collector.submit(square, 3).result() == 9


@pytest.mark.slow
@each_library
def test_what_a_killed_worker_of_the_standard_executor_held_goes_too(
    library: str, tmp_path: Path
) -> None:
    """The control: its tracker outlives the worker."""
    begun = tmp_path / "begun"
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        executor.submit(hold_memory, library, os.fspath(begun))
        held = name_in(begun)
        for process in list(executor._processes.values()):
            process.kill()
        assert wait_until(lambda: not held.exists())


@each_method_but("fork")
def test_what_a_job_held_goes_whose_time_is_up(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method) as collector:
        assert collector.submit(square, 3).result() == 9
        timed = collector.with_options(timeout=2)
        job = timed.submit(hold_memory, "multiprocessing", os.fspath(begun))
        held = name_in(begun)
        assert job.exception() is not None
        assert wait_until(lambda: not held.exists())


@pytest.mark.slow
@each_library
@each_method
def test_what_a_worker_held_goes_when_it_dies_by_itself(
    method: str, library: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method) as collector:
        job = collector.submit(die_with_memory, library, os.fspath(begun), 3)
        assert job.exception() is not None
        held = Path("/dev/shm", begun.read_text())
        assert wait_until(lambda: not held.exists())


@pytest.mark.slow
@each_method
def test_what_a_worker_held_goes_when_it_leaves_after_its_last_job(
    method: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method, max_tasks_per_child=1) as collector:
        collector.submit(forget_memory, "multiprocessing", os.fspath(begun)).result()
        held = Path("/dev/shm", begun.read_text())
        assert collector.submit(square, 3).result() == 9
        assert wait_until(lambda: not held.exists())


@pytest.mark.slow
@each_method
def test_what_a_job_held_goes_when_the_sink_is_killed(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method) as collector:
        job = collector.submit(hold_memory, "multiprocessing", os.fspath(begun))
        held = name_in(begun)
        os.kill(sink_pid(collector) or 0, signal.SIGKILL)
        assert job.exception() is not None
        assert wait_until(lambda: not held.exists())


@pytest.mark.slow
@each_method
def test_what_a_hanging_job_held_goes_when_the_block_is_left(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def leave() -> None:
        with Collector(1, method) as collector:
            collector.submit(hold_in_a_program, "multiprocessing", os.fspath(begun))
            name_in(begun)
            raise SystemExit

    with pytest.raises(SystemExit):
        leave()
    assert wait_until(lambda: not Path("/dev/shm", begun.read_text()).exists())


# -- the parent is ended ---------------------------------------------------------------------------

PARENT: Final = """
import sys
from collector import Collector
from tests.crash import test_resource_trackers as jobs
collector = Collector(1, sys.argv[1])
job = collector.submit(getattr(jobs, sys.argv[2]), sys.argv[3], sys.argv[4])
print(jobs.name_in(jobs.Path(sys.argv[4])), flush=True)
job.result()
"""


@pytest.mark.slow
@pytest.mark.parametrize("hold", [hold_memory, hold_in_a_program], ids=["job", "program"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@each_method
def test_what_a_job_held_goes_with_its_parent(
    method: str, number: int, hold: Callable[[str, str], None], tmp_path: Path
) -> None:
    begun = os.fspath(tmp_path / "begun")
    with script(PARENT, method, hold.__name__, "multiprocessing", begun) as parent:
        held = Path(parent.hear())
        assert held.exists()
        os.kill(parent.process.pid, number)
        assert parent.gone()
        assert wait_until(lambda: not held.exists())


# -- groups ----------------------------------------------------------------------------------------

CHAIN: Final = """
import os, sys
os.setpgid(0, 0)
print("begun", flush=True)
os.close(1)
while True:
    if os.fork():
        os._exit(0)
"""


@pytest.mark.slow
def test_a_process_that_goes_on_in_ever_new_children_is_killed_beside_a_tracker() -> None:
    """It is never where it was when somebody looked."""
    chain = subprocess.Popen([sys.executable, "-c", CHAIN], stdout=subprocess.PIPE)
    assert chain.stdout is not None
    assert chain.stdout.readline() == b"begun\n"
    chain.stdout.close()
    sleeper = "import threading; threading.Event().wait()"
    tracker = subprocess.Popen(
        [sys.executable, "-c", sleeper, "from x.resource_tracker import main;main(1)"],
        process_group=chain.pid,
    )
    process_group.end_group(chain.pid)
    chain.wait()
    assert wait_until(lambda: _running_in(chain.pid) == [tracker.pid])
    tracker.kill()
    tracker.wait()


OWN: Final = """
import os, subprocess, sys
from collector.process.process_group import end_group
os.setpgid(0, 0)
started = [
    subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()", *words])
    for words in ([], ["from x.resource_tracker import main;main(1)"])
]
print(*(process.pid for process in started), flush=True)
end_group(os.getpgrp())
"""


@pytest.mark.slow
def test_a_worker_can_end_its_own_group_beside_a_tracker() -> None:
    """It does so where parent, server and sink are gone; it stopped itself, for ever."""
    leader = subprocess.Popen([sys.executable, "-c", OWN], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    with leader.stdout as said:
        other, tracker = map(int, said.readline().split())
    try:
        assert leader.wait(60) == -signal.SIGKILL
        assert wait_until(lambda: not is_running(other))
        assert is_running(tracker)
    finally:
        for pid in (leader.pid, other, tracker):
            with contextlib.suppress(ProcessLookupError):
                kill(pid)
        leader.wait()


@pytest.mark.slow
def test_a_child_that_a_stopped_process_was_just_forking_is_killed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fork that was under way ends after the stop: its child is there, stopped, a bit later."""
    leader = subprocess.Popen(["sleep", "1000"], process_group=0)
    late = subprocess.Popen(["sleep", "1000"], process_group=leader.pid)
    sleeper = "import threading; threading.Event().wait()"
    tracker = subprocess.Popen(
        [sys.executable, "-c", sleeper, "from x.resource_tracker import main;main(1)"],
        process_group=leader.pid,
    )
    looked, members = [], process_group._members

    def without_the_late(group: int) -> set[int]:
        looked.append(group)
        return members(group) - ({late.pid} if len(looked) <= 2 else set())

    with monkeypatch.context() as patch:
        patch.setattr(process_group, "_members", without_the_late)
        process_group.end_group(leader.pid)
    assert len(looked) > 2
    assert leader.wait() == late.wait() == -signal.SIGKILL
    assert _running_in(leader.pid) == [tracker.pid]
    tracker.kill()
    tracker.wait()


def _running_in(number: int) -> list[int]:
    return [pid for pid in process_group._members(number) if is_running(pid)]


@pytest.mark.slow
def test_a_group_without_a_proc_to_look_at_is_killed_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleeper = subprocess.Popen(["sleep", "1000"], process_group=0)

    def refuse(_path: str) -> list[str]:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        process_group.end_group(sleeper.pid)
    assert sleeper.wait() == -signal.SIGKILL


@pytest.mark.slow
@each_method
def test_no_tracker_is_left_after_the_shutdown(method: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method) as collector:
        collector.submit(forget_memory, "multiprocessing", os.fspath(begun)).result()
        (worker,) = worker_pids(collector)
        trackers = [pid for pid in process_group._members(worker) if pid != worker]
        assert len(trackers) == 1
    assert wait_until(lambda: not is_running(trackers[0]))
