"""Faults 58, 59, 77: others take the run directory, or one file in it, away while a job runs."""

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import (
    Collector,
    Job,
    OutputLostError,
    RunDirectoryError,
    SpillError,
    current_job,
    list_runs,
)
from tests.support.inside import (
    run_directory,
    run_directory_to_use,
    sink_pid,
    supervisor_held_up,
)
from tests.support.jobs import MIB, numbered, sha256, square, wait_for
from tests.support.leaks import wait_until
from tests.support.taken_away import (
    moved,
    put_right_afterwards,
    removed,
    removed_with_its_root,
    root_replaced_by_a_link,
    trap,
)
from tests.support.tiers import each_method, each_method_but, each_method_in_one_tier
from tests.support.tree import script

pytestmark = pytest.mark.usefixtures("one_server")


def removed_for_a_link(directory: Path) -> None:
    """A link in its place leads to a directory in which nothing may be made."""
    removed(directory)
    trap(directory).mkdir()
    directory.symlink_to(trap(directory))


each_removal = pytest.mark.parametrize(
    "way", [removed, removed_with_its_root, removed_for_a_link], ids=lambda way: way.__name__
)


@pytest.fixture
def root() -> Iterator[Path]:
    named = Path(os.environ["COLLECTOR_TMPDIR"])
    with put_right_afterwards(named.parent):
        yield named


class Halt:
    """Where a job waits for the test: it says that it is there, and goes on when it may."""

    def __init__(self, place: Path) -> None:
        name = os.urandom(4).hex()
        self.begun = os.fspath(place / f"begun-{name}")
        self.until = os.fspath(place / f"until-{name}")

    def __call__(self) -> None:
        """In the job."""
        Path(self.begun).touch()
        wait_for(self.until)

    def meanwhile(self, act: Callable[[Path], object], directory: Path) -> None:
        """In the test: have something done while the job waits."""
        wait_for(self.begun)
        act(directory)
        Path(self.until).touch()


@pytest.fixture
def halt(tmp_path: Path) -> Halt:
    return Halt(tmp_path)


