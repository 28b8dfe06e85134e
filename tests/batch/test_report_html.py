"""The report as a page, as it is written: one script, ours; nothing of a job's is markup."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from collector.batch.report import html as report
from collector.batch.report.html import page_pieces
from collector.batch.report.record import Jobs, ReportedBatch
from tests.support.reported import (
    BEGIN,
    attempt,
    batch,
    failed,
    hostile,
    job,
    many,
    one_of_each,
)


class Parsed(HTMLParser):
    """A page in pieces: elements with their attributes, texts, scripts.

    Attributes:
        elements: Names and attributes.
        scripts: Contents of script elements, by type; "" is the type of one that runs.
        shown: All text that is not of a script or style.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.shown = ""
        self._within = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            kind, text = self.scripts.pop()
            self.scripts.append((kind, text + data))
        elif self._within != "style":
            self.shown += data


def page(jobs: Jobs, of: ReportedBatch | None = None) -> Parsed:
    text = "".join(page_pieces(of or batch(), jobs))
    text.encode()
    return Parsed(text)


def rows(found: Parsed) -> list[Any]:
    blocks = [json.loads(text) for kind, text in found.scripts if kind == "application/json"]
    return [row for block in blocks[1:] for row in block]


def test_only_its_own_script_may_run_and_nothing_is_loaded() -> None:
    found = page(hostile())
    (script,) = [text for kind, text in found.scripts if not kind]
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in found.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    loading = {"src", "srcset", "href", "data", "action", "poster", "background"}
    assert {
        value
        for _, attributes in found.elements
        for name, value in attributes.items()
        if name in loading and not (value or "").startswith("#")
    } == set()


def test_no_text_of_a_job_is_markup() -> None:
    tame = page([job(n, failed(), name="a", input="b", log_tail=lambda: b"c") for n in range(12)])
    wild = page(hostile(), batch(name="<script>", what="<img src=x>"))
    assert {tag for tag, _ in wild.elements} - {tag for tag, _ in tame.elements} <= {"ol", "li"}
    handlers = {n for _, attributes in wild.elements for n in attributes if n.startswith("on")}
    assert handlers == set()
    assert "<script>alert(1)</script>" in wild.shown
    names = [row[1] for row in rows(wild)]
    assert names[0] == "<script>alert(1)</script>"
    assert r"\x1b[31mred\x00\x07\x7f\x85" in names
    assert "N" * 1000 + "\u2026 (10000 characters)" in names


def test_rows_of_data_cannot_end_their_element() -> None:
    text = "".join(page_pieces(batch(), hostile()))
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert len(blocks) == 2
    assert [block for block in blocks if "<" in block] == []


def test_the_summary_counts_and_sums_up() -> None:
    found = page(one_of_each(), batch(inputs=20, is_running=True, unreadable=2))
    assert "The batch was running when this page was made" in found.shown
    for tile in ("20 jobs", "3 done", "6 failed", "1 running", "1 interrupted", "9 waiting"):
        assert tile in found.shown
    assert "1 flaky" in found.shown
    assert "2 lines of the journal cannot be read" in found.shown


def test_a_failure_has_its_reason_its_attempts_and_the_end_of_its_log() -> None:
    bad = failed(2, number=2, text="too <dark>")
    log = b"".join(b"\x1b[2Kline %d\n" % n for n in range(100))
    crash = attempt(0, status="crash", exitcode=-9)
    found = page([job(1, crash, bad, log_tail=lambda: log)], batch(name="my clips"))
    assert "ValueError: too <dark>" in found.shown
    assert "crash: signal 9, 1 s" in found.shown
    assert "line 80\n" in found.shown
    assert "line 99" in found.shown
    assert "line 79" not in found.shown
    assert f"collector cat 'my clips' {job(1).key} --log --failed" in found.shown


def test_logs_are_read_of_so_many_failures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.batch.report.sums.FAILURES_SHOWN", 15)
    read = []

    def log() -> bytes:
        read.append(1)
        return b"x"

    found = page([job(n, failed(), log_tail=log) for n in range(40)])
    assert len(read) == 15
    assert "5 more" in found.shown
    assert "25 further failures are in the table below" in found.shown
    assert len(rows(found)) == 40


def test_rows_are_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "ROWS_A_BLOCK", 10)
    found = page(many(25))
    assert len([kind for kind, _ in found.scripts if kind]) == 4
    assert [row[0] for row in rows(found)] == [each.key for each in many(25)]


def test_it_is_written_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "ROWS_A_BLOCK", 100)
    pieces = list(page_pieces(batch(), many(3000)))
    assert max(map(len, pieces)) < sum(map(len, pieces)) / 5


def test_odd_times_and_sizes_do_no_harm() -> None:
    odd = [
        job(1, attempt()._replace(start=0.0, end=1e300)),
        job(2, attempt()._replace(start=1e18, end=BEGIN, size=2**62)),
    ]
    assert len(rows(page(odd))) == 2


def test_an_empty_batch_is_a_page_too() -> None:
    found = page([], batch(sessions=()))
    assert "0 jobs" in found.shown
    assert "none has ended" in found.shown
    assert html.unescape("&times;") in found.shown


def test_no_text_of_a_row_turns_the_order_of_its_characters_round() -> None:
    text = "what ends in \u202egnp.exe"
    (row,) = rows(page([job(0, failed(text=text), name=text, input=f"{text} 2")]))
    told = json.dumps(row, ensure_ascii=False)
    assert "\u202e" not in told
    assert told.count(r"\\u202e") == 3
