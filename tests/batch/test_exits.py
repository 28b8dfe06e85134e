"""What ends a thread where others only raise: its job fails, and no loop waits for ever."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from collector import Batch, Collector, Job, JobError
from collector.batch.writer import BatchWriter
from tests.support.batchjobs import exits_as_text, exits_as_value, pausing

pytestmark = pytest.mark.usefixtures("one_server")


def test_a_value_that_exits_while_it_is_pickled_fails_its_job(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        inputs = [(os.getpid(), text) for text in ("bad", "good")]
        jobs = collector.collect(exits_as_value, inputs, batch=tmp_path / "b")
        errors = {job.args[0][1]: job.exception() for job in jobs}
    assert errors["good"] is None
    assert isinstance(errors["bad"], JobError)
    assert "cannot be stored" in str(errors["bad"])
    assert "SystemExit" in str(errors["bad"])
    with Batch.open(tmp_path / "b") as batch:
        assert {r.input: r.status for r in batch} == {
            repr(inputs[0]): "failed",
            repr(inputs[1]): "done",
        }


def test_an_error_that_exits_when_its_text_is_asked_for_is_kept(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        (job,) = collector.collect(exits_as_text, [os.getpid()], batch=tmp_path / "b")
        assert type(job.exception()).__name__ == "ExitingError"
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        assert record.status == "failed"
        assert record.error == "ExitingError: <its text cannot be had: SystemExit>"


def test_what_is_called_behind_a_callback_that_exits_is_called() -> None:
    told: list[Any] = []
    unused: Any = None
    job = Job[int](unused, 1, (), {}, "job", ())
    job.add_done_callback(lambda _job: sys.exit(3))
    job.add_done_callback(told.append)
    with pytest.raises(SystemExit):
        job.set_result(7)
    assert told == [job]


@pytest.mark.parametrize(
    "method",
    [
        "put",
        pytest.param("started", marks=pytest.mark.slow),
        pytest.param("flush", marks=pytest.mark.slow),
    ],
)
def test_whatever_ends_the_recording_nobody_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    def leave(*_arguments: Any) -> NoReturn:
        raise SystemExit(3)

    monkeypatch.setattr(BatchWriter, method, leave)
    monkeypatch.setattr("collector.settings.TOLD_AFTER_S", 0.0)
    with Collector(1, progress=False) as collector:
        jobs = list(collector.collect(pausing, range(2), batch=tmp_path / "b", buffersize=1))
        errors = [job.exception() for job in jobs]
    assert [type(error) for error in errors] == [JobError, JobError]
    assert "could not be stored" in str(errors[0])
    caplog.clear()  # its tracebacks hold the jobs, and they the directory
    with Batch.open(tmp_path / "b") as batch:
        assert batch.verify() == []
    monkeypatch.undo()
    with Collector(1, progress=False) as collector:
        assert len(list(collector.collect(pausing, range(2), batch=tmp_path / "b"))) == 2
