"""Fault 77: others take the run directory of a live Collector away between its jobs."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector import Collector, OutputLostError, SpillManager, current_job, list_runs
from tests.support.inside import run_directory, sink_pid
from tests.support.jobs import MIB, numbered, sha256, square, wait_for
from tests.support.leaks import wait_until
from tests.support.processend import end_of_process
from tests.support.rundirs import is_held
from tests.support.taken_away import (
    WAYS,
    aside,
    moved,
    put_right_afterwards,
    removed,
    replaced_by_a_file,
    replaced_by_a_link,
    trap,
)
from tests.support.tiers import each_method, each_method_in_one_tier
from tests.support.tree import kill

pytestmark = pytest.mark.usefixtures("one_server")

each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


def says(text: str) -> None:
    print(text)  # noqa: T201 - what is captured


def keeps(text: str) -> str:
    """Write a scratch file and return what is read back."""
    path = current_job().scratch_dir / "file"
    path.write_text(text)
    return path.read_text()


def large(size: int) -> bytes:
    return bytes(size)


def two_chunks(until: str) -> Iterator[bytes]:
    """The second one comes when somebody has seen the first."""
    yield b"first, "
    wait_for(until)
    yield b"second"


def size_of(data: bytes) -> int:
    return len(data)


@pytest.fixture
def root() -> Iterator[Path]:
    """Where the run directories lie; in the end nothing is left that a test has put there."""
    named = Path(os.environ["COLLECTOR_TMPDIR"])
    with put_right_afterwards(named.parent):
        yield named


def output_is_whole(collector: Collector) -> None:
    job = collector.submit(numbered, 6 * MIB)
    assert job.exception() is None
    assert sha256(job.output()) == sha256(numbered(6 * MIB))
    job.output().close()


def followed_output_is_whole(collector: Collector) -> None:
    until = run_directory(collector).parents[1] / "until"
    job = collector.submit(two_chunks, os.fspath(until))
    seen = b""
    for block in job.follow():
        seen += block
        until.touch()
    assert seen == b"first, second"
    job.output().close()
    until.unlink()


def value_is_whole(collector: Collector) -> None:
    assert collector.submit(large, 20 * MIB).result() == bytes(20 * MIB)


def log_is_whole(collector: Collector) -> None:
    job = collector.with_options(capture=True).submit(says, "printed")
    assert (job.exception(), job.log().text()) == (None, "printed\n")
    job.log().close()


def scratch_directory_is_there(collector: Collector) -> None:
    assert collector.submit(keeps, "kept").result() == "kept"


NEEDS = (
    output_is_whole,
    followed_output_is_whole,
    value_is_whole,
    log_is_whole,
    scratch_directory_is_there,
)


@pytest.mark.slow
@each_way
@each_method_in_one_tier
def test_the_next_job_makes_a_new_run_directory_whatever_it_needs_it_for(
    method: str, way: Callable[[Path], None], root: Path
) -> None:
    with Collector(1, method, progress=False) as collector:
        assert collector.submit(square, 3).result() == 9
        seen = {run_directory(collector)}
        for need in NEEDS:
            way(run_directory(collector))
            need(collector)
            assert run_directory(collector) not in seen
            seen.add(run_directory(collector))
            assert is_held(run_directory(collector))
            assert (run_directory(collector) / "owner.json").exists()
            assert run_directory(collector).parent == root
        assert wait_until(lambda: [run.state for run in list_runs()] == ["live"])
        assert all(list(trap(path).iterdir()) == [] for path in seen if trap(path).exists())
    assert not run_directory(collector).exists()


@each_method
def test_a_large_call_needs_no_run_directory(method: str, root: Path) -> None:
    with Collector(1, method, progress=False) as collector:
        assert collector.submit(square, 3).result() == 9
        shutil.rmtree(root)
        assert collector.submit(size_of, bytes(20 * MIB)).result() == 20 * MIB
        assert not root.exists()


@pytest.mark.slow
@each_method
def test_several_workers_and_the_sink_use_one_new_run_directory(method: str, root: Path) -> None:
    with Collector(3, method, progress=False, capture=True) as collector:
        for _ in range(3):
            shutil.rmtree(root, ignore_errors=True)
            jobs = [collector.submit(says, f"<{number}>") for number in range(30)]
            outputs = [collector.submit(numbered, 6 * MIB) for _ in range(3)]
            for number, job in enumerate(jobs):
                assert job.log().text() == f"<{number}>\n"
            assert [job.output().size for job in outputs] == [6 * MIB] * 3
            assert len(list(root.iterdir())) == 1


@pytest.mark.slow
@each_way
@each_method_in_one_tier
def test_before_the_first_job_too(method: str, way: Callable[[Path], None], root: Path) -> None:
    with Collector(1, method, progress=False) as collector:
        way(run_directory(collector))
        output_is_whole(collector)
        log_is_whole(collector)


@each_method
def test_a_sink_that_starts_after_that_finds_the_new_one(method: str, root: Path) -> None:
    with Collector(1, method, progress=False, retries=5) as collector:
        output_is_whole(collector)
        shutil.rmtree(root)
        kill(sink_pid(collector))
        output_is_whole(collector)
        shutil.rmtree(run_directory(collector))
        kill(sink_pid(collector))
        log_is_whole(collector)
        output_is_whole(collector)


@each_method
def test_outputs_in_a_directory_that_was_moved_stay_readable_and_those_removed_are_lost(
    method: str, root: Path, tmp_path: Path
) -> None:
    with Collector(1, method, progress=False) as collector:
        kept = collector.submit(numbered, 6 * MIB).output()
        moved(run_directory(collector))
        log_is_whole(collector)
        assert sha256(kept) == sha256(numbered(6 * MIB))
        lost = collector.submit(numbered, 6 * MIB).output()
        path = str(lost.path)
        removed(run_directory(collector))
        log_is_whole(collector)
        with pytest.raises(OutputLostError, match="somebody removed its file; have whatever") as e:
            lost.read()
        assert e.value.filename == path
        assert sha256(kept) == sha256(numbered(6 * MIB))
    assert sha256(kept) == sha256(numbered(6 * MIB))
    kept.save(tmp_path / "saved")
    assert (tmp_path / "saved").stat().st_size == 6 * MIB


@each_method
def test_one_that_was_closed_is_opened_again_for_what_lies_in_it(method: str, root: Path) -> None:
    with Collector(1, method, progress=False) as collector:
        kept = collector.submit(numbered, 6 * MIB).output()
        old = run_directory(collector)
        old.chmod(0)
        output_is_whole(collector)
        assert sha256(kept) == sha256(numbered(6 * MIB))
        assert old.exists()
        kept.close()
        assert wait_until(lambda: not old.exists())


@pytest.mark.slow
def test_no_descriptor_is_left_of_directories_that_are_gone(root: Path) -> None:
    def held() -> tuple[int, int]:
        sink = sink_pid(collector)
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{sink}/fd"))

    with Collector(1, progress=False) as collector:
        output_is_whole(collector)
        removed(run_directory(collector))
        output_is_whole(collector)
        before = held()
        lost = []
        for way in (removed, moved, replaced_by_a_file) * 3:
            lost.append(collector.submit(numbered, 6 * MIB).output())
            way(run_directory(collector))
            output_is_whole(collector)
            log_is_whole(collector)
        for output in lost:
            output.close()
        assert wait_until(lambda: held() == before), (held(), before)


@each_method
def test_the_names_of_a_link_lead_nothing_astray(method: str, root: Path) -> None:
    """The trap stays empty, whatever is asked for, by whichever process."""
    with Collector(1, method, progress=False, capture=True) as collector:
        assert collector.submit(keeps, "kept").result() == "kept"
        for need in NEEDS:
            before = run_directory(collector)
            replaced_by_a_link(before)
            need(collector)
            assert list(trap(before).iterdir()) == []
            assert sorted(os.listdir(aside(before))) == ["lock", "owner.json"]


@each_way
def test_a_manager_that_stands_alone_makes_a_new_one_too(
    way: Callable[[Path], None], root: Path
) -> None:
    def spilled(size: int) -> tuple[SpillManager, Path]:
        manager = SpillManager(1000)
        for chunk in numbered(size, 100):
            manager.write(chunk)
        path = manager.progress.temp_file_path
        assert path is not None
        return manager, path

    first, path = spilled(5000)
    first.finalize().close()
    kept, path = spilled(5000)
    waiting = SpillManager(1000)
    waiting.write(b"held")
    way(path.parent)
    for _ in range(2):
        second, now = spilled(5000)
        assert now.parent != path.parent
        assert is_held(now.parent)
        assert sha256(second.finalize()) == sha256(numbered(5000, 100))
    waiting.write(bytes(2000))
    assert waiting.progress.temp_file_path is not None
    assert waiting.finalize().read() == b"held" + bytes(2000)
    kept.dispose()
    end_of_process()
    assert list(trap(path.parent).iterdir() if trap(path.parent).exists() else ()) == []
