"""Making a run directory where something is refused or comes between."""

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import kernel
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs, reclaim
from tests.support.rundirs import a_process, let_go, mounted, names, run_code

pytestmark = pytest.mark.usefixtures("says_everything_once_more")


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

    def test_too_few_descriptors_are_a_clear_error_and_leave_nothing(self, new_root: Path) -> None:
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
        done = run_code(code, new_root)
        assert done.stderr == ""
        assert done.stdout == f"{['RunDirectoryError 24'] * 3}\n"
        assert names(new_root) == []  # and the dispose above had no descriptor to spare

    @pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
    def test_refused_locks_switch_automatic_reclaim_off_and_say_so(
        self, new_root: Path, number: str, tmp_path: Path
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
        with a_process(code, new_root, wrapper=inject) as other:
            assert other.hear() == "True"
            report = reclaim([new_root])  # here, locks work: they prove nothing about that run
            assert (len(report.reclaimed), report.unknown) == (0, 2)
            other.tell()
            assert other.process.stderr is not None
            said = other.process.stderr.read()
            assert other.end() == 0
        assert "(INJECTED)" in log.read_text()
        assert said.count("automatic reclaim is off") == 1
        assert names(new_root) == []

    def test_where_only_files_can_be_locked_the_file_lock_decides(
        self, new_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = kernel.flock

        def refuse_directories(fd: int, operation: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            real(fd, operation)

        monkeypatch.setattr(kernel, "flock", refuse_directories)
        directory = RunDirectory.create(new_root)
        assert names(directory.path) == ["lock", "owner.json"]
        assert reclaim([new_root]).live == 1
        dead = RunDirectory.create(new_root)
        let_go(dead)
        unlocked = new_root / "run-0123456789abcdef"
        unlocked.mkdir(mode=0o700)  # as of a creator between its first two steps
        report = reclaim([new_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(dead.path)]
        assert (report.live, report.unknown) == (1, 1)
        directory.dispose()
        dead.dispose()
        assert names(new_root) == [unlocked.name]

    @pytest.mark.slow
    def test_interrupted_at_any_line_it_leaves_nothing_that_dispose_does_not_remove(
        self, new_root: Path
    ) -> None:
        # In another process: an exception between two byte codes can cost a descriptor (no lock).
        done = run_code(INTERRUPT_EVERY_LINE, new_root)
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
    made[0].remove_scratch(make_scratch(made[0].path))
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
