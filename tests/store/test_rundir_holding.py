"""Holding, joining and disposing of a run directory, in threads and in other processes."""

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import locks
from collector.store.rundir.cleanup import clean_up
from collector.store.rundir.directory import RunDirectory, process_run_directory
from collector.store.rundir.reclaim import reclaim
from tests.support.leaks import is_running, wait_until
from tests.support.rundirs import a_process, immutable, is_held, names, run_code
from tests.support.tiers import everyday_are

pytestmark = pytest.mark.usefixtures("says_everything_once_more")


class TestHolding:
    def test_the_last_release_disposes(self, new_root: Path) -> None:
        directory = RunDirectory.create(new_root)
        directory.retain()
        directory.release()
        assert is_held(directory)
        directory.release()
        assert names(new_root) == []
        directory.release()
        directory.dispose()

    def test_many_threads_count_users_exactly(self, new_root: Path) -> None:
        directory = RunDirectory.create(new_root)

        def use() -> None:
            for _ in range(500):
                directory.retain()
                directory.release()

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert is_held(directory)
        directory.release()
        assert names(new_root) == []

    def test_disposing_in_many_threads_at_once_is_disposing_once(self, new_root: Path) -> None:
        for _ in range(20):
            directory = RunDirectory.create(new_root)
            threads = [threading.Thread(target=directory.dispose) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert names(new_root) == []

    def test_the_file_lock_is_held_too_and_from_any_thread(self, run: RunDirectory) -> None:
        contender = filelock.FileLock(run.path / "lock", preserve_lock_file=True)
        with pytest.raises(filelock.Timeout):
            contender.acquire(blocking=False)
        thread = threading.Thread(target=run.dispose)
        thread.start()
        thread.join()
        assert names(run.path.parent) == []

    def test_dropping_the_last_reference_does_not_drop_the_run(self, new_root: Path) -> None:
        directory = process_run_directory(new_root)
        path = directory.path
        del directory
        gc.collect()
        assert is_held(path)
        clean_up()
        assert names(new_root) == []

    def test_two_runs_in_one_process_do_not_meet(self, new_root: Path) -> None:
        first, second = RunDirectory.create(new_root), RunDirectory.create(new_root)
        first.dispose()
        assert is_held(second)
        assert reclaim([new_root]).live == 1
        second.dispose()
        assert names(new_root) == []

    def test_the_sink_keeps_the_run_when_the_parent_lets_go_and_removes_it_last(
        self, new_root: Path
    ) -> None:
        parent = RunDirectory.create(new_root)
        code = """
run = RunDirectory.join(sys.argv[1])
say('filelock' in sys.modules, 'json' in sys.modules)
wait()
run.dispose()
"""
        with a_process(code, parent.path) as sink:
            assert sink.hear() == "False False"
            parent.dispose()
            assert is_held(parent.path)
            sink.tell()
            assert sink.end() == 0
        assert names(new_root) == []

    def test_a_removed_run_cannot_be_joined(self, new_root: Path) -> None:
        directory = RunDirectory.create(new_root)
        directory.dispose()
        with pytest.raises(RunDirectoryError, match="No such file") as caught:
            RunDirectory.join(directory.path)
        assert caught.value.filename == os.fspath(directory.path)

    @pytest.mark.parametrize("name", ["run-x", "trash-0123456789abcdef", "run-0123456789abcdef/.."])
    def test_only_a_run_directory_can_be_joined(self, new_root: Path, name: str) -> None:
        new_root.mkdir(mode=0o700)
        (new_root / "run-0123456789abcdef").mkdir()
        with pytest.raises(RunDirectoryError, match="no run directory"):
            RunDirectory.join(new_root / name)

    def test_a_link_in_place_of_a_run_is_not_joined(self, new_root: Path) -> None:
        directory = RunDirectory.create(new_root)
        link = new_root / "run-0123456789abcdef"
        link.symlink_to(directory.path.name)
        with pytest.raises(RunDirectoryError, match="Not a directory"):
            RunDirectory.join(link)
        directory.dispose()

    def test_a_file_that_cannot_be_removed_is_reported_and_nothing_is_raised(
        self, new_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory = RunDirectory.create(new_root)
        fd, name = directory.create_file("out")
        os.close(fd)
        with immutable(directory.path / name):
            assert not directory.remove_file(name)
            directory.dispose()
            assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
            assert name in caplog.text
            (trash,) = names(new_root)
            assert trash.startswith("trash-")
            assert name in names(new_root / trash)  # and owner.json, to tell whose it was
            report = reclaim([new_root])
            assert len(report.failures) == 1
            assert report.reclaimed == []
            (trash,) = names(new_root)
            (new_root / trash).rename(directory.path)
        assert len(reclaim([new_root]).reclaimed) == 1
        assert names(new_root) == []


class TestProcesses:
    """Fork, exec and subprocesses; rows R8 and R9 of the races."""

    @pytest.mark.parametrize(
        "ending", ["pass", "raise SystemExit(3)", "run.dispose()", "run.release()", "clean_up()"]
    )
    def test_a_forked_child_never_deletes_or_unlocks_what_is_its_parents(
        self, new_root: Path, ending: str
    ) -> None:
        code = """
clean_up = cleanup.clean_up
run = process_run_directory(sys.argv[1])
fd, name = run.create_file('out')
scratch = make_scratch(run.path)
child = os.fork()
if child == 0:
    run.remove_file(name)
    run.remove_scratch(scratch)
    try:
        run.create_file('x')
    except OSError as error:
        assert 'before a fork' in str(error)
    else:
        os._exit(9)
    os.close(run.open_file(name))
    ENDING
    sys.exit(0)
os.waitpid(child, 0)
say(run.path, (run.path / name).exists() and scratch.exists() and run.is_in_place())
wait()
""".replace("ENDING", ending)
        with a_process(code, new_root) as parent:
            path, intact = parent.hear().split()
            assert intact == "True"
            assert is_held(Path(path))
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(Path(path, "lock"), preserve_lock_file=True).acquire(
                    blocking=False
                )
            parent.tell()
            assert parent.end() == 0
        assert names(new_root) == []

    def test_a_forked_child_that_lives_on_keeps_nothing_alive(self, new_root: Path) -> None:
        code = """
run = process_run_directory(sys.argv[1])
if os.fork() == 0:
    found = []
    for fd in range(100):
        try:
            found.append(os.readlink(f'/proc/self/fd/{fd}'))
        except OSError:
            pass
    say([path for path in found if path.startswith(sys.argv[1])])
    wait()
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
        with a_process(code, new_root) as parent:
            assert parent.hear() == "[]"
            parent.end()
            assert len(reclaim([new_root]).reclaimed) == 1
            parent.tell()

    def test_a_file_that_has_the_number_of_a_descriptor_that_others_closed_is_left_alone(
        self, new_root: Path, tmp_path: Path
    ) -> None:
        """As in a program that makes itself a daemon: it closes all, and opens its own files."""
        code = """
import fcntl
reclaim.start_sweep = lambda root: None  # its thread would have descriptors, too
run = process_run_directory(sys.argv[1])
numbers = [fd for fd in range(3, 100) if os.path.exists(f'/proc/self/fd/{fd}')]
ours = [fd for fd in numbers if os.readlink(f'/proc/self/fd/{fd}').startswith(sys.argv[1])]
os.closerange(3, 100)
while os.open(sys.argv[2], os.O_RDWR | os.O_CREAT, 0o644) < max(ours):
    pass
for fd in ours:
    fcntl.flock(fd, fcntl.LOCK_SH)
def left():
    return all(os.path.exists(f'/proc/self/fd/{fd}') for fd in ours)
child = os.fork()
if child == 0:
    say(left())
    os._exit(0)
os.waitpid(child, 0)
run.dispose()
locks = open('/proc/locks').read().count(f':{os.stat(sys.argv[2]).st_ino} ')
say(len(ours), left(), locks, oct(os.stat(sys.argv[2]).st_mode))
"""
        done = run_code(code, new_root, tmp_path / "theirs")
        assert done.stdout == "True\n3 True 3 0o100644\n", done.stderr

    def test_a_forked_child_makes_a_run_of_its_own(self, new_root: Path) -> None:
        code = """
run = process_run_directory(sys.argv[1])
child = os.fork()
if child == 0:
    own = process_run_directory(sys.argv[1])
    say(own.path != run.path, own.owner_pid == os.getpid())
    sys.exit(0)
os.waitpid(child, 0)
say(sorted(os.listdir(sys.argv[1])) == [run.path.name], run is process_run_directory(sys.argv[1]))
"""
        done = run_code(code, new_root)
        assert done.stdout == "True True\nTrue True\n", done.stderr
        assert names(new_root) == []

    @pytest.mark.parametrize("forks", everyday_are([15], of=[15, 60]))
    def test_a_fork_while_another_thread_makes_and_disposes_never_hangs(
        self, new_root: Path, forks: int
    ) -> None:
        code = """
import threading
stop = threading.Event()

def churn():
    while not stop.is_set():
        RunDirectory.create(sys.argv[1]).dispose()
        process_run_directory(sys.argv[1]).dispose()

threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        process_run_directory(sys.argv[1]).dispose()
        RunDirectory.create(sys.argv[1]).dispose()
        os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
stop.set()
for thread in threads:
    thread.join()
cleanup.clean_up()
for _ in range(100):
    if not os.listdir(sys.argv[1]):
        break
    reclaim.reclaim([sys.argv[1]])
say(os.listdir(sys.argv[1]))
"""
        done = run_code(code, new_root, str(forks), PYTHONWARNINGS="ignore::DeprecationWarning")
        assert done.stdout == "[]\n", done.stderr

    def test_a_fork_in_the_midst_of_the_first_import_of_filelock_waits_for_it(
        self, new_root: Path
    ) -> None:
        code = """
import threading
met, go = threading.Event(), threading.Event()

class Halt:
    def find_spec(self, name, path=None, target=None):
        # Of filelock: its fork hook is registered by now, its class of locks is not.
        if name.endswith('core._lock'):
            met.set()
            go.wait()

sys.meta_path.insert(0, Halt())

def make():
    RunDirectory.create(sys.argv[1]).dispose()

def fork():
    child = os.fork()
    if child == 0:
        make()
        os._exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

codes = []
threads = [threading.Thread(target=act, daemon=True) for act in (make, fork)]
threads[0].start()
met.wait()
threads[1].start()
threads[1].join(0.5)  # it waits by now
go.set()
for thread in threads:
    thread.join(20)
say(codes, [thread.is_alive() for thread in threads])
os._exit(0)
"""
        done = run_code(code, new_root, PYTHONWARNINGS="ignore::DeprecationWarning")
        assert done.stdout == "[7] [False, False]\n", done.stderr

    def test_exec_frees_the_locks(self, new_root: Path) -> None:
        code = """
process_run_directory(sys.argv[1])
say('made')
os.execv(sys.executable, [sys.executable, '-c', 'print("new", flush=True); input()'])
"""
        with a_process(code, new_root) as other:
            assert other.hear() == "made"
            assert other.hear() == "new"
            assert len(reclaim([new_root]).reclaimed) == 1
            other.tell()
            assert other.end() == 0

    def test_a_subprocess_that_gets_all_descriptors_gets_no_lock(self, new_root: Path) -> None:
        directory = RunDirectory.create(new_root)
        with subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            close_fds=False,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            directory.dispose()
            assert names(new_root) == []
            child.communicate(b"\n")

    def test_a_fork_in_c_delays_a_sweep_but_never_a_dispose(self, new_root: Path) -> None:
        code = """
import ctypes
libc = ctypes.PyDLL(None)
run = RunDirectory.create(sys.argv[1])
copy = libc.fork()  # behind Python's back: no hook runs, every descriptor stays
if copy == 0:
    libc.pause()
    os._exit(0)
say(copy)
wait()
if len(sys.argv) > 2:
    run.dispose()
    say(os.listdir(sys.argv[1]))
wait()
kill_me()
"""
        with a_process(code, new_root, "dispose") as parent:
            copy = int(parent.hear())
            parent.tell()
            assert parent.hear() == "[]"
            os.kill(copy, signal.SIGKILL)
        with a_process(code, new_root) as parent:
            copy = int(parent.hear())
            parent.tell()
            parent.tell()
            assert parent.end() == -signal.SIGKILL
            assert reclaim([new_root]).live == 1
            os.kill(copy, signal.SIGKILL)
            assert wait_until(lambda: not is_running(copy))
            assert len(reclaim([new_root]).reclaimed) == 1


def test_a_descriptor_that_another_thread_closes_meanwhile_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = locks.open_private(os.fspath(tmp_path))
    look = os.fstat

    def closed_meanwhile(number: int) -> os.stat_result:
        monkeypatch.undo()
        status = look(number)
        locks.close_private(number, locked=False)
        return status

    monkeypatch.setattr(os, "fstat", closed_meanwhile)
    assert not locks.is_ours(fd)
    assert os.fstat is look
