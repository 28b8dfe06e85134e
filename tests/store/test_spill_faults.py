"""A growing output when the disk, other people, signals and forks come between."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from collector.errors import OutputLostError, SpillError
from collector.settings import KIB, MIB
from collector.store import output, phase, spill, spillfile
from collector.store.rundir import RunDirectory
from collector.store.spill import Mode, SpillManager, cleanup_temp_files, temp_file_count
from tests.support.disks import fill, small_disk
from tests.support.faultyos import FaultyOs
from tests.support.processend import end_of_process


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


@pytest.fixture
def disk() -> Iterator[Path]:
    # Not below tmp_path: later runs clean up there, and fail on a mount that a killed one left.
    with small_disk(Path(tempfile.gettempdir()), 2 * MIB) as mounted:
        yield mounted
        end_of_process()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    return FaultyOs(monkeypatch, spillfile)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def files(root: Path | None = None) -> list[Path]:
    return list((root or Path(os.environ["COLLECTOR_TMPDIR"])).glob("run-*/*.spill"))


# -- a full disk ---------------------------------------------------------------------------------


def test_a_full_disk_fails_the_write_and_keeps_all_that_was_taken(disk: Path) -> None:
    taken = b""
    with SpillManager(100 * KIB, temp_root=disk) as manager:
        chunk = os.urandom(30 * KIB)
        while free(disk) > len(chunk):
            manager.write(chunk)
            taken += chunk
        with pytest.raises(SpillError) as caught:
            manager.write(chunk)
        path = manager.progress.temp_file_path
        assert path is not None
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(path)
        assert path.stat().st_size == manager.progress.bytes_written == len(taken) > MIB
        assert manager.progress.chunks_processed == len(taken) // (30 * KIB)
        with pytest.raises(SpillError):
            manager.write(chunk)  # and again, as long as the disk is full
        assert manager.finalize().read() == taken


def test_after_room_was_made_the_same_write_works(disk: Path) -> None:
    ballast = fill(disk, spare_bytes=300 * KIB)
    chunk = os.urandom(200 * KIB)
    with SpillManager(KIB, temp_root=disk) as manager:
        manager.write(chunk)
        with pytest.raises(SpillError):
            manager.write(chunk)
        ballast.unlink()
        manager.write(chunk)
        assert manager.progress.chunks_processed == 2
        assert manager.finalize().read() == chunk * 2


def test_a_disk_that_is_full_at_the_switch_leaves_the_bytes_in_memory(disk: Path) -> None:
    with SpillManager(1, temp_root=disk) as first:
        first.write(b"the run directory is there already")
        ballast = fill(disk, spare_bytes=500 * KIB)
        held = os.urandom(600 * KIB)
        with SpillManager(len(held) + 1, temp_root=disk) as manager:
            manager.write(held)
            for _ in range(3):
                with pytest.raises(SpillError) as caught:
                    manager.write(b"xy")
                assert caught.value.errno == errno.ENOSPC
                assert caught.value.filename
                assert len(files(disk)) == temp_file_count() == 1  # of the first manager
            progress = manager.progress
            assert (progress.mode, progress.chunks_processed) == (Mode.MEMORY, 1)
            assert progress.bytes_written == manager.held_bytes == len(held)
            ballast.unlink()
            manager.write(b"xy")
            progress = manager.progress
            assert (progress.mode, progress.chunks_processed) == (Mode.STREAMING, 2)
            assert manager.finalize().read() == held + b"xy"


def test_what_was_held_at_a_failed_switch_can_be_finalized(disk: Path) -> None:
    fill(disk, spare_bytes=64 * KIB)
    with SpillManager(100 * KIB, temp_root=disk) as manager:
        manager.write(b"x" * 99 * KIB)
        with pytest.raises(SpillError):
            manager.write(b"y" * KIB)
        with pytest.raises(SpillError):
            manager.spill()
        output = manager.finalize()
    assert output.mode is Mode.MEMORY
    assert output.read() == b"x" * 99 * KIB
    assert files(disk) == []


def test_a_switch_that_fails_with_the_new_chunk_is_no_switch(disk: Path) -> None:
    fill(disk, spare_bytes=200 * KIB)
    with SpillManager(100 * KIB, temp_root=disk) as manager:
        manager.write(b"x" * 90 * KIB)
        with pytest.raises(SpillError):
            manager.write(b"y" * MIB)  # what is held has room there, the chunk has not
        assert manager.progress.mode is Mode.MEMORY
        assert files(disk) == []
        manager.write(b"z" * 20 * KIB)
        assert manager.finalize().read() == b"x" * 90 * KIB + b"z" * 20 * KIB


def test_memory_is_written_to_again_while_the_error_of_a_switch_is_still_held(disk: Path) -> None:
    fill(disk, spare_bytes=150 * KIB)
    errors = []
    with SpillManager(200 * KIB, temp_root=disk) as manager:
        manager.write(b"x" * 190 * KIB)
        for _ in range(3):
            with pytest.raises(SpillError) as caught:
                manager.write(b"y" * 20 * KIB)
            errors.append(caught.value)  # a traceback holds all that lay on the way
            manager.write(b"z")
        assert manager.finalize().read() == b"x" * 190 * KIB + b"zzz"
    assert len(errors) == 3


def test_a_full_disk_of_one_output_spares_the_others(disk: Path, tmp_path: Path) -> None:
    with (
        SpillManager(KIB, temp_root=disk) as failing,
        SpillManager(KIB, temp_root=tmp_path / "root") as other,
    ):
        with pytest.raises(SpillError):
            failing.write(bytes(3 * MIB))
        other.write(bytes(3 * MIB))
        assert other.finalize().size == 3 * MIB


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("times", [1, 1000], ids=["once", "for good"])
def test_a_write_that_fails_at_any_point_counts_nothing_twice(
    faulty: FaultyOs, at: int, times: int, error: int
) -> None:
    chunks = [bytes([number]) * 10 for number in range(8)]
    taken = []
    errors = []
    with SpillManager(25) as manager:
        faulty.fail("write", at=at, times=times, error=error)
        for chunk in chunks:
            try:
                manager.write(chunk)
                taken.append(chunk)
            except SpillError as failure:
                errors.append(failure.errno)
                assert len(files()) == (manager.progress.mode is Mode.STREAMING)
            assert manager.progress.bytes_written == 10 * len(taken)
            assert manager.progress.chunks_processed == len(taken)
        assert errors == [error] * faulty.fired != []
        output = manager.finalize()
    assert output.read() == b"".join(taken)
    assert output.chunks == len(taken)


@pytest.mark.parametrize("at", range(1, 6))
def test_bytes_of_a_failed_write_are_cut_off_again(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    class Stingy(FaultyOs):
        def write(self, fd: int, data: Any) -> int:
            self.calls["write"] = self.calls.get("write", 0) + 1
            if self.calls["write"] == at:
                self.fired += 1
                raise OSError(errno.ENOSPC, "full")
            return os.write(fd, memoryview(data)[:4])

    faulty = Stingy(monkeypatch, spillfile)
    with SpillManager(10) as manager:
        taken = []
        for chunk in (b"0123456789", b"abcdefghij"):
            for _ in range(3):
                try:
                    manager.write(chunk)
                except SpillError:
                    continue
                taken.append(chunk)
        assert faulty.fired == 1
        assert len(taken) == 5
        assert manager.finalize().read() == b"".join(taken)


@pytest.mark.parametrize("keep", [1, 3, 1000])
def test_short_writes_are_continued(faulty: FaultyOs, keep: int) -> None:
    data = os.urandom(10 * KIB)
    faulty.shorten(keep=lambda length: min(keep, length))
    with SpillManager(KIB) as manager:
        manager.write(data[:100])
        manager.write(data[100 : 5 * KIB])
        manager.write_joined(memoryview(data)[5 * KIB :], 7)
        assert faulty.fired > 10
        assert manager.finalize().read() == data


def test_a_file_system_that_takes_nothing_is_an_error_and_no_endless_loop(
    faulty: FaultyOs,
) -> None:
    faulty.shorten(keep=lambda _length: 0)
    with SpillManager(1) as manager:
        with pytest.raises(SpillError, match="takes no more"):
            manager.write(b"abc")
        assert faulty.fired >= 2
        assert files() == []


def test_a_file_that_cannot_be_made_leaves_the_bytes_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory.create(tmp_path / "root")
    with contextlib.ExitStack() as stack:
        stack.callback(directory.dispose)
        manager = SpillManager.in_directory(directory, memory_threshold=3)
        manager.write(b"ab")

        def refuse(_self: RunDirectory, base_name: str) -> tuple[int, str]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), base_name)

        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, "create_file", refuse)
            with pytest.raises(SpillError) as caught:
                manager.write(b"cd")
        assert caught.value.errno == errno.EMFILE
        assert (manager.held_bytes, temp_file_count()) == (2, 0)
        manager.write(b"cd")
        assert manager.finalize().read() == b"abcd"


def test_a_root_that_cannot_be_used_is_a_spill_error_with_its_path(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("in the way")
    with SpillManager(3, temp_root=root) as manager:
        manager.write(b"ab")
        with pytest.raises(SpillError) as caught:
            manager.write(b"cd")
        assert caught.value.filename == str(root)
        assert manager.finalize().read() == b"ab"


def test_a_file_size_limit_fails_the_write_and_not_the_process(tmp_path: Path) -> None:
    script = """
        import errno, os, resource, sys
        from collector.errors import SpillError
        from collector.store.spill import SpillManager
        with SpillManager(1000, temp_root=sys.argv[1]) as manager:
            manager.write(b"a" * 900)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
            for chunk, fits in ((b"b" * 6000, False), (b"c" * 3000, True), (b"d" * 3000, False)):
                try:
                    manager.write(chunk)
                    assert fits
                except SpillError as error:
                    assert not fits and error.errno == errno.EFBIG, error
                print(manager.progress.mode, manager.progress.bytes_written)
            assert manager.finalize().read() == b"a" * 900 + b"c" * 3000
    """
    done = run_script(script, tmp_path / "root")
    assert done.stdout.split() == ["memory", "900", "streaming", "3900", "streaming", "3900"]


def run_script(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done


# -- late errors ---------------------------------------------------------------------------------


def test_an_error_at_the_close_is_not_swallowed(faulty: FaultyOs) -> None:
    with SpillManager(1) as manager:
        manager.write(b"abc")
        faulty.fail("close", error=errno.EIO, done=True)
        with pytest.raises(SpillError) as caught:
            manager.finalize()
        assert faulty.fired == 1
        assert caught.value.errno == errno.EIO
    assert files() == []


def test_an_error_at_the_close_does_not_keep_dispose_from_removing(faulty: FaultyOs) -> None:
    manager = SpillManager(1)
    manager.write(b"abc")
    faulty.fail("close", error=errno.EIO, done=True)
    manager.dispose()
    assert faulty.fired == 1
    assert files() == []


def test_bytes_that_cannot_be_cut_off_make_the_output_lost_and_never_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Torn(FaultyOs):
        def write(self, fd: int, data: Any) -> int:
            if len(data) == 6:
                return os.write(fd, data[:3])
            self.fired += 1
            raise OSError(errno.EIO, "torn")

    with SpillManager(1) as manager:
        manager.write(b"abc")
        faulty = Torn(monkeypatch, spillfile)
        faulty.fail("ftruncate", error=errno.EIO)
        with pytest.raises(SpillError):
            manager.write(b"defghi")
        assert faulty.fired == 2
        with pytest.raises(OutputLostError, match="has 6 bytes where 3 were written"):
            manager.finalize()


# -- other people --------------------------------------------------------------------------------


def streaming(data: bytes = b"0123456789") -> tuple[SpillManager, Path]:
    manager = SpillManager(1)
    manager.write(data)
    path = manager.progress.temp_file_path
    assert path is not None
    return manager, path


def test_a_file_unlinked_while_it_is_written_is_an_error_at_the_end() -> None:
    manager, path = streaming()
    path.unlink()
    assert manager.write(b"goes on by descriptor") == 21
    with pytest.raises(OutputLostError, match="somebody removed its file") as caught:
        manager.finalize()
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(path)
    manager.dispose()
    assert temp_file_count() == 0


@pytest.mark.parametrize("size", [0, 5])
@pytest.mark.parametrize("more", [b"", b"x" * 5, b"x" * 10])
def test_a_file_truncated_while_it_is_written_is_an_error_at_the_end(
    size: int, more: bytes
) -> None:
    manager, path = streaming()
    os.truncate(path, size)
    manager.write(more)  # at the place it should have, it would leave a hole and the right size
    with pytest.raises(OutputLostError, match="bytes where"):
        manager.finalize()
    manager.dispose()
    assert not path.exists()


def test_a_failed_write_does_not_make_a_truncated_file_longer_again(faulty: FaultyOs) -> None:
    manager, path = streaming()
    os.truncate(path, 4)
    faulty.fail("write")
    with pytest.raises(SpillError):
        manager.write(b"x")
    assert faulty.fired == 1
    assert path.stat().st_size == 4
    with pytest.raises(OutputLostError):
        manager.finalize()
    manager.dispose()


def test_a_run_directory_removed_under_us_loses_that_output_and_no_later_one() -> None:
    manager, path = streaming()
    path.unlink()
    for entry in path.parent.iterdir():
        entry.unlink()
    path.parent.rmdir()
    manager.write(b"goes on")
    with pytest.raises(OutputLostError):
        manager.finalize()
    manager.dispose()
    manager, path = streaming(b"again")
    assert manager.finalize().read() == b"again"


def test_cleaning_up_early_makes_a_growing_output_lost() -> None:
    manager, path = streaming()
    assert temp_file_count() == 1
    assert cleanup_temp_files() == 1
    assert not path.exists()
    assert (temp_file_count(), cleanup_temp_files()) == (0, 0)
    with pytest.raises(OutputLostError, match="cleanup_temp_files"):
        manager.write(b"x")
    with pytest.raises(OutputLostError, match="cleanup_temp_files"):
        manager.finalize()
    manager.dispose()


# -- signals -------------------------------------------------------------------------------------


class Interruption(BaseException):
    """What the handler of a signal raised."""


class Interrupter:
    """Raises at the n-th line of our code that runs, as a signal handler may."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.lines = 0
        self.fired = False
        self._files = {module.__file__ for module in (output, phase, spill, spillfile)}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        if frame.f_code is spillfile._Grip.close.__code__:
            return None  # Python handles no signal before its last call
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.fired = True
                sys.settrace(None)
                raise Interruption
        return self


