"""Fault 90: capture=True on a full disk. A log is whole, or its job fails and the next works."""

# ruff: noqa: T201 - printing is what is tested

import ctypes
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, Job, SpillError, current_job, settings
from collector.process.worker import capture
from collector.store.rundir.directory import process_run_directory
from tests.support.disks import fill, small_disk
from tests.support.jobs import KIB, MIB, nothing
from tests.support.tiers import each_method, each_method_in_one_tier

pytestmark = pytest.mark.usefixtures("one_server")

MUCH = b"x" * 999 + b"\n"


def writes_and_does_not_look() -> str:
    """Write to the descriptor more than there is room for, and ignore what `write` returns."""
    for _ in range(1000):
        try:
            os.write(1, MUCH)
        except OSError:
            continue
    return "done"


def writes_once() -> str:
    """One large write, which is cut short."""
    assert os.write(1, MUCH * 1000) < len(MUCH) * 1000
    return "done"


def prints_and_passes_over_the_error() -> str:
    for _ in range(1000):
        try:
            print(MUCH.decode(), end="")
        except OSError:
            continue
    return "done"


def prints_without_an_end_of_line() -> str:
    """What is still in the buffer of Python when the job returns is refused then."""
    writes_and_does_not_look()
    print("the last words", end="")
    return "done"


def prints_in_c() -> str:
    libc = ctypes.CDLL(None)
    for _ in range(1000):
        libc.printf(b"%s", MUCH)
    return "done"


def prints_to_stderr() -> str:
    for _ in range(1000):
        try:
            sys.stderr.write(MUCH.decode())
        except OSError:
            continue
    return "done"


def has_a_program_print() -> str:
    """The program fails, and nobody looks at its status."""
    subprocess.run(["head", "-c", "1000000", "/dev/zero"], check=False, stderr=subprocess.DEVNULL)
    return "done"


IGNORED = (
    writes_and_does_not_look,
    writes_once,
    prints_and_passes_over_the_error,
    prints_without_an_end_of_line,
    prints_in_c,
    prints_to_stderr,
    has_a_program_print,
)


def prints_until_it_fails() -> None:
    while True:
        print(MUCH.decode(), end="")


def fails_with_words_of_its_own() -> None:
    writes_and_does_not_look()
    raise ValueError("my own")


def says(text: str) -> None:
    print(text)


def prints_a_page() -> None:
    os.write(1, b"y" * 4096)


