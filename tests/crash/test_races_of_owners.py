"""Races R5 to R10, R14 to R16: deaths of owners, late readers, and the lock that decides.

The numbers are those of docs/decisions/0003. Locks belong to open files, not to processes, so two
sides of a race may be played in one process, one inside the other's step. Where a death or a fork
is part of the race, the processes are real.
"""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import kernel, reclaim
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs
from tests.support.leaks import wait_until
from tests.support.rundirs import (
    PRELUDE,
    Other,
    a_process,
    gone,
    is_held,
    make_orphan,
    names,
    place,
)

PARENT_SINK_WORKER = """
import subprocess
run = RunDirectory.create(sys.argv[1])
prelude = sys.argv[2]
def start(code):
    return subprocess.Popen([sys.executable, '-c', prelude + code, str(run.path)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
sink = start('run = RunDirectory.join(sys.argv[1]); say(1); wait(); wait()')
worker = start('scratch = make_scratch(sys.argv[1]); say(1); wait(); wait()')
for child in (sink, worker):
    child.stdout.readline()
forked = os.fork()  # another worker
if forked == 0:
    signal.pause()
say(run.path, sink.pid, worker.pid, forked)
wait()
"""


class TestR5R6DeathsOfParentAndSink:
    @pytest.fixture
    def parent(self, temp_root: Path) -> Iterator[Other]:
        with a_process(PARENT_SINK_WORKER, temp_root, PRELUDE) as parent:
            yield parent

    def test_r5_the_sink_keeps_the_run_of_a_dead_parent(
        self, temp_root: Path, parent: Other
    ) -> None:
        path, *pids = parent.hear().split()
        sink, worker, forked = map(int, pids)
        os.kill(sink, signal.SIGSTOP)
        assert parent.kill(signal.SIGKILL) == -signal.SIGKILL
        assert is_held(Path(path))
        assert reclaim.reclaim([temp_root]).live == 1
        for pid in (sink, worker, forked):
            os.kill(pid, signal.SIGKILL)

    def test_r6_a_worker_keeps_nothing(self, temp_root: Path, parent: Other) -> None:
        _, *pids = parent.hear().split()
        sink, worker, forked = map(int, pids)
        os.kill(worker, signal.SIGSTOP)
        os.kill(sink, signal.SIGKILL)
        assert parent.kill(signal.SIGKILL) == -signal.SIGKILL
        assert wait_until(lambda: list_runs([temp_root])[0].state == "stale")
        assert gone(temp_root)
        for pid in (worker, forked):
            os.kill(pid, signal.SIGKILL)


