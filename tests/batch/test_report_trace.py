"""The report as a trace: what Perfetto needs of each event, and bars that do not overlap."""

import json
from itertools import pairwise
from typing import Any

import pytest

from collector.batch.report.record import Jobs, ReportedBatch
from collector.batch.report.trace import trace_pieces
from tests.support.reported import BEGIN, attempt, batch, hostile, job, many, one_of_each

Event = dict[str, Any]


def read(jobs: Jobs, of: ReportedBatch | None = None) -> list[Event]:
    """Parse a report; each event has the fields of its phase, of the kinds that they must be."""
    trace = json.loads("".join(trace_pieces(of or batch(), jobs)), parse_constant=pytest.fail)
    assert trace["displayTimeUnit"] == "ms"
    events: list[Event] = trace["traceEvents"]
    for event in events:
        assert isinstance(event["name"], str)
        assert {type(event[field]) for field in ("ts", "pid", "tid")} == {int}
        assert event["ts"] >= 0
        match event["ph"]:
            case "X":
                assert type(event["dur"]) is int
                assert event["dur"] >= 0
            case "M":
                assert event["name"] in {"process_name", "thread_name", "thread_sort_index"}
                (kind,) = event["args"]
                assert event["name"].endswith(kind)
            case phase:
                assert (phase, event["s"]) == ("i", "g")
    return events


def bars(events: list[Event]) -> list[Event]:
    return [event for event in events if event["ph"] == "X"]


def tracks(events: list[Event]) -> dict[int, str]:
    return {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_each_attempt_is_a_bar_on_the_track_of_its_worker() -> None:
    jobs = [job(1, attempt(1, 2, worker=3)), job(2, attempt(2, 0.5, worker=7, status="crash"))]
    events = read(jobs)
    first, second = bars(events)
    assert (first["ts"], first["dur"], first["cat"]) == (2_000_000, 2_000_000, "done")
    assert (second["ts"], second["dur"], second["cat"]) == (3_000_000, 500_000, "crash")
    assert first["args"] == {
        "status": "done",
        "attempt": 1,
        "bytes": 100,
        "input": "in/1",
        "key": jobs[0].key,
    }
    names = tracks(events)
    assert (names[first["tid"]], names[second["tid"]]) == ("worker 3", "worker 7")


def test_what_has_not_ended_is_a_bar_till_now_or_till_the_last_end() -> None:
    found = {bar["cat"]: bar for bar in bars(read(one_of_each()))}
    assert found["running"]["ts"] + found["running"]["dur"] == 3601 * 1_000_000
    assert found["interrupted"]["dur"] == 0
    assert found["done"]["args"]["status"] == "done"


def test_an_attempt_after_one_that_failed_was_interrupted_and_has_not_failed() -> None:
    again = job(1, attempt(0, 1, status="crash"), since=BEGIN + 2)
    assert [bar["cat"] for bar in bars(read([again]))] == ["crash", "interrupted"]


def test_bars_of_one_track_do_not_overlap() -> None:
    overlapping = [job(n, attempt(n * 0.25, 1, worker=n % 2)) for n in range(40)]
    events = read([*many(500), *overlapping])
    by_track: dict[int, list[Event]] = {}
    for bar in bars(events):
        by_track.setdefault(bar["tid"], []).append(bar)
    assert set(by_track) == set(tracks(events))
    for track in by_track.values():
        track.sort(key=lambda bar: bar["ts"])
        assert [(a, b) for a, b in pairwise(track) if a["ts"] + a["dur"] > b["ts"]] == []


def test_no_name_makes_it_invalid() -> None:
    events = read(hostile(), batch(name="\ud800", what="\x00"))
    names = [bar["name"] for bar in bars(events)]
    assert "<script>alert(1)</script>" in names
    assert "N" * 10_000 in names


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    back = attempt()._replace(start=BEGIN + 5, end=BEGIN - 5)
    (bar,) = bars(read([job(1, back)]))
    assert bar["dur"] == 0


def test_an_empty_batch_is_a_report_too() -> None:
    assert [event["ph"] for event in read([], batch(sessions=()))] == ["M"]
