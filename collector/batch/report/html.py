"""A batch as one page that needs nothing else: summary, failures, timeline, histograms, all jobs.

Runs in:    any process; pure.
Invariants: I1  nothing that comes from a job is markup or script: it is escaped, and should that
                fail, the page's policy lets only its own script run, by its hash.
            I2  nothing is loaded from anywhere (the same policy).
            I3  summary, failures and histograms can be read without the script; it draws the
                timeline and the table from the rows of data behind them.
            I4  of a name, an input and an error at most `TEXT_CHARS` are in the page, of a log its
                tail, of failures with logs `FAILURES_SHOWN`.
"""

import base64
import hashlib
import html
import json
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

from collector.batch.report.record import (
    FAILED,
    STATUSES,
    Attempt,
    Jobs,
    ReportedBatch,
    ReportedJob,
)
from collector.batch.report.sums import Bar, Spread, Sums
from collector.batch.report.text import (
    clipped,
    in_order,
    one_line,
    plain,
    seconds_text,
    size_text,
    tail_of,
)

ROWS_A_BLOCK: Final = 20_000
"""So many rows are parsed at once: one text of a browser is at most half a gigabyte."""

_OPEN_FAILURES: Final = 10
_TRACEBACK_CHARS: Final = 4000
_HIGH: Final = 130
"""Pixels of the highest bar of a histogram."""

_dump: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def page_pieces(batch: ReportedBatch, jobs: Jobs) -> Iterator[str]:
    """Yield the page in pieces."""
    sums = Sums(batch, jobs)
    style, script = _asset("page.css"), _asset("page.js")
    yield _head(batch, style, script)
    yield from _summary(batch, sums)
    yield from _failures(batch, sums)
    yield _asset("timeline.html")
    yield '<section aria-labelledby="h-spread"><h2 id="h-spread">Seconds and bytes</h2>'
    yield '<div class="pair">'
    yield _histogram("Seconds of a job", sums.seconds, seconds_text)
    yield _histogram("Bytes of an output", sums.sizes, size_text)
    yield "</div></section>\n"
    yield _asset("jobs.html")
    yield from _blocks(batch, sums, jobs)
    yield f"<script>{script}</script>\n</body>\n</html>\n"


def _asset(name: str) -> str:
    return resources.files("collector.batch.report").joinpath(name).read_text("utf-8")


def _head(batch: ReportedBatch, style: str, script: str) -> str:
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    name, what = _shown(batch.name), _shown(batch.what)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{name}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header><h1><bdi>{name}</bdi></h1><p><code>{what}</code></p></header>\n<main>\n"
    )


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _shown(text: str) -> str:
    return html.escape(clipped(one_line(text)))


def _summary(batch: ReportedBatch, sums: Sums) -> Iterator[str]:
    yield '<section aria-labelledby="h-summary"><h2 id="h-summary">Summary</h2>\n'
    yield f'<p class="state">{_state(batch)}</p>\n<ul class="tiles">'
    yield _tile("jobs", "", sums.total)
    for status in STATUSES:
        if sums.statuses[status] or status in STATUSES[:2]:
            yield _tile(status, status, sums.statuses[status])
    if sums.flaky:
        yield _tile("flaky", "flaky", sums.flaky)
    yield "</ul>\n" + _share_bar(sums) + '<dl class="facts">'
    for name, value in _facts(batch, sums):
        yield f"<div><dt>{_shown(name)}</dt><dd>{html.escape(value)}</dd></div>"
    yield "</dl>\n"
    if batch.unreadable:
        lines = "1 line" if batch.unreadable == 1 else f"{batch.unreadable} lines"
        yield (
            f'<p class="note">{lines} of the journal cannot be read and '
            "count as not there; <code>collector verify</code> names them.</p>\n"
        )
    yield "</section>\n"


def _state(batch: ReportedBatch) -> str:
    made = f'<time datetime="{_moment(batch.time, "T")}Z">{_moment(batch.time, " ")} UTC</time>'
    if batch.is_running:
        return f"The batch was running when this page was made, at {made}."
    return f"This page was made at {made}."


