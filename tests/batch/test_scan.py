"""Lines of a journal: written and read alike, quickly or not."""

import io
import re
import string
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.batch import lines, scan
from collector.batch.lines import Ended, Error, Filed, Packed, Place, Saved, Where
from collector.batch.scan import Findings, Scan, Stored
from collector.batch.states import State
from collector.batch.table import Table

KEYS = st.text("0123456789abcdef", min_size=32, max_size=32)
WHOLE = st.integers(0, 2**50)
TIMES = st.floats(0, 2e9).map(lambda time: round(time, 6))
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
METERS = st.dictionaries(TEXTS, st.integers(-5, 10**6) | st.floats(0, 1), max_size=2)


def places(key: str) -> st.SearchStrategy[Place | None]:
    packed = st.builds(Packed, st.integers(1, 10**6), WHOLE, WHOLE)
    filed = st.builds(
        lambda number, kind, size: Filed(f"{key[:2]}/{key}.{number}.{kind}", size),
        st.integers(1, 10**6),
        st.sampled_from(["out", "log", "value"]),
        WHOLE,
    )
    paths = TEXTS.filter(lambda text: text and "\0" not in text)
    return st.none() | packed | filed | st.builds(Saved, paths, WHOLE)


@st.composite
def endings(draw: st.DrawFn) -> Ended:
    key = draw(KEYS)
    place = places(key)
    return Ended(
        key,
        draw(st.integers(1, 10**6)),
        draw(st.sampled_from(sorted(lines.STATUSES))),
        draw(WHOLE),
        draw(TIMES),
        draw(TIMES),
        draw(st.none() | st.integers(0, 99)),
        draw(st.none() | st.integers(-64, 255)),
        draw(place),
        draw(place),
        draw(place),
        draw(METERS),
        draw(st.booleans()),
        draw(st.none() | st.builds(Where, st.text(string.ascii_letters, min_size=1), WHOLE)),
        draw(st.none() | st.builds(Error, TEXTS, TEXTS, TEXTS)),
        draw(TEXTS),
        draw(TEXTS),
    )


EVENTS = st.one_of(
    endings(),
    st.builds(lines.Started, KEYS, st.integers(1, 9), WHOLE, TIMES, TEXTS, TEXTS),
    st.builds(lines.Position, KEYS, WHOLE, st.none() | TEXTS, st.none() | TEXTS),
    st.builds(
        lines.Saving,
        KEYS,
        st.integers(1, 9),
        TEXTS.filter(lambda text: text and "\0" not in text),
        WHOLE,
    ),
    st.builds(lines.Left, TIMES, TEXTS),
    st.builds(lines.Spent, KEYS, st.dictionaries(TEXTS, st.integers(-9, 9))),
    st.builds(lines.Run, WHOLE, TEXTS, TIMES, TEXTS, TEXTS, st.none() | WHOLE, st.none() | TEXTS),
)


class EverythingIsThere:
    """A shard in which each place is whole but those of one pack."""

    def pack_size(self, pack: int, least: int) -> int:
        return -1 if pack == 7 else least

    def missing(self, place: Place) -> str:
        return ""


