"""A growing output when other people, signals and forks come between."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from collector.errors import OutputLostError, SpillError
from collector.store import spill
from collector.store.output import growing as phase
from collector.store.output import output, spill_file
from collector.store.output.spill_file import cleanup_temp_files, temp_file_count
from collector.store.spill import SpillManager
from tests.support.faultyos import FaultyOs
from tests.support.outputs import files, streaming
from tests.support.processend import end_of_process
from tests.support.rundirs import run_script

pytestmark = pytest.mark.usefixtures("process_ends")


# -- other people --------------------------------------------------------------------------------


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
        self._files = {module.__file__ for module in (output, phase, spill, spill_file)}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        if frame.f_code is spill_file._Grip.close.__code__:
            return None  # Python handles no signal before its last call
        if frame.f_code is spill_file.SpillFile.identity.__code__:
            return None  # between two lines a descriptor has no owner
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


def test_what_a_signal_left_of_a_forgotten_output_goes_with_the_early_clean_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python drops what a handler raises in a finalizer, which is not called again."""
    dropped: list[object] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda unraisable: dropped.append(unraisable.err_msg)
    )
    at = 0
    fired = True
    while fired:
        at += 1
        held = [streaming()[0].finalize()]
        interrupter = Interrupter(at)
        trace = sys.gettrace()
        sys.settrace(interrupter)
        held.clear()
        sys.settrace(trace)
        fired = interrupter.fired
        cleanup_temp_files()
        assert temp_file_count() == 0, f"after the line {at}"
        assert files() == [], f"after the line {at}"
    assert len(dropped) == at - 1 > 3


@pytest.mark.parametrize("threshold", [100, 1], ids=["memory", "file"])
def test_a_signal_at_any_line_of_finalize_loses_nothing_before_its_end(threshold: int) -> None:
    at = 0
    fired = True
    again = 0
    while fired:
        at += 1
        with SpillManager(threshold) as manager:
            manager.write(b"0123456789")
            interrupter = Interrupter(at)
            trace = sys.gettrace()
            sys.settrace(interrupter)
            handed_over = None
            try:
                handed_over = manager.finalize()
            except Interruption:
                pass
            finally:
                sys.settrace(trace)
            del handed_over
            fired = interrupter.fired
            if not manager.closed:
                again += 1
                assert manager.finalize().read() == b"0123456789", f"after the line {at}"
        assert files() == [], f"after the line {at}"
    assert again > 3


def test_what_could_not_be_closed_is_lost_at_the_second_try_too(faulty: FaultyOs) -> None:
    manager, _ = streaming()
    faulty.fail("close", error=errno.EIO, done=True)
    with pytest.raises(SpillError):
        manager.finalize()
    assert faulty.fired == 1
    with pytest.raises(OutputLostError):
        manager.finalize()
    manager.dispose()


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
            faulty = Slow(patch, spill_file)
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
