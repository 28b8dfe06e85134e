"""A writer is killed at any call that changes the disk: the next run ends as if it had not been."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from collector import Batch
from collector.batch.lines import Filed
from collector.batch.states import Resume
from collector.batch.writer import Options
from collector.store.output.output import Output
from collector.store.rundir.directory import RunDirectory
from tests.support.batchdir import ended, failed, output, writer
from tests.support.killpoints import in_child

SIZES = {"a": 20, "large": 70_000, "empty": 0, "b": 100}
PLAIN = Options()
DURABLE = Options(durable=True)
ALL = Options(resume=Resume.ALL)


def run(path: Path, options: Options = PLAIN, *, save: bool = False) -> None:
    """Run the batch as a script would, to its end."""
    with writer(path, options=options, inputs=len(SIZES)) as writing:
        for text, size in SIZES.items():
            task = writing.task(text, name=text)
            if task.runs:
                attempt = ended(output(text, size), log=b"log", value=b"v" * size)
                if save:
                    attempt.save = os.fspath(path.parent / "saved" / text)
                writing.store(task, attempt)
                writing.flush()


def run_with_files(path: Path) -> None:
    """Run the batch with outputs that lie in files of a run directory in it."""
    with writer(path) as writing:
        directory = RunDirectory.create(writing.run_root)
        for text, size in SIZES.items():
            task = writing.task(text, name=text)
            if task.runs:
                attempt = ended(b"", log=b"log")
                fd, name = directory.create_file("output")
                os.write(fd, output(text, size))
                os.close(fd)
                attempt.output = Output.on_disk(directory, name, size=size, chunks=1)
                writing.store(task, attempt)
                writing.flush()
                attempt.output.close()
        directory.release()


def fail_first(path: Path) -> None:
    """Let every job fail once, then succeed."""
    with writer(path) as writing:
        for text, size in SIZES.items():
            task = writing.task(text, name=text)
            if task.runs:
                if not writing.attempts(task):
                    writing.store(task, failed(output("no", size)))
                writing.store(task, ended(output(text, size), value=b"v" * size))
                writing.flush()


def assert_whole(path: Path) -> None:
    """Everything is there, once, exact, and nothing else."""
    with Batch.open(path) as batch:
        assert batch.verify() == []
        assert {r.input: r.output().read() for r in batch} == {
            text: output(text, size) for text, size in SIZES.items()
        }
        assert [r.input for r in batch] == list(SIZES)
        assert [r.status for r in batch] == ["done"] * len(SIZES)
        spoken = {
            place.name
            for record in batch
            for attempt in record.attempts
            if attempt.kept
            for place in attempt.places
            if isinstance(place, Filed)
        }
    found = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    packs = {name for name in found if "/pack-" in name}
    files = {f"shard-0/files/{name}" for name in spoken}
    assert found - packs - files == {"batch.json", "shard-0/journal.jsonl", "shard-0/lock"}
    assert files <= found


def nothing_before(path: Path) -> None:
    """Begin with no batch."""


def assert_each_kill_is_survived(
    tmp_path: Path,
    act: Callable[[Path], None],
    *,
    half: bool = False,
    before: Callable[[Path], None] = nothing_before,
) -> int:
    """Kill a run at each of its calls; returns how many there are.

    Args:
        before: Makes what each of the runs begins with.
    """
    before(tmp_path / "undisturbed")
    killed, calls = in_child(lambda: act(tmp_path / "undisturbed"))
    assert killed == 0
    assert_whole(tmp_path / "undisturbed")
    wanted = [number for number, name in enumerate(calls, 1) if not half or name == "write"]
    for number in wanted:
        path = tmp_path / f"at-{number}" / "b"
        before(path)
        killed, _ = in_child(lambda path=path: act(path), number, half=half)  # type: ignore[misc]
        assert killed == signal.SIGKILL, f"call {number} ({calls[number - 1]}) did not come"
        act(path)
        assert_whole(path)
    return len(wanted)


@pytest.mark.slow
def test_killed_at_each_write_and_rename_and_continued_it_is_whole(tmp_path: Path) -> None:
    assert assert_each_kill_is_survived(tmp_path, run) > 20


def test_killed_in_the_middle_of_each_write(tmp_path: Path) -> None:
    assert assert_each_kill_is_survived(tmp_path, run, half=True) > 10


@pytest.mark.slow
def test_killed_while_outputs_are_renamed_into_place(tmp_path: Path) -> None:
    assert assert_each_kill_is_survived(tmp_path, run_with_files) > 20


@pytest.mark.slow
def test_killed_at_each_sync_too(tmp_path: Path) -> None:
    def durably(path: Path) -> None:
        run(path, DURABLE)

    assert assert_each_kill_is_survived(tmp_path, durably) > 25


@pytest.mark.slow
def test_killed_between_attempts(tmp_path: Path) -> None:
    assert assert_each_kill_is_survived(tmp_path, fail_first) > 25


@pytest.mark.slow
def test_killed_while_results_are_replaced(tmp_path: Path) -> None:
    run(tmp_path / "done" / "b")  # what a kill does to that is seen above

    def before(path: Path) -> None:
        shutil.copytree(tmp_path / "done" / "b", path)

    def again(path: Path) -> None:
        run(path, ALL)

    assert assert_each_kill_is_survived(tmp_path, again, before=before) > 20


@pytest.mark.slow
def test_killed_while_outputs_get_names_of_the_user_s(tmp_path: Path) -> None:
    def saved(path: Path) -> None:
        run(path, save=True)
        for text, size in SIZES.items():
            assert (path.parent / "saved" / text).read_bytes() == output(text, size)

    assert assert_each_kill_is_survived(tmp_path, saved) > 20
    for place in tmp_path.glob("at-*/saved"):
        assert sorted(os.listdir(place)) == sorted(SIZES)


@pytest.mark.slow
def test_killed_while_it_is_continued(tmp_path: Path) -> None:
    """A kill at some call, then one at each call of the run that continues."""
    _, calls = in_child(lambda: run(tmp_path / "undisturbed"))
    first = len(calls) // 2
    base = tmp_path / "killed"
    killed, _ = in_child(lambda: run(base / "b"), first, half=True)
    assert killed == signal.SIGKILL
    number = 0
    while killed:
        number += 1
        place = tmp_path / f"again-{number}"
        os.makedirs(place)
        assert os.system(f"cp -a {base / 'b'} {place / 'b'}") == 0
        killed, _ = in_child(lambda place=place: run(place / "b"), number)  # type: ignore[misc]
        run(place / "b")
        assert_whole(place / "b")
    assert number > 10


def test_a_kill_point_that_does_not_come_is_seen(tmp_path: Path) -> None:
    def less_and_less(path: Path) -> None:
        if path.name == "undisturbed":
            run(path)

    with pytest.raises(AssertionError, match="did not come"):
        assert_each_kill_is_survived(tmp_path, less_and_less)
