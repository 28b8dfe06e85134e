"""A batch as JUnit's XML, which CI servers read: one case a job.

Runs in:    any process; pure.
Invariants: I1  the file is valid against the schema of Jenkins' xunit plug-in (junit-10), which
                pytest's and Maven's files keep, too.
            I2  the counts of the suite are those of its cases.
States:     done                a case that passed; one that had failed before is flaky: a
                                `flakyFailure` or `flakyError` for each attempt that failed
            failed              `failure` if the function or command failed, `error` if the process
                                crashed, took too long or was killed; `rerunFailure` or
                                `rerunError` for each attempt before
            interrupted         `error`
            running, waiting    `skipped`; `rerunFailure` or `rerunError` for each attempt before
Source:     Maven Surefire's elements for reruns.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, final
from xml.sax.saxutils import escape, quoteattr

from collector.batch.report.record import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    WAITING,
    Attempt,
    Jobs,
    ReportedBatch,
    ReportedJob,
)
from collector.batch.report.text import plain, tail_of, visible

_ENDS: Final = {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"}
_UNDONE: Final = {
    RUNNING: "it is running",
    WAITING: "it has not run yet",
    INTERRUPTED: "it was started and has never ended",
}


def junit_pieces(batch: ReportedBatch, jobs: Jobs) -> Iterator[str]:
    """Yield the document in pieces."""
    counts = _Counts(jobs)
    in_short = (
        f' tests="{counts.tests}" failures="{counts.failures}" errors="{counts.errors}"'
        f' time="{counts.seconds:.3f}"'
    )
    name = _quoted(batch.name)
    yield f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name={name}{in_short}>\n'
    yield f'<testsuite name={name}{in_short} skipped="{counts.skipped}"'
    if batch.sessions:
        yield f' timestamp="{_timestamp(batch.sessions[0].time)}"'
        yield f" hostname={_quoted(batch.sessions[-1].host)}"
    yield ">\n" + "".join(_properties(batch, counts))
    for job in jobs:
        yield _case(job, batch.what)
    yield "</testsuite>\n</testsuites>\n"


@final
class _Counts:
    """What the suite says before its cases."""

    def __init__(self, jobs: Jobs) -> None:
        self.tests = self.failures = self.errors = self.skipped = 0
        self.seconds = 0.0
        for job in jobs:
            self.tests += 1
            self.skipped += job.status in {RUNNING, WAITING}
            is_failure = job.status == FAILED and _kind(job.last) == "failure"
            self.failures += is_failure
            self.errors += job.status in {FAILED, INTERRUPTED} and not is_failure
            self.seconds += sum(each.seconds for each in job.attempts)


def _properties(batch: ReportedBatch, counts: _Counts) -> Iterator[str]:
    found = {"runs": batch.what}
    if batch.inputs is not None and batch.inputs > counts.tests:
        found["inputs that are not listed, since nothing has begun with them"] = str(
            batch.inputs - counts.tests
        )
    found |= {f"meter {name}": f"{value:.15g}" for name, value in sorted(batch.meters.items())}
    yield "<properties>\n"
    for name, value in found.items():
        yield f"<property name={_quoted(name)} value={_quoted(value)}/>\n"
    yield "</properties>\n"


def _case(job: ReportedJob, what: str) -> str:
    seconds = sum(each.seconds for each in job.attempts)
    head = f'<testcase name={_quoted(job.name)} classname={_quoted(what)} time="{seconds:.3f}"'
    inside = "".join(_inside(job))
    return f"{head}>{inside}</testcase>\n" if inside else f"{head}/>\n"


def _inside(job: ReportedJob) -> Iterator[str]:
    if job.status in _UNDONE:
        element = "error" if job.status == INTERRUPTED else "skipped"
        yield f'<{element} type="{job.status}" message="{_UNDONE[job.status]}"/>'
    last = job.last
    if job.status == FAILED and last is not None:
        yield _result(_kind(last), last, plain(last.traceback))
    failed = [each for each in job.attempts if each.status != DONE]
    prefix = "flaky" if job.status == DONE else "rerun"
    for each in failed[:-1] if job.status == FAILED else failed:
        stack = (
            f"<stackTrace>{escape(plain(each.traceback))}</stackTrace>" if each.traceback else ""
        )
        yield _result(f"{prefix}{_kind(each).capitalize()}", each, stack, is_text=False)
    if job.status == FAILED and (tail := tail_of(job.log_tail())):
        yield f"<system-err>{escape(tail)}</system-err>"


def _result(element: str, attempt: Attempt, text: str, *, is_text: bool = True) -> str:
    inside = escape(text) if is_text else text
    kind, message = _quoted(attempt.kind or attempt.status), _quoted(attempt.why)
    return f"<{element} type={kind} message={message}>{inside}</{element}>"


def _kind(attempt: Attempt | None) -> str:
    return "failure" if attempt is None or attempt.status == "error" else "error"


def _timestamp(epoch_s: float) -> str:
    try:
        return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a journal may say any number
        return "1970-01-01T00:00:00"


def _quoted(text: str) -> str:
    return quoteattr(visible(text), _ENDS)
