"""Retries by cause, gates, meters, halts and budgets, with real workers."""

import functools
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from collector import (
    Batch,
    BatchHaltedError,
    Collector,
    Retry,
    RetryLater,
    WorkerCrashError,
    current_job,
)
from tests.support.jobs import HasNoTextError, wait_for
from tests.support.leaks import wait_until
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")

PAUSE_S: Final = 0.3
YEAR_S: Final = 365 * 24 * 3600.0


class EmptyAccountError(ValueError):
    """What a service says."""


def dies(times: int) -> int:
    job = current_job()
    job.count(tokens=2, usd=0.5)
    job.flush()
    if job.attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.attempt


def raises(kind: type[BaseException]) -> int:
    if current_job().attempt == 1:
        raise kind("once")
    return current_job().attempt


def has_no_text(_number: int) -> None:
    raise HasNoTextError


def asks_once(directory: Path, number: int) -> int:
    current_job().write(b"half")
    if not (directory / f"{number}").exists():
        (directory / f"{number}").touch()
        raise RetryLater(0.05, message="too many requests")
    return number


def always_asks(_: object) -> None:
    raise RetryLater(0.0)


def spends(number: int) -> int:
    current_job().count(usd=1)
    if number >= 10:
        raise EmptyAccountError("the account is empty")
    return number


def refuses(path: str) -> None:
    raise ConnectionError(f"cannot send {path}: no credit")


def fine(number: int) -> int:
    return number


@each_method
def test_each_cause_is_retried_by_its_own_count(method: str) -> None:
    with Collector(2, method, retries=Retry(crash=2, error=1, delay=0.01, on=OSError)) as here:
        assert here.submit(dies, 2).result() == 3
        assert isinstance(here.submit(dies, 3).exception(), WorkerCrashError)
        assert here.submit(raises, MemoryError).result() == 2
        assert here.submit(raises, FileNotFoundError).result() == 2
        assert isinstance(here.submit(raises, ValueError).exception(), ValueError)


def test_meters_add_up_over_attempts_that_died_too() -> None:
    seen: list[Any] = []
    with Collector(1, retries=2, progress=_Sink(seen)) as here:
        job = here.submit(dies, 2)
        assert job.result() == 3
    assert job.meters == {"tokens": 6, "usd": 1.5}
    assert seen[-1].meters == {}, "about no job"
    ended = [event for event in seen if event.happened == "ended"]
    assert ended[0].meters == job.meters


class BusyError(RetryLater):
    """One of a user's, which leaves the rest out."""

    after = 0.01

    def __init__(self) -> None:
        pass


def busy_once(mark: str) -> int:
    if not Path(mark).exists():
        Path(mark).touch()
        raise BusyError
    return os.getpid()


def test_a_subclass_that_makes_nothing_of_its_base_asks_for_later_too(tmp_path: Path) -> None:
    """It ended the worker, and so the job."""
    with Collector(1) as here:
        worker = here.submit(os.getpid).result()
        assert here.submit(busy_once, str(tmp_path / "mark")).result() == worker


def asks_for(after: Any, resource: Any) -> None:
    error = BusyError()
    error.after, error.resource = after, resource
    raise error


@pytest.mark.parametrize(
    ("after", "resource", "message"),
    [
        (timedelta(seconds=1), None, "after must be a number of seconds"),
        ("1", None, "after must be a number of seconds"),
        (float("inf"), None, "after must be at least 0, and finite"),
        (1, b"model", "resource must be a str, not b'model'"),
        (1, "m" * 1001, "the name of a resource is longer than 1,000 characters"),
    ],
)
def test_a_subclass_that_asks_for_what_makes_no_sense_fails_its_job_and_says_so(
    after: Any, resource: Any, message: str
) -> None:
    """Some of these ended the worker, and others failed the job as if it had asked too often."""
    with Collector(1, retries=Retry(crash=0)) as here:
        worker = here.submit(os.getpid).result()
        with pytest.raises((TypeError, ValueError), match=message):
            here.submit(asks_for, after, resource).result()
        assert here.submit(os.getpid).result() == worker