def newest(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def writes(halt: Halt, before: int, after: int) -> int:
    for size, wait in ((before, True), (after, False)):
        for chunk in numbered(size):
            current_job().write(chunk)
        if wait:
            current_job().flush()
            halt()
    return before + after


def written(before: int, after: int) -> Iterator[bytes]:
    yield from numbered(before)
    yield from numbered(after)


def prints(halt: Halt) -> None:
    print("before", flush=True)  # noqa: T201 - what is captured
    halt()
    print("after", flush=True)  # noqa: T201 - as above


def makes_a_scratch_directory(halt: Halt) -> str:
    halt()
    path = current_job().scratch_dir / "file"
    path.write_text("kept")
    return path.read_text()


def asks_again(halt: Halt) -> Path:
    (current_job().scratch_dir / "file").write_text("kept")
    halt()
    return current_job().scratch_dir


def reads_from_scratch(halt: Halt) -> str:
    path = current_job().scratch_dir / "file"
    path.write_text("kept")
    halt()
    return path.read_text()


def returns_much(halt: Halt) -> bytes:
    halt()
    return bytes(20 * MIB)


def removes_its_scratch_directory() -> bool:
    shutil.rmtree(current_job().scratch_dir)
    return current_job().scratch_dir.is_dir()


def large(size: int) -> bytes:
    return bytes(size)


def assert_all_goes_on(collector: Collector) -> None:
    job = collector.with_options(capture=True).submit(all_needs)
    assert job.result() == bytes(6 * MIB)
    assert sha256(job.output()) == sha256(numbered(6 * MIB))
    assert job.log().text() == "printed\n"
    assert [run.state for run in list_runs()] == ["live"]


def all_needs() -> bytes:
    (current_job().scratch_dir / "file").touch()
    print("printed")  # noqa: T201 - what is captured
    for chunk in numbered(6 * MIB):
        current_job().write(chunk)
    return bytes(6 * MIB)


def assert_lost(job: Job[Any], says: str) -> None:
    error = job.exception()
    assert isinstance(error, OutputLostError)
    assert error.errno == errno.ENOENT
    assert says in str(error)
    assert "have whatever cleans up temporary files spare that place" in str(error)


# -- a job that has a file there -------------------------------------------------------------------


@pytest.mark.slow
@each_removal
@each_method_in_one_tier
def test_a_job_whose_output_is_removed_fails_and_the_next_one_goes_on(
    method: str, way: Callable[[Path], None], root: Path, halt: Halt
) -> None:
    with Collector(1, method, progress=False) as collector:
        job = collector.submit(writes, halt, 6 * MIB, 2 * MIB)
        halt.meanwhile(way, run_directory(collector))
        assert_lost(job, "somebody removed its file while it was written")
        assert_all_goes_on(collector)


@each_method
def test_a_job_whose_directory_is_moved_ends_well_and_the_next_one_goes_on_elsewhere(
    method: str, root: Path, halt: Halt
) -> None:
    with Collector(1, method, progress=False, capture=True) as collector:
        before = run_directory(collector)
        job = collector.submit(writes, halt, 6 * MIB, 2 * MIB)
        halt.meanwhile(moved, before)
        assert job.result() == 8 * MIB
        assert_all_goes_on(collector)
        assert run_directory(collector) != before
        assert sha256(job.output()) == sha256(written(6 * MIB, 2 * MIB))


@pytest.mark.slow
@each_removal
@each_method_in_one_tier
def test_a_job_whose_log_is_removed_fails_and_the_next_one_goes_on(
    method: str, way: Callable[[Path], None], root: Path, halt: Halt
) -> None:
    with Collector(1, method, progress=False, capture=True) as collector:
        job = collector.submit(prints, halt)
        halt.meanwhile(way, run_directory(collector))
        assert_lost(job, "what the job printed is lost")
        assert (job.log().read(), job.log().complete) == (b"", False)
        assert_all_goes_on(collector)


@pytest.mark.slow
@pytest.mark.parametrize("uses", [asks_again, reads_from_scratch])
@each_method_in_one_tier
def test_a_job_whose_scratch_directory_is_removed_fails_and_the_next_one_goes_on(
    method: str, uses: Callable[[Halt], object], root: Path, halt: Halt
) -> None:
    with Collector(1, method, progress=False) as collector:
        job = collector.submit(uses, halt)
        halt.meanwhile(removed, run_directory(collector))
        assert_lost(job, "the scratch directory of the job is gone")
        assert_all_goes_on(collector)


@each_method
def test_of_one_file_that_is_removed_only_its_job_hears(
    method: str, halt: Halt, tmp_path: Path
) -> None:
    with Collector(2, method, progress=False, capture=True) as collector:
        before = run_directory(collector)
        kept = collector.submit(numbered, 6 * MIB).output()
        writing = collector.submit(writes, halt, 6 * MIB, 0)
        halt.meanwhile(lambda directory: newest(directory, "streaming-*").unlink(), before)
        assert_lost(writing, "somebody removed its file while it was written")
        halt = Halt(tmp_path)
        printing = collector.submit(prints, halt)
        halt.meanwhile(lambda directory: newest(directory, "log-*").unlink(), before)
        assert_lost(printing, "what the job printed is lost")
        for name in ("lock", "owner.json"):
            (before / name).unlink()
        assert_all_goes_on(collector)
        assert run_directory(collector) == before
        assert sha256(kept) == sha256(numbered(6 * MIB))


# -- a job that will have one ----------------------------------------------------------------------


@pytest.mark.slow
@each_removal
@each_method_in_one_tier
def test_a_job_that_needs_its_first_file_after_that_gets_it(
    method: str, way: Callable[[Path], None], root: Path, tmp_path: Path
) -> None:
    jobs: list[tuple[Callable[..., Any], tuple[int, ...], Any]] = [
        (writes, (4 * MIB, 4 * MIB), 8 * MIB),
        (makes_a_scratch_directory, (), "kept"),
        (returns_much, (), bytes(20 * MIB)),
    ]
    with Collector(1, method, progress=False) as collector:
        assert collector.submit(square, 3).result() == 9
        for call, arguments, value in jobs:
            halt, before = Halt(tmp_path), run_directory(collector)
            job = collector.submit(call, halt, *arguments)
            halt.meanwhile(way, before)
            assert job.result() == value
            if call is writes:
                assert sha256(job.output()) == sha256(written(*arguments))
                job.output().close()
            assert run_directory(collector) != before
            assert not trap(before).exists() or not os.listdir(trap(before))
        assert_all_goes_on(collector)


@each_method
def test_jobs_that_wait_at_a_worker_get_their_files_in_the_new_one(
    method: str, root: Path, halt: Halt
) -> None:
    """They are sent ahead, and the names of their logs with them."""
    with Collector(1, method, progress=False) as collector:
        for _ in range(3):  # jobs are brisk: from now on some are sent ahead
            assert list(collector.map(square, range(500))) == [n * n for n in range(500)]
        captured = collector.with_options(capture=True)
        first = captured.submit(prints, halt)
        behind = [captured.submit(os.write, 1, b"%d\n" % number) for number in range(20)]
        halt.meanwhile(removed_with_its_root, run_directory(collector))
        assert_lost(first, "what the job printed is lost")
        assert [job.log().read() for job in behind] == [b"%d\n" % number for number in range(20)]
        assert_all_goes_on(collector)


def test_a_job_that_removes_its_scratch_directory_itself_gets_another_one() -> None:
    with Collector(1, progress=False) as collector:
        assert collector.submit(removes_its_scratch_directory).result()


# -- between the end of a job and the look at what it left -----------------------------------------


def sealed(collector: Collector) -> bool:
    """Whether there is a file, and the sink has closed it."""
    files = set(map(os.fspath, run_directory(collector).glob("*.spill")))
    descriptors = Path(f"/proc/{sink_pid(collector)}/fd")
    try:
        return bool(files) and files.isdisjoint(os.readlink(fd) for fd in descriptors.iterdir())
    except FileNotFoundError:  # it closes one just now
        return False


def cut(path: Path) -> None:
    os.truncate(path, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("act", [Path.unlink, cut])
@each_method_in_one_tier
def test_a_value_that_is_removed_or_cut_before_it_is_read_is_one_clear_error(
    method: str, act: Callable[[Path], object], halt: Halt
) -> None:
    with Collector(1, method, progress=False) as collector:
        job = collector.submit(returns_much, halt)
        wait_for(halt.begun)
        with supervisor_held_up(collector):
            Path(halt.until).touch()
            assert wait_until(lambda: sealed(collector), 60)
            act(newest(run_directory(collector), "*.spill"))
        assert_lost(job, "what it returned is lost")
        assert_all_goes_on(collector)


# -- no new one is to be had -----------------------------------------------------------------------


@pytest.mark.slow
@each_method_in_one_tier
def test_where_no_new_one_can_be_made_jobs_fail_one_by_one_until_it_can(
    method: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with Collector(1, method, temp_root=place / "c", progress=False) as collector:
        captured = collector.with_options(capture=True)
        assert collector.submit(large, 20 * MIB).result() == bytes(20 * MIB)
        before = run_directory(collector)
        shutil.rmtree(place)
        for _ in range(2):
            for job in (
                collector.submit(large, 20 * MIB),
                captured.submit(square, 3),
                collector.submit(asks_for_scratch),
            ):
                error = job.exception()
                assert isinstance(error, SpillError)
                assert error.errno == errno.ENOENT
                assert f"others removed or replaced the run directory {before}" in str(error)
                assert "no new one can be made" in str(error)
            with pytest.raises(RunDirectoryError, match="no new one can be made"):
                run_directory_to_use(collector)
            assert collector.submit(square, 3).result() == 9
        place.mkdir()
        assert collector.submit(large, 20 * MIB).result() == bytes(20 * MIB)
        assert captured.submit(square, 3).result() == 9
        assert collector.submit(asks_for_scratch).result()
        assert run_directory_to_use(collector) == run_directory(collector)
        assert run_directory(collector) != before


@each_method
def test_a_link_in_place_of_the_root_is_not_followed(method: str, root: Path) -> None:
    with Collector(1, method, progress=False) as collector:
        assert collector.submit(asks_for_scratch).result()
        before = run_directory(collector)
        root_replaced_by_a_link(before)
        for job in (collector.submit(large, 20 * MIB), collector.submit(asks_for_scratch)):
            error = job.exception()
            assert isinstance(error, SpillError)
            assert error.errno == errno.ELOOP
            assert "the temp root has become a symbolic link" in str(error)
        assert os.listdir(trap(before)) == []
        root.unlink()
        assert_all_goes_on(collector)


def asks_for_scratch() -> bool:
    return current_job().scratch_dir.is_dir()


# -- whoever is killed after that ------------------------------------------------------------------

KILLED = """
import os, shutil, sys, time
from pathlib import Path
from collector import Collector
from tests.support.inside import run_directory
from tests.support.jobs import MIB, numbered
from tests.support.taken_away import closed, removed_with_its_root, replaced_by_a_directory

def never_ends(size):
    print("printed", flush=True)
    yield from numbered(size)
    time.sleep(1000)

ways = {"removed": removed_with_its_root, "closed": closed, "replaced": replaced_by_a_directory}
collector = Collector(2, sys.argv[1], progress=False, capture=True)
kept = collector.submit(numbered, 6 * MIB).output()
ways[sys.argv[2]](run_directory(collector))
job = collector.submit(never_ends, 6 * MIB)
while not job.progress.temp_file_path:
    time.sleep(0.01)
print(run_directory(collector), flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["removed", "closed", "replaced"])
@each_method_in_one_tier
def test_a_parent_that_is_killed_after_that_leaves_nothing(
    method: str, way: str, root: Path
) -> None:
    with script(KILLED, method, way) as running:
        assert Path(running.hear()).is_dir()
        running.process.kill()
        assert running.gone()
        assert list(root.iterdir()) == []


# -- a cleaner that comes again and again ----------------------------------------------------------


def in_every_way(number: int) -> tuple[int, bytes]:
    """Write, print, keep a file and return much; or only some of that."""
    if number % 2:
        print(number)  # noqa: T201 - what is captured
        (current_job().scratch_dir / "file").write_bytes(bytes(1000))
    for chunk in numbered(6 * MIB if number % 3 else 1000):
        current_job().write(chunk)
    return number, bytes(6 * MIB if number % 5 == 0 else 10)


def check_under_a_cleaner(method: str, root: Path, passes: int, pause_s: float) -> None:
    over = threading.Event()

    def clean() -> None:
        for _ in range(passes):
            over.wait(pause_s)
            subprocess.run(["rm", "-rf", root], check=False, stderr=subprocess.DEVNULL)
        over.set()

    cleaner = threading.Thread(target=clean)
    with Collector(3, method, progress=False, capture=True) as collector:
        cleaner.start()
        done = lost = number = 0
        while not over.is_set():
            numbers = range(number, number + 12)
            number += 12
            for job in collector.collect(in_every_way, numbers):
                assert isinstance(job.exception(), OutputLostError | SpillError | None)
                if job.exception() is not None:
                    lost += 1
                    assert "rm" not in str(job.exception()).split()
                    continue
                done += 1
                size = 6 * MIB if job.args[0] % 3 else 1000
                assert job.result() == (job.args[0], bytes(len(job.result()[1])))
                try:
                    assert sha256(job.output()) == sha256(numbered(size))
                    assert job.log().text() == (f"{job.args[0]}\n" if job.args[0] % 2 else "")
                except OutputLostError:
                    lost += 1
                job.output().close()
                job.log().close()
        cleaner.join()
        assert done > lost
        assert_all_goes_on(collector)


@each_method_but("fork")
def test_jobs_go_on_under_a_cleaner(method: str, root: Path) -> None:
    check_under_a_cleaner(method, root, 5, 0.5)


@pytest.mark.campaign
@each_method_in_one_tier
def test_jobs_go_on_under_a_cleaner_that_comes_every_second_for_a_minute(
    method: str, root: Path
) -> None:
    check_under_a_cleaner(method, root, 60, 1.0)