@given(EVENTS)
def test_what_is_encoded_is_decoded_alike(event: lines.Event) -> None:
    line = lines.encode(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert lines.decode(line) == event


@given(EVENTS, st.data())
def test_no_part_of_a_line_is_one(event: lines.Event, data: st.DataObject) -> None:
    line = lines.encode(event)
    with pytest.raises(ValueError, match="torn"):
        lines.decode(line[: data.draw(st.integers(0, len(line) - 1))])


def taken_in(*journal: bytes, stored: Stored | None = None) -> tuple[dict[str, Any], list[Any]]:
    table, findings = Table(), Findings()
    file = io.BytesIO(b"".join(journal))
    end = Scan(table, findings).read(0, "0", file, stored or EverythingIsThere())
    assert end == sum(map(len, journal))
    rows = [
        (table.state(r), table.line(r), table.attempts(r), table.seq(r), table.is_lost(r))
        for r in range(len(table))
    ]
    facts = {
        "seconds": findings.seconds,
        "meters": dict(findings.meters),
        "bad": findings.bad,
        "bytes": table.result_bytes(),
        "counts": table.counts(),
        "runs": findings.runs,
        "left": findings.left,
        "saving": findings.saving,
        "short": findings.short_packs,
    }
    return facts, rows


@pytest.mark.slow
@given(endings())
def test_the_expression_finds_what_json_finds(event: Ended) -> None:
    line = lines.encode(event)
    if scan._SIMPLE.fullmatch(line) is None:
        return
    quick = taken_in(line)
    slow = taken_in(line.replace(b'"key":', b'"key": ', 1))
    assert quick == slow
    assert quick[0]["bad"] == 0


def with_the_key_first(line: bytes) -> bytes:
    """Return a line of the same length that means the same, and that no expression matches."""
    return re.sub(rb'^{("event":"(?:ended|started)"),("key":"\w+")', rb"{\2,\1", line)


@pytest.mark.slow
@given(st.lists(EVENTS, max_size=12), st.data())
def test_many_lines_are_read_at_once_as_one_by_one(
    events: list[lines.Event], data: st.DataObject
) -> None:
    """Also where a few of them come again, in any order, with others between them."""
    again = st.lists(st.sampled_from(events), max_size=4) if events else st.just([])
    quick = [lines.encode(event) for event in data.draw(st.permutations(events + data.draw(again)))]
    slow = [with_the_key_first(line) for line in quick]
    assert not any(scan._SIMPLE.fullmatch(line) or scan._BEGUN.fullmatch(line) for line in slow)
    (facts, rows), (slow_facts, slow_rows) = taken_in(*quick), taken_in(*slow)
    assert rows == slow_rows
    assert facts.pop("seconds") == pytest.approx(slow_facts.pop("seconds"))
    assert facts.pop("meters") == pytest.approx(slow_facts.pop("meters"))
    assert facts == slow_facts


def test_a_line_among_many_whose_bytes_are_not_there_costs_no_other_one() -> None:
    for count in (1, 5, 128, 385):
        for odd in {0, count // 2, count - 1}:
            events = [
                Ended(
                    f"{n:032x}", 1, "done", n, 1.0, 2.0, 1, out=Packed(7 if n == odd else 1, n, 5)
                )
                for n in range(count)
            ]
            facts, rows = taken_in(*map(lines.encode, events))
            assert [row[-1] for row in rows] == [number == odd for number in range(count)]
            assert [row[3] for row in rows] == list(range(count))
            assert (facts["bytes"], facts["seconds"], facts["bad"]) == (5 * (count - 1), count, 0)
            slow = [with_the_key_first(lines.encode(event)) for event in events]
            assert facts["short"] == taken_in(*slow)[0]["short"] == {0: 7}


def test_a_pack_is_long_enough_to_the_byte_wherever_the_lines_stand() -> None:
    class Pack(EverythingIsThere):
        def pack_size(self, pack: int, least: int) -> int:
            return 10_050

    def ended(number: int, at: int, size: int) -> bytes:
        place = Packed(1, at, size)
        return lines.encode(Ended(f"{number:032x}", 1, "done", number, 1.0, 2.0, 1, value=place))

    first = [ended(0, 5, 5), lines.encode(lines.Left(2.0, "complete"))]  # then its size is known
    for one, (at, size) in [
        ((9_990, 9), (10_040, 10)),
        ((99, 1), (0, 10_050)),
        ((9, 9), (9_999, 51)),
    ]:
        for more in (0, 1):
            facts, rows = taken_in(*first, ended(1, *one), ended(2, at, size + more), stored=Pack())
            assert [row[-1] for row in rows] == [False, False, bool(more)]
            assert facts["bad"] == 0


def test_a_line_that_only_ends_as_a_whole_one_is_bad_also_among_many() -> None:
    whole = [
        lines.encode(Ended(f"{n:032x}", 1, "done", n, 1.0, 2.0, 1, out=Packed(1, n, 5)))
        for n in range(8)
    ]
    for before in (b"{", b"\0", b"\x85", whole[7][:-1]):
        facts, rows = taken_in(*whole[:3], before + whole[3], *whole[4:])
        assert facts["bad"] == 1
        assert len(rows) == 7


def test_the_end_of_an_attempt_answers_what_it_was_about_to_save_also_among_many_lines() -> None:
    begun = [lines.Saving(f"{n:032x}", n, f"file-{n}", 5) for n in (1, 2)]
    ended = [Ended(f"{n:032x}", 1, "done", n, 1.0, 2.0, 1) for n in range(4)]
    events: list[lines.Event] = [*begun, *ended]
    facts, _ = taken_in(*map(lines.encode, events))
    assert list(facts["saving"]) == [f"{2:032x}"]  # which a later attempt was about to save


def test_lines_as_they_are_written_are_read_by_the_expression() -> None:
    key = "0123456789abcdef" * 2
    event = Ended(
        key, 1, "done", 3, 1.5, 2.0, 1, None, Packed(1, 0, 5), None, Packed(1, 5, 9), name="a b"
    )
    assert scan._SIMPLE.fullmatch(lines.encode(event)) is not None
    failed = event._replace(status="error", error=Error("E", 'a "\u00e9"\n', ""))
    assert scan._SIMPLE.fullmatch(lines.encode(failed)) is not None
    begun = lines.Started(key, 1, 3, 1764488888.1234567, "a b", 'an "input"')
    assert scan._BEGUN.fullmatch(lines.encode(begun)) is not None


@pytest.mark.slow
@given(st.lists(endings(), max_size=5), st.binary(max_size=40))
def test_whatever_lies_between_lines_nothing_raises(events: list[Ended], garbage: bytes) -> None:
    table, findings = Table(), Findings()
    text = b"".join(lines.encode(event) + garbage + b"\n" for event in events)
    journal = io.BytesIO(text)
    assert Scan(table, findings).read(0, "0", journal, EverythingIsThere()) == len(text)
    known = {event.key for event in events}
    assert len(table) == len(known)
    assert sum(table.counts().values()) == len(known)
    assert all(table.find(key) is not None for key in known)


def test_the_better_of_two_shards_counts() -> None:
    key = "0123456789abcdef" * 2
    done = lines.encode(Ended(key, 1, "done", 0, 1.0, 2.0, out=Packed(1, 0, 5)))
    failed = lines.encode(Ended(key, 3, "error", 0, 5.0, 6.0))
    lost = lines.encode(Ended(key, 9, "done", 0, 9.0, 9.0, out=Packed(7, 0, 5)))
    for order in ((done, failed, lost), (lost, failed, done), (failed, done, lost)):
        table, findings = Table(), Findings()
        for number, line in enumerate(order):
            Scan(table, findings).read(number, str(number), io.BytesIO(line), EverythingIsThere())
        assert table.counts()[State.DONE] == 1
        assert table.result_bytes() == 5
        assert table.lost() == 0


@pytest.mark.parametrize("field", ["start", "end"])
@pytest.mark.parametrize("time", [999_999_999_999.0, 1_000_000_000_001.0])
def test_the_expression_bounds_times_as_the_reader_does(field: str, time: float) -> None:
    times = {"start": 1.5, "end": 2.0, field: time}
    event = Ended("0" * 32, 1, "done", 3, times["start"], times["end"], 1)
    line = lines.encode(event)
    valid = time <= lines.LATEST_S
    assert (scan._SIMPLE.fullmatch(line) is not None) == valid
    assert taken_in(line)[0]["bad"] == (not valid)


def test_what_a_job_has_counted_is_written_so_that_it_is_read() -> None:
    meters = {"a": 3e100, "b": -(10**101), "c": 5}
    event = lines.decode(lines.encode(Ended("0" * 32, 1, "done", 0, 1.0, 2.0, meters=meters)))
    assert isinstance(event, Ended)
    assert event.meters == {"a": 1e100, "b": -1e100, "c": 5}


@pytest.mark.parametrize("field", ["start", "end", "time"])
def test_a_number_that_json_refuses_is_none_for_the_expressions_either(field: str) -> None:
    """One bit makes a 0 of the 1 that times begin with: no reader would find the job's line."""
    key = "0123456789abcdef" * 2
    began, over = 1764488888.5, 1764488889.25
    for event in (Ended(key, 1, "done", 3, began, over), lines.Started(key, 1, 3, began, "", "")):
        line = lines.encode(event)
        for zeros in (b"0", b"00"):
            damaged = line.replace(b'"%b":1' % field.encode(), b'"%b":%b' % (field.encode(), zeros))
            bad = damaged != line
            assert taken_in(damaged)[0]["bad"] == bad
            assert len(taken_in(damaged)[1]) == (not bad)


class Growing(io.RawIOBase):
    """A journal whose last line is on its way: behind the end of a part, for now, is the next."""

    def __init__(self, *parts: bytes) -> None:
        self._reads = [read for part in parts for read in (part, b"")]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._reads.pop(0) if self._reads else b""
        buffer[: len(part)] = part
        return len(part)


def test_behind_a_line_that_another_process_is_writing_nothing_is_read() -> None:
    """Who reads just then may see a part of it, and right after that the rest, and more.

    What comes then would be taken to stand elsewhere than it does.
    """
    encoded = [lines.encode(Ended(f"{n:032x}", 1, "done", n, 1.0, 2.0, 1)) for n in range(300)]
    for whole in (0, 1, 200):
        before, behind = b"".join(encoded[:whole]), b"".join(encoded[whole:])
        journal = io.BufferedReader(Growing(before + behind[:9], behind[9:]), 1 << 20)
        table, findings = Table(), Findings()
        end = Scan(table, findings).read(0, "0", journal, EverythingIsThere())
        assert (len(table), end, findings.bad) == (whole, len(before), 1)


def test_of_lines_as_long_as_their_inputs_are_few_are_read_at_once() -> None:
    lines_ = (Ended(f"{n:032x}", 1, "done", n, 1.0, 2.0, 1, input="x" * 10**6) for n in range(40))
    journal = io.BytesIO(b"".join(map(lines.encode, lines_)))
    table = Table()
    tracemalloc.start()
    try:
        Scan(table, Findings()).read(0, "0", journal, EverythingIsThere())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == 40
    assert most < 5 * 10**6