def _moment(epoch_s: float, between: str) -> str:
    try:
        return datetime.fromtimestamp(epoch_s, UTC).strftime(f"%Y-%m-%d{between}%H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a journal may say any number
        return f"1970-01-01{between}00:00:00"


def _tile(name: str, status: str, count: int) -> str:
    target = f"#filter=is%3A{status}" if status else "#"
    return (
        f'<li class="tile is-{status or "all"}"><a href="{target}"><b>{count:,}</b> {name}</a></li>'
    )


def _share_bar(sums: Sums) -> str:
    """Return a bar that shows how far the batch is."""
    if not sums.total:
        return ""
    parts, at = [], 0.0
    for status in STATUSES:
        width = 1000 * sums.statuses[status] / sums.total
        parts.append(f'<rect class="is-{status}" x="{at:.2f}" width="{width:.2f}" height="10"/>')
        at += width
    return (
        '<svg class="share" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>\n"
    )


def _facts(batch: ReportedBatch, sums: Sums) -> Iterator[tuple[str, str]]:
    yield "Output", size_text(sums.size)
    if sums.has_begun:
        yield "Time of all attempts", seconds_text(sums.busy_s)
        yield "From first to last", seconds_text(sums.end_s - sums.begin_s)
        yield "Began", f"{_moment(sums.begin_s, ' ')} UTC"
    if sums.retried:
        yield "Tried again", f"{sums.retried:,}"
    if len(batch.sessions) > 1:
        yield "Runs", f"{len(batch.sessions):,}"
    for name, value in sorted(batch.meters.items()):
        yield name, f"{value:,.10g}"


def _failures(batch: ReportedBatch, sums: Sums) -> Iterator[str]:
    if not sums.failures:
        return
    yield '<section aria-labelledby="h-failures"><h2 id="h-failures">Failures</h2>\n'
    for job in sums.failures[:_OPEN_FAILURES]:
        yield _failure(batch, job)
    if rest := sums.failures[_OPEN_FAILURES:]:
        yield f'<details class="more"><summary>{len(rest):,} more</summary>\n'
        for job in rest:
            yield _failure(batch, job)
        yield "</details>\n"
    if (left := sums.statuses[FAILED] - len(sums.failures)) > 0:
        yield (
            f'<p class="note">{left:,} further failures are in the table below, without their '
            "logs.</p>\n"
        )
    yield "</section>\n"


def _failure(batch: ReportedBatch, job: ReportedJob) -> str:
    last = job.last
    reason, took = (_reason(last), seconds_text(last.seconds)) if last else ("", "")
    head = (
        f'<details class="failure" id="{html.escape(job.key)}"><summary>'
        f'<bdi class="name">{_shown(job.name)}</bdi> '
        f'<span class="why">{reason}</span> <span class="took">{took}</span></summary>'
    )
    parts = [head]
    if job.input != job.name:
        parts.append(f"<p>Input: <bdi>{_shown(job.input)}</bdi></p>")
    if len(job.attempts) > 1:
        parts.append(f"<ol>{''.join(map(_attempt, job.attempts))}</ol>")
    tail = tail_of(job.log_tail())
    # That of a process which died has no frames: it says again what is told above, and the log.
    if last and last.traceback and not (tail and "\n  File " not in last.traceback):
        traceback = html.escape(plain(last.traceback)[-_TRACEBACK_CHARS:])
        parts.append(f'<pre aria-label="Traceback" tabindex="0">{traceback}</pre>')
    if tail:
        parts.append(
            "<p>The end of its log:</p>"
            f'<pre aria-label="The end of its log" tabindex="0">{html.escape(tail)}</pre>'
        )
    else:
        parts.append("<p>It has no log.</p>")
    command = f"collector cat {shlex.quote(one_line(batch.name))} {job.key} --log --failed"
    parts.append(f"<p>All of it: <code>{html.escape(command)}</code></p></details>\n")
    return "".join(parts)


def _attempt(attempt: Attempt) -> str:
    return f"<li>{_reason(attempt)}, {seconds_text(attempt.seconds)}</li>"


def _reason(attempt: Attempt) -> str:
    """Say the first line of why an attempt failed."""
    return _shown(attempt.why.lstrip().partition("\n")[0])


def _histogram(title: str, spread: Spread, say: Callable[[float], str]) -> str:
    bars = spread.bars()
    if not bars:
        return f"<figure><figcaption>{title}: none has ended</figcaption></figure>"
    highest = max(bar.jobs for bar in bars)
    width = 600 / len(bars)
    shapes = "".join(
        _bar(bar, number * width, width, highest, say) for number, bar in enumerate(bars)
    )
    least, largest = say(spread.least), say(spread.largest)
    span = least if least == largest else f"{least} to {largest}"
    return (
        f'<figure><figcaption>{title}: {span}</figcaption><p class="ends most">{_jobs(highest)}</p>'
        f'<svg class="spread" viewBox="0 0 600 {_HIGH}" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}, {span}; most of one bar: {_jobs(highest)}">{shapes}</svg>'
        f'<p class="ends"><span>{say(bars[0].low)}</span><span>{say(bars[-1].high)}</span></p>'
        "</figure>"
    )


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"


def _bar(bar: Bar, x: float, width: float, highest: int, say: Callable[[float], str]) -> str:
    if not bar.jobs:
        return ""
    height = max(2.0, _HIGH * bar.jobs / highest)
    red = min(height, max(2.0, _HIGH * bar.failed / highest)) if bar.failed else 0.0
    if bar.high:
        label = f"{say(bar.low)} to {say(bar.high)}: {_jobs(bar.jobs)}"
    else:
        label = f"{say(0)}: {_jobs(bar.jobs)}"
    label += f", {bar.failed:,} failed" if bar.failed else ""
    inner = max(1.0, width - 2)
    return (
        f"<g><title>{label}</title>"
        f'<rect class="is-done" x="{x + 1:.1f}" y="{_HIGH - height:.1f}" width="{inner:.1f}" '
        f'height="{height - red:.1f}"/>'
        f'<rect class="is-failed" x="{x + 1:.1f}" y="{_HIGH - red:.1f}" width="{inner:.1f}" '
        f'height="{red:.1f}"/></g>'
    )


def _blocks(batch: ReportedBatch, sums: Sums, jobs: Jobs) -> Iterator[str]:
    """Yield the rows of data for the script, as JSON in blocks that no browser runs."""
    facts = {
        "dir": shlex.quote(clipped(one_line(batch.name))),
        "begin": sums.begin_s,
        "time": batch.time,
        "end": sums.end_s,
        "statuses": STATUSES,
        "unlisted": sums.total,
    }
    yield f'<script type="application/json" id="facts">{_data(facts)}</script>\n'
    block: list[str] = []
    for job in jobs:
        block.append(_data(_row(job, sums.begin_s)))
        if len(block) == ROWS_A_BLOCK:
            yield _block(block)
            block = []
    yield _block(block)


def _block(rows: list[str]) -> str:
    text = ",\n".join(rows)
    return f'<script type="application/json" class="rows">[{text}]</script>\n'


def _data(value: Any) -> str:
    # "<" is all that can end or change the state of a script element.
    return _dump(value).replace("<", "\\u003c")


def _row(job: ReportedJob, begin_s: float) -> list[Any]:
    name = clipped(one_line(job.name))
    given = 0 if job.input == job.name else clipped(one_line(job.input))
    attempts = [
        [
            each.number,
            each.status,
            round(each.start - begin_s, 4),
            round(each.seconds, 6),
            None if each.worker is None else str(each.worker),
            each.exitcode,
            each.size,
            clipped(in_order(each.why)) if each.kind or each.error else "",
        ]
        for each in job.attempts
    ]
    row: list[Any] = [job.key, name, given, STATUSES.index(job.status), attempts]
    if job.since is not None or job.meters:
        since = None if job.since is None else round(job.since - begin_s, 4)
        row += [since, {clipped(one_line(meter)): value for meter, value in job.meters.items()}]
    return row