def limits_its_files(size: int) -> int:
    """What is refused is refused by the limit of the process, not by the disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        return len([0 for _ in range(100) if os.write(1, MUCH)])
    except OSError:
        return -1


def lifts_the_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 4 * MIB) as mounted:
        yield mounted


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers have buffers for what they print, whatever is usual here."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def assert_tells_of_no_room(job: Job[Any], disk: Path, number: int = errno.ENOSPC) -> None:
    error = job.exception()
    assert isinstance(error, SpillError)
    assert error.errno == number
    assert "cannot keep what the job prints" in str(error)
    assert str(error.filename).startswith(f"{disk}/")
    assert (job.log().read(), job.log().complete) == (b"", False)


def files(disk: Path) -> list[Path]:
    return list(disk.glob("*/run-*/*.spill"))


@pytest.mark.slow
@pytest.mark.parametrize("prints", IGNORED, ids=lambda job: job.__name__)
@each_method_in_one_tier
def test_a_job_that_does_not_mind_what_the_disk_refused_fails_and_the_next_one_is_not_hit(
    method: str, prints: Callable[[], str], disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.submit(nothing).result()
        fill(disk, spare_bytes=100 * KIB)
        assert_tells_of_no_room(collector.submit(prints), disk)
        assert files(disk) == []
        for text in ("the next", "the one after"):
            job = collector.submit(says, text)
            assert (job.exception(), job.log().text()) == (None, f"{text}\n")
            job.log().close()
        plain = collector.with_options(capture=False).submit(nothing)
        assert plain.exception() is None
    assert capfd.readouterr() == ("", "")  # what was left in a buffer is no business of others


@each_method
def test_a_print_that_fails_is_the_cause_of_the_error(method: str, disk: Path) -> None:
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.submit(nothing).result()
        fill(disk, spare_bytes=10 * KIB)
        job = collector.submit(prints_until_it_fails)
        assert_tells_of_no_room(job, disk)
        error = job.exception()
        assert error is not None
        assert "print(MUCH.decode()" in str(error.__cause__)
        assert "[Errno 28] No space left on device" in str(error.__cause__)


@each_method
def test_an_error_of_the_jobs_own_stays_what_it_is(method: str, disk: Path) -> None:
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.submit(nothing).result()
        fill(disk, spare_bytes=100 * KIB)
        job = collector.submit(fails_with_words_of_its_own)
        error = job.exception()
        assert isinstance(error, ValueError)
        assert not job.log().complete
        job.log().close()
        assert collector.submit(says, "the next").log().text() == "the next\n"


@each_method
def test_a_log_that_just_fits_is_whole(method: str, disk: Path) -> None:
    """Also while there is no room for one byte more."""
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.submit(nothing).result()
        fill(disk, spare_bytes=4 * KIB)
        silent = collector.submit(nothing)
        assert (silent.exception(), silent.log().size, silent.log().complete) == (None, 0, True)
        job = collector.submit(says, "a few words")
        assert (job.exception(), job.log().text()) == (None, "a few words\n")
        job.log().close()
        assert_tells_of_no_room(collector.submit(writes_once), disk)
        job = collector.submit(says, "a few words more")
        assert (job.exception(), job.log().text()) == (None, "a few words more\n")


@each_method
def test_where_there_is_no_room_at_all_a_job_with_a_log_does_not_begin(
    method: str, disk: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.submit(nothing).result()
        ballast = fill(disk)
        assert_tells_of_no_room(collector.submit(Path.touch, begun), disk)
        assert not begun.exists()
        assert files(disk) == []
        assert collector.with_options(capture=False).submit(nothing).exception() is None
        ballast.unlink()
        collector.submit(Path.touch, begun).result()
        assert begun.exists()


@each_method
def test_with_retries_the_job_succeeds_once_there_is_room(method: str, disk: Path) -> None:
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.submit(nothing).result()
        ballast = fill(disk, spare_bytes=20 * KIB)
        job = collector.with_options(retries=1).submit(makes_room_and_prints, os.fspath(ballast))
        assert (job.exception(), job.attempt, job.log().size) == (None, 2, 100 * len(MUCH))


def makes_room_and_prints(ballast: str) -> None:
    """The first attempt finds no room, the second one makes some."""
    if current_job().attempt > 1:
        os.truncate(ballast, 0)
    for _ in range(100):
        os.write(1, MUCH)


@each_method
def test_a_limit_of_the_process_is_told_as_a_full_disk_is(method: str, disk: Path) -> None:
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        assert_tells_of_no_room(collector.submit(limits_its_files, 5000), disk, errno.EFBIG)
        collector.with_options(capture=False).submit(lifts_the_limit).result()
        job = collector.submit(limits_its_files, 1_000_000)
        assert (job.result(), job.log().size) == (100, 100 * len(MUCH))


def test_a_log_ends_where_its_job_ended_though_the_next_byte_was_tried(tmp_path: Path) -> None:
    root = tmp_path / "c"
    with Collector(1, capture=True, temp_root=root, progress=False) as collector:
        job = collector.submit(prints_a_page)
        log = job.log()
        assert log.path is not None
        assert log.path.stat().st_size == 4096
        assert log.read() == b"y" * 4096
    # Their paths are made when asked for; there, too, and not where there may be no room.
    assert [root in Path(output).parents for output in (log, job.output())] == [True, True]
    process_run_directory(root).dispose()


@pytest.mark.parametrize("error", [None, errno.EOPNOTSUPP])
@each_method
def test_it_holds_where_no_room_can_be_reserved(method: str, error: int | None, disk: Path) -> None:
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.with_options(capture=False).submit(reserves_nothing, error).result()
        fill(disk, spare_bytes=100 * KIB)
        assert_tells_of_no_room(collector.submit(writes_and_does_not_look), disk)
        job = collector.submit(says, "the next")
        assert (job.exception(), job.log().text()) == (None, "the next\n")
        collector.with_options(capture=False).submit(was_asked).result()


@each_method
def test_it_holds_where_there_was_much_room_when_the_job_began(method: str, disk: Path) -> None:
    """Then nothing is reserved for the log, and the page that is tried is one of another file."""
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.with_options(capture=False).submit(finds_much_room).result()
        ballast = fill(disk, spare_bytes=100 * KIB)
        for prints in IGNORED:
            assert_tells_of_no_room(collector.submit(prints), disk)
            job = collector.submit(says, "the next")
            assert (job.exception(), job.log().text()) == (None, "the next\n")
            job.log().close()
        assert files(disk) == []
        ballast.unlink()
        fill(disk, spare_bytes=4 * KIB)
        job = collector.submit(says, "a few words")
        assert (job.exception(), job.log().text()) == (None, "a few words\n")
        job.log().close()
        assert_tells_of_no_room(collector.submit(writes_once), disk)
        silent = collector.submit(nothing)
        assert (silent.exception(), silent.log().size, silent.log().complete) == (None, 0, True)


@each_method
def test_a_first_byte_that_was_refused_is_told_also_where_nothing_was_reserved(
    method: str, disk: Path
) -> None:
    with Collector(1, method, capture=True, temp_root=disk / "c", progress=False) as collector:
        collector.with_options(capture=False).submit(finds_much_room).result()
        fill(disk)
        assert_tells_of_no_room(collector.submit(writes_and_does_not_look), disk)
        assert files(disk) == []


def finds_much_room() -> None:
    vars(settings)["LOG_ROOM_BYTES"] = 0


def test_a_log_on_a_roomy_disk_has_nothing_reserved_and_leaves_no_other_file(
    tmp_path: Path,
) -> None:
    status = os.statvfs(tmp_path)
    if status.f_bavail * status.f_frsize < 2 * settings.LOG_ROOM_BYTES:
        pytest.skip("there is little room on this disk")
    with Collector(1, capture=True, temp_root=tmp_path, progress=False) as collector:
        assert collector.submit(blocks_of_its_log).result() == 0
        assert list(tmp_path.glob("run-*/*.spill")) == []
    process_run_directory(tmp_path).dispose()


def blocks_of_its_log() -> int:
    return os.fstat(1).st_blocks


def reserves_nothing(error: int | None) -> None:
    """As on a file system, or an operating system, without fallocate."""

    class Libc:
        def __init__(self, name: None, **how: Any) -> None:
            self._libc = ctypes.CDLL(name, **how)

        def __getattr__(self, name: str) -> Any:
            if name != "fallocate":
                return getattr(self._libc, name)
            asked.append(name)
            if error is None:
                raise AttributeError(name)
            return self.refuse

        @staticmethod
        def refuse(*_arguments: Any) -> int:
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    class Types:
        CDLL = Libc

        def __getattr__(self, name: str) -> Any:
            return getattr(ctypes, name)

    vars(capture)["ctypes"] = Types()
    asked.clear()


asked: list[str] = []


def was_asked() -> None:
    assert asked
