"""Read a whole journal into a table, a million lines in seconds.

Most lines are those of attempts whose bytes lie in packs, as `lines.encode` writes them: one
regular expression tells whether a line is exactly that, and finds the few fields that are needed.
Before it, a job that took more than a second has a line that says that it has started: another
expression finds these. All others are decoded as JSON.

Runs in:    any process.
Invariants: I1  a line that an expression matches decodes, to the same fields
                (`tests/batch/test_scan.py`).
            I2  a line whose bytes are not all there counts as not there.
            I3  no line ends the reading.
"""

import itertools
import json
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol, cast, final

from collector.batch import lines
from collector.batch.lines import Ended, Packed, Place
from collector.batch.table import Line, Table

BAD_LINES_TOLD: Final = 10
"""So many lines that cannot be read are described; the rest is counted."""

_CHUNK_BYTES: Final = 48 * 1024
"""So many are read at once, 128 lines or so; a line may be as long as an input is."""

_PART: Final = 16
"""So many of them are tried at once if not all are."""

_NO_PACK: Final = b"0"
"""Where no bytes were written; packs are numbered from 1."""

_WHOLE = rb"(?!0[0-9])[0-9]{1,18}+"
_PLAIN = rb"[ !#-\[\]-~]*+"
_TEXT = rb'"%b(?:\\(?:["\\/bfnrt]|u[0-9a-f]{4})%b)*+"' % (_PLAIN, _PLAIN)
_PLACE = rb'(?:null|\{"pack":([1-9][0-9]{0,8}),"at":(%b),"bytes":(%b)\})' % (_WHOLE, _WHOLE)
_METER = rb"%b:-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,17})?" % _TEXT
_METERS = rb"\{\}|\{%b(?:,%b)*\}" % (_METER, _METER)
_TIME = rb"(?!0[0-9])[0-9]{1,12}+(?:\.[0-9]{1,%d}+)?"
_SIMPLE: Final = re.compile(
    rb'\{"event":"ended","key":"([0-9a-f]{32})","attempt":([1-9][0-9]{0,8}),'
    rb'"status":"(done|error|crash|timeout|killed|oom)","seq":(%b),'
    rb'"start":(%b),"end":(%b),'
    rb'"worker":(?:null|%b),"exit":(?:null|-?%b),'
    rb'"out":%b,"log":%b,"value":%b,'
    rb'"meters":(%b),"keeps":(?:true|false),'
    rb'"before":(?:null|\{"shard":"[A-Za-z0-9_.-]{1,64}","at":%b\}),'
    rb'"error":(?:null|\{"type":%b,"text":%b,"traceback":%b\}),'
    rb'"name":%b,"input":%b\}\n'
    % (
        _WHOLE,
        _TIME % 6,
        _TIME % 6,
        _WHOLE,
        _WHOLE,
        _PLACE,
        _PLACE,
        _PLACE,
        _METERS,
        _WHOLE,
        *[_TEXT] * 5,
    )
)
_BEGUN: Final = re.compile(
    rb'\{"event":"started","key":"([0-9a-f]{32})","attempt":[1-9][0-9]{0,8},"seq":(%b),'
    rb'"time":%b,"name":%b,"input":%b\}\n' % (_WHOLE, _TIME % 17, _TEXT, _TEXT)
)


class Stored(Protocol):
    """What there is beside a journal."""

    def pack_size(self, pack: int, least: int) -> int:
        """Return the size of a pack; look again if it is less than that."""

    def missing(self, place: Place) -> str:
        """Say what is not there of a file; "" if all is."""


@final
@dataclass(slots=True)
class Findings:
    """What came of reading, beside the table."""

    runs: list[tuple[int, lines.Run]] = field(default_factory=list)
    """With the number of the shard, in the order of reading: shard by shard."""
    seconds: float = 0.0
    meters: Counter[str] = field(default_factory=Counter)
    has_spent: bool = False
    """Whether some of them are of attempts that no line tells the end of."""
    bad: int = 0
    bad_lines: list[str] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    """Shards whose last process has said that it left."""
    saving: dict[str, lines.Saving] = field(default_factory=dict)
    """Files of the user's that may have been written, and no line says so; by key."""
    short_packs: dict[int, int] = field(default_factory=dict)
    """The last pack of each shard that lacks bytes which some line promises."""

    @property
    def inputs(self) -> int | None:
        """How many inputs the run had that began last, if that is known."""
        last = dict(self.runs)  # of each shard: there the order is that of the lines, not of times
        return max(last.values(), key=lambda run: run.time).inputs if last else None

    def short(self, shard: int, pack: int) -> None:
        """A pack lacks bytes which a line promises, if only of an attempt that others followed."""
        self.short_packs[shard] = max(pack, self.short_packs.get(shard, 0))

    def ended(self, key: str, attempt: int) -> None:
        """A line says how an attempt has ended: what it may have written is no question now."""
        begun = self.saving.get(key)
        if begun is not None and begun.attempt <= attempt:
            del self.saving[key]


