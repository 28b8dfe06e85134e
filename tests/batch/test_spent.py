"""What a batch has spent on attempts that leave no result: no later run forgets it."""

import csv
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import Batch, BatchHaltedError, Collector, RetryLater, SpillError, current_job
from collector.batch.jobs import Spent
from collector.cli.program import main
from collector.executor.collecting import Stopping
from collector.executor.halting import Halt
from collector.executor.job import Job
from tests.support.disks import fill, small_disk
from tests.support.interrupted import Interrupted
from tests.support.jobs import wait_for

pytestmark = pytest.mark.usefixtures("one_server")


def asks_for_later(item: tuple[str, str]) -> str:
    """Count, and ask for later if it is the first one."""
    name, marks = item
    current_job().count(usd=7 if name == "a" else 2)
    Path(marks, f"{name}-has-run").open("x").close()
    if name == "a":
        raise RetryLater(3600)
    return name


def counts_and_hangs(marks: str) -> None:
    current_job().count(usd=5)
    Path(marks, "counted").touch()
    wait_for(Path(marks, "never"))


def counts_and_writes(size: int) -> Iterator[bytes]:
    current_job().count(usd=5)
    yield bytes(size)


def spent(path: Path) -> dict[str, float]:
    with Batch.open(path) as batch:
        return dict(batch.status()["meters"])


@pytest.mark.slow
def test_the_budget_of_the_next_run_counts_what_asked_to_be_made_later(tmp_path: Path) -> None:
    items = [(name, str(tmp_path)) for name in "abc"]
    for _ in range(2):  # the second one would run a job again, which then raises
        with Collector(1) as collector, pytest.raises(BatchHaltedError, match="9 of 8"):
            list(collector.collect(asks_for_later, items, batch=tmp_path / "b", budget={"usd": 8}))
        assert spent(tmp_path / "b") == {"usd": 9}
        with Batch.open(tmp_path / "b") as batch:  # also of what has no result and ran briefly
            told = [(record.name, record.input, record.meters) for record in batch]
        assert told == [
            ("asks_for_later-1", str(items[0]), {"usd": 7}),
            ("asks_for_later-2", str(items[1]), {"usd": 2}),
        ]


@pytest.mark.slow
def test_what_a_job_has_spent_that_the_end_of_the_run_has_ended_counts(tmp_path: Path) -> None:
    with Collector(1) as collector:

        def end() -> None:
            wait_for(tmp_path / "counted")
            collector.kill_workers()

        ender = threading.Thread(target=end)
        ender.start()
        list(collector.collect(counts_and_hangs, [str(tmp_path)], batch=tmp_path / "b"))
        ender.join()
    assert spent(tmp_path / "b") == {"usd": 5}


@pytest.mark.parametrize("durable", [False, True])
def test_what_a_job_has_spent_whose_output_the_disk_refuses_counts(
    tmp_path: Path, durable: bool
) -> None:
    with small_disk(tmp_path, 1 << 20) as disk, Collector(1) as collector:
        fill(disk, 80_000)
        (job,) = collector.collect(counts_and_writes, [99_000], batch=disk / "b", durable=durable)
        assert isinstance(job.exception(), SpillError)
        assert spent(disk / "b") == {"usd": 5}
        del job


def asks_once_for_later(item: tuple[str, str]) -> None:
    """Count, and ask for later in the first attempt of each but the last."""
    name, marks = item
    current_job().count(usd=7)
    mark = Path(marks, f"{name}-has-run")
    if name != "c" and not mark.exists():
        mark.touch()
        raise RetryLater(0)
    if name == "b":
        raise ValueError(name)