def counts(number: float) -> str:
    try:
        current_job().count(n=number)
    except ValueError as error:
        return str(error)
    return ""


def test_what_is_counted_stays_a_number_that_a_float_holds() -> None:
    most = 10**100
    with Collector(1) as here:
        for number in (10**101, -(10**400), float("inf"), float("nan")):
            assert (
                here.submit(counts, number).result().startswith("count(n=) must be within 1e+100")
            )
        jobs = list(here.collect(counts, [most, most, 0.5]))
    assert [job.meters["n"] for job in jobs if job.exception() is None] == [most, most, 0.5]


class _Sink:
    def __init__(self, seen: list[Any]) -> None:
        self.update = seen.append

    def close(self) -> None:
        pass


@pytest.mark.parametrize("resource", [None, "model"])
def test_a_job_that_asks_for_it_runs_later_and_keeps_nothing_of_before(
    tmp_path: Path, resource: str | None
) -> None:
    with Collector(4, progress=False, resources={"model": 2}) as here:
        jobs = [
            here.with_options(resource=resource).submit(asks_once, tmp_path, n) for n in range(8)
        ]
        assert [job.result() for job in jobs] == list(range(8))
        assert [job.attempt for job in jobs] == [1] * 8
        assert [job.output().read() for job in jobs] == [b"half"] * 8


def test_later_can_be_bounded_and_then_fails_with_what_was_raised() -> None:
    with Collector(1, retries=Retry(later=3)) as here:
        error = here.submit(always_asks, 1).exception()
    assert isinstance(error, RetryLater)
    assert "asks to be run again in 0 s" in str(error)


def asks_and_notes(mark: str) -> float:
    path = Path(mark)
    if not path.exists():
        path.with_suffix(".part").write_text(str(time.monotonic()))
        path.with_suffix(".part").rename(path)
        raise RetryLater(PAUSE_S)
    return time.monotonic() - float(path.read_text())