@pytest.mark.parametrize(
    ("threshold", "before"),
    [(100, b"abc"), (5, b"abc"), (1, b"abc")],
    ids=["in memory", "at the switch", "in a file"],
)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_signal_at_any_line_of_write_leaves_all_of_the_chunk_or_nothing(
    threshold: int, before: bytes, kind: Callable[[bytes], bytes]
) -> None:
    at = 0
    fired = True
    while fired:
        at += 1
        with SpillManager(threshold) as manager:
            manager.write(before)
            interrupter = Interrupter(at)
            trace = sys.gettrace()
            sys.settrace(interrupter)
            try:
                manager.write(kind(b"defg"))
            except Interruption:
                pass
            finally:
                sys.settrace(trace)
            fired = interrupter.fired
            chunks = manager.progress.chunks_processed
            expected = before + b"defg" * (chunks - 1)
            assert manager.progress.bytes_written == len(expected)
            manager.write(b"hij")
            assert manager.finalize().read() == expected + b"hij"
        assert files() == [], f"after the line {at}"
    assert at > 3


@pytest.mark.parametrize("sealed", [False, True])
def test_a_signal_at_any_line_of_the_end_leaves_no_file(sealed: bool) -> None:
    at = 0
    fired = True
    while fired:
        at += 1
        manager, path = streaming()
        end = manager.finalize().close if sealed else manager.dispose
        interrupter = Interrupter(at)
        trace = sys.gettrace()
        sys.settrace(interrupter)
        try:
            end()
        except Interruption:
            pass
        finally:
            sys.settrace(trace)
        fired = interrupter.fired
        end()
        assert not path.exists(), f"after the line {at}"
        assert temp_file_count() == 0, f"after the line {at}"
    assert at > 3


