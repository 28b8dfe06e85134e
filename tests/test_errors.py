"""The errors of collector as values: they travel, and each is a proper built-in error too."""

import errno
import pickle

import pytest

from collector import (
    BrokenCollectorError,
    ClosedError,
    CollectorError,
    JobError,
    JobKilledError,
    JobTimeoutError,
    OutputLostError,
    ProtocolError,
    RunDirectoryError,
    SpillError,
    WorkerCrashError,
)

ERRORS = [
    CollectorError("what happened"),
    JobError("what happened", 7, "transcribe-7", 2),
    WorkerCrashError("what happened", 7, "transcribe-7", 2, -9),
    JobTimeoutError("what happened", 7, "transcribe-7", 2),
    JobKilledError("what happened", 7, "transcribe-7", 2),
    BrokenCollectorError("what happened"),
    ClosedError("what happened"),
    SpillError(errno.ENOSPC, "what happened", "/the/path"),
    OutputLostError(errno.ENOENT, "what happened"),
    RunDirectoryError(errno.EPERM, "what happened", "/the/path"),
    ProtocolError("what happened"),
]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@each_error
def test_it_pickles(error: CollectorError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert "what happened" in str(copy)
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))
    for name in ("errno", "strerror", "filename"):
        assert getattr(copy, name, None) == getattr(error, name, None)


@each_error
def test_what_is_about_a_job_says_which_and_is_made_of_that(error: CollectorError) -> None:
    if isinstance(error, JobError):
        assert (error.job_id, error.name, error.attempt) == (7, "transcribe-7", 2)
        assert error.args[:4] == ("what happened", 7, "transcribe-7", 2)


def test_a_time_out_is_a_timeouterror_without_a_number_or_a_path() -> None:
    error = JobTimeoutError("what happened", 7, "transcribe-7", 2)
    assert (error.errno, error.strerror, error.filename) == (None, None, None)