class TestR7AResultIsReadAfterShutdown:
    def test_a_reader_in_this_process_keeps_the_run(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        fd, name = directory.create_file("out")
        os.write(fd, b"bytes")
        os.close(fd)
        directory.retain()  # an output
        directory.release()  # the Collector
        assert is_held(directory)
        fd = directory.open_file(name)
        assert os.read(fd, 9) == b"bytes"
        os.close(fd)
        directory.release()
        assert names(temp_root) == []

    def test_a_reader_in_another_process_keeps_it_too(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        code = "run = RunDirectory.join(sys.argv[1]); say(1); wait(); run.dispose()"
        with a_process(code, directory.path) as reader:
            reader.hear()
            directory.dispose()
            assert is_held(directory.path)
            reader.tell()
            assert reader.end() == 0
        assert names(temp_root) == []


# R8 (fork) and R9 (exec): tests/store/test_rundir_holding.py, TestProcesses.
class TestR10NothingButTheLockDecides:
    def test_a_pid_that_lives_is_no_life(self, temp_root: Path) -> None:
        run = make_orphan(temp_root)
        (run / "owner.json").write_text(f'{{"pid": {os.getpid()}, "started": {time.time()}}}')
        assert gone(temp_root)

    def test_a_pid_that_is_dead_is_no_death(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        (directory.path / "owner.json").write_text('{"pid": 4194304}')
        assert reclaim.reclaim([temp_root]).live == 1
        directory.dispose()

    def test_an_owner_that_is_stopped_lives(self, temp_root: Path) -> None:
        code = "run = RunDirectory.create(sys.argv[1]); say(1); wait()"
        with a_process(code, temp_root) as owner:
            owner.hear()
            os.kill(owner.pid, signal.SIGSTOP)
            assert os.waitid(os.P_PID, owner.pid, os.WSTOPPED | os.WNOWAIT) is not None
            assert reclaim.reclaim([temp_root]).live == 1
            os.kill(owner.pid, signal.SIGCONT)
            owner.kill(signal.SIGKILL)
        assert gone(temp_root)

    YEAR = 366 * 86400

    @pytest.mark.parametrize("shift", [-YEAR, YEAR, -60 * YEAR, 80 * YEAR])
    def test_clocks_and_times_decide_nothing(
        self, temp_root: Path, shift: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live = RunDirectory.create(temp_root)
        dead = make_orphan(temp_root)
        then = max(0.0, time.time() + shift)
        for path in (live.path, dead, *live.path.iterdir(), *dead.iterdir()):
            os.utime(path, (then, then))
        now = time.time()
        for clock in (now, now + shift):
            monkeypatch.setattr(
                "collector.store.rundir.reclaim.time.time", lambda clock=clock: clock
            )
            assert {run.state for run in list_runs([temp_root])} == {"live", "stale"}
            assert all(run.age_s >= 0 for run in list_runs([temp_root]))
        report = reclaim.reclaim([temp_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(dead)]
        assert report.live == 1
        live.dispose()


def test_r14_a_name_for_trash_that_is_taken_costs_nothing(
    temp_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = make_orphan(temp_root)
    taken = f"trash-{'0' * 32}"
    (temp_root / taken).mkdir(mode=0o700)
    (temp_root / taken / "file").write_text("x")
    directory = RunDirectory.create(temp_root)  # not in the way of the other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reclaim, "new_trash_name", lambda: taken)
        report = reclaim.reclaim([temp_root])
    assert [failure.errno for failure in report.failures] == [errno.ENOTEMPTY]
    assert [run.path for run in report.reclaimed] == [os.fspath(temp_root / taken)]
    assert orphan.exists()
    directory.dispose()
    assert gone(temp_root)


def test_r15_no_shared_lock_is_ever_made_exclusive(
    temp_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    real_flock, real_close = kernel.flock, kernel.close

    def flock(fd: int, operation: int) -> None:
        steps.append((_OPERATIONS[operation & ~fcntl.LOCK_NB], fd))
        real_flock(fd, operation)

    def close(fd: int) -> None:
        steps.append(("close", fd))
        real_close(fd)

    monkeypatch.setattr(kernel, "flock", flock)
    monkeypatch.setattr(kernel, "close", close)
    parent = RunDirectory.create(temp_root)
    sink = RunDirectory.join(parent.path)
    reclaim.reclaim([temp_root])
    parent.dispose()
    sink.dispose()
    assert names(temp_root) == []
    held: dict[int, str] = {}
    seen = set()
    for step, fd in steps:
        seen.add(step)
        assert not (step == "exclusive" and held.get(fd) == "shared"), steps
        held[fd] = step
    assert seen == {"shared", "exclusive", "unlock", "close"}


_OPERATIONS = {fcntl.LOCK_SH: "shared", fcntl.LOCK_EX: "exclusive", fcntl.LOCK_UN: "unlock"}


@pytest.mark.parametrize("step", ["open_fd", "flock"])
def test_r16_a_reader_that_opens_while_the_owner_disposes_gets_all_or_a_clear_error(
    temp_root: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = RunDirectory.create(temp_root)
    point = place(
        monkeypatch, step, before=owner.dispose, matching="run-" if step != "flock" else ""
    )
    with pytest.raises(RunDirectoryError, match=r"removing|No such file"):
        RunDirectory.join(owner.path)
    assert point.fired == 1
    assert names(temp_root) == []

    owner = RunDirectory.create(temp_root)
    with pytest.MonkeyPatch.context() as patch:
        point = place(patch, "flock", after=owner.dispose)
        reader = RunDirectory.join(owner.path)  # its lease came first: the owner leaves it alone
    assert point.fired == 1
    assert is_held(owner.path)
    reader.dispose()
    assert names(temp_root) == []
