"""The lines that stay: one for an event, and those at the end of a batch.

Runs in:    anywhere: values in, texts out.
Invariants: I1  a text is one line, moves no cursor and rings no bell, whatever names, reasons and
                what jobs printed hold.
            I2  a text is no wider than it may be: the name loses its beginning, for the numbers are
                at its end, and only then the reason its end.
"""

import re
from collections.abc import Sequence
from typing import Final

from collector import settings
from collector.escapes import escaped
from collector.progress.ends import Ended, How
from collector.progress.tally import Late, LateJob, LeftOut, Said
from collector.progress.text import beginning, columns_of, shortened, size_text
from collector.progress.view import ShownJob

NARROW_COLUMNS: Final = 60
"""With less, a line has no indent, no brackets and no size."""

_NARROWEST: Final = 40
"""With less, not even a time."""

_STATUS_COLUMNS: Final = 12
_NAME_COLUMNS: Final = 8
_INDENT: Final = "    "
_COLOURS: Final = {
    "FAIL": "31;1",
    "TRY": "33;1",
    "FLAKY": "33;1",
    "SLOW": "33;1",
    "QUIET": "33;1",
    "INTERRUPTED": "35;1",
    "PASS": "32;1",
}
"""After the first word of a status; as nextest has them."""


def status_of(ended: Ended) -> str:
    """Return what a person reads first of an end."""
    match ended.how:
        case How.INTERRUPTED:
            return "INTERRUPTED"
        case How.FAILED:
            return f"TRY {ended.attempt} FAIL" if ended.again else "FAIL"
        case How.PASSED if ended.resumed:
            return "DONE BEFORE"
        case How.PASSED if ended.attempt > 1:
            of = "" if ended.attempts is None else f"/{ended.attempts}"
            return f"FLAKY {ended.attempt}{of}"
        case How.PASSED:
            return "PASS"


def end_text(ended: Ended, columns: int | None, *, colour: bool = False) -> str:
    """Return the line of an end.

    Args:
        ended: What has ended.
        columns: How wide it may be; None for as wide as it is.
        colour: Colour the status.
    """
    facts = (seconds_text(ended.seconds), size_text(ended.size_bytes))
    return line_text(status_of(ended), facts, (ended.name, ended.why), columns, colour=colour)


def line_text(
    status: str,
    facts: tuple[str, str],
    said: tuple[str, str],
    columns: int | None,
    *,
    colour: bool = False,
) -> str:
    """Return a line.

    Args:
        status: What has happened.
        facts: A time and a size; either may be empty.
        said: A name, and a reason or "".
        columns: As in `end_text`.
        colour: As in `end_text`.
    """
    time, size = facts
    if columns is not None and columns < NARROW_COLUMNS:
        before, after = status, f" {time.strip()} " if time and columns >= _NARROWEST else " "
    else:
        before = f"{status:>{_STATUS_COLUMNS}}"
        after = (f" [{time:>9}]" if time else "") + (f" {size:>6}" if size else "") + "  "
    room = None if columns is None else columns - len(before + after)
    return (
        _coloured(before, status, colour) + after + _named(escaped(said[0]), escaped(said[1]), room)
    )


def said_text(said: Said, columns: int | None, *, colour: bool = False) -> str:
    """Return the line of whatever has one; arguments as for `end_text`."""
    match said:
        case Ended():
            return end_text(said, columns, colour=colour)
        case LateJob():
            job = said.job
            seconds = job.elapsed_s if said.what is Late.SLOW else job.quiet_s
            facts = (f"> {seconds_text(seconds)}", size_text(job.size_bytes))
            return line_text(said.what, facts, (_attempted(job), ""), columns, colour=colour)
        case LeftOut():
            more = f"... and {said.number} more {said.what}"
            return line_text("", ("", ""), (more, ""), columns)


def running_texts(job: ShownJob, last_line: bytes, columns: int | None) -> list[str]:
    """Return the line of a running job, and the last one that it has printed."""
    facts = (seconds_text(job.elapsed_s), size_text(job.size_bytes))
    first = line_text("RUNNING", facts, (_attempted(job), ""), columns)
    return [
        first,
        *(
            text if columns is None else beginning(text, columns)
            for text in tail_texts(last_line, 1)
        ),
    ]


def rows_of(text: str, columns: int) -> int:
    """Return how many rows of a terminal a text takes."""
    text = _COLOUR.sub("", text)
    if text.isascii():
        return max(1, -(-len(text) // columns))
    rows, room = 1, columns
    for char in text:
        width = columns_of(char)
        if width > room:  # a wide letter never begins in the last column
            rows, room = rows + 1, columns
        room -= width
    return rows


def tail_texts(tail: bytes, lines: int) -> list[str]:
    """Return the last lines of what a job printed, indented."""
    found = tail.decode("utf-8", "backslashreplace").splitlines()
    while found and not found[-1].strip():
        found.pop()
    return [f"{_INDENT}{escaped(text.expandtabs())}" for text in found[-lines:]]


def summary_text(counts: Sequence[tuple[int, str]], seconds: float, size_bytes: int) -> str:
    """Return the one line that sums a batch up.

    Args:
        counts: How many of what; the first is of all, and is said also if it is 0.
        seconds: How long the batch took.
        size_bytes: What its jobs wrote.
    """
    (whole, what), *parts = counts
    said = ", ".join(f"{count} {part}" for count, part in parts if count)
    after = f": {said}" if said else ""
    before = f"{'Summary':>{_STATUS_COLUMNS}} [{seconds_text(seconds):>9}]"
    return f"{before} {size_text(size_bytes):>6}  {whole} {what}{after}"


def seconds_text(seconds: float) -> str:
    """Return a time: `0.004s`, `61.3s`, `2h03m05s`."""
    if seconds < 9.9995:  # noqa: PLR2004 - what is rounded to 10.000
        return f"{seconds:.3f}s"
    if seconds < 599.95:  # noqa: PLR2004 - ten minutes
        return f"{seconds:.1f}s"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m{left:02d}s" if hours else f"{minutes}m{left:02d}s"


def for_workflow(text: str) -> str:
    """Return a line in which GitHub Actions finds no command of its own."""
    text = text.replace("##[", "## [")
    return text if not text.lstrip().startswith("::") else text.replace("::", ": :", 1)


def group_texts(title: str, texts: Sequence[str]) -> list[str]:
    """Return lines that GitHub Actions folds under a title."""
    return [f"::group::{for_workflow(title).replace('%', '%25')}", *texts, "::endgroup::"]


def _attempted(job: ShownJob) -> str:
    return job.name if job.attempt == 1 else f"{job.name} (attempt {job.attempt})"


def _named(name: str, why: str, room: int | None) -> str:
    if len(name) > settings.NAME_CHARS:
        name = f"…{name[-settings.NAME_CHARS :]}"
    if len(why) > settings.NAME_CHARS:
        why = f"{why[: settings.NAME_CHARS]}…"
    reason = f": {why}" if why else ""
    if room is None or columns_of(name + reason) <= room:
        return name + reason
    most = max(1, min(columns_of(name), max(_NAME_COLUMNS, room // 2)))
    name = shortened(name, max(most, room - columns_of(reason)))
    return beginning(name + reason, room)


_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")


def _coloured(text: str, status: str, colour: bool) -> str:
    code = _COLOURS.get(status.split(" ", 1)[0])
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text
