"""`save=` when a batch goes on: a file is replaced only by the job that has saved it."""

import os
import re
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from collector import Batch, Collector
from collector.batch import lines
from collector.batch.states import Resume
from collector.batch.storing import Storing, Task
from collector.batch.writer import BatchWriter, Options
from collector.errors import SpillError
from collector.store.output.output import Output, publish
from collector.store.rundir.directory import RunDirectory
from tests.support.batchdir import ended, failed, journal, writer
from tests.support.batchjobs import many_bytes
from tests.support.killpoints import in_child

pytestmark = pytest.mark.usefixtures("one_server")

ALL = Options(resume=Resume.ALL)


def save(writing: BatchWriter, task: Task, data: bytes, name: Path) -> bool:
    """Store a success under a name, or the failure that a taken one is; tells which."""
    attempt = ended(data, value=b"value of " + data)
    attempt.save = os.fspath(name)
    try:
        writing.store(task, attempt)
    except FileExistsError:
        writing.store(task, failed(data))
        return False
    return True


def run(path: Path, data: bytes, name: Path, options: Options = Options()) -> bool | None:  # noqa: B008 - as in the writer
    """Run a job whose output is saved; tells whether it was, None if it did not run."""
    with writer(path, options=options) as writing:
        task = writing.task("a", name="job-a")
        return save(writing, task, data, name) if task.runs else None


def killed_at(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, after: bool) -> None:
    """Kill what runs when it has told of the file that it saves, or when that has its name."""

    def kill(*arguments: Any, ready: Callable[[str], object], **options: Any) -> None:
        def tell(mark: str) -> None:
            ready(mark)
            if not after:
                os.kill(os.getpid(), signal.SIGKILL)

        publish(*arguments, ready=tell, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("collector.batch.storing.publish", kill)
        assert in_child(act)[0] == signal.SIGKILL


def test_a_file_of_the_user_s_is_refused_each_time(tmp_path: Path) -> None:
    name = tmp_path / "a.txt"
    name.write_text("mine!")
    for _ in range(3):
        assert run(tmp_path / "b", b"12345", name) is False
    assert name.read_text() == "mine!"


def test_a_result_of_another_job_is_refused_each_time(tmp_path: Path) -> None:
    name = tmp_path / "talk.txt"
    for number in range(3):
        with writer(tmp_path / "b") as writing:
            first, second = writing.task("talk.mp4"), writing.task("talk.mov")
            assert first.runs == (not number)
            if first.runs:
                assert save(writing, first, b"AAAA", name)
            else:
                assert not save(writing, second, b"BBBB", name)
    with Batch.open(tmp_path / "b") as batch:
        assert [(r.status, r.output().read()) for r in batch] == [
            ("done", b"AAAA"),
            ("failed", b"BBBB"),
        ]


def test_names_that_are_taken_cost_no_reading_of_the_whole_journal_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []

    def decode(line: bytes) -> lines.Event | None:
        read.append(line)
        return lines_decode(line)

    lines_decode = lines.decode
    with writer(tmp_path / "b") as writing:
        for number in range(20):
            assert save(writing, writing.task(f"first {number}"), b"1", tmp_path / f"{number}")
        monkeypatch.setattr(lines, "decode", decode)
        for number in range(20, 40):
            (tmp_path / f"{number}").write_text("mine")
            assert not save(writing, writing.task(f"{number}"), b"2", tmp_path / f"{number}")
        assert 20 <= len(read) < 60
        for number in range(20):
            attempt = ended(b"3")
            attempt.save = os.fspath(tmp_path / f"{number}")
            with pytest.raises(FileExistsError, match=f"the output of 'first {number}' has that"):
                writing.store(writing.task(f"other {number}"), attempt)


def test_a_file_of_the_user_s_stays_where_the_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "a.txt"
    name.write_text("mine!")

    def act() -> None:
        run(tmp_path / "b", b"12345", name)
        os.kill(os.getpid(), signal.SIGKILL)

    killed_at(monkeypatch, act, after=False)
    assert run(tmp_path / "b", b"12345", name) is False
    assert name.read_text() == "mine!"


def test_a_name_that_is_refused_is_not_told_as_one_that_is_written(tmp_path: Path) -> None:
    name = tmp_path / "a.txt"
    name.write_text("mine!")
    run(tmp_path / "b", b"12345", name)
    assert b'"saving"' not in journal(tmp_path / "b").read_bytes()


def test_a_file_that_was_saved_before_a_kill_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "a.txt"
    killed_at(monkeypatch, lambda: run(tmp_path / "b", b"12345", name), after=True)
    assert name.read_bytes() == b"12345"
    assert run(tmp_path / "b", b"67890", name) is True
    assert name.read_bytes() == b"67890"


@pytest.mark.parametrize("in_a_file", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_file_that_the_user_makes_after_a_kill_is_the_user_s(
    tmp_path: Path, in_a_file: bool
) -> None:
    """Whenever that was: under a free name, and by chance of the size that was to come."""

    def act(path: Path) -> bool | None:
        if not in_a_file:
            return run(path, b"12345", path.parent / "a.txt")
        with writer(path) as writing:
            attempt = ended(b"")
            directory = RunDirectory.create(writing.run_root)
            fd, name = directory.create_file("output")
            os.write(fd, b"12345")
            os.close(fd)
            attempt.output = Output.on_disk(directory, name, size=5, chunks=1)
            attempt.save = os.fspath(path.parent / "a.txt")
            writing.store(writing.task("a"), attempt)
            directory.release()
        return True

    _, calls = in_child(lambda: act(tmp_path / "whole" / "b"))
    assert (tmp_path / "whole" / "a.txt").read_bytes() == b"12345"
    free, told = 0, False
    for number in range(1, len(calls) + 1):
        place = tmp_path / f"at-{number}"
        assert in_child(lambda path=place: act(path / "b"), number)[0] == signal.SIGKILL  # type: ignore[misc]
        name = place / "a.txt"
        if name.exists():
            continue
        free += 1
        told = b'"saving"' in read(journal(place / "b"))
        name.parent.mkdir(exist_ok=True)
        name.write_text("mine!")
        assert run(place / "b", b"67890", name) is False, f"call {number}, {calls[number - 1]}"
        assert name.read_text() == "mine!"
    assert free > 10
    assert told  # the last of them had told of the file, and not given it its name


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@pytest.mark.parametrize("by_digest", [False, True])
def test_a_file_is_known_where_inode_numbers_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_digest: bool
) -> None:
    if by_digest:
        monkeypatch.setattr("collector.store.output.publish.new_digest", lambda _fd: sha256())
    name = tmp_path / "a.txt"
    killed_at(monkeypatch, lambda: run(tmp_path / "b", b"12345", name), after=True)
    copy = tmp_path / "copy"
    copy.write_bytes(name.read_bytes())
    copy.replace(name)
    assert run(tmp_path / "b", b"67890", name) is by_digest


def test_a_line_of_an_older_version_knows_a_file_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "a.txt"
    killed_at(monkeypatch, lambda: run(tmp_path / "b", b"12345", name), after=True)
    told = journal(tmp_path / "b").read_text()
    journal(tmp_path / "b").write_text(re.sub(r',"mark":"[^"]*"', "", told))
    assert run(tmp_path / "b", b"67890", name) is True


@pytest.mark.parametrize("after", [False, True])
def test_a_result_that_was_being_replaced_at_a_kill_runs_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    after: bool,
) -> None:
    path, name = tmp_path / "b", tmp_path / "a.txt"
    assert run(path, b"one", name)
    killed_at(monkeypatch, lambda: run(path, b"two", name, ALL), after=after)
    with Batch.open(path) as batch:
        (record,) = batch
        assert record.status == "waiting"
        assert "was replacing" in batch.why("a")
        (problem,) = batch.verify()
        assert "job job-a" in problem
        assert "a.txt" in problem
        with pytest.raises(OSError, match="lost"):
            record.output()
    assert run(path, b"two", name) is True
    assert "job-a counts as not done: its output" in caplog.text
    with Batch.open(path) as batch:
        (record,) = batch
        assert batch.verify() == []
        assert (record.status, record.output().read()) == ("done", b"two")
    assert run(path, b"two", name) is None