def test_a_signal_in_a_long_write_cuts_off_what_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def handler(number: int, frame: object) -> None:
        raise Interruption

    class Slow(FaultyOs):
        def write(self, fd: int, data: Any) -> int:
            written = os.write(fd, memoryview(data)[:3])
            self.fired += 1
            if self.fired == 2:
                signal.raise_signal(signal.SIGUSR1)
            return written

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        manager, path = streaming()
        with monkeypatch.context() as patch:
            faulty = Slow(patch, spillfile)
            with pytest.raises(Interruption):
                manager.write(b"abcdefghijkl")
            assert faulty.fired == 2
        assert path.read_bytes() == b"0123456789"
        manager.write(b"!")
        assert manager.finalize().read() == b"0123456789!"
    finally:
        signal.signal(signal.SIGUSR1, previous)


# -- forks ---------------------------------------------------------------------------------------


def in_a_fork(work: Any) -> str:
    """Run `work` in a forked child that then ends as a script does; what it returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            os.write(writing, str(work()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent compares what it is told
            os.write(writing, repr(error).encode())
        finally:
            end_of_process()
            os.close(writing)
            os._exit(0)
    os.close(writing)
    with open(reading) as told:
        text = told.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def test_a_forked_child_neither_removes_nor_writes_its_parents_file() -> None:
    manager, path = streaming()

    def work() -> str:
        errors = []
        for use in (lambda: manager.write(b"from the child"), manager.finalize):
            with pytest.raises(OutputLostError, match="forked") as caught:
                use()
            errors.append(caught.value.errno)
        count, removed = temp_file_count(), cleanup_temp_files()
        manager.dispose()
        return f"{errors} {count} {removed} {path.exists()}"

    assert in_a_fork(work) == f"{[errno.ENOENT] * 2} 0 0 True"
    manager.write(b"!")
    assert manager.finalize().read() == b"0123456789!"


def test_a_forked_child_goes_on_with_its_own_copy_of_what_is_in_memory() -> None:
    with SpillManager(8) as manager:
        manager.write(b"common")

        def work() -> str:
            manager.write(b" child")
            output = manager.finalize()
            assert temp_file_count() == 1
            return f"{output.text()} {output.path}"

        text, _, path = in_a_fork(work).rpartition(" ")
        assert text == "common child"
        assert not Path(path).exists()
        manager.write(b" parent")
        assert str(Path(path).parent) != str(files()[0].parent)
        assert manager.finalize().read() == b"common parent"


def test_a_script_that_forks_and_ends_in_both_keeps_the_parents_file(tmp_path: Path) -> None:
    script = """
        import os, sys
        from collector.store.spill import SpillManager
        manager = SpillManager(1, temp_root=sys.argv[1])
        manager.write(b"abc")
        output = SpillManager(1, temp_root=sys.argv[1])
        output.write(b"def")
        output = output.finalize()
        if os.fork() == 0:
            print(output.read().decode(), flush=True)  # a child may read
            sys.exit()
        os.wait()
        assert manager.finalize().read() == b"abc"
        assert output.read() == b"def"
    """
    assert run_script(script, tmp_path / "root").stdout == "def\n"
    assert list((tmp_path / "root").glob("run-*")) == []


def test_the_end_of_a_script_removes_what_it_left(tmp_path: Path) -> None:
    script = """
        import sys
        from collector.store.spill import SpillManager
        for _ in range(3):
            manager = SpillManager(1, temp_root=sys.argv[1])
            manager.write(b"abc")
        kept = manager.finalize()
        growing = SpillManager(1, temp_root=sys.argv[1])
        growing.write(b"abc")
    """
    run_script(script, tmp_path / "root")
    assert list((tmp_path / "root").glob("run-*")) == []
