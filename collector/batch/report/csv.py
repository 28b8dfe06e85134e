"""A batch as a table: one row a job, for spreadsheets and data frames.

Runs in:    any process; pure.
Invariants: I1  a row has as many fields as the head, whatever a job is named.
            I2  no text of a job is a formula to a spreadsheet: one that begins as a formula does,
                and is no number, has an apostrophe in front.
Source:     RFC 4180; OWASP on CSV injection.
"""

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from collector.batch.report.record import Jobs, ReportedBatch, ReportedJob
from collector.batch.report.text import visible

HEAD: Final = (
    "key",
    "name",
    "input",
    "status",
    "attempts",
    "result",
    "exit",
    "start",
    "end",
    "seconds",
    "total_seconds",
    "bytes",
    "worker",
    "error_type",
    "error",
)
"""`status` is the job's, `result` that of its last attempt; `seconds` that one's, `total_seconds`
those of all attempts."""

_FORMULA: Final = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def csv_pieces(batch: ReportedBatch, jobs: Jobs) -> Iterator[str]:
    """Yield the table in pieces, the head first; each meter has a column behind the others."""
    yield _row([*HEAD, *(_text(f"meter {name}") for name in batch.meters)])
    for job in jobs:
        yield _row([*_fields(job), *(job.meters.get(name, "") for name in batch.meters)])


def _fields(job: ReportedJob) -> list[object]:
    fields: list[object] = [job.key, _text(job.name), _text(job.input), job.status]
    last = job.last
    if last is None:
        since = "" if job.since is None else _time(job.since)
        return [*fields, 0, "", "", since, *[""] * (len(HEAD) - 8)]
    return [
        *fields,
        len(job.attempts),
        last.status,
        "" if last.exitcode is None else last.exitcode,
        _time(last.start),
        _time(last.end),
        f"{last.seconds:.6f}",
        f"{sum(each.seconds for each in job.attempts):.6f}",
        last.size,
        "" if last.worker is None else _text(str(last.worker)),
        _text(last.kind),
        _text(last.error),
    ]


def _time(epoch_s: float) -> str:
    try:
        return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError, OSError):  # a journal may say any number
        return f"{epoch_s:.6f}"


def _text(text: str) -> str:
    shown = visible(text)
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown) else shown


def _row(fields: list[object]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(fields)
    return line.getvalue()
