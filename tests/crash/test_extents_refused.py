"""Fault 82: the disk refuses what a worker writes to its job's file itself, or others have it."""

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from collector import Collector, OutputLostError, SpillError, WorkerCrashError, settings
from tests.support.disks import small_disk
from tests.support.extents import BLOCK, begin, is_prefix, path_of, put, same, write_unpublished
from tests.support.injection import injected
from tests.support.inside import (
    file_of,
    run_directory,
    sink_pid,
    worker_pids,
    writer_of_this_worker,
)
from tests.support.jobs import MIB, kill_self, square, wait_for
from tests.support.tiers import each_method, each_method_in_one_tier

pytestmark = pytest.mark.usefixtures("one_server")

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def to_files(collector: Collector) -> Collector:
    """Its outputs lie in files from their first byte on."""
    return collector.with_options(memory_threshold=0)


# -- the disk --------------------------------------------------------------------------------------


def _limit_its_files() -> tuple[int, bool]:
    number, file = begin()
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.at + 1000, resource.RLIM_INFINITY))
    put(range(number, number + 100))
    return number + 100, file_of(writer_of_this_worker()) is None


@each_method
def test_what_is_refused_to_the_worker_alone_is_written_by_the_sink(method: str) -> None:
    """Here by a limit of the job's own process; 1000 bytes of a block are taken before it."""
    with Collector(1, method, progress=False) as collector:
        job = to_files(collector).submit(_limit_its_files)
        blocks, gave_up = job.result(60)
        assert gave_up
        with job.output() as output:
            assert same(output.read(), blocks)
            assert output.chunks == blocks


@each_method
def test_a_full_disk_is_met_by_the_sink(method: str, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path, 16 * MIB) as disk,
        Collector(1, method, progress=False, temp_root=disk) as collector,
    ):
        job = to_files(collector).submit(put, range(1000))
        error = job.exception(60)
        assert isinstance(error, SpillError)
        assert os.fspath(error.filename).startswith(os.fspath(disk))
        assert not list(disk.glob("run-*/*.spill"))
        again = to_files(collector).submit(put, range(100))
        with again.output(60) as output:
            assert same(output.read(), 100)


def _begin_and_go_on(begun: str, until: str, blocks: int) -> int:
    number, file = begin()
    part = f"{begun}.part"
    Path(part).write_text(path_of(file))
    os.rename(part, begun)
    wait_for(until)
    put(range(number, number + blocks))
    return number + blocks


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EFBIG", "EIO"])
@pytest.mark.parametrize("k", [1, 5])
@each_method_in_one_tier
def test_the_kth_write_that_is_refused_to_the_worker_is_made_by_the_sink(
    method: str, error: str, k: int, tmp_path: Path
) -> None:
    begun, until, log = (tmp_path / name for name in ("begun", "until", "log"))
    with Collector(1, method, progress=False) as collector:
        job = to_files(collector).submit(_begin_and_go_on, os.fspath(begun), os.fspath(until), 80)
        wait_for(begun)
        (worker,) = worker_pids(collector)
        fault = f"write,writev:error={error}:when={k}"
        with injected(worker, fault, log, "-P", begun.read_text(), only_main=True):
            until.touch()
            assert job.exception(60) is None
        assert "(INJECTED)" in log.read_text()
        with job.output() as output:
            assert same(output.read(), job.result())


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EFBIG", "EIO"])
@each_method_in_one_tier
def test_a_write_that_is_refused_to_both_is_one_clear_error(
    method: str, error: str, tmp_path: Path
) -> None:
    begun, until = tmp_path / "begun", tmp_path / "until"
    logs = tmp_path / "worker", tmp_path / "sink"
    with Collector(1, method, progress=False) as collector:
        assert collector.submit(square, 2).result() == 4
        job = to_files(collector).submit(_begin_and_go_on, os.fspath(begun), os.fspath(until), 80)
        wait_for(begun)
        path, fault = begun.read_text(), f"write,writev:error={error}"
        (worker,), sink = worker_pids(collector), sink_pid(collector)
        assert sink is not None
        with (
            injected(worker, f"{fault}:when=2+", logs[0], "-P", path, only_main=True),
            injected(sink, fault, logs[1], "-P", path),
        ):
            until.touch()
            failure = job.exception(60)
        assert all("(INJECTED)" in log.read_text() for log in logs)
        assert isinstance(failure, SpillError)
        assert failure.errno == getattr(errno, error)
        assert not os.path.exists(path)
        assert collector.submit(square, 3).result() == 9


