"""The leak checks can fail: each finds what is planted, and only that."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.leaks import (
    Snapshot,
    descendants,
    end_processes,
    is_running,
    settle,
    wait_until,
)

Plant = Callable[[Path], AbstractContextManager[str]]

_ORPHAN = """
import os, sys
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def a_descriptor(temp: Path) -> Iterator[str]:
    fd = os.open(temp, os.O_RDONLY)
    yield f"descriptor {temp}"
    os.close(fd)


@contextmanager
def a_thread(_temp: Path) -> Iterator[str]:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="left-behind")
    thread.start()
    yield "left-behind"
    done.set()
    thread.join()


@contextmanager
def a_child(_temp: Path) -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield f"process {child.pid}"
        child.kill()


@contextmanager
def an_orphan_in_its_own_session(_temp: Path) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", _ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        assert parent.wait() == 0
        assert {process.parent for process in descendants() if process.pid == orphan} == {
            os.getpid()
        }
        yield f"process {orphan}"
    os.waitpid(orphan, 0)  # its standard input is closed now


@contextmanager
def a_file(temp: Path) -> Iterator[str]:
    file = temp / "streaming-output-x.spill"
    file.touch()
    yield f"file {file}"
    file.unlink()


@contextmanager
def a_run_directory(temp: Path) -> Iterator[str]:
    directory = temp / "c" / "run-0123456789abcdef"
    directory.mkdir(parents=True)
    yield f"file {directory}"
    directory.rmdir()


@contextmanager
def a_signal_handler(_temp: Path) -> Iterator[str]:
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    yield "handler of SIGUSR2"
    signal.signal(signal.SIGUSR2, before)


@contextmanager
def a_blocked_signal(_temp: Path) -> Iterator[str]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    yield "blocked signals"
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])


@contextmanager
def a_semaphore(_temp: Path) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="sem.mp-") as file:
        yield f"shared memory {Path(file.name).name}"


@pytest.mark.parametrize(
    "plant",
    [
        a_descriptor,
        a_thread,
        a_child,
        an_orphan_in_its_own_session,
        a_file,
        a_run_directory,
        a_signal_handler,
        a_blocked_signal,
        a_semaphore,
    ],
)
def test_what_is_planted_is_found_and_only_while_it_is_there(plant: Plant, tmp_path: Path) -> None:
    before = Snapshot.take(tmp_path)
    with plant(tmp_path) as name:
        assert any(name in line for line in before.leaks(tmp_path))
    assert settle(before, tmp_path) == []


def test_what_goes_a_little_later_is_no_leak(tmp_path: Path) -> None:
    before = Snapshot.take(tmp_path)
    thread = threading.Timer(0.05, lambda: None)
    thread.start()
    assert settle(before, tmp_path) == []


def test_a_zombie_that_its_own_process_object_never_joined_is_a_leak(tmp_path: Path) -> None:
    import multiprocess

    before = Snapshot.take(tmp_path)
    child = multiprocess.get_context("fork").Process(target=os.getpid)
    child.start()
    assert wait_until(lambda: not is_running(child.pid))
    assert [line for line in before.leaks(tmp_path) if line.startswith(f"process {child.pid} (Z)")]
    child.join()
    child.close()


def test_the_processes_of_a_failed_test_are_ended(tmp_path: Path) -> None:
    before = Snapshot.take(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(child.pid)
    end_processes(before)
    assert not is_running(child.pid)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait() is not None
    assert not is_running(child.pid)


def test_every_test_has_temp_directories_of_its_own() -> None:
    assert os.environ["TMPDIR"] == tempfile.gettempdir()
    assert Path(os.environ["COLLECTOR_TMPDIR"]).parent == Path(tempfile.gettempdir())
    # a Unix socket below a run directory must stay under the kernel's 108 bytes
    assert len(os.environ["COLLECTOR_TMPDIR"]) < 40
