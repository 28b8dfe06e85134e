"""Each race between makers, users and sweepers of a run directory, placed and not left to luck.

The numbers R1 to R18 are those of docs/decisions/0003. Locks belong to open files, not to
processes, so two sides of a race may be played in one process, one inside the other's step. Where
a death or a fork is part of the race, the processes are real.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError
from collector.store import kernel, lease, reclaim, root, rundir, sweep
from collector.store.cleanup import clean_up
from collector.store.reclaim import list_runs, start_sweep
from collector.store.root import open_root
from collector.store.rundir import RunDirectory, process_run_directory
from collector.store.sweep import Entry, Verdict
from tests.support.leaks import wait_until
from tests.support.rundirs import (
    NOBODY,
    PRELUDE,
    Other,
    a_process,
    is_held,
    make_orphan,
    names,
    needs_root,
    place,
)


@pytest.fixture
def temp_root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir(mode=0o700)
    return path


def gone(temp_root: Path) -> bool:
    """Whether one sweep leaves nothing."""
    report = reclaim.reclaim([temp_root])
    return not report.failures and names(temp_root) == []


class TestR1ASweeperTakesTheDirectoryBetweenItsMakingAndItsLock:
    @pytest.mark.parametrize("step", ["mkdir", "open_fd"])
    def test_the_maker_takes_a_new_name(
        self, temp_root: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reports: list[reclaim.ReclaimReport] = []

        def sweep_now() -> None:
            reports.append(reclaim.reclaim([temp_root]))

        point = place(monkeypatch, step, after=sweep_now, matching="run-")
        directory = RunDirectory.create(temp_root)
        assert point.fired == 1
        (taken,) = reports[0].reclaimed
        assert taken.path != os.fspath(directory.path)
        assert is_held(directory)
        directory.dispose()
        assert names(temp_root) == []

    def test_a_sweeper_that_holds_it_meanwhile_makes_the_maker_take_a_new_name(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entries: list[Entry] = []
        temp = open_root(temp_root)

        def hold() -> None:
            (name,) = names(temp_root)
            entries.append(Entry(temp, name))
            assert entries[0].examine() is Verdict.STALE

        point = place(monkeypatch, "open_fd", after=hold, matching="run-")
        directory = RunDirectory.create(temp_root)
        assert point.fired == 1
        assert entries[0].path != os.fspath(directory.path)
        assert entries[0].remove(sweep.new_trash_name()) == []
        entries[0].close()
        temp.close()
        assert names(temp_root) == [directory.path.name]
        directory.dispose()

    def test_from_the_lock_on_the_sweeper_is_refused(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reports: list[reclaim.ReclaimReport] = []
        place(monkeypatch, "flock", after=lambda: reports.append(reclaim.reclaim([temp_root])))
        directory = RunDirectory.create(temp_root)
        assert (reports[0].live, reports[0].reclaimed) == (1, [])
        assert names(temp_root) == [directory.path.name]
        directory.dispose()

    def test_without_the_look_at_the_inode_a_live_run_is_lost(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Show that the tests above can fail."""
        monkeypatch.setattr(lease, "leads_to", lambda *_, **__: True)
        monkeypatch.setattr(rundir, "leads_to", lambda *_, **__: True)
        monkeypatch.setattr(lease.Lease, "take_file_lock", lambda *_: True)
        place(monkeypatch, "open_fd", after=lambda: _sweep(temp_root), matching="run-")
        directory = RunDirectory.create(temp_root)
        assert not directory.path.exists()
        directory.dispose()

    def test_a_maker_gives_up_when_it_is_always_taken_away(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = kernel.mkdir

        def take_away(path: str, mode: int, *, dir_fd: int | None = None) -> None:
            real(path, mode, dir_fd=dir_fd)
            os.rmdir(path, dir_fd=dir_fd)

        monkeypatch.setattr(kernel, "mkdir", take_away)
        with pytest.raises(RunDirectoryError) as caught:
            RunDirectory.create(temp_root)
        assert caught.value.errno == errno.EAGAIN

    def test_a_directory_that_vanishes_before_the_file_lock_is_not_used(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """FileLock makes it anew: a directory of that name, without our lease."""
        real = lease.Lease.take_file_lock
        removed: list[str] = []

        def vanish(self: lease.Lease, path: str) -> bool:
            if not removed:
                removed.append(path)
                os.rmdir(path)
            return real(self, path)

        monkeypatch.setattr(lease.Lease, "take_file_lock", vanish)
        directory = RunDirectory.create(temp_root)
        assert removed != [os.fspath(directory.path)]
        assert names(temp_root) == [directory.path.name]
        directory.dispose()


def _sweep(temp_root: Path) -> None:
    (temp_root / names(temp_root)[0]).rmdir()


class TestR2TwoSweepers:
    @pytest.mark.parametrize("step", ["flock", "rename", "unlink", "rmdir"])
    def test_the_second_leaves_it_to_the_first(
        self, temp_root: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_orphan(temp_root)
        second: list[reclaim.ReclaimReport] = []

        def sweep_too() -> None:
            second.append(reclaim.reclaim([temp_root]))

        point = place(monkeypatch, step, after=sweep_too)
        first = reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert (len(first.reclaimed), len(second[0].reclaimed)) == (1, 0)
        assert first.failures == second[0].failures == []
        assert names(temp_root) == []

    def test_one_that_comes_after_the_other_has_opened_it_finds_nothing(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_orphan(temp_root)
        second: list[reclaim.ReclaimReport] = []
        place(
            monkeypatch,
            "open_fd",
            after=lambda: second.append(reclaim.reclaim([temp_root])),
            matching="run-",
        )
        first = reclaim.reclaim([temp_root])
        assert (len(first.reclaimed), len(second[0].reclaimed)) == (0, 1)
        assert first.live == first.unknown == 0

    def test_two_real_ones_remove_each_run_once(self, temp_root: Path) -> None:
        for _ in range(200):
            make_orphan(temp_root)
        code = """
say('ready'); wait()
report = reclaim.reclaim([sys.argv[1]])
say(len(report.reclaimed), len(report.failures))
"""
        with a_process(code, temp_root) as one, a_process(code, temp_root) as two:
            both = (one, two)
            assert [other.hear() for other in both] == ["ready", "ready"]
            for other in both:
                other.tell()
            counts = [tuple(map(int, other.hear().split())) for other in both]
        assert sum(reclaimed for reclaimed, _ in counts) == 200
        assert [failures for _, failures in counts] == [0, 0]
        assert names(temp_root) == []


class TestR3ASweeperIsKilled:
    @pytest.mark.parametrize(
        ("step", "nth"), [("rename", 1), ("unlink", 1), ("unlink", 4), ("flock", 1), ("unlink", 6)]
    )
    def test_the_next_sweep_finishes(self, temp_root: Path, step: str, nth: int) -> None:
        make_orphan(temp_root, files=5)
        code = f"after('{step}', kill_me, {nth})\nreclaim.reclaim([sys.argv[1]])"
        with a_process(code, temp_root) as other:
            assert other.end() == -signal.SIGKILL
        assert len(names(temp_root)) == 1
        assert gone(temp_root)


class TestR4TheOwnerDisposesWhileASweeperComes:
    def test_the_sweeper_is_faster(self, temp_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = RunDirectory.create(temp_root)
        reports: list[reclaim.ReclaimReport] = []

        def sweep_now() -> None:
            reports.append(reclaim.reclaim([temp_root]))

        point = place(monkeypatch, "open_fd", before=sweep_now, matching="run-")
        directory.dispose()
        assert point.fired == 1
        assert len(reports[0].reclaimed) == 1
        assert names(temp_root) == []

    @pytest.mark.parametrize("step", ["open_fd", "flock"])
    def test_the_owner_is_faster(
        self, temp_root: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = RunDirectory.create(temp_root)
        point = place(
            monkeypatch,
            step,
            before=directory.dispose if step == "flock" else None,
            after=directory.dispose if step == "open_fd" else None,
            matching="run-" if step == "open_fd" else "",
        )
        report = reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert (report.reclaimed, report.failures, report.unknown) == ([], [], 0)
        assert names(temp_root) == []

    def test_the_sweeper_holds_it_for_a_moment_only_to_look(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = RunDirectory.create(temp_root)
        temp = open_root(temp_root)
        looking = Entry(temp, directory.path.name)

        def look() -> None:
            assert looking.examine() is Verdict.STALE

        def look_away() -> None:
            looking.close()

        place(monkeypatch, "open_fd", before=look, matching="run-")
        monkeypatch.setattr("collector.store.rundir.time.sleep", lambda _: look_away())
        directory.dispose()
        temp.close()
        assert names(temp_root) == []

    def test_the_parent_and_the_sink_let_go_at_once(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for order in (0, 1):
            parent = RunDirectory.create(temp_root)
            sink = RunDirectory.join(parent.path)
            first, second = (parent, sink) if order else (sink, parent)
            with pytest.MonkeyPatch.context() as patch:
                point = place(patch, "open_fd", before=second.dispose, matching="run-")
                first.dispose()
                assert point.fired == 1
            assert names(temp_root) == []


PARENT_SINK_WORKER = """
import subprocess
run = RunDirectory.create(sys.argv[1])
prelude = sys.argv[2]
def start(code):
    return subprocess.Popen([sys.executable, '-c', prelude + code, str(run.path)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
sink = start('run = RunDirectory.join(sys.argv[1]); say(1); wait(); wait()')
worker = start('scratch = rundir.make_scratch(sys.argv[1]); say(1); wait(); wait()')
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


# R8 (fork) and R9 (exec): tests/store/test_rundir.py, TestProcesses.


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
            monkeypatch.setattr("collector.store.reclaim.time.time", lambda clock=clock: clock)
            assert {run.state for run in list_runs([temp_root])} == {"live", "stale"}
            assert all(run.age_s >= 0 for run in list_runs([temp_root]))
        report = reclaim.reclaim([temp_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(dead)]
        assert report.live == 1
        live.dispose()


class TestR11AnotherCleanerTakesItAway:
    @pytest.mark.parametrize("what", ["run", "root"])
    def test_open_files_go_on_and_the_next_use_makes_a_new_run(
        self, temp_root: Path, what: str
    ) -> None:
        directory = process_run_directory(temp_root)
        fd, name = directory.create_file("out")
        os.write(fd, b"bytes")
        shutil.rmtree(directory.path if what == "run" else temp_root)
        assert os.pread(fd, 9, 0) == b"bytes"
        os.close(fd)
        with pytest.raises(FileNotFoundError):
            directory.open_file(name)
        assert not directory.is_in_place()
        second = process_run_directory(temp_root)
        assert second.path != directory.path
        assert is_held(second)
        clean_up()
        assert names(temp_root) == []


class TestR12SomethingElseStandsWhereARunIsExpected:
    NAME = "run-0123456789abcdef"

    def link(self, path: Path) -> None:
        path.symlink_to(path.parent.parent / "precious")

    def file(self, path: Path) -> None:
        path.write_text("a file")

    def fifo(self, path: Path) -> None:
        os.mkfifo(path)

    @pytest.mark.parametrize("make", [link, file, fifo])
    def test_it_is_left(
        self, temp_root: Path, make: Callable[[object, Path], None], tmp_path: Path
    ) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "file").write_text("mine")
        make(self, temp_root / self.NAME)
        report = reclaim.reclaim([temp_root])
        assert (report.reclaimed, report.unreadable) == ([], 1)
        assert names(temp_root) == [self.NAME]
        assert names(tmp_path / "precious") == ["file"]

    @pytest.mark.parametrize("step", ["open_fd", "flock", "rename", "scandir", "unlink"])
    def test_it_is_put_there_while_the_sweep_is_under_way(
        self, temp_root: Path, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "precious").mkdir()
        for name in ("lock", "owner.json", "out-0000000000000000.spill"):
            (tmp_path / "precious" / name).write_text("mine")
        run = make_orphan(temp_root)

        def swap() -> None:
            for name in names(temp_root):
                (temp_root / name).rename(tmp_path / "moved")
                (temp_root / name).symlink_to(tmp_path / "precious")

        point = place(monkeypatch, step, before=swap, nth=2 if step == "scandir" else 1)
        reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert len(names(tmp_path / "precious")) == 3
        assert run.parent == temp_root


class TestR13TheRootIsSwappedAfterItWasOpened:
    def test_the_sweep_stays_in_the_old_one(
        self, temp_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        orphan = make_orphan(temp_root)
        victim = tmp_path / "victim"
        precious = make_orphan(victim)
        precious = precious.rename(victim / orphan.name)

        def swap() -> None:
            temp_root.rename(tmp_path / "moved")
            victim.rename(temp_root)

        point = place(monkeypatch, "scandir", after=swap)
        report = reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert len(report.reclaimed) == 1
        assert names(tmp_path / "moved") == []
        assert len(names(temp_root / orphan.name)) == 3

    def test_a_run_that_is_being_made_is_given_up(
        self, temp_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        victim = tmp_path / "victim"
        victim.mkdir(mode=0o700)

        def swap() -> None:
            temp_root.rename(tmp_path / "moved")
            victim.rename(temp_root)

        point = place(monkeypatch, "flock", before=swap)
        monkeypatch.setattr("collector.store.rundir.RUN_NAME_TRIES", 1)
        with pytest.raises(RunDirectoryError):
            RunDirectory.create(temp_root)
        assert point.fired == 1
        assert names(tmp_path / "moved") == []


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


class TestR17OtherUsers:
    @needs_root
    def test_nothing_of_others_is_opened_for_deletion(self, temp_root: Path) -> None:
        theirs = make_orphan(temp_root)
        mine = make_orphan(temp_root)
        os.chown(theirs, NOBODY, NOBODY)
        report = reclaim.reclaim([temp_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(mine)]
        assert report.foreign == 1
        assert len(names(theirs)) == 3

    @needs_root
    def test_a_root_of_others_is_refused_whoever_asks(self, temp_root: Path) -> None:
        make_orphan(temp_root)
        os.chown(temp_root, NOBODY, NOBODY)
        with pytest.raises(RunDirectoryError, match=f"user {NOBODY}"):
            reclaim.reclaim([temp_root])
        assert len(names(temp_root)) == 1
        os.chown(temp_root, os.geteuid(), -1)


class TestR18TwoMachinesOnOneDirectory:
    @pytest.fixture(autouse=True)
    def _network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(root, "filesystem_type_of", lambda _: "nfs4")

    def test_nothing_is_swept_at_start(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_orphan(temp_root)
        start_sweep(temp_root)
        for thread in threading.enumerate():
            if thread.name == "collector-sweep":
                thread.join()
        assert len(names(temp_root)) == 1

    def test_gc_leaves_the_runs_of_another_machine(self, temp_root: Path) -> None:
        theirs, mine, nameless = (make_orphan(temp_root) for _ in range(3))
        host = os.uname().nodename
        (theirs / "owner.json").write_text(json.dumps({"host": f"not-{host}"}))
        (mine / "owner.json").write_text(json.dumps({"host": host}))
        (nameless / "owner.json").unlink()
        report = reclaim.reclaim([temp_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(mine)]
        assert report.unknown == 2