def _killed_in_its_writes(k: int, method: str, directory: Path) -> bool:
    """Have a worker killed at its k-th system call; whether it came so far."""
    begun, until, log = (directory / f"{name}-{k}" for name in ("begun", "until", "log"))
    with Collector(1, method, progress=False) as collector:
        job = to_files(collector).submit(_begin_and_go_on, os.fspath(begun), os.fspath(until), 80)
        wait_for(begun)
        (worker,) = worker_pids(collector)
        with injected(worker, f"all:signal=KILL:when={k}", log, only_main=True):
            until.touch()
            error = job.exception(60)
        with job.output() as output:
            if error is None:
                assert same(output.read(), job.result())
            else:
                assert isinstance(error, WorkerCrashError)
                assert is_prefix(output.read())
        again = to_files(collector).submit(put, range(50))
        with again.output(60) as output:
            assert same(output.read(), 50)
    return "killed by SIGKILL" in log.read_text()


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
@each_method_in_one_tier
def test_a_worker_that_is_killed_at_some_system_call_leaves_a_prefix(
    method: str, k: int, tmp_path: Path
) -> None:
    assert _killed_in_its_writes(k, method, tmp_path)


@needs_strace
@pytest.mark.campaign
@pytest.mark.timeout(3600)
@each_method_in_one_tier
def test_a_worker_that_is_killed_at_each_system_call_leaves_a_prefix(
    method: str, tmp_path: Path
) -> None:
    """Until five runs in a row came to their end before it."""
    missed = k = 0
    while missed < 5:
        k += 1
        missed = 0 if _killed_in_its_writes(k, method, tmp_path) else missed + 1


# -- others ----------------------------------------------------------------------------------------


def _spoil(how: Callable[[str], object]) -> None:
    number, file = begin()
    how(path_of(file))
    put(range(number, number + 100))


def _truncate(path: str) -> None:
    os.truncate(path, 100)


def _lengthen(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("how", [_truncate, _lengthen, os.unlink], ids=lambda how: how.__name__)
@each_method
def test_a_file_that_others_changed_while_it_grew_is_lost(
    method: str, how: Callable[[str], object]
) -> None:
    with Collector(1, method, progress=False) as collector:
        job = to_files(collector).submit(_spoil, how)
        assert isinstance(job.exception(60), OutputLostError)
        assert job.output().read() == b""
        assert collector.submit(square, 3).result() == 9


def _cut_by_a_byte_and_die() -> None:
    number, file = begin()
    os.truncate(path_of(file), os.path.getsize(path_of(file)) - 1)
    put(range(number, number + 2 * settings.EXTENT_BYTES // BLOCK))
    write_unpublished(number)
    kill_self()


@each_method
def test_also_when_what_was_not_published_makes_up_for_what_others_took(method: str) -> None:
    """The file is longer than what is known of it, and yet its bytes are not those of the job."""
    with Collector(1, method, progress=False) as collector:
        job = to_files(collector).submit(_cut_by_a_byte_and_die)
        assert isinstance(job.exception(60), OutputLostError)
        assert job.output().read() == b""


def _replace(root: str, victim: str, how: Callable[[str, str], object]) -> bool:
    put(range(4))  # one slot: the sink makes the file, and nobody has looked for a grant
    while not (found := list(Path(root).glob("run-*/*.spill"))):
        pass
    assert file_of(writer_of_this_worker()) is None
    found[0].unlink()
    how(victim, os.fspath(found[0]))
    put(range(4, 200))
    return file_of(writer_of_this_worker()) is None


def _make_a_fifo(_victim: str, path: str) -> None:
    os.mkfifo(path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [os.link, os.symlink, _make_a_fifo], ids=["file", "link", "fifo"])
@each_method_in_one_tier
def test_what_stands_under_the_name_of_the_file_gets_nothing(
    method: str, how: Callable[[str, str], object], tmp_path: Path
) -> None:
    victim, root = tmp_path / "victim", tmp_path / "root"
    victim.write_bytes(b"")
    with Collector(1, method, progress=False, temp_root=root) as collector:
        job = to_files(collector).submit(_replace, os.fspath(root), os.fspath(victim), how)
        assert isinstance(job.exception(60), OutputLostError)
        assert victim.read_bytes() == b""
        for left in run_directory(collector).glob("*.spill"):
            left.unlink()
