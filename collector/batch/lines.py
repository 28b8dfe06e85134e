"""The lines of a journal: JSON objects, one a line, each whole or not there.

Runs in:    any process; pure.
Invariants: I1  what `encode` makes of an event, `decode` makes the same event of; a meter beyond
                its bound is written as that.
            I2  a line whose key, name or numbers have not the stated form is no event.
            I3  an event of a kind that is not known is passed over: it is one of a later minor
                version.
            I4  nothing in an event leads out of the batch directory, but the name that the user
                gave a saved file.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from collector.wire.remarks import LARGEST as LARGEST_METER

STATUSES: Final = frozenset({"done", "error", "crash", "timeout", "killed", "oom"})
"""How an attempt may have ended."""

LATEST_S: Final = 1e12
"""Of a time, in seconds since the epoch, some thirty thousand years: sums and differences of times
stay numbers that a float holds."""

_KEY: Final = re.compile(r"[0-9a-f]{32}")
_FILE: Final = re.compile(
    r"([0-9a-f]{2})/(\1[0-9a-f]{30})\.[0-9]{1,9}(-[0-9a-f]+)?\.(out|log|value)"
)
_SHARD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LARGEST: Final = 2**62


class Packed(NamedTuple):
    """Bytes in a pack."""

    pack: int
    at: int
    size: int


class Filed(NamedTuple):
    """Bytes in a file of the batch directory."""

    name: str
    """Relative to the shard's `files`."""
    size: int


class Saved(NamedTuple):
    """Bytes in a file of the user's."""

    path: str
    size: int


Place = Packed | Filed | Saved


class Error(NamedTuple):
    """Why an attempt failed, for people; the exception itself lies where the value would."""

    kind: str
    text: str
    traceback: str


class Where(NamedTuple):
    """A line of a journal of this batch."""

    shard: str
    at: int


class Ended(NamedTuple):
    """An attempt has ended, and its bytes are in their places."""

    key: str
    attempt: int
    status: str
    seq: int
    """Position of the input in its run, from 0."""
    start: float
    """Seconds since the epoch, as `end`."""
    end: float
    worker: int | None = None
    exitcode: int | None = None
    """Of the process, if one died: a negative one is a signal."""
    out: Place | None = None
    log: Place | None = None
    value: Place | None = None
    """The pickled value, or the pickled exception of an attempt that failed."""
    meters: Mapping[str, float] = {}
    keeps: bool = False
    """Whether the outputs of earlier attempts stay."""
    before: Where | None = None
    """The line of the attempt before."""
    error: Error | None = None
    name: str = ""
    input: str = ""


class Run(NamedTuple):
    """A process began to write here."""

    pid: int
    host: str
    time: float
    version: str
    python: str
    inputs: int | None
    source: str | None
    """Hash of what is run, if it could be had."""


class Started(NamedTuple):
    """An attempt has run for a second."""

    key: str
    attempt: int
    seq: int
    time: float
    name: str
    input: str


class Position(NamedTuple):
    """Where an input stands by now; with its text if it is new."""

    key: str
    seq: int
    name: str | None = None
    input: str | None = None


class Saving(NamedTuple):
    """A file of the user's name is about to be written."""

    key: str
    attempt: int
    path: str
    size: int
    mark: str | None = None
    """What it is known by (`store.output.digest.mark_of`); None in a line of an older version."""


class Spent(NamedTuple):
    """What attempts of a job have counted of which no line says how they ended."""

    key: str
    meters: Mapping[str, float]


LEFT_EARLY: Final = "left before its end"
"""How a process has left that did not come to the end of its inputs, or has ended jobs itself."""


class Left(NamedTuple):
    """The process has ended its work here."""

    time: float
    how: str


Event = Ended | Run | Started | Position | Saving | Spent | Left

_dump: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode(event: Event) -> bytes:
    """Return an event as a line."""
    fields: dict[str, Any]
    match event:
        case Ended():
            fields = _ended_fields(event)
        case Run():
            fields = {"event": "run", **event._asdict()}
        case Started():
            fields = {"event": "started", **event._asdict()}
        case Position():
            fields = {"event": "input", **event._asdict()}
        case Saving(path=path, size=size):
            at = {"saved": path, "bytes": size}
            fields = {"event": "saving", "key": event.key, "attempt": event.attempt, "out": at}
            fields["mark"] = event.mark
        case Spent():
            fields = {"event": "spent", "key": event.key, "meters": _meter_fields(event.meters)}
        case _:
            fields = {"event": "left", **event._asdict()}
    return _dump(fields).encode() + b"\n"


def _ended_fields(event: Ended) -> dict[str, Any]:
    before, error = event.before, event.error
    return {
        "event": "ended",
        "key": event.key,
        "attempt": event.attempt,
        "status": event.status,
        "seq": event.seq,
        "start": round(event.start, 6),
        "end": round(event.end, 6),
        "worker": event.worker,
        "exit": event.exitcode,
        "out": _place_fields(event.out),
        "log": _place_fields(event.log),
        "value": _place_fields(event.value),
        "meters": _meter_fields(event.meters),
        "keeps": event.keeps,
        "before": None if before is None else {"shard": before.shard, "at": before.at},
        "error": None
        if error is None
        else {"type": error.kind, "text": error.text, "traceback": error.traceback},
        "name": event.name,
        "input": event.input,
    }


