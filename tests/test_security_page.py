"""What the page on security says that no test of another file shows: who sees, keeps, unpickles."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from collector import Batch, Collector, current_job
from collector.cli.program import main
from tests.support.inside import run_directory, server_pid, sink_pid, worker_pids
from tests.support.jobs import wait_for
from tests.support.leaks import wait_until
from tests.support.tiers import each_method
from tests.support.tree import ROOT

SECRET: Final = "a-secret-of-mine"
LARGE: Final = SECRET * 400_000
"""Above every limit beyond which something goes to a file."""


def bytes_below(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())


# -- who can read what -----------------------------------------------------------------------------


def take(_secret: str, until: Path) -> None:
    wait_for(until)


@each_method
def test_a_command_line_of_ours_has_nothing_of_a_job(method: str, tmp_path: Path) -> None:
    until = tmp_path / "until"
    with Collector(1, method, progress=False, temp_root=tmp_path / SECRET) as collector:
        job = collector.submit(take, SECRET, until)
        assert wait_until(job.running)
        pids = [sink_pid(collector), *worker_pids(collector)]
        if method == "forkserver":
            pids.append(server_pid(collector))
        lines = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
        until.touch()
    assert not any(SECRET.encode() in line for line in lines)
    ours = {Path("/proc/self/cmdline").read_bytes()}
    if method == "fork":
        assert lines == ours
    else:
        assert {line.split(b"\0")[0] for line in lines} == {sys.executable.encode()}
        assert lines.isdisjoint(ours)


def test_what_collector_run_starts_has_its_input_on_its_command_line(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    roots = ["--temp-root", os.fspath(tmp_path / "root")]
    assert main(["run", *roots, "cat", "/proc/self/cmdline", ":::", "/dev/null"]) == 0
    assert capfdbinary.readouterr().out == b"cat\0/proc/self/cmdline\0/dev/null\0"


def named_files(pid: int | None) -> set[str]:
    """What a process has open that has a name in a file system, but for devices."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kind = path.stat().st_mode
            leads_to = os.readlink(path)
        except FileNotFoundError:  # it was closed, or its memory has no name to be followed
            continue
        if not stat.S_ISCHR(kind) and os.path.exists(leads_to):
            found.add(leads_to)
    return found


def test_what_processes_hand_each_other_has_no_name(tmp_path: Path) -> None:
    until, root = tmp_path / "until", tmp_path / "root"
    ours = named_files(os.getpid())
    with Collector(1, progress=False, temp_root=root, ask=False) as collector:
        job = collector.submit(take, SECRET, until)
        assert wait_until(job.running)
        pids = [sink_pid(collector), *worker_pids(collector), os.getpid()]

        def strangers() -> set[str]:
            # Standard streams of pytest-xdist and the like are ours; the rest is to be in the root.
            found = {name for pid in pids for name in named_files(pid)} - ours
            return {name for name in found if not Path(name).is_relative_to(root)}

        assert wait_until(lambda: not strangers()), strangers()  # an import opens for a moment
        until.touch()


# -- what is unpickled, and where ------------------------------------------------------------------


class Tells:
    """Leaves the number of each process that unpickles it in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return note, (self.path,)


def note(path: Path) -> int:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


@each_method
def test_the_program_alone_unpickles_what_a_job_returned(method: str, tmp_path: Path) -> None:
    with Collector(1, method, progress=False) as collector:
        found: Any = collector.submit(Tells, tmp_path / "unpickled").result()
        assert found == os.getpid()
    pids = (tmp_path / "unpickled").read_text().split()
    assert set(pids) == {str(os.getpid())}


# -- secrets ---------------------------------------------------------------------------------------


def what_is_on_disk(_given: str, root: Path) -> bool:
    _ = current_job().scratch_dir
    return SECRET.encode() in bytes_below(root)


@each_method
def test_what_a_job_is_given_is_on_no_disk(method: str, tmp_path: Path) -> None:
    with Collector(1, method, progress=False, temp_root=tmp_path / "root") as collector:
        assert not collector.submit(what_is_on_disk, LARGE, tmp_path / "root").result()


def return_it() -> str:
    return LARGE


def test_what_a_job_returned_is_in_the_run_directory_until_it_is_read(tmp_path: Path) -> None:
    with Collector(1, progress=False, temp_root=tmp_path / "root") as collector:
        job = collector.submit(return_it)
        assert wait_until(job.done)
        there = run_directory(collector)
        assert job.result() == LARGE
        assert wait_until(lambda: SECRET.encode() not in bytes_below(there))


@pytest.mark.parametrize("key", [None, len])
def test_the_text_of_an_input_is_in_the_journal(key: Any, tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        (job,) = collector.collect(str.upper, [SECRET], batch=tmp_path / "batch", key=key)
        assert job.result() == SECRET.upper()
    assert SECRET.encode() in (tmp_path / "batch" / "shard-0" / "journal.jsonl").read_bytes()
    with Batch.open(tmp_path / "batch") as batch:
        assert [record.input for record in batch] == [SECRET]


def test_the_environment_is_written_nowhere(tmp_path: Path) -> None:
    batch, joblog = tmp_path / "batch", tmp_path / "joblog"
    command = f"{sys.executable} -m collector run -o {batch} --joblog {joblog}"
    subprocess.run(
        [*command.split(), 'test -n "$SECRET_OF_MINE" && echo {}', ":::", "input"],
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT), "SECRET_OF_MINE": SECRET},
        check=True,
    )
    assert b"input" in bytes_below(batch)
    assert SECRET.encode() not in bytes_below(tmp_path)
