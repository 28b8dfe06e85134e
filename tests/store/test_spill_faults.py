"""A growing output when the disk is full or refuses, at a write or only at the end."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from collector.errors import OutputLostError, SpillError
from collector.settings import KIB, MIB
from collector.store.output import spill_file
from collector.store.output.progress import Mode
from collector.store.output.spill_file import temp_file_count
from collector.store.rundir.directory import RunDirectory
from collector.store.spill import SpillManager
from tests.support.disks import fill, free
from tests.support.faultyos import FaultyOs
from tests.support.outputs import files
from tests.support.rundirs import run_script

pytestmark = pytest.mark.usefixtures("process_ends")


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

    faulty = Stingy(monkeypatch, spill_file)
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
        manager = SpillManager.in_directory(lambda: directory, memory_threshold=3)
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


def test_a_base_name_need_not_be_of_the_characters_that_file_names_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
        import sys
        from collector import Collector, SpillManager
        def chunks():
            yield b"abc"
        assert sys.getfilesystemencoding() == "ascii"
        named = {"temp_file_base_name": "gr\\xfcn \\u65e5", "temp_root": sys.argv[1]}
        with SpillManager(1, **named) as manager:
            manager.write(b"x")
            print(manager.progress.temp_file_path.name[:-23])
        with Collector(1, progress=False, memory_threshold=1, **named) as collector:
            output = collector.submit(chunks).output()
            print(output.path.name[:-23], output.read())
    """
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    ran = run_script(script, tmp_path / "root")
    assert ran.stdout.splitlines() == ["gr?n ?", "gr?n ? b'abc'"]


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
        faulty = Torn(monkeypatch, spill_file)
        faulty.fail("ftruncate", error=errno.EIO)
        with pytest.raises(SpillError):
            manager.write(b"defghi")
        assert faulty.fired == 2
        with pytest.raises(OutputLostError, match="has 6 bytes where 3 were written"):
            manager.finalize()
