"""Batches as reports see them, made by hand: with every kind of job, and with the worst names."""

import hashlib
import random
from typing import Any, Final

from collector.batch.report.record import Attempt, ReportedBatch, ReportedJob, Session, Worker

BEGIN: Final = 1_790_000_000.0

SCRIPT: Final = "<script>alert(1)</script>"
HOSTILE: Final = (
    SCRIPT,
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>&amp;&#0;",
    "N" * 10_000,
    "\x1b[31mred\x00\x07\x7f\x85",
    "bytes \udcff\udc80, half a pair \ud800, none \ufffe\uffff",
    "two\nlines\r\n\tand a tab",
    "\u202egnp.exe",
    "'\"`${x}",
    "=cmd|' /C calc'!A0",
    "",
)
"""Names, inputs, errors and logs of jobs that mean harm, or look as if."""


def key(number: int) -> str:
    return hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest()


def attempt(start: float = 0.0, seconds: float = 1.0, status: str = "done", **more: Any) -> Attempt:
    begin = BEGIN + start
    if isinstance(more.get("worker"), int):
        more["worker"] = Worker("", more["worker"])
    found = Attempt(1, status, begin, begin + seconds, worker=Worker("", 0), size=100)
    return found._replace(**more)


def failed(start: float = 0.0, text: str = "no good", **more: Any) -> Attempt:
    error: dict[str, Any] = {
        "kind": "ValueError",
        "error": text,
        "traceback": f"Traceback\nValueError: {text}",
    }
    return attempt(start, status="error", **{**error, **more})


def job(number: int = 0, *attempts: Attempt, **more: Any) -> ReportedJob:
    done = attempts or (attempt(),)
    status = "done" if done[-1].status == "done" else "failed"
    found = ReportedJob(key(number), f"job {number}", f"in/{number}", status, done)
    return found._replace(**more)


def batch(**more: Any) -> ReportedBatch:
    session = Session(BEGIN - 1, "host", "0.1.0", "3.11.7")
    return ReportedBatch("clips", "jobs:cut", BEGIN + 3600, sessions=(session,))._replace(**more)


def one_of_each() -> list[ReportedJob]:
    """Return jobs of every status, every result, and with several attempts."""
    ends = ("error", "crash", "timeout", "killed", "oom")
    return [
        job(0),
        *(job(n, attempt(n, status=status, exitcode=-9)) for n, status in enumerate(ends, 1)),
        job(10, failed(), attempt(2, number=2)),
        job(11, attempt(0, status="crash", exitcode=-11), failed(2, number=2)),
        job(12, status="running", attempts=(), since=BEGIN + 5),
        job(13, status="interrupted", attempts=(), since=BEGIN + 6),
        job(14, status="waiting", attempts=()),
        job(15, meters={"usd": 0.5, "tokens": 7}),
    ]


def hostile() -> list[ReportedJob]:
    """Return jobs whose every text means harm: one that is done and one that failed for each."""
    jobs = []
    for number, text in enumerate(HOSTILE):
        raw = text.encode("utf-8", "surrogatepass")

        def log(raw: bytes = raw) -> bytes:
            return b"before\n" + raw + b"\xff\nafter\n"

        told = {"name": text, "input": text, "log_tail": log, "meters": {text: 1.0}}
        bad = failed(number, text, kind=text or "E", traceback=text)
        jobs += [job(number, **told), job(100 + number, bad, **told)]
    return jobs


def many(count: int, *, workers: int = 4, seed: int = 1) -> list[ReportedJob]:
    """Return jobs as they come of a long batch: one in some fails, one in some is tried again."""
    chance = random.Random(seed)
    free = [0.0] * workers
    jobs = []
    for number in range(count):
        worker = min(range(workers), key=free.__getitem__)
        start, seconds = free[worker] + 0.001, chance.lognormvariate(-1, 1)
        size, attempts = int(chance.lognormvariate(9, 2)), []
        where: dict[str, Any] = {"worker": worker, "size": size}
        if chance.random() < 0.03:
            attempts.append(attempt(start, seconds / 2, "crash", exitcode=-9, **where))
            start += seconds / 2
        where["number"] = len(attempts) + 1
        is_bad = chance.random() < 10 / count + 0.002
        last = failed(start, **where) if is_bad else attempt(start, **where)
        attempts.append(last._replace(end=BEGIN + start + seconds))
        free[worker] = start + seconds
        name, given = f"clip {number}.mp4", f"clips/{number}.mp4"
        jobs.append(job(number, *attempts, name=name, input=given, log_tail=lambda: b"no room\n"))
    return jobs
