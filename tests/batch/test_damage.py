"""What is not all there counts as not there: it is named, it runs again, and nothing raises."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from collector import Batch, BatchError, OutputLostError, SpillError
from collector.batch import directory, keeping, remarks, shard
from collector.batch.writer import Options
from tests.support.batchdir import ended, failed, journal, output, run, writer
from tests.support.faultyos import FaultyOs

INPUTS = ["a", "b", "c"]
LARGE = {"b": 70_000}


def made(path: Path) -> Path:
    """Make a batch of three jobs, of which the second has a large output."""
    run(path, INPUTS, sizes=LARGE)
    return path


def large_file(path: Path) -> Path:
    (found,) = path.glob("shard-0/files/*/*.out")
    return found


def assert_whole(path: Path) -> None:
    with Batch.open(path) as batch:
        assert batch.verify() == []
        assert {r.input: r.output().read() for r in batch} == {
            text: output(text, LARGE.get(text, 20)) for text in INPUTS
        }


@pytest.mark.parametrize(
    "step",
    [
        61,
        pytest.param(7, marks=pytest.mark.slow),
        pytest.param(1, marks=pytest.mark.campaign),
    ],
)
def test_a_journal_that_is_torn_at_any_byte_of_its_last_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    whole = made(tmp_path / "whole")
    lines = journal(whole).read_bytes().splitlines(keepends=True)
    (number,) = (n for n, line in enumerate(lines) if b'"input":"c"' in line)
    before, last = b"".join(lines[:number]), lines[number]
    for cut in range(0, len(last), step):
        path = tmp_path / "torn"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        journal(path).write_bytes(before + last[:cut])
        with Batch.open(path) as batch:
            assert batch.status()["done"] == 2
            assert bool(batch.verify()) == (cut > 0)
        caplog.clear()
        assert run(path, INPUTS, sizes=LARGE) == ["c"]
        assert ("counts as not there" in caplog.text) == (cut > 0)
        assert_whole(path)


def test_lines_that_are_none_are_passed_over(tmp_path: Path) -> None:
    path = made(tmp_path / "b")
    key = Batch.open(path).why("a") and next(iter(Batch.open(path))).key
    line = json.loads(journal(path).read_bytes().splitlines()[1])
    assert line["key"] == key
    wrong = [
        line | {"key": "../../../etc/passwd"},
        line | {"key": key.upper()},
        line | {"attempt": 0},
        line | {"attempt": 1.5},
        line | {"attempt": True},
        line | {"status": "well"},
        line | {"start": float("nan")},
        line | {"end": -1},
        line | {"seq": 2**80},
        line | {"out": {"pack": 0, "at": 0, "bytes": 1}},
        line | {"out": {"pack": 1, "at": -1, "bytes": 1}},
        line | {"out": {"file": "../../batch.json", "bytes": 1}},
        line | {"out": {"file": f"{key[:2]}/../{key}.1.out", "bytes": 1}},
        line | {"out": {"file": f"ff/{'f' * 32}.1.out", "bytes": 1}},
        line | {"out": {"saved": "a\0b", "bytes": 1}},
        line | {"out": {"saved": "", "bytes": 1}},
        line | {"meters": {"usd": "much"}},
        line | {"meters": []},
        line | {"meters": None},
        line | {"meters": {"usd": 1e101}},
        line | {"start": 1e305, "end": 1.7e308},
        line | {"start": 10**400},
        line | {"end": 2e12},
        {"event": "left", "time": 10**400, "how": ""},
        {"event": "left", "time": 2e12, "how": ""},
        {"event": "started", "key": key, "attempt": 1, "seq": 0, "time": 2e12}
        | {"name": "", "input": ""},
        line | {"name": 3},
        {name: value for name, value in line.items() if name != "input"},
        [],
        None,
        {"event": 3},
        {"event": "started", "key": key},
        {"event": "saving", "key": key, "attempt": 1, "out": None},
    ]
    with journal(path).open("ab") as file:
        for one in wrong:
            file.write(json.dumps(one).encode() + b"\n")
        file.write(b"\xff\xfe\n\n{" + b"[" * 100_000 + b"\n")
    with Batch.open(path) as batch:
        assert batch.status()["done"] == 3
        assert len(batch) == 3
        assert f"so do {len(wrong) + 3 - 10} more lines" in batch.verify()
    assert run(path, INPUTS, sizes=LARGE) == []


def cut_pack(path: Path) -> None:
    os.truncate(path / "shard-0" / "pack-000001", 10)


def remove_pack(path: Path) -> None:
    (path / "shard-0" / "pack-000001").unlink()


def link_pack(path: Path) -> None:
    pack = path / "shard-0" / "pack-000001"
    pack.rename(path.parent / "elsewhere")
    pack.symlink_to(path.parent / "elsewhere")


def pack_is_a_directory(path: Path) -> None:
    remove_pack(path)
    (path / "shard-0" / "pack-000001").mkdir()


def pack_is_a_fifo(path: Path) -> None:
    remove_pack(path)
    os.mkfifo(path / "shard-0" / "pack-000001")


def remove_file(path: Path) -> None:
    large_file(path).unlink()


def shorten_file(path: Path) -> None:
    os.truncate(large_file(path), 69_999)


def lengthen_file(path: Path) -> None:
    os.truncate(large_file(path), 70_001)


def empty_file(path: Path) -> None:
    os.truncate(large_file(path), 0)


def file_is_a_link(path: Path) -> None:
    file = large_file(path)
    file.rename(path.parent / "elsewhere")
    file.symlink_to(path.parent / "elsewhere")


def file_is_a_directory(path: Path) -> None:
    file = large_file(path)
    file.unlink()
    file.mkdir()


def file_is_a_fifo(path: Path) -> None:
    file = large_file(path)
    file.unlink()
    os.mkfifo(file)


def files_are_a_link(path: Path) -> None:
    files = path / "shard-0" / "files"
    files.rename(path.parent / "elsewhere")
    files.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (cut_pack, INPUTS),
        (remove_pack, INPUTS),
        (link_pack, INPUTS),
        (pack_is_a_directory, INPUTS),
        (pack_is_a_fifo, INPUTS),
        (remove_file, ["b"]),
        (shorten_file, ["b"]),
        (lengthen_file, ["b"]),
        (empty_file, ["b"]),
        (file_is_a_link, ["b"]),
        (file_is_a_directory, ["b"]),
        (file_is_a_fifo, ["b"]),
        (files_are_a_link, ["b"]),
    ],
)
def test_what_is_incomplete_runs_again_and_is_named(
    tmp_path: Path,
    damage: Callable[[Path], None],
    again: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = made(tmp_path / "b")
    damage(path)
    with Batch.open(path) as batch:
        problems = batch.verify()
        assert len(problems) == len(again)
        for text, problem in zip(again, problems, strict=True):
            assert f"job-{text}" in problem
        assert batch.status()["waiting"] == len(again)
        assert "is not all there" in batch.why(again[0])
        for record in batch:
            if record.input in again:
                assert record.status == "waiting"
                with pytest.raises(OutputLostError):
                    record.output().read() + record.log().read()
    if damage is files_are_a_link:
        with pytest.raises(BatchError, match=r"no directory, or a link to one: .*/shard-0/files"):
            run(path, INPUTS, sizes=LARGE)
        os.unlink(path / "shard-0" / "files")
    assert run(path, INPUTS, sizes=LARGE) == again
    for text in again:
        assert f"job-{text} counts as not done" in caplog.text
    assert_whole(path)
    assert run(path, INPUTS, sizes=LARGE) == []


def test_what_the_disk_does_not_give_back_is_one_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "b")
    disk = FaultyOs(monkeypatch, shard)
    with Batch.open(path) as batch:
        record = next(iter(batch))
        for read in (record.output, record.log, record.value):
            disk.fail("pread", error=errno.EIO)
            with pytest.raises(OutputLostError, match=r"error: '.*/shard-0/pack-000001'$"):
                read()
        disk.fail("pread", error=errno.EIO)
        with pytest.raises(BatchError, match=r"error: '.*/shard-0/journal.jsonl'$"):
            next(iter(batch))
        assert disk.fired == 4
    disk.fail("listdir", error=errno.EIO)
    with pytest.raises(BatchError, match=r"error: '.*/shard-0'$"):
        run(path, INPUTS, sizes=LARGE)
    disk.heal()
    assert run(path, INPUTS, sizes=LARGE) == []


@pytest.mark.parametrize(("module", "call"), [(remarks, "fstat"), (directory, "listdir")])
def test_a_directory_that_cannot_be_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str
) -> None:
    disk = FaultyOs(monkeypatch, module)
    disk.fail(call, error=errno.ESTALE)
    with pytest.raises(BatchError, match=r"Stale file handle: '.*/b'$"):
        run(tmp_path / "b", INPUTS)
    assert disk.fired == 1
    assert run(tmp_path / "b", INPUTS) == INPUTS


@pytest.mark.parametrize("module", [directory, keeping])
def test_a_file_at_which_nobody_can_look_stays_open_no_longer_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    """That no descriptor is left is looked at after every test."""
    path = made(tmp_path / "b")
    disk = FaultyOs(monkeypatch, module)
    for call in (1, 2):
        disk.fail("fstat", at=call, error=errno.EIO)
        with pytest.raises(BatchError, match="Input/output error"):
            run(path, INPUTS, sizes=LARGE)
    assert disk.fired == 2
    disk.heal()
    assert run(path, INPUTS, sizes=LARGE) == []


def a_place_of_files_is_a_link(path: Path, elsewhere: Path) -> None:
    place = large_file(path).parent
    place.rename(elsewhere / "place")
    place.symlink_to(elsewhere / "place")


def the_place_of_files_is_a_fifo(path: Path, _elsewhere: Path) -> None:
    shutil.rmtree(path / "shard-0" / "files")
    os.mkfifo(path / "shard-0" / "files")


@pytest.mark.parametrize("damage", [a_place_of_files_is_a_link, the_place_of_files_is_a_fifo])
def test_nothing_runs_whose_files_would_lie_behind_a_link(
    tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    path = made(tmp_path / "b")
    (tmp_path / "elsewhere").mkdir()
    damage(path, tmp_path / "elsewhere")
    before = journal(path).read_bytes()
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(BatchError, match=r"no directory, or a link to one: .*/shard-0/files"):
        run(path, [*INPUTS, "d"], sizes=LARGE | {"d": 70_000})
    assert journal(path).read_bytes() == before
    assert sorted(tmp_path.rglob("*")) == files


def test_a_batch_that_is_moved_while_it_runs_promises_nothing_that_is_not_there(
    tmp_path: Path,
) -> None:
    path, moved = tmp_path / "b", tmp_path / "moved"
    with writer(path) as writing:
        first, second = writing.task("a"), writing.task("b")
        writing.store(first, ended(output("a", 70_000)))
        path.rename(moved)
        for task in (first, second):  # the place of the first one's files is known already
            with pytest.raises(SpillError, match="others have moved this directory"):
                writing.store(task, ended(output("b", 70_000)))
        writing.store(writing.task("c"), ended(output("c")))
    assert sorted(os.listdir(tmp_path)) == ["moved"]
    with Batch.open(moved) as batch:
        assert batch.verify() == []
        assert [r.input for r in batch if r.status == "done"] == ["a", "c"]
    assert run(moved, INPUTS) == ["b"]


@pytest.mark.parametrize("break_pack", [cut_pack, remove_pack])
def test_bytes_of_others_never_stand_in_for_those_of_a_pack_that_was_cut(
    tmp_path: Path, break_pack: Callable[[Path], object]
) -> None:
    path = made(tmp_path / "b")
    break_pack(path)
    run(path, ["x", "y", "z", *(f"more {n}" for n in range(50))])  # not those that were lost
    with Batch.open(path) as batch:
        lost = [r for r in batch if r.status == "waiting"]
        assert sorted(r.input for r in lost) == INPUTS
        assert all(r.output().read() == output(r.input) for r in batch if r.status == "done")
    assert run(path, INPUTS, sizes=LARGE) == INPUTS


@pytest.mark.parametrize("size", [0, None], ids=["cut", "gone"])
def test_bytes_of_others_never_stand_in_for_those_of_the_last_pack(
    tmp_path: Path, size: int | None
) -> None:
    """Whatever a later line says of the job: one before it may be read too."""
    keeping = Options(keep_failed=True)
    path = tmp_path / "b"
    with writer(path, options=keeping) as writing:
        for text in "ab":
            task = writing.task(text)
            writing.store(task, failed(output(text)))
            writing.store(task, failed(b"", "crash") if text == "a" else ended(b""))
    (pack,) = path.glob("shard-0/pack-*")
    if size is None:
        pack.unlink()
    else:
        os.truncate(pack, size)
    for text in "xyz":  # each in a run of its own
        assert run(path, [text], options=keeping) == [text]
    with Batch.open(path) as batch:
        assert len(batch.verify()) == 2
        assert {r.input: r.status for r in batch if r.input in "ab"} == {"a": "failed", "b": "done"}
        for record in batch:
            if record.input in "ab":
                with pytest.raises(OutputLostError):
                    record.attempts[0].output()
            else:
                assert record.output().read() == output(record.input)
    assert len(list(path.glob("shard-0/pack-*"))) == 1 + (size is not None)


@pytest.mark.parametrize(("what", "number"), [("bytes", 2**60), ("at", 2**62), ("bytes", 2**62)])
def test_of_a_place_that_no_pack_has_not_even_room_is_made(
    tmp_path: Path, what: str, number: int
) -> None:
    run(tmp_path / "b", ["a"])
    lines = journal(tmp_path / "b").read_bytes().splitlines()
    (line,) = (json.loads(line) for line in lines if b'"ended"' in line)
    line["out"][what] = number
    with journal(tmp_path / "b").open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        assert record.status == "waiting"
        with pytest.raises(OutputLostError, match=r"where .* were written"):
            record.output()


def test_a_foreign_file_is_left_where_it_is(tmp_path: Path) -> None:
    path = made(tmp_path / "b")
    foreign = [path / "mine", path / "shard-0" / "mine", path / "shard-0" / "files" / "mine"]
    foreign.append(large_file(path).with_name("mine"))
    foreign.append(path / "shard-0" / "pack-1")
    for file in foreign:
        file.write_text("mine")
    journal(path).write_bytes(b"".join(journal(path).read_bytes().splitlines(keepends=True)[:-1]))
    assert run(path, [*INPUTS, "d"], sizes=LARGE) == ["d"]
    assert [file.read_text() for file in foreign] == ["mine"] * len(foreign)


def test_a_foreign_thing_in_the_way_of_a_new_file_or_pack_is_left(tmp_path: Path) -> None:
    with writer(tmp_path / "b") as writing:
        task = writing.task("b", name="job-b")
        shard = tmp_path / "b" / "shard-0"
        (shard / "pack-000001").mkdir()
        (shard / "pack-000002").symlink_to("elsewhere")
        os.mkfifo(shard / "pack-000003")
        in_the_way = shard / "files" / task.key[:2] / f"{task.key}.1.out"
        in_the_way.mkdir(parents=True)
        writing.store(task, ended(output("b", 70_000), log=b"small"))
    with Batch.open(tmp_path / "b") as batch:
        assert batch.verify() == []
        (record,) = batch
        assert record.output().read() == output("b", 70_000)
        assert record.log().read() == b"small"
    assert in_the_way.is_dir()
    assert os.readlink(shard / "pack-000002") == "elsewhere"


def test_a_journal_without_end_of_an_attempt_is_no_end(tmp_path: Path) -> None:
    """A chain of attempts that goes round in a circle is read once round."""
    path = made(tmp_path / "b")
    lines = journal(path).read_bytes().splitlines(keepends=True)
    line = json.loads(lines[1])
    at = sum(map(len, lines))
    line |= {"attempt": 2, "before": {"shard": "0", "at": at}}
    with journal(path).open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
    with Batch.open(path) as batch:
        (record,) = (r for r in batch if r.input == "a")
        assert len(record.attempts) <= 2
        assert batch.verify() == []