def test_another_shard_may_finish_what_a_kill_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = tmp_path / "b", tmp_path / "a.txt"
    later = Options(resume=Resume.ALL, shard="1of1")
    assert run(path, b"one", name)
    killed_at(monkeypatch, lambda: run(path, b"two", name, later), after=True)
    assert run(path, b"two", name) is True  # in a shard that is read first
    assert run(path, b"two", name) is None


@pytest.mark.parametrize("shards", [("0", "1of1"), ("1of1", "0")])
@pytest.mark.parametrize("joins_later", [False, True])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("data", [b"two", b"second"])
def test_what_a_shard_of_another_split_has_saved_meanwhile_is_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shards: tuple[str, str],
    joins_later: bool,
    ends: bool,
    data: bytes,
) -> None:
    path, name = tmp_path / "b", tmp_path / "a.txt"
    other, own = (Options(shard=shard) for shard in shards)
    if not joins_later:
        writer(path, options=other).close()
    with writer(path, options=own) as writing:
        task = writing.task("a", name="job-a")
        if ends:
            assert run(path, b"one", name, other)
        else:  # no line tells of more than that the file is about to have its name
            killed_at(monkeypatch, lambda: run(path, b"one", name, other), after=True)
        assert save(writing, task, data, name)
    assert name.read_bytes() == data
    with Batch.open(path) as batch:
        assert batch.verify() == []
        (record,) = batch
        assert (record.status, record.output().read()) == ("done", data)
    assert run(path, b"third", name, other) is None


