"""The report as JUnit's XML: valid by the schema of CI servers, and read by a public reader."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from junitparser.xunit2 import JUnitXml, TestCase

from collector.batch.report.junit import junit_pieces
from collector.batch.report.record import Jobs, ReportedBatch
from tests.support.reported import attempt, batch, failed, hostile, job, one_of_each

RERUN = {"rerunFailure", "rerunError", "flakyFailure", "flakyError"}
RESULTS = {"failure", "error", "skipped"}
TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")
# Of each element: attributes that it must have, that it may have, children, whether it has text.
# The rules of junit-10.xsd, of Jenkins' xunit plug-in.
SCHEMA: dict[str, tuple[set[str], set[str], set[str], bool]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}, False),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {
            "group",
            "time",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
            "file",
            "log",
            "url",
        },
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        False,
    ),
    "properties": (set(), set(), {"property"}, False),
    "property": ({"name", "value"}, set(), set(), False),
    "testcase": (
        {"name"},
        {"time", "classname", "group"},
        RESULTS | RERUN | {"system-out", "system-err"},
        False,
    ),
    **{name: (set(), {"type", "message"}, set(), True) for name in RESULTS},
    **{
        name: ({"type"}, {"message"}, {"stackTrace", "system-out", "system-err"}, True)
        for name in RERUN
    },
    **{name: (set(), set(), set(), True) for name in ("stackTrace", "system-out", "system-err")},
}


def problems(element: ET.Element) -> list[str]:
    """What the schema has against an element and those within."""
    must, may, children, has_text = SCHEMA[element.tag]
    here = set(element.attrib)
    found = [f"{element.tag} lacks {name}" for name in must - here]
    found += [f"{element.tag} has {name}" for name in here - must - may]
    found += [f"{element.tag} in it: {c.tag}" for c in element if c.tag not in children]
    if element.tag in RERUN:  # a sequence
        order = ["stackTrace", "system-out", "system-err"]
        tags = [child.tag for child in element]
        found += [] if tags == [tag for tag in order if tag in tags] else ["their order"]
    texts = [element.text, *(child.tail for child in element)]
    if not has_text and any(text and text.strip() for text in texts):
        found.append(f"{element.tag} has text")
    if element.tag.startswith("testsuite") and not TIME.fullmatch(element.get("time", "")):
        found.append(f"{element.tag}: {element.get('time')}")
    return found + [problem for child in element for problem in problems(child)]


def read(jobs: Jobs, of: ReportedBatch | None = None) -> ET.Element:
    """Parse a report; the schema has nothing against it, and its counts are right."""
    text = "".join(junit_pieces(of or batch(), jobs))
    root = ET.fromstring(text.encode())
    assert problems(root) == []
    (suite,) = root
    cases = suite.findall("testcase")
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert suite.get(name) == str(sum(case.find(tag) is not None for case in cases))
    assert suite.get("tests") == root.get("tests") == str(len(cases))
    return suite


def results(suite: ET.Element) -> dict[str, list[str]]:
    return {
        case.attrib["name"]: [child.tag for child in case] for case in suite.findall("testcase")
    }


def test_each_end_of_a_job_has_its_element() -> None:
    assert results(read(one_of_each())) == {
        "job 0": [],
        "job 1": ["failure"],
        "job 2": ["error"],
        "job 3": ["error"],
        "job 4": ["error"],
        "job 5": ["error"],
        "job 10": ["flakyFailure"],
        "job 11": ["failure", "rerunError"],
        "job 12": ["skipped"],
        "job 13": ["error"],
        "job 14": ["skipped"],
        "job 15": [],
    }


@pytest.mark.parametrize("status", ["running", "waiting"])
def test_a_job_that_is_to_run_again_has_each_attempt_that_failed(status: str) -> None:
    again = job(1, failed(), attempt(2, number=2, status="crash"), status=status)
    assert results(read([again])) == {"job 1": ["skipped", "rerunFailure", "rerunError"]}


def test_a_failure_says_why_and_has_the_end_of_its_log() -> None:
    one = job(1, failed(text="a < b"), log_tail=lambda: b"one\ntwo\n")
    (case,) = read([one]).findall("testcase")
    failure, log = case
    assert failure.attrib == {"type": "ValueError", "message": "ValueError: a < b"}
    assert failure.text == "Traceback\nValueError: a < b"
    assert (log.tag, log.text) == ("system-err", "one\ntwo")


def test_a_process_that_died_is_told_by_its_signal_or_status() -> None:
    ends = [attempt(status="crash", exitcode=-11), attempt(status="crash", exitcode=3)]
    suite = read([job(n, each) for n, each in enumerate([*ends, attempt(status="oom")])])
    messages = [error.get("message") for error in suite.iter("error")]
    assert messages == ["crash: signal 11", "crash: exit status 3", "oom"]


def test_no_name_error_or_log_makes_it_invalid() -> None:
    suite = read(hostile(), batch(name="\x00<b>", what="\udcff&"))
    names = [case.attrib["name"] for case in suite.findall("testcase")]
    assert "<script>alert(1)</script>" in names
    assert "N" * 10_000 in names
    assert r"\x1b[31mred\x00\x07\x7f\x85" in names
    assert "two\nlines\\x0d\n\tand a tab" in names


def test_times_are_those_of_all_attempts() -> None:
    suite = read([job(1, attempt(0, 1.25), attempt(5, 1234.5, number=2))])
    assert suite.find("testcase[@time='1235.750']") is not None
    assert suite.attrib["time"] == "1235.750"
    assert suite.attrib["timestamp"] == "2026-09-21T14:13:19"


@pytest.mark.parametrize("when", [-1e300, 1e300, 0.0])
def test_times_that_no_calendar_has_do_no_harm(when: float) -> None:
    odd = attempt()._replace(start=when, end=-when)
    read([job(1, odd)], batch(sessions=(batch().sessions[0]._replace(time=when),)))


def test_an_empty_batch_is_a_report_too() -> None:
    suite = read([], batch(sessions=(), inputs=3))
    assert suite.attrib["tests"] == "0"
    assert [p.attrib["value"] for p in suite.iter("property")] == ["jobs:cut", "3"]


def _as_case(case: Any) -> TestCase:
    return TestCase.fromelem(case)  # type: ignore[no-untyped-call, no-any-return]


def test_a_public_reader_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    jobs = [*one_of_each(), *hostile()]
    path.write_text("".join(junit_pieces(batch(), jobs)), "utf-8")
    read_back = JUnitXml.fromfile(str(path))
    (suite,) = read_back
    assert (suite.tests, suite.failures, suite.errors) == (len(jobs), 2 + len(jobs[12:]) // 2, 5)
    assert suite.skipped == 2
    assert suite.timestamp == "2026-09-21T14:13:19"
    flaky = [case.name for case in suite if _as_case(case).is_flaky]
    assert flaky == ["job 10"]
