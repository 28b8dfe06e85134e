"""Making, holding, joining and disposing of one run directory."""

import contextlib
import errno
import gc
import json
import logging
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from collector.errors import RunDirectoryError
from collector.store import kernel, root, rundir
from collector.store.cleanup import clean_up
from collector.store.reclaim import list_runs, reclaim
from collector.store.rundir import RunDirectory, process_run_directory
from tests.support.leaks import is_running, wait_until
from tests.support.rundirs import (
    BECOME,
    NOBODY,
    a_process,
    immutable,
    is_held,
    mounted,
    names,
    needs_root,
    place,
    run_code,
)


@pytest.fixture
def temp_root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def run(temp_root: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory.create(temp_root)
    yield directory
    directory.dispose()


@pytest.fixture(autouse=True)
def _says_everything_once_more(tmp_path: Path) -> None:
    """Forget what was said before; what lies in memory here is not what the tests are about."""
    root._advised.clear()
    if root.filesystem_type_of(tmp_path.stat().st_dev) == "tmpfs":
        root._advised.add(("type", tmp_path.stat().st_dev))


@contextlib.contextmanager
def working_in(path: Path) -> Iterator[None]:
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


class TestWhatIsMade:
    def test_a_new_run_directory_is_private_and_says_whose_it_is(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        assert names(temp_root) == [directory.path.name]
        assert names(directory.path) == ["lock", "owner.json"]
        assert directory.path.is_absolute()
        assert mode(temp_root) == mode(directory.path) == 0o700
        assert mode(directory.path / "lock") == mode(directory.path / "owner.json") == 0o600
        facts = json.loads((directory.path / "owner.json").read_text())
        assert set(facts) == {"pid", "started", "host", "command", "version"}
        assert facts["pid"] == os.getpid()
        directory.dispose()
        assert names(temp_root) == []

    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_modes_do_not_depend_on_the_umask(self, temp_root: Path, umask: int) -> None:
        code = """
os.umask(int(sys.argv[2], 8))
run = RunDirectory.create(sys.argv[1])
fd, name = run.create_file("out")
os.close(fd)
scratch = run.make_scratch()
for path in (run.path.parent, run.path, scratch, *sorted(p for p in run.path.iterdir())):
    say(oct(path.stat().st_mode & 0o7777), path.name)
run.dispose()
"""
        done = run_code(code, temp_root, f"{umask:o}")
        found = [line.split() for line in done.stdout.splitlines()]
        assert len(found) == 7, done.stderr
        for octal, name in found:
            private = "0o700" if name.startswith(("root", "run", "scratch")) else "0o600"
            assert octal == private, name

    def test_a_setgid_parent_and_a_default_acl_do_not_open_it(self, tmp_path: Path) -> None:
        parent = tmp_path / "shared"
        parent.mkdir()
        parent.chmod(0o2777)
        # user::rwx, group::rwx, other::rwx by default for everything that is made inside
        entries = [(1, 7, -1), (4, 7, -1), (16, 7, -1), (32, 7, -1)]
        packed = b"".join(struct.pack("<HHi", tag, bits, who) for tag, bits, who in entries[:2])
        packed += struct.pack("<HHi", 32, 7, -1)
        os.setxattr(parent, "system.posix_acl_default", struct.pack("<I", 2) + packed)
        directory = RunDirectory.create(parent / "root")
        fd, name = directory.create_file("out")
        os.close(fd)
        assert mode(parent / "root") == mode(directory.path) == 0o700
        assert mode(directory.path / name) == mode(directory.path / "lock") == 0o600
        directory.dispose()

    def test_files_are_made_opened_and_removed_relative_to_the_directory(
        self, run: RunDirectory
    ) -> None:
        fd, name = run.create_file("answers")
        assert name.startswith("answers-")
        assert name.endswith(".spill")
        assert os.write(fd, b"bytes") == 5
        assert not os.get_inheritable(fd)
        os.close(fd)
        fd = run.open_file(name)
        assert os.read(fd, 10) == b"bytes"
        os.close(fd)
        assert run.remove_file(name)
        assert not run.remove_file(name)

    @pytest.mark.parametrize("base", ["../../x", "a/b", "nul\0", "ü" * 300, "", "\udc80"])
    def test_no_base_name_leads_out_of_the_directory(self, run: RunDirectory, base: str) -> None:
        fd, name = run.create_file(base)
        os.close(fd)
        assert name in names(run.path)
        assert run.remove_file(name)

    def test_a_scratch_directory_goes_with_all_that_is_in_it(self, run: RunDirectory) -> None:
        scratch = run.make_scratch()
        (scratch / "deep" / "er").mkdir(parents=True)
        (scratch / "deep" / "er" / "file").write_text("x")
        (scratch / "locked").mkdir(mode=0o000)
        assert mode(scratch) == 0o700
        run.remove_scratch(scratch)
        assert names(run.path) == ["lock", "owner.json"]
        run.remove_scratch(scratch)

    def test_a_worker_makes_and_removes_scratch_without_a_lease(self, run: RunDirectory) -> None:
        code = """
scratch = rundir.make_scratch(sys.argv[1])
(scratch / "file").write_text("x")
say(scratch, 'filelock' in sys.modules)
say(rundir.remove_scratch(scratch), rundir.remove_scratch(Path(sys.argv[1], 'lock')))
"""
        first, second = run_code(code, run.path).stdout.splitlines()
        assert first.startswith(f"{run.path}/scratch-")
        assert first.endswith("False")
        assert second == "[] []"
        assert names(run.path) == ["lock", "owner.json"]

    def test_importing_it_loads_neither_filelock_nor_tqdm(self) -> None:
        done = run_code("say([m for m in ('filelock', 'tqdm') if m in sys.modules])")
        assert done.stdout == "[]\n"


class TestRoots:
    def test_the_argument_outranks_the_variable_which_outranks_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLLECTOR_TMPDIR", os.fspath(tmp_path / "named"))
        monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
        with contextlib.ExitStack() as stack:

            def parent(temp_root: Path | None) -> Path:
                directory = RunDirectory.create(temp_root)
                stack.callback(directory.dispose)
                return directory.path.parent

            assert parent(tmp_path / "given") == tmp_path / "given"
            assert parent(None) == tmp_path / "named"
            monkeypatch.setenv("COLLECTOR_TMPDIR", "")
            assert parent(None) == tmp_path / f"collector-{os.geteuid()}"

    def test_a_relative_root_is_made_absolute_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        with working_in(tmp_path):
            directory = RunDirectory.create("relative")
        with working_in(tmp_path / "elsewhere"):
            assert directory.path.parent == tmp_path / "relative"
            fd, name = directory.create_file("out")
            os.close(fd)
            assert name in names(tmp_path / "relative" / directory.path.name)
            directory.dispose()
        assert names(tmp_path / "relative") == []

    @pytest.mark.parametrize("how", ["given", "named"])
    def test_a_relative_root_in_a_directory_that_is_gone_is_refused_with_its_path(
        self, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.setenv("COLLECTOR_TMPDIR", "relative")
        with working_in(tmp_path / "gone"):
            (tmp_path / "gone").rmdir()
            with pytest.raises(RunDirectoryError, match="the working directory is gone") as caught:
                RunDirectory.create("relative" if how == "given" else None)
        assert caught.value.filename == "relative"
        assert caught.value.errno == errno.ENOENT

    def test_a_missing_root_is_made_but_not_its_parent(self, tmp_path: Path) -> None:
        with pytest.raises(RunDirectoryError, match="No such file") as caught:
            RunDirectory.create(tmp_path / "no" / "root")
        assert caught.value.filename == os.fspath(tmp_path / "no" / "root")
        assert caught.value.errno == errno.ENOENT
        assert names(tmp_path) == []

    def test_an_empty_path_is_not_the_working_directory(self, tmp_path: Path) -> None:
        with working_in(tmp_path), pytest.raises(ValueError, match="temp_root must be a path"):
            RunDirectory.create("")
        assert names(tmp_path) == []

    def untrusted(self, kind: str, path: Path) -> str:
        """Put something at `path` that cannot be a root; part of what is said about it."""
        match kind:
            case "link":
                (path.parent / "target").mkdir(mode=0o700)
                path.symlink_to("target")
            case "fifo":
                os.mkfifo(path)
            case "file":
                path.write_text("mine")
            case "open to all":
                path.mkdir()
                path.chmod(0o777)
                return "0777"
            case "another user's":
                if os.geteuid() != 0:
                    pytest.skip("needs root")
                path.mkdir(mode=0o700)
                os.chown(path, NOBODY, NOBODY)
                return f"user {NOBODY}"
            case _:
                raise ValueError(kind)
        return "not a directory"

    KINDS = ("link", "fifo", "file", "open to all", "another user's")

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_explicit_root_that_cannot_be_trusted_is_refused_with_its_path(
        self, temp_root: Path, kind: str
    ) -> None:
        said = self.untrusted(kind, temp_root)
        before = temp_root.lstat()
        with pytest.raises(RunDirectoryError, match=said) as caught:
            RunDirectory.create(temp_root)
        assert caught.value.filename == os.fspath(temp_root)
        assert temp_root.lstat().st_mode == before.st_mode
        assert temp_root.lstat().st_uid == before.st_uid
        assert (
            not (temp_root.parent / "target").exists() or names(temp_root.parent / "target") == []
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_default_root_that_cannot_be_trusted_is_replaced_with_one_warning(
        self,
        tmp_path: Path,
        kind: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.delenv("COLLECTOR_TMPDIR")
        monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
        name = f"collector-{os.geteuid()}"
        self.untrusted(kind, tmp_path / name)
        first = RunDirectory.create()
        second = RunDirectory.create()
        assert first.path.parent == second.path.parent
        assert first.path.parent.name.startswith(f"{name}-")
        assert mode(first.path.parent) == 0o700
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert os.fspath(first.path.parent) in caplog.text
        first.dispose()
        assert [run.path for run in list_runs()] == [os.fspath(second.path)]
        second.dispose()

    def test_a_default_root_that_is_full_or_read_only_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("COLLECTOR_TMPDIR")
        with mounted(tmp_path / "ro", "size=1m") as read_only:
            monkeypatch.setenv("TMPDIR", os.fspath(read_only))
            monkeypatch.setattr("tempfile.tempdir", os.fspath(read_only))
            subprocess.run(["mount", "-o", "remount,ro", read_only], check=True)
            with pytest.raises(RunDirectoryError) as caught:
                RunDirectory.create()
        assert caught.value.errno == errno.EROFS

    def test_an_explicit_root_on_a_read_only_file_system_is_refused(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "ro", "size=1m,mode=0700") as read_only:
            (read_only / "root").mkdir(mode=0o700)
            subprocess.run(["mount", "-o", "remount,ro", read_only], check=True)
            for path in (read_only / "new", read_only / "root"):
                with pytest.raises(RunDirectoryError) as caught:
                    RunDirectory.create(path)
                assert caught.value.errno == errno.EROFS
                assert os.fspath(path) in str(caught.value)

    @needs_root
    def test_a_root_that_its_owner_may_not_write_is_refused(self) -> None:
        code = (
            BECOME
            + """
become(int(sys.argv[1]))
base = Path(tempfile.mkdtemp(dir='/tmp'))
try:
    (base / 'locked').mkdir(mode=0o500)
    try:
        RunDirectory.create(base / 'locked')
    except OSError as error:
        say(type(error).__name__, error.errno, error.filename == str(base / 'locked'))
finally:
    (base / 'locked').rmdir()
    base.rmdir()
"""
        )
        done = run_code(code, str(NOBODY))
        assert done.stdout == f"RunDirectoryError {errno.EACCES} True\n", done.stderr

    def test_noexec_does_not_matter(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "mnt", "size=1m,noexec,mode=0700") as place:
            directory = RunDirectory.create(place / "root")
            directory.dispose()

    def test_memory_is_warned_of_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with mounted(tmp_path / "mnt", "size=1m,mode=0700") as place:
            for _ in range(3):
                RunDirectory.create(place / "root").dispose()
        assert len(caplog.records) == 1
        assert "tmpfs" in caplog.text
        assert "memory" in caplog.text

    def test_a_disk_is_not_warned_of(
        self, temp_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        RunDirectory.create(temp_root).dispose()
        assert caplog.records == []

    def test_a_network_file_system_is_warned_of_once_and_never_swept_at_start(
        self, temp_root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root._advised.clear()
        monkeypatch.setattr(root, "filesystem_type_of", lambda _: "nfs4")
        for _ in range(2):
            RunDirectory.create(temp_root).dispose()
        assert len(caplog.records) == 1
        assert "collector gc" in caplog.text


class TestFaultsWhileMaking:
    def test_no_inode_for_the_directory_or_its_lock_leaves_nothing(self, tmp_path: Path) -> None:
        for spare in (0, 1):
            with mounted(tmp_path / "mnt", "size=1m,nr_inodes=10,mode=0700") as place:
                (place / "root").mkdir(mode=0o700)
                number = 0
                with contextlib.suppress(OSError):
                    while True:
                        (place / str(number)).touch()
                        number += 1
                for freed in range(spare):
                    (place / str(freed)).unlink()
                with pytest.raises(RunDirectoryError) as caught:
                    RunDirectory.create(place / "root")
                assert caught.value.errno == errno.ENOSPC
                assert names(place / "root") == []

    def test_no_space_for_owner_json_does_not_matter(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "mnt", "size=64k,mode=0700") as place:
            (place / "root").mkdir(mode=0o700)
            with contextlib.suppress(OSError), (place / "fill").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            directory = RunDirectory.create(place / "root")
            assert names(directory.path) == ["lock"]
            assert [run.pid for run in list_runs([place / "root"])] == [None]
            directory.dispose()
            assert names(place / "root") == []

    def test_too_few_descriptors_are_a_clear_error_and_leave_nothing(self, temp_root: Path) -> None:
        code = """
import resource
import filelock, json, tempfile
RunDirectory.create(sys.argv[1]).dispose()
used = len(os.listdir('/proc/self/fd')) - 1
taken = [os.open('/dev/null', os.O_RDONLY) for _ in range(40)]
resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, max(taken) + 1))
outcomes = []
while taken:
    try:
        run = RunDirectory.create(sys.argv[1])
    except OSError as error:
        outcomes.append(f"{type(error).__name__} {error.errno}")
        os.close(taken.pop())
        assert os.listdir(sys.argv[1]) == [], len(outcomes)
    else:
        while len(taken) < 40:
            try:
                taken.append(os.open('/dev/null', os.O_RDONLY))
            except OSError:
                break
        run.dispose()
        say(outcomes)
        break
"""
        done = run_code(code, temp_root)
        assert done.stderr == ""
        assert done.stdout == f"{['RunDirectoryError 24'] * 3}\n"
        assert names(temp_root) == []  # and the dispose above had no descriptor to spare

    @pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
    def test_refused_locks_switch_automatic_reclaim_off_and_say_so(
        self, temp_root: Path, number: str, tmp_path: Path
    ) -> None:
        code = """
import logging
logging.basicConfig(format='%(message)s')
run = RunDirectory.create(sys.argv[1])
other = RunDirectory.create(sys.argv[1])
fd, name = run.create_file('out')
joined = RunDirectory.join(run.path)
joined.dispose()
say(sorted(os.listdir(run.path)) == sorted(['lock', 'owner.json', 'unlocked', name]))
wait()
run.dispose()
other.dispose()
"""
        log = tmp_path / "strace.log"
        watch = ("strace", "-f", "-qq", "-o", os.fspath(log), "-e", "trace=flock")
        inject = (*watch, "-e", f"inject=flock:error={number}")
        with a_process(code, temp_root, wrapper=inject) as other:
            assert other.hear() == "True"
            report = reclaim([temp_root])  # here, locks work: they prove nothing about that run
            assert (len(report.reclaimed), report.unknown) == (0, 2)
            other.tell()
            assert other.process.stderr is not None
            said = other.process.stderr.read()
            assert other.end() == 0
        assert "(INJECTED)" in log.read_text()
        assert said.count("automatic reclaim is off") == 1
        assert names(temp_root) == []

    def test_where_only_files_can_be_locked_the_file_lock_decides(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = kernel.flock

        def refuse_directories(fd: int, operation: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            real(fd, operation)

        monkeypatch.setattr(kernel, "flock", refuse_directories)
        directory = RunDirectory.create(temp_root)
        assert names(directory.path) == ["lock", "owner.json"]
        assert reclaim([temp_root]).live == 1
        dead = RunDirectory.create(temp_root)
        dead._lease.drop()
        unlocked = temp_root / "run-0123456789abcdef"
        unlocked.mkdir(mode=0o700)  # as of a creator between its first two steps
        report = reclaim([temp_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(dead.path)]
        assert (report.live, report.unknown) == (1, 1)
        directory.dispose()
        dead.dispose()
        assert names(temp_root) == [unlocked.name]

    def test_interrupted_at_any_line_it_leaves_nothing_that_dispose_does_not_remove(
        self, temp_root: Path
    ) -> None:
        # In another process: an exception between two byte codes can cost a descriptor (no lock).
        done = run_code(INTERRUPT_EVERY_LINE, temp_root)
        assert done.stderr == ""
        lines, left = done.stdout.split()
        assert int(lines) > 100
        assert int(left) == 0


INTERRUPT_EVERY_LINE = """
made, where = [], []

def use():
    made.append(RunDirectory.create(sys.argv[1]))
    fd, name = made[0].create_file('out')
    os.close(fd)
    made[0].remove_scratch(made[0].make_scratch())
    made[0].remove_file(name)
    made[0].dispose()

def interrupt_at(line):
    def trace(frame, event, argument):
        nonlocal line
        if '/collector/store/' not in frame.f_code.co_filename:
            return None
        if event == 'line':
            line -= 1
            if line == -1:
                where.append(f'{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}')
                raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        use()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False

use()
made.clear()
line = left = 0
while interrupt_at(line):
    line += 1
    while made:
        made.pop().dispose()
    left += len(os.listdir(sys.argv[1]))
    for name in os.listdir(sys.argv[1]):
        print('interrupted at', where[-1], 'left', name, file=sys.stderr)
        os.rename(Path(sys.argv[1], name), Path(sys.argv[1] + name))
say(line, left)
"""


class TestHolding:
    def test_the_last_release_disposes(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        directory.retain()
        directory.release()
        assert is_held(directory)
        directory.release()
        assert names(temp_root) == []
        directory.release()
        directory.dispose()

    def test_many_threads_count_users_exactly(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)

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
        assert names(temp_root) == []

    def test_disposing_in_many_threads_at_once_is_disposing_once(self, temp_root: Path) -> None:
        for _ in range(20):
            directory = RunDirectory.create(temp_root)
            threads = [threading.Thread(target=directory.dispose) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert names(temp_root) == []

    def test_the_file_lock_is_held_too_and_from_any_thread(self, run: RunDirectory) -> None:
        contender = filelock.FileLock(run.path / "lock", preserve_lock_file=True)
        with pytest.raises(filelock.Timeout):
            contender.acquire(blocking=False)
        thread = threading.Thread(target=run.dispose)
        thread.start()
        thread.join()
        assert names(run.path.parent) == []

    def test_dropping_the_last_reference_does_not_drop_the_run(self, temp_root: Path) -> None:
        directory = process_run_directory(temp_root)
        path = directory.path
        del directory
        gc.collect()
        assert is_held(path)
        clean_up()
        assert names(temp_root) == []

    def test_two_runs_in_one_process_do_not_meet(self, temp_root: Path) -> None:
        first, second = RunDirectory.create(temp_root), RunDirectory.create(temp_root)
        first.dispose()
        assert is_held(second)
        assert reclaim([temp_root]).live == 1
        second.dispose()
        assert names(temp_root) == []

    def test_the_sink_keeps_the_run_when_the_parent_lets_go_and_removes_it_last(
        self, temp_root: Path
    ) -> None:
        parent = RunDirectory.create(temp_root)
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
        assert names(temp_root) == []

    def test_a_removed_run_cannot_be_joined(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        directory.dispose()
        with pytest.raises(RunDirectoryError, match="No such file") as caught:
            RunDirectory.join(directory.path)
        assert caught.value.filename == os.fspath(directory.path)

    @pytest.mark.parametrize("name", ["run-x", "trash-0123456789abcdef", "run-0123456789abcdef/.."])
    def test_only_a_run_directory_can_be_joined(self, temp_root: Path, name: str) -> None:
        temp_root.mkdir(mode=0o700)
        (temp_root / "run-0123456789abcdef").mkdir()
        with pytest.raises(RunDirectoryError, match="no run directory"):
            RunDirectory.join(temp_root / name)

    def test_a_link_in_place_of_a_run_is_not_joined(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        link = temp_root / "run-0123456789abcdef"
        link.symlink_to(directory.path.name)
        with pytest.raises(RunDirectoryError, match="Not a directory"):
            RunDirectory.join(link)
        directory.dispose()

    def test_a_file_that_cannot_be_removed_is_reported_and_nothing_is_raised(
        self, temp_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory = RunDirectory.create(temp_root)
        fd, name = directory.create_file("out")
        os.close(fd)
        with immutable(directory.path / name):
            assert not directory.remove_file(name)
            directory.dispose()
            assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
            assert name in caplog.text
            (trash,) = names(temp_root)
            assert trash.startswith("trash-")
            assert name in names(temp_root / trash)  # and owner.json, to tell whose it was
            report = reclaim([temp_root])
            assert len(report.failures) == 1
            assert report.reclaimed == []
            (trash,) = names(temp_root)
            (temp_root / trash).rename(directory.path)
        assert len(reclaim([temp_root]).reclaimed) == 1
        assert names(temp_root) == []


class TestProcesses:
    """Fork, exec and subprocesses; rows R8 and R9 of the races."""

    @pytest.mark.parametrize(
        "ending", ["pass", "raise SystemExit(3)", "run.dispose()", "run.release()", "clean_up()"]
    )
    def test_a_forked_child_never_deletes_or_unlocks_what_is_its_parents(
        self, temp_root: Path, ending: str
    ) -> None:
        code = """
clean_up = cleanup.clean_up
run = process_run_directory(sys.argv[1])
fd, name = run.create_file('out')
scratch = run.make_scratch()
child = os.fork()
if child == 0:
    run.remove_file(name)
    run.remove_scratch(scratch)
    for attempt in (lambda: run.create_file('x'), run.make_scratch):
        try:
            attempt()
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
        with a_process(code, temp_root) as parent:
            path, intact = parent.hear().split()
            assert intact == "True"
            assert is_held(Path(path))
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(Path(path, "lock"), preserve_lock_file=True).acquire(
                    blocking=False
                )
            parent.tell()
            assert parent.end() == 0
        assert names(temp_root) == []

    def test_a_forked_child_that_lives_on_keeps_nothing_alive(self, temp_root: Path) -> None:
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
        with a_process(code, temp_root) as parent:
            assert parent.hear() == "[]"
            parent.end()
            assert len(reclaim([temp_root]).reclaimed) == 1
            parent.tell()

    def test_a_forked_child_makes_a_run_of_its_own(self, temp_root: Path) -> None:
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
        done = run_code(code, temp_root)
        assert done.stdout == "True True\nTrue True\n", done.stderr
        assert names(temp_root) == []

    def test_a_fork_while_another_thread_makes_and_disposes_never_hangs(
        self, temp_root: Path
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
for _ in range(60):
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
        done = run_code(code, temp_root, PYTHONWARNINGS="ignore::DeprecationWarning")
        assert done.stdout == "[]\n", done.stderr

    def test_exec_frees_the_locks(self, temp_root: Path) -> None:
        code = """
process_run_directory(sys.argv[1])
say('made')
os.execv(sys.executable, [sys.executable, '-c', 'print("new", flush=True); input()'])
"""
        with a_process(code, temp_root) as other:
            assert other.hear() == "made"
            assert other.hear() == "new"
            assert len(reclaim([temp_root]).reclaimed) == 1
            other.tell()
            assert other.end() == 0

    def test_a_subprocess_that_gets_all_descriptors_gets_no_lock(self, temp_root: Path) -> None:
        directory = RunDirectory.create(temp_root)
        with subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            close_fds=False,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            directory.dispose()
            assert names(temp_root) == []
            child.communicate(b"\n")

    def test_a_fork_in_c_delays_a_sweep_but_never_a_dispose(self, temp_root: Path) -> None:
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
        with a_process(code, temp_root, "dispose") as parent:
            copy = int(parent.hear())
            parent.tell()
            assert parent.hear() == "[]"
            os.kill(copy, signal.SIGKILL)
        with a_process(code, temp_root) as parent:
            copy = int(parent.hear())
            parent.tell()
            parent.tell()
            assert parent.end() == -signal.SIGKILL
            assert reclaim([temp_root]).live == 1
            os.kill(copy, signal.SIGKILL)
            assert wait_until(lambda: not is_running(copy))
            assert len(reclaim([temp_root]).reclaimed) == 1


class TestProcessRunDirectory:
    def test_there_is_one_per_process_and_root(self, temp_root: Path, tmp_path: Path) -> None:
        first = process_run_directory(temp_root)
        assert process_run_directory(os.fspath(temp_root)) is first
        assert process_run_directory(tmp_path / "other") is not first
        clean_up()
        assert names(temp_root) == names(tmp_path / "other") == []

    def test_it_is_made_anew_when_somebody_has_removed_it_or_the_whole_root(
        self, temp_root: Path
    ) -> None:
        first = process_run_directory(temp_root)
        fd, name = first.create_file("out")
        os.write(fd, b"still readable")
        subprocess.run(["rm", "-rf", first.path], check=True)
        second = process_run_directory(temp_root)
        assert second.path != first.path
        assert os.pread(fd, 20, 0) == b"still readable"
        assert not first.remove_file(name)
        os.close(fd)
        subprocess.run(["rm", "-rf", temp_root], check=True)
        third = process_run_directory(temp_root)
        assert third.path.parent == temp_root
        assert mode(temp_root) == 0o700
        clean_up()
        assert names(temp_root) == []

    def test_roots_that_somebody_has_removed_keep_no_descriptors(self, tmp_path: Path) -> None:
        code = """
import resource, tempfile
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from collector import SpillManager
kept = []
for number in range(100):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as place:
        manager = SpillManager(0, temp_root=place + "/root")
        manager.write(b"abc")
        output = manager.finalize()
        if number % 20 == 0:
            kept.append(output.open())
say({reader.read() for reader in kept}, len(os.listdir(sys.argv[1])))
"""
        done = run_code(code, tmp_path)
        assert done.stdout == "{b'abc'} 0\n", done.stderr

    def test_it_sweeps_its_root_once_in_the_background(
        self, temp_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "collector")
        dead = RunDirectory.create(temp_root)
        dead._lease.drop()
        process_run_directory(temp_root)
        for thread in threading.enumerate():
            if thread.name == "collector-sweep":
                thread.join()
        assert not dead.path.exists()
        assert len(caplog.records) == 1
        dead.dispose()
        clean_up()
        assert names(temp_root) == []

    def test_a_second_thread_waits_for_the_first_one_to_make_it(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: list[RunDirectory] = []
        threads = [
            threading.Thread(target=lambda: found.append(process_run_directory(temp_root)))
            for _ in range(4)
        ]
        point = place(monkeypatch, "mkdir", before=threads[1].start, matching="run-")
        threads[0].start()
        threads[0].join()
        for thread in threads[2:]:
            thread.start()
        for thread in threads[1:]:
            thread.join()
        assert point.fired == 1
        assert len(set(map(id, found))) == 1
        assert len(found) == 4
        clean_up()

    def test_an_error_says_which_root(self, tmp_path: Path) -> None:
        with pytest.raises(RunDirectoryError) as caught:
            process_run_directory(tmp_path / "a" / "b")
        assert caught.value.filename == os.fspath(tmp_path / "a" / "b")
        assert rundir.ROOT_VARIABLE == "COLLECTOR_TMPDIR"