@pytest.mark.parametrize("set_by_s", [pytest.param(-YEAR_S, marks=pytest.mark.slow), YEAR_S])
@each_method
def test_a_clock_that_is_set_opens_no_gate_and_keeps_none_closed(
    method: str, set_by_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the program: the one of the machine belongs to others, too."""
    now, asked = time.time, []

    def other() -> float:
        asked.append(set_by_s)
        return now() + set_by_s

    def set_it_while_the_gate_is_closed() -> None:
        assert wait_until((tmp_path / "0").exists)
        monkeypatch.setattr(time, "time", other)

    marks = [str(tmp_path / f"{number}") for number in range(3)]
    setter = threading.Thread(target=set_it_while_the_gate_is_closed)
    setter.start()
    with Collector(1, method, progress=False, resources={"model": 1}) as here:
        polite = here.with_options(resource="model")
        jobs = list(polite.collect(asks_and_notes, marks, batch=tmp_path / "batch"))
    setter.join()
    assert asked
    assert len(jobs) == 3
    assert all(job.result() >= PAUSE_S for job in jobs)
    with Batch.open(tmp_path / "batch") as batch:
        assert (batch.verify(), batch.status()["done"]) == ([], 3)


def spends_among_others(directory: Path, number: int) -> int:
    (directory / f"{number}").touch()
    while len(os.listdir(directory)) < 3:
        time.sleep(0.01)
    current_job().count(usd=1)
    return number


@each_method
def test_a_budget_that_is_reached_lets_what_runs_come_to_its_end(
    method: str, tmp_path: Path
) -> None:
    yielded: list[Any] = []
    with Collector(3, method, progress=False) as here:
        job = functools.partial(spends_among_others, tmp_path)
        with pytest.raises(BatchHaltedError, match="budget of usd is used up") as raised:
            yielded += here.collect(job, range(200), budget={"usd": 1})
    done = sorted(job.args[0] for job in yielded)
    assert done[:3] == [0, 1, 2]
    assert [job.exception() for job in yielded] == [None] * len(done)
    assert raised.value.done == len(done) < 100
    assert {int(name) for name in os.listdir(tmp_path)} == set(done)


@each_method
def test_an_empty_account_stops_the_batch_which_goes_on_later(method: str, tmp_path: Path) -> None:
    kept = tmp_path / "batch"
    yielded: list[Any] = []
    with Collector(2, method, progress=False) as here:
        with pytest.raises(BatchHaltedError) as raised:
            yielded += here.collect(spends, range(200), batch=kept, halt="soon,same=20")
        assert "20 jobs in a row failed alike" in raised.value.reason
        assert "the account is empty" in str(raised.value)
        assert "the same call with this batch= goes on" in str(raised.value)
        # A success of a worker that was late begins the row anew.
        assert raised.value.done == len(yielded) < 100
        resumed = list(here.collect(spends, range(200), batch=kept, resume="new"))
        assert len(resumed) == 200
        assert sum(job.resumed for job in resumed) == len(yielded)
    with Batch.open(kept) as batch:
        assert batch.status()["meters"] == {"usd": 200}


@each_method
def test_a_budget_counts_what_earlier_runs_have_spent(method: str, tmp_path: Path) -> None:
    kept = tmp_path / "batch"
    with Collector(1, method, progress=False) as here:
        first = here.collect(spends, range(5), batch=kept, budget={"usd": 8})
        assert len(list(first)) == 5
        with pytest.raises(BatchHaltedError, match=r"used up: 8 of 8 \(raise it to go on\);"):
            list(here.collect(spends, range(10), batch=kept, budget={"usd": 8}, buffersize=1))
        with pytest.raises(BatchHaltedError, match="2 of 10 are left") as raised:
            list(here.collect(spends, range(10), batch=kept, budget={"usd": 8}))
        with pytest.raises(BatchHaltedError, match="10 of 10 are left"):
            list(here.collect(spends, range(10), batch=kept, budget={"usd": 8}, resume="all"))
    assert raised.value.done == 0


@pytest.mark.parametrize("options", [{"halt": "soon,same=9"}, {"budget": {"usd": 1}}])
@pytest.mark.parametrize("ordered", [True, False])
def test_failures_whose_text_cannot_be_had_are_yielded_as_all_others(
    options: dict[str, Any], ordered: bool
) -> None:
    with Collector(1, progress=False) as here:
        jobs = list(here.collect(has_no_text, range(3), ordered=ordered, **options))
        assert [type(job.exception()) for job in jobs] == [HasNoTextError] * 3
        with pytest.raises(BatchHaltedError, match="2 jobs in a row failed alike: HasNoTextError"):
            list(here.collect(has_no_text, range(3), halt="soon,same=2"))


class Remote:
    """As paths of a cloud, which are none of this machine's."""

    def __fspath__(self) -> str:
        raise TypeError("this is no local path")


def test_failures_of_paths_that_are_not_local_are_yielded_as_all_others() -> None:
    paths: list[Any] = [Remote(), Remote()]
    with Collector(1, progress=False) as here:
        jobs = list(here.collect(refuses, paths, halt="soon,same=3"))
        assert [type(job.exception()) for job in jobs] == [ConnectionError] * 2


def test_failures_that_differ_in_their_input_alone_are_the_same() -> None:
    with (
        Collector(1, progress=False) as here,
        pytest.raises(BatchHaltedError, match=r"cannot send \.\.\.: no credit"),
    ):
        list(here.collect(refuses, [f"video {n}.mp4" for n in range(50)], halt="now,same=5"))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_batch_that_comes_to_its_end_is_not_halted(ordered: bool) -> None:
    with Collector(2, progress=False) as here:
        jobs = here.collect(fine, range(50), halt="now,fail=1", budget={"usd": 1}, ordered=ordered)
        assert sorted(job.result() for job in jobs) == list(range(50))


def test_now_ends_what_runs(tmp_path: Path) -> None:
    with Collector(2, progress=False) as here:
        jobs = here.collect(_waits_for_ever, [False, True], halt="now,done=1")
        assert len([next(jobs)]) == 1
        with pytest.raises(BatchHaltedError) as raised:
            next(jobs)
        assert raised.value.left == 1


def test_a_percentage_is_looked_at_when_it_is_known_how_many_jobs_there_are() -> None:
    with Collector(2, progress=False) as here:
        jobs = here.collect(fails_or_waits, iter("ffw"), halt="now,fail=50%", buffersize=2)
        assert [next(jobs).args, next(jobs).args] == [("f",), ("f",)]
        with pytest.raises(BatchHaltedError, match=r"2 jobs have failed \(of 3\)"):
            next(jobs)  # and not when the third one ends
        jobs = here.collect(fails_or_waits, iter("ff"), halt="soon,fail=50%", buffersize=1)
        assert len([next(jobs), next(jobs)]) == 2
        with pytest.raises(BatchHaltedError, match=r"2 jobs have failed \(of 2\)"):
            next(jobs)
        assert list(here.collect(fine, iter(()), halt="soon,fail=50%")) == [], "none of none"


def fails_or_waits(letter: str) -> None:
    if letter == "f":
        raise EmptyAccountError
    signal.pause()


def test_what_runs_when_a_batch_stops_is_yielded_as_it_ends(tmp_path: Path) -> None:
    """Not behind one that was submitted before it, and runs for long."""
    act = functools.partial(_two_wait_and_one_fails, tmp_path)
    with Collector(3, progress=False) as here:
        jobs = here.collect(act, [0, 1, 2], halt="soon,fail=1")
        assert next(jobs).args == (1,)
        for number in (2, 0):
            (tmp_path / f"go {number}").touch()
            assert next(jobs).args == (number,)
        with pytest.raises(BatchHaltedError, match="0 of 3 are left"):
            next(jobs)


def _two_wait_and_one_fails(directory: Path, number: int) -> None:
    (directory / f"begun {number}").touch()
    if number == 1:
        wait_for(directory / "begun 0")
        wait_for(directory / "begun 2")
        raise EmptyAccountError
    wait_for(directory / f"go {number}")


def _waits_for_ever(really: bool) -> None:
    while really:
        signal.pause()


def test_a_batch_that_stops_at_one_failure_says_so() -> None:
    with Collector(1) as here, pytest.raises(BatchHaltedError, match="1 job has failed"):
        list(here.collect(refuses, ["a", "b"], halt="now,fail=1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halt": "later"}, "'later' is no condition"),
        ({"halt": "soon,fail=0"}, "is no condition"),
        ({"budget": {"usd": 0}}, "the budget of 'usd' must be more than 0"),
        ({"budget": {"usd": "1"}}, "the budget of 'usd' must be a number"),
        ({"budget": {"usd": 10**400}}, "the budget of 'usd' must be at least 0, and finite"),
        ({"budget": 3}, "budget must be a mapping"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with Collector(1) as here, pytest.raises((ValueError, TypeError), match=message):
        here.collect(fine, [1], **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crash": -1}, "crash must be at least 0"),
        ({"crash": 1.5}, "crash must be a whole number"),
        ({"jitter": 2}, "jitter must be from 0 to 1"),
        ({"factor": 0.5}, "factor must be at least 1"),
        ({"delay": float("nan")}, "delay must be at least 0"),
        ({"max_delay": 10**400}, "max_delay must be at least 0, and finite"),
        ({"on": ("OSError",)}, "on must be types of exceptions"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Retry(**arguments)