def test_records_and_reports_tell_all_that_was_spent_as_status_does(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    items, path = [(name, str(tmp_path)) for name in "abc"], tmp_path / "b"
    with Collector(1) as collector:
        jobs = list(collector.collect(asks_once_for_later, items, batch=path))
    fresh = {job.args[0]: job for job in jobs}
    assert [fresh[item].meters for item in items] == [{"usd": 14}, {"usd": 14}, {"usd": 7}]
    assert spent(path) == {"usd": 35}
    with Batch.open(path) as batch:
        assert [record.meters for record in batch] == [{"usd": 14}, {"usd": 14}, {"usd": 7}]
    with Collector(1) as collector:
        again = list(collector.collect(asks_once_for_later, items, batch=path, resume="new"))
        assert sorted(job.meters["usd"] for job in again) == [7, 14, 14]
    assert main(["report", str(path), "--csv", "-"]) == 1
    table = csv.DictReader(capfd.readouterr().out.splitlines())
    assert [float(row["meter usd"]) for row in table] == [14, 14, 7]
    main(["report", str(path), "--junit", "-"])
    assert 'name="meter usd" value="35"' in capfd.readouterr().out
    main(["report", str(path), "--html", "-"])
    assert "<dt>usd</dt><dd>35</dd>" in capfd.readouterr().out


METERS = st.fixed_dictionaries({name: st.integers(-3, 9) for name in "ab"})


def plus(some: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {name: some[name] + more.get(name, 0) for name in some}


@given(attempts=st.lists(st.tuples(METERS, st.booleans(), st.booleans())), last=METERS)
def test_each_count_is_said_once_however_its_news_come(
    attempts: list[tuple[dict[str, Any], bool, bool]], last: dict[str, Any]
) -> None:
    """An attempt that has failed may be heard of behind one after it that asked for later."""
    told = Spent()
    said = total = since = dict.fromkeys("ab", 0)
    overdue: list[dict[str, Any]] = []
    for meters, asks_for_later, late in [*attempts, (last, False, False)]:
        total, since = plus(total, meters), plus(since, meters)
        if asks_for_later:
            said = plus(said, told.by_all(total))
        else:
            overdue.append(since)
            since = dict.fromkeys("ab", 0)
        while overdue and not late:
            said = plus(said, told.by_an_attempt(overdue.pop(0)))
    assert plus(said, told.by_all(total)) == total


class TellsLate:
    """A job whose first count is in its sum already when somebody begins to hear of its counts."""

    resumed = False
    _observers = ()
    _meters: Mapping[str, float] = MappingProxyType({})
    heard_since: Any = None
    counted = Job.counted
    meters_of_run = Job.meters_of_run

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping

    @property
    def at_count(self) -> Any:
        if self.heard_since is None:
            self._stopping.watch(cast("Any", self))
        return self.heard_since

    @at_count.setter
    def at_count(self, hear: Any) -> None:
        self.heard_since = hear


def test_a_count_that_is_told_while_its_job_is_submitted_counts_once() -> None:
    stopping = Stopping(None, {"usd": 7}, None)
    stopping.begin(cast("Any", None), {})
    job = cast("Any", TellsLate(stopping))
    job.counted({"usd": 4})
    assert job.heard_since is not None
    assert not stopping.stops()
    job.counted({"usd": 3})
    assert stopping.stops()


def test_what_others_count_is_heard_while_the_text_of_an_error_is_asked_for() -> None:
    """The supervising thread tells of it, and all jobs would wait for code of the user's."""
    stopping = Stopping(None, {"usd": 7}, None)
    stopping.begin(cast("Any", None), {})
    other = cast("Any", TellsLate(stopping))
    stopping.watch(other)
    counting = threading.Thread(target=lambda: other.counted({"usd": 7}))
    heard = list[bool]()

    class SlowError(Exception):
        def __str__(self) -> str:
            counting.start()
            counting.join(20)
            heard.append(not counting.is_alive())
            return "slow"

    failed = Job[Any](cast("Any", None), 1, (), {}, "failed", ())
    failed.set_exception(SlowError())
    stopping.ended(failed)
    counting.join()
    assert heard == [True]
    assert stopping.stops()


def spent_at(line: int, failed: Job[Any]) -> int:
    """Submit and end, while a signal handler waits at a line for what another job counts."""
    stopping = Stopping(Halt.parse("soon,fail=1"), {"usd": 7}, None)
    stopping.begin(cast("Any", None), {})
    other = cast("Any", TellsLate(stopping))
    stopping.watch(other)
    has_counted = SimpleNamespace(resumed=False, meters_of_run={"usd": 1})

    def act() -> bool:
        stopping.watch(cast("Any", has_counted))
        stopping.all_taken(3)
        stopping.ended(failed)
        return stopping.stops()

    def handle() -> bool:
        counting = threading.Thread(target=lambda: other.counted({"usd": 1}))
        counting.start()
        counting.join(20)
        return not counting.is_alive()

    made = Interrupted(act, handle, line)
    assert set(made.made) == {True}
    assert stopping._halting._spent["usd"] == len(made.made)
    return made.lines


def test_a_handler_that_waits_at_any_line_of_a_batch_keeps_no_count_from_being_told() -> None:
    """The supervising thread tells it, without which no wait ends."""
    failed = Job[Any](cast("Any", None), 1, (), {}, "failed", ())
    failed.set_exception(ValueError())
    lines = spent_at(0, failed)
    assert lines
    for line in range(1, lines + 1):
        spent_at(line, failed)
