"""Inputs: where they come from, how they are cut, named, combined and counted."""

import itertools
import os
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

import collector.batch.command.sources as sources_module
from collector.batch.command.feeder import Feeder
from collector.batch.command.sources import (
    Reading,
    Row,
    Source,
    SourceError,
    read,
    split_command_line,
    total,
)


def rows(line: str, **reading: object) -> list[tuple[str, ...]]:
    _, sources = split_command_line(line.split(" "))
    _, found = read(sources, Reading(**reading))  # type: ignore[arg-type]
    return list(found)


def test_the_command_ends_where_the_first_source_begins() -> None:
    command, sources = split_command_line(
        ["wc", "-l", ":::", "a", "b", "::::", "f", "g", ":::+", "c", "::::+", "h"]
    )
    assert command == ["wc", "-l"]
    assert sources == [
        Source(("a", "b"), are_files=False),
        Source(("f",), are_files=True),
        Source(("g",), are_files=True),
        Source(("c",), are_files=False, linked=True),
        Source(("h",), are_files=True, linked=True),
    ]


def test_several_sources_give_all_combinations_the_last_varying_fastest() -> None:
    assert rows("x ::: a b ::: 1 2") == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]


def test_a_linked_source_goes_along_and_the_shorter_one_ends_it() -> None:
    assert rows("x ::: a b c :::+ 1 2") == [("a", "1"), ("b", "2")]
    assert rows("x ::: a b :::+ 1 2 ::: z") == [("a", "1", "z"), ("b", "2", "z")]


def test_columns_groups_and_headers() -> None:
    assert rows("x ::: a,b c,d", columns=",") == [("a", "b"), ("c", "d")]
    assert rows("x ::: a b c", group=2) == [("a", "b"), ("c",)]
    _, sources = split_command_line(["x", ":::", "h,i", "a,b"])
    names, found = read(sources, Reading(columns=",", header=True))
    assert (names, list(found)) == (["h", "i"], [("a", "b")])


def test_shuffled_inputs_are_all_there() -> None:
    many = " ".join(map(str, range(200)))
    found = rows(f"x ::: {many}", shuffled=True)
    assert sorted(found) == sorted((str(number),) for number in range(200))
    assert found != [(str(number),) for number in range(200)]


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_an_input_is_exactly_what_stands_between_separators(
    separator: bytes, tmp_path: Path
) -> None:
    items = [b"a b", b"", b"\xff\xfe", b"\r", b"x" * 200_000, b" lead", b"\t", b"$(id)"]
    if separator == b"\0":
        items += [b"a\nb", b"\n"]
    for end in (separator, b""):
        items = [*items, b"last"]
        (tmp_path / "f").write_bytes(separator.join(items) + end)
        found = rows(f"x :::: {tmp_path / 'f'}", separator=separator)
        assert [os.fsencode(value) for (value,) in found] == items


def test_an_empty_file_has_no_inputs_and_one_newline_one_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "newline").write_bytes(b"\n")
    assert rows(f"x :::: {tmp_path / 'empty'}") == []
    assert rows(f"x :::: {tmp_path / 'newline'}") == [("",)]


def test_of_the_first_source_no_more_is_read_than_was_asked_for() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"one\ntwo\n")
    _, found = read([Source((f"/dev/fd/{read_end}",), are_files=True)], Reading())
    assert list(itertools.islice(found, 2)) == [("one",), ("two",)]
    os.write(write_end, b"three")
    os.close(write_end)
    os.close(read_end)
    assert list(found) == [("three",)]


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SourceError, match=r"'/no/such'.*No such file"):
        rows("x :::: /no/such")
    with pytest.raises(SourceError, match=r"'/'.*directory"):
        rows("x :::: /")


@pytest.mark.parametrize(
    ("line", "reading", "count"),
    [
        ("x ::: a b c", Reading(), 3),
        ("x ::: a b c ::: 1 2", Reading(), 6),
        ("x ::: a b c :::+ 1 2 ::: z", Reading(), 2),
        ("x ::: a b c", Reading(group=2), 2),
        ("x ::: a b c", Reading(header=True), 2),
        ("x :::", Reading(), 0),
        ("x :::: /dev/null", Reading(), None),
    ],
)
def test_how_many_there_will_be_is_known_where_no_file_is_to_be_read(
    line: str, reading: Reading, count: int | None
) -> None:
    _, sources = split_command_line(line.split(" "))
    assert total(sources, reading) == count
    if count is not None:
        assert len(list(read(sources, reading)[1])) == count


DATA = [b"", b"\n", b"a", b"a\n\nb", b"a\0b\n\0", b"x" * 65536 + b"\n", b"\n" * 65537]
READINGS = [Reading(), Reading(b"\0"), Reading(header=True), Reading(group=2)]


@pytest.mark.parametrize("line", ["x :::: f", "x :::: f ::: 1 2", "x :::: f ::::+ f", "x :::: -"])
def test_the_inputs_in_files_are_counted_before_they_are_read(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, sources = split_command_line(line.split(" "))
    for data, reading in itertools.product(DATA, READINGS):
        Path("f").write_bytes(data)
        Path("stdin").write_bytes(b"gone\n" + data)
        with open("stdin", "rb", buffering=0) as stdin, monkeypatch.context() as patch:
            stdin.seek(5)
            patch.setattr(sources_module, "_STDIN_FD", stdin.fileno())
            count = total(sources, reading)
            assert count == len(list(read(sources, reading)[1]))


def test_inputs_that_may_come_late_are_not_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in (str(tmp_path / "fifo"), "/dev/null", "/no/such"):
        assert total([Source((name,), are_files=True)], Reading()) is None


def test_inputs_have_no_end_before_it_is_told_why_they_have_one() -> None:
    def rows() -> Iterator[Row]:
        yield ("a",)
        raise SourceError("the disk is gone")

    woken: queue.SimpleQueue[None] = queue.SimpleQueue()
    feeder = Feeder(rows(), waits=True, wake=lambda: woken.put(None))
    for _ in ("the row", "the failure"):
        woken.get(timeout=60)
    assert feeder.take() == ("a",)
    assert not feeder.over
    with pytest.raises(SourceError, match="is gone"):
        feeder.take()
    assert feeder.over
