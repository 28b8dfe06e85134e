"""A batch as a trace: one bar an attempt, one track a worker, for Perfetto and Chrome.

Runs in:    any process; pure.
Invariants: I1  each event has the fields that its phase needs, and no number that JSON has not.
            I2  bars of one track do not overlap: what would is put on a further track.
Source:     the Trace Event Format (object form; phases X, M, i); Perfetto's notes on it: events of
            one thread must nest.
"""

import json
import math
from array import array
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, final

from collector.batch.report.record import (
    INTERRUPTED,
    RUNNING,
    Jobs,
    ReportedBatch,
    ReportedJob,
    Worker,
)
from collector.batch.report.text import visible

_PROCESS: Final = 1
_NOWHERE: Final = 0
"""The track of what belongs to no worker."""

_COLOURS: Final = {"done": "good", "running": "generic_work", "interrupted": "grey"}
_dump: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class _Bar(NamedTuple):
    start: float
    end: float
    worker: Worker | None
    args: dict[str, Any]


def trace_pieces(batch: ReportedBatch, jobs: Jobs) -> Iterator[str]:
    """Yield the trace in pieces, together one JSON object.

    Holds some 40 bytes an attempt meanwhile, for its track.
    """
    tracks = _Tracks(batch, jobs)
    other = {"batch": visible(batch.name), "runs": visible(batch.what), "begin": tracks.begin_s}
    yield f'{{"displayTimeUnit":"ms","otherData":{_dump(other)},"traceEvents":[\n'
    yield _dump(_named("process_name", _NOWHERE, {"name": visible(batch.name)}))
    numbers = iter(tracks.of_bars)
    for job in jobs:
        for bar, track in zip(_bars(batch, job, tracks.end_s), numbers, strict=False):
            yield ",\n" + _dump(_event(job, bar, track, tracks.begin_s))
    for number, session in enumerate(batch.sessions, 1):
        event = {
            "name": f"run {number} begins",
            "ph": "i",
            "s": "g",
            "ts": _micros(session.time - tracks.begin_s),
            "pid": _PROCESS,
            "tid": _NOWHERE,
            "args": {"host": visible(session.host), "collector": visible(session.version)},
        }
        yield ",\n" + _dump(event)
    for track, name in enumerate(tracks.names, 1):
        yield ",\n" + _dump(_named("thread_name", track, {"name": name}))
        yield ",\n" + _dump(_named("thread_sort_index", track, {"sort_index": track}))
    yield "\n]}\n"


def _bars(batch: ReportedBatch, job: ReportedJob, end_s: float) -> Iterator[_Bar]:
    for each in job.attempts:
        args: dict[str, Any] = {"status": each.status, "attempt": each.number, "bytes": each.size}
        if each.exitcode is not None:
            args["exit"] = each.exitcode
        if each.kind or each.error:
            args["error"] = visible(f"{each.kind}: {each.error}")
        yield _Bar(each.start, max(each.start, each.end), each.worker, args)
    if job.since is not None:
        status, end = (RUNNING, batch.time) if job.status == RUNNING else (INTERRUPTED, end_s)
        yield _Bar(job.since, max(job.since, end), None, {"status": status})


def _event(job: ReportedJob, bar: _Bar, track: int, begin_s: float) -> dict[str, Any]:
    status = bar.args["status"]
    start = _micros(bar.start - begin_s)
    return {
        "name": visible(job.name),
        "cat": status,
        "cname": _COLOURS.get(status, "terrible"),
        "ph": "X",
        "ts": start,
        "dur": _micros(bar.end - begin_s) - start,
        "pid": _PROCESS,
        "tid": track,
        "args": {**bar.args, "input": visible(job.input), "key": job.key},
    }


def _named(what: str, track: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": _PROCESS, "tid": track, "args": args}


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


@final
class _Tracks:
    """Which track each bar is on, in the order of the jobs.

    Attributes:
        begin_s: When the first bar or run begins, in seconds since the epoch.
        end_s: When the last attempt that has ended did.
        of_bars: Numbers of tracks, from 1.
        names: Of the tracks.
    """

    def __init__(self, batch: ReportedBatch, jobs: Jobs) -> None:
        starts, ends, workers = array("d"), array("d"), array("q")
        self.end_s = -math.inf
        known: dict[Worker, int] = {}
        for job in jobs:
            for bar in _bars(batch, job, math.inf):
                starts.append(bar.start)
                ends.append(bar.end)
                workers.append(
                    -1 if bar.worker is None else known.setdefault(bar.worker, len(known))
                )
            self.end_s = max([self.end_s, *(each.end for each in job.attempts)])
        if math.isinf(self.end_s):  # none has ended
            self.end_s = batch.time
        begins = [session.time for session in batch.sessions[:1]]
        self.begin_s = min([*begins, *starts], default=batch.time)
        places: dict[tuple[int, int], int] = {}
        of_bars = array("I", bytes(4 * len(starts)))
        lanes: dict[int, list[float]] = {}
        for at in sorted(range(len(starts)), key=starts.__getitem__):
            ends_of = lanes.setdefault(workers[at], [])
            lane = next((n for n, end in enumerate(ends_of) if end <= starts[at]), len(ends_of))
            ends_of[lane : lane + 1] = [ends[at]]
            of_bars[at] = places.setdefault((workers[at], lane), len(places))
        who = list(known)
        in_order = sorted(
            places,
            key=lambda place: (place[0] < 0, who[place[0]] if place[0] >= 0 else (), place[1]),
        )
        numbers = {places[place]: number for number, place in enumerate(in_order, 1)}
        self.of_bars: Final = array("I", (numbers[place] for place in of_bars))
        self.names: Final = [
            _track_name(None if worker < 0 else who[worker], lane) for worker, lane in in_order
        ]


def _track_name(worker: Worker | None, lane: int) -> str:
    name = "no worker known" if worker is None else f"worker {worker}"
    return f"{name} ({lane + 1})" if lane else name