@final
class Scan:
    """Reads the journals of a batch, one after the other.

    Args:
        table: Is filled.
        findings: So is this.
    """

    def __init__(self, table: Table, findings: Findings) -> None:
        self._table = table
        self._findings = findings
        self._sizes: dict[bytes, int] = {}
        self._began_us = 0
        """When the run began that wrote the lines, or one before it, should the clock say less."""
        self._torn = False
        self._shard, self._name = 0, ""
        self._stored: Stored

    def read(self, number: int, name: str, journal: BinaryIO, stored: Stored) -> int:
        """Read a journal to its end, or to a line that is torn.

        Args:
            number: Of the shard, in the order of reading.
            name: Of the shard.
            journal: From its beginning.
            stored: What lies beside it.

        Returns:
            Where its last whole line ends.
        """
        self._findings.left.add(number)
        self._sizes.clear()
        self._shard, self._name, self._stored = number, name, stored
        self._began_us = 0
        self._torn = False
        at = 0
        while chunk := journal.readlines(_CHUNK_BYTES):
            at = self._read(chunk, [_SIMPLE.fullmatch(line) for line in chunk], at)
            if self._torn:
                break
        return at

    def _read(self, chunk: list[bytes], found: list["re.Match[bytes] | None"], at: int) -> int:
        """Read these lines at once, or else in parts, or one by one; return where they end."""
        if None not in found and self._first(chunk, cast("list[re.Match[bytes]]", found), at):
            return at + sum(map(len, chunk))
        if len(chunk) > _PART:
            for first in range(0, len(chunk), _PART):
                part = slice(first, first + _PART)
                at = self._read(chunk[part], found[part], at)
                if self._torn:
                    break
            return at
        for line, match in zip(chunk, found, strict=True):
            if not line.endswith(b"\n"):
                # Behind it may be what another process has just written: first of all its rest.
                self._torn = True
                self._bad(self._name, at, "the line is torn")
                return at
            self._one(line, match, Line(self._shard, at))
            at += len(line)
        return at

    def _one(self, line: bytes, match: "re.Match[bytes] | None", where: Line) -> None:
        """Take in a line that is whole; that a job has started, or ended again, without JSON."""
        if match is not None:
            self._matched(match, where)
            return
        begun = _BEGUN.fullmatch(line)
        if begun is None:
            self._other(line, where, self._name, self._stored)
            return
        self._started(begun[1].decode(), int(begun[2]))

    def _started(self, key: str, seq: int) -> None:
        table = self._table
        row = table.row(key)
        table.place(row, seq, self._began_us)
        table.started(row)

    def _matched(self, match: "re.Match[bytes]", where: Line) -> None:
        """Take in the end of an attempt, as `_ended` does, from what was matched of its line."""
        key, attempt, status, seq, start, end, *places, meters = match.groups(_NO_PACK)
        self._end(
            key.decode(),
            int(attempt),
            int(seq),
            where,
            succeeded=status == b"done",
            took_s=float(end) - float(start),
            meters={} if meters == b"{}" else json.loads(meters),
            size=int(places[2]),
            lost=not (
                self._holds(*places[0:3])
                and self._holds(*places[3:6])
                and self._holds(*places[6:9])
            ),
        )

    def _holds(self, pack: bytes, at: bytes, size: bytes) -> bool:
        """Tell whether a pack is long enough for what lies there."""
        if pack == _NO_PACK:
            return True
        ends = int(at) + int(size)
        return ends <= self._sizes.get(pack, -1) or self._has(pack, ends, self._stored)

    def _first(self, chunk: list[bytes], found: list["re.Match[bytes]"], at: int) -> bool:
        """Take in first attempts whose bytes are all there; if others are among them, none: False.

        Column by column, in few steps of Python's own: a million lines come here.
        """
        columns = zip(*[match.groups(_NO_PACK) for match in found], strict=True)
        (keys, attempts, statuses, seqs, starts, ends, *places, meters) = columns
        findings, table = self._findings, self._table
        numbers = [int(key, 16) for key in keys]
        if not table.knows_none_of(numbers):
            return False
        if not (self._have(*places[0:3]) and self._have(*places[3:6]) and self._have(*places[6:9])):
            return False
        table.first(
            numbers,
            Line(self._shard, at),
            map(len, chunk[:-1]),
            map(int, attempts) if set(attempts) != {b"1"} else itertools.repeat(1, len(attempts)),
            map(int, seqs),
            map(int, places[2]),
            len(findings.runs),
            map(b"done".__eq__, statuses),
            self._began_us,
        )
        if findings.saving:
            for key, attempt in zip(keys, attempts, strict=True):
                findings.ended(key.decode(), int(attempt))
        took = list(map(operator.sub, map(float, ends), map(float, starts)))
        findings.seconds += sum(took) if min(took) >= 0 else sum(s for s in took if s > 0)
        for counted in meters:
            if counted != b"{}":
                findings.meters.update(json.loads(counted))
        return True

    def _have(
        self, packs: Sequence[bytes], offsets: Sequence[bytes], sizes: Sequence[bytes]
    ) -> bool:
        """Tell whether these packs are long enough for what lies in them."""
        named = set(packs) - {_NO_PACK}
        if not named:
            return True
        least = min([self._sizes.get(pack, -1) for pack in named])
        if _at_most(offsets) + _at_most(sizes) <= least:
            return True  # as nearly always; else each of them is looked at
        ends = list(map(operator.add, map(int, offsets), map(int, sizes)))
        for pack in named:
            last = max(
                ends if len(set(packs)) == 1 else itertools.compress(ends, map(pack.__eq__, packs))
            )
            if last > self._sizes.get(pack, -1) and not self._has(pack, last, self._stored):
                return False
        return True

    def _has(self, pack: bytes, ends: int, stored: Stored) -> bool:
        """Look how long a pack is; tell whether that is enough."""
        size = self._sizes[pack] = stored.pack_size(int(pack), ends)
        if ends > size:
            self._findings.short(self._shard, int(pack))
        return ends <= size

    def _other(self, line: bytes, where: Line, name: str, stored: Stored) -> None:
        try:
            event = lines.decode(line)
        except ValueError as error:
            self._bad(name, where.at, str(error))
            return
        self._take(event, where, stored)

    def _take(  # noqa: C901 - one case a kind
        self, event: lines.Event | None, where: Line, stored: Stored
    ) -> None:
        findings, table = self._findings, self._table
        match event:
            case Ended():
                self._ended(event, where, stored)
            case lines.Started(key=key, seq=seq):
                self._started(key, seq)
            case lines.Position(key=key, seq=seq):
                table.place(table.row(key), seq, self._began_us)
            case lines.Saving(key=key):
                findings.saving[key] = event
            case lines.Run():
                findings.runs.append((where.shard, event))
                findings.left.discard(where.shard)
                self._began_us = max(self._began_us, round(event.time * 1_000_000))
            case lines.Spent():
                findings.meters.update(event.meters)
                findings.has_spent = True
            case lines.Left():
                findings.left.add(where.shard)
            case None:
                pass  # of a later minor version

    def _ended(self, event: Ended, where: Line, stored: Stored) -> None:
        lost = bool(missing_of(event, stored))
        for place in (event.out, event.log, event.value) if lost else ():
            if isinstance(place, Packed) and missing(place, stored):
                self._findings.short(where.shard, place.pack)
        self._end(
            event.key,
            event.attempt,
            event.seq,
            where,
            succeeded=event.status == "done",
            took_s=event.end - event.start,
            meters=event.meters,
            size=event.out.size if event.out else 0,
            lost=lost,
        )

    def _end(  # noqa: PLR0913 - what counts of a line
        self,
        key: str,
        attempt: int,
        seq: int,
        where: Line,
        *,
        succeeded: bool,
        took_s: float,
        meters: Mapping[str, float],
        size: int,
        lost: bool,
    ) -> None:
        findings, table = self._findings, self._table
        findings.seconds += max(0.0, took_s)
        if meters:
            findings.meters.update(meters)
        findings.ended(key, attempt)
        row = table.row(key)
        table.place(row, seq, self._began_us)
        table.ended(
            row,
            where,
            attempt,
            succeeded=succeeded,
            size=size,
            lost=lost,
            run=len(findings.runs),
        )

    def _bad(self, name: str, at: int, reason: str) -> None:
        self._findings.bad += 1
        if self._findings.bad <= BAD_LINES_TOLD:
            self._findings.bad_lines.append(f"shard {name}, byte {at}: {reason}")


def _at_most(numbers: Sequence[bytes]) -> int:
    """Return what none of these exceeds, without a look at each: but for 0, none begins with 0."""
    return int(max(numbers).ljust(max(map(len, numbers)), b"9"))


def missing_of(event: Ended, stored: Stored) -> str:
    """Say what is not there of the bytes of an attempt; "" if all is."""
    for what, place in (("output", event.out), ("log", event.log), ("value", event.value)):
        if place is not None and (reason := missing(place, stored)):
            return f"its {what}: {reason}"
    return ""


def missing(place: Place, stored: Stored) -> str:
    """Say what is not there of a place; "" if all is."""
    if isinstance(place, Packed):
        ends = place.at + place.size
        size = stored.pack_size(place.pack, ends)
        if size < 0:
            return f"pack-{place.pack:06} is gone"
        return (
            f"pack-{place.pack:06} has {size} bytes where {ends} were written"
            if size < ends
            else ""
        )
    return stored.missing(place)


def meters_of(counted: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    """Sum up the meters of several attempts."""
    total: Counter[str] = Counter()
    for meters in counted:
        total.update(meters)
    return dict(total)