@pytest.mark.parametrize("joins_later", [False, True])
def test_what_a_shard_has_saved_meanwhile_of_another_job_is_told_and_stays(
    tmp_path: Path, joins_later: bool
) -> None:
    path, name, other = tmp_path / "b", tmp_path / "a.txt", Options(shard="1of1")
    if not joins_later:
        writer(path, options=other).close()
    with writer(path) as writing:
        attempt = ended(b"two")
        attempt.save = os.fspath(name)
        assert run(path, b"one", name, other)
        with pytest.raises(FileExistsError, match="the output of 'a' has that name"):
            writing.store(writing.task("b"), attempt)
        name.write_bytes(b"the user's")
        with pytest.raises(FileExistsError, match="the output of 'a' has that name"):
            writing.store(writing.task("a"), attempt)
    assert name.read_bytes() == b"the user's"


@pytest.mark.parametrize("by_the_user", [False, True])
def test_what_a_shard_is_just_saving_of_another_job_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_the_user: bool
) -> None:
    path, name, other = tmp_path / "b", tmp_path / "a.txt", Options(shard="1of1")
    with writer(path) as writing:
        attempt = ended(b"two")
        attempt.save = os.fspath(name)
        killed_at(monkeypatch, lambda: run(path, b"one", name, other), after=not by_the_user)
        if by_the_user:
            name.write_bytes(b"own")
        whose = "a file of yours" if by_the_user else "the output of the job with the key [0-9a-f]+"
        with pytest.raises(FileExistsError, match=f"{whose} has that name"):
            writing.store(writing.task("b"), attempt)


def later(path: Path, inputs: Any, save: Any) -> list[tuple[Any, bool]]:
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(many_bytes, inputs, batch=path, save=save, ordered=True)
        return [(job.args[0], job.resumed) for job in jobs if job.exception() is None]


def test_what_was_done_before_names_were_given_is_saved_and_not_run_again(tmp_path: Path) -> None:
    path, save = tmp_path / "b", os.fspath(tmp_path / "out" / "{input}-{seq}.bin")
    sizes = [0, 10, 100_000]
    assert later(path, sizes, None) == [(size, False) for size in sizes]
    for _ in range(2):
        assert later(path, [*sizes, 7], save)[:3] == [(size, True) for size in sizes]
        found = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
        assert found == {f"{size}-{seq}.bin": bytes(size) for seq, size in enumerate([*sizes, 7])}
        os.unlink(tmp_path / "out" / "10-1.bin")
    with Batch.open(path) as batch:  # it has them all the same
        assert batch.verify() == []
        assert [r.output().size for r in batch] == [*sizes, 7]


def test_what_cannot_be_saved_of_what_was_done_before_stays_done_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert later(tmp_path / "b", range(3, 15), None)
    (tmp_path / "3").write_bytes(b"own")  # as long as the output is
    (tmp_path / "4").mkdir()
    os.mkfifo(tmp_path / "5")

    def name(size: int) -> Path:
        return tmp_path / str(size) if size < 7 else tmp_path / "x" / str(1 // (size - 14))

    assert later(tmp_path / "b", range(3, 15), name) == [(size, True) for size in range(3, 15)]
    assert (tmp_path / "3").read_bytes() == b"own"
    assert sorted(os.listdir(tmp_path)) == ["3", "4", "5", "6", "b", "x"]
    said = [line for line in caplog.text.splitlines() if "is not saved" in line]
    for size, why in (
        ("3", "has that name: move it away"),
        ("4", "a directory"),
        ("5", "has that name"),
    ):
        (line,) = (line for line in said if f"output of '{size}'" in line)
        assert why in line
    assert "the output of '7' has that name already" in caplog.text
    assert len(said) == 10
    assert said[-1].endswith("others are not told of")


@pytest.mark.parametrize("keep_failed", [False, True])
@pytest.mark.parametrize("size", [3, 5])
def test_an_attempt_whose_file_a_later_one_has_replaced_is_not_kept(
    tmp_path: Path, keep_failed: bool, size: int
) -> None:
    path, name = tmp_path / "b", tmp_path / "a.txt"
    options = ALL._replace(keep_failed=keep_failed)
    with writer(path, options=options) as writing:
        writing.store(writing.task("a", name="job-a"), failed(b"failed"))
    run(path, b"1" * 3, name, options)
    run(path, b"2" * size, name, options)
    with Batch.open(path) as batch:
        assert batch.verify() == []
        (record,) = batch
        assert [a.kept for a in record.attempts] == [keep_failed, False, True]
        with pytest.raises(OSError, match="a later attempt has replaced it"):
            record.attempts[1].output()
        assert record.attempts[2].output().read() == b"2" * size


def test_a_disk_that_refuses_the_rest_of_a_result_leaves_its_file_to_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "a.txt"
    with writer(tmp_path / "b") as writing:
        task = writing.task("a")
        with monkeypatch.context() as patch:
            patch.setattr(Storing, "put", refuse)
            with pytest.raises(SpillError):
                save(writing, task, b"12345", name)
        assert save(writing, task, b"67890", name)
    assert name.read_bytes() == b"67890"


def refuse(*_arguments: object, **_options: object) -> None:
    raise SpillError(28, "no room")