def _place_fields(place: Place | None) -> dict[str, Any] | None:
    match place:
        case None:
            return None
        case Packed(pack, at, size):
            return {"pack": pack, "at": at, "bytes": size}
        case Filed(name, size):
            return {"file": name, "bytes": size}
        case Saved(path, size):
            return {"saved": path, "bytes": size}


def decode(line: bytes) -> Event | None:
    """Return the event of a line; None if it is of a kind that is not known.

    Args:
        line: With its end.

    Raises:
        ValueError: It is torn, or not of the stated form.
    """
    if not line.endswith(b"\n"):
        raise ValueError("the line is torn")
    try:
        fields = json.loads(line)
        return _event(fields)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"a field is missing or of a wrong kind: {error}") from None


def _event(fields: Any) -> Event | None:
    kind = _string(fields["event"])
    return _READERS[kind](fields) if kind in _READERS else None


def _ended(fields: Any) -> Ended:
    key, status = _key(fields["key"]), _string(fields["status"])
    if status not in STATUSES:
        raise ValueError("its status is not known")
    worker, exitcode, error, before = (
        fields[name] for name in ("worker", "exit", "error", "before")
    )
    return Ended(
        key,
        _whole(fields["attempt"], 1),
        status,
        _whole(fields["seq"]),
        _time(fields["start"]),
        _time(fields["end"]),
        None if worker is None else _whole(worker),
        None if exitcode is None else _whole(exitcode, -_LARGEST),
        _place(fields["out"], key),
        _place(fields["log"], key),
        _place(fields["value"], key),
        _meters(fields["meters"]),
        _truth(fields["keeps"]),
        None if before is None else Where(_shard(before["shard"]), _whole(before["at"])),
        None
        if error is None
        else Error(*(_string(error[name]) for name in ("type", "text", "traceback"))),
        _string(fields["name"]),
        _string(fields["input"]),
    )


def _run(fields: Any) -> Run:
    inputs, source = fields["inputs"], fields["source"]
    return Run(
        _whole(fields["pid"]),
        _string(fields["host"]),
        _time(fields["time"]),
        _string(fields["version"]),
        _string(fields["python"]),
        None if inputs is None else _whole(inputs),
        None if source is None else _string(source),
    )


def _started(fields: Any) -> Started:
    return Started(
        _key(fields["key"]),
        _whole(fields["attempt"], 1),
        _whole(fields["seq"]),
        _time(fields["time"]),
        _string(fields["name"]),
        _string(fields["input"]),
    )


def _position(fields: Any) -> Position:
    name, text = fields.get("name"), fields.get("input")
    return Position(
        _key(fields["key"]),
        _whole(fields["seq"]),
        None if name is None else _string(name),
        None if text is None else _string(text),
    )


def _saving(fields: Any) -> Saving:
    key, mark = _key(fields["key"]), fields.get("mark")
    match _place(fields["out"], key):
        case Saved(path, size):
            mark = None if mark is None else _string(mark)
            return Saving(key, _whole(fields["attempt"], 1), path, size, mark)
        case _:
            raise ValueError("it is saved nowhere")


def _spent(fields: Any) -> Spent:
    return Spent(_key(fields["key"]), _meters(fields["meters"]))


def _left(fields: Any) -> Left:
    return Left(_time(fields["time"]), _string(fields["how"]))


_READERS: Final[Mapping[str, Callable[[Any], Event]]] = {
    "ended": _ended,
    "run": _run,
    "started": _started,
    "input": _position,
    "saving": _saving,
    "spent": _spent,
    "left": _left,
}


def _place(fields: Any, key: str) -> Place | None:
    if fields is None:
        return None
    size = _whole(fields["bytes"])
    if "pack" in fields:
        return Packed(_whole(fields["pack"], 1), _whole(fields["at"]), size)
    if "file" in fields:
        name = _string(fields["file"])
        found = _FILE.fullmatch(name)
        if found is None or found[2] != key:
            raise ValueError("its file is none of this job's")
        return Filed(name, size)
    path = _string(fields["saved"])
    if not path or "\0" in path:
        raise ValueError("the name of its saved file is none")
    return Saved(path, size)


def _key(value: Any) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError("its key is none")
    return str(value)


def _shard(value: Any) -> str:
    if not _SHARD.fullmatch(value):
        raise ValueError("its shard is none")
    return str(value)


def _string(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("a text is none")
    return value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("a truth value is none")
    return value


def _whole(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= _LARGEST:
        raise ValueError("a whole number is none, or out of its range")
    return value


def _time(value: Any) -> float:
    return _number(value, 0, LATEST_S)


def _meters(value: Any) -> dict[str, float]:
    if type(value) is not dict:
        raise ValueError("its meters are none")
    return {
        _string(name): _number(number, -LARGEST_METER, LARGEST_METER)
        for name, number in value.items()
    }


def _meter_fields(meters: Mapping[str, float]) -> dict[str, float]:
    """Return what is written of sums, each part of which may be as large as `_meters` reads."""
    return {name: max(-LARGEST_METER, min(sum_, LARGEST_METER)) for name, sum_ in meters.items()}


def _number(value: Any, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError("a number is none, or out of its range")
    return float(value)
