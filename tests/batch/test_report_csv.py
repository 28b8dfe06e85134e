"""The report as a table: whole rows, whatever a job is named, and no formula."""

import csv
import io

import pandas as pd  # type: ignore[import-untyped]
import pytest

from collector.batch.report.csv import HEAD, csv_pieces
from collector.batch.report.record import Jobs, ReportedBatch
from tests.support.reported import batch, hostile, job, one_of_each


def read(jobs: Jobs, of: ReportedBatch | None = None) -> list[dict[str, str]]:
    text = "".join(csv_pieces(of or batch(), jobs))
    text.encode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert {len(row) for row in rows} == {len(rows[0])}
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_each_job_is_a_row() -> None:
    rows = read(one_of_each(), batch(meters={"tokens": 7, "usd": 0.5}))
    assert list(rows[0]) == [*HEAD, "meter tokens", "meter usd"]
    assert [row["status"] for row in rows[-4:]] == ["running", "interrupted", "waiting", "done"]
    assert rows[1] | {"key": ""} == {
        "key": "",
        "name": "job 1",
        "input": "in/1",
        "status": "failed",
        "attempts": "1",
        "result": "error",
        "exit": "-9",
        "start": "2026-09-21T14:13:21.000000+00:00",
        "end": "2026-09-21T14:13:22.000000+00:00",
        "seconds": "1.000000",
        "total_seconds": "1.000000",
        "bytes": "100",
        "worker": "0",
        "error_type": "",
        "error": "",
        "meter tokens": "",
        "meter usd": "",
    }
    assert (rows[-1]["meter tokens"], rows[-1]["meter usd"]) == ("7", "0.5")


def test_rows_are_whole_whatever_a_job_is_named() -> None:
    jobs = hostile()
    rows = read(jobs)
    assert len(rows) == len(jobs)
    assert "N" * 10_000 in {row["name"] for row in rows}
    text = "".join(csv_pieces(batch(), jobs))
    frame = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert list(frame["key"]) == [each.key for each in jobs]


@pytest.mark.parametrize(
    "name", ["=1+1", "+SUM(A1)", "-2+3", "@x", "\t=1", "\n=1", " =1", "\uff1d1", "-x"]
)
def test_a_name_that_begins_as_a_formula_has_an_apostrophe_in_front(name: str) -> None:
    (row,) = read([job(1, name=name)])
    assert row["name"].startswith("'")


@pytest.mark.parametrize("name", ["-5", "+1.5e-3", "-.5", "a=b", "x", "video-1"])
def test_numbers_and_other_names_are_as_they_are(name: str) -> None:
    (row,) = read([job(1, name=name)])
    assert row["name"] == name


def test_a_job_without_an_attempt_has_empty_fields() -> None:
    (row,) = read([job(1, status="waiting", attempts=())])
    assert {row[field] for field in HEAD[5:]} == {""}
