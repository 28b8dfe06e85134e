"""Gates, delays and counts as the scheduler decides them: no process, no clock, no sleep."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import CollectorError, OutputLostError, SpillError
from collector.process.scheduler.decisions import (
    Action,
    Dispatch,
    End,
    Entry,
    RunAgain,
    RunLater,
    Settle,
    StartWorker,
)
from collector.process.scheduler.gates import Waits
from collector.process.scheduler.retries import Later, Remark, Retry
from collector.process.scheduler.scheduler import Scheduler
from collector.settings import GATES_UNTRIED
from collector.wire.outcome import Outcome
from tests.support.inside import resources_with_gates, set_pace_of
from tests.support.scheduling import Clock, make

RETURNED = End(Outcome.RETURNED)
RAISED = End(Outcome.RAISED)
MEMORY = Remark(frozenset({"builtins.MemoryError", "builtins.Exception"}))
OS_ERROR = Remark(frozenset({"builtins.OSError", "builtins.Exception"}))


@dataclass
class Desk:
    """A scheduler whose workers are ready, and what it has decided."""

    schedule: Scheduler
    clock: Clock
    running: list[Entry] = field(default_factory=list)
    settled: list[tuple[int, Outcome]] = field(default_factory=list)
    later: list[int] = field(default_factory=list)

    def do(self, decided: Any) -> list[Action]:
        actions = list(decided)
        for action in actions:
            if isinstance(action, Dispatch):
                self.running.append(action.entry)
            elif isinstance(action, Settle):
                self.settled.append((action.entry.job_id, action.end.outcome))
            elif isinstance(action, RunLater):
                self.later.append(action.entry.job_id)
        return actions

    def submit(self, *entries: Entry) -> None:
        for entry in entries:
            self.do(self.schedule.submitted(entry))

    def end(self, entry: Entry, end: End = RETURNED, remark: Remark | None = None) -> list[Action]:
        self.running.remove(entry)
        if remark is not None:
            self.schedule.remarked(entry.ticket, remark)
        return self.do(self.schedule.ended(entry.ticket, end))

    def refuse(self, entry: Entry, after_s: float, resource: str = "") -> None:
        self.end(entry, RAISED, Remark(frozenset({"x"}), Later(after_s, resource)))

    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.do(self.schedule.ticked(self.clock.now_s))

    def numbers(self) -> list[int]:
        return [entry.job_id for entry in self.running]


def desk(workers: int = 4, **options: Any) -> Desk:
    schedule, clock = make(workers, **options)
    made = Desk(schedule, clock)
    for number in range(1, workers + 1):
        made.submit(Entry(900 + number))
        made.do(schedule.worker_ready(number))
    for entry in list(made.running):
        made.clock.now_s += 1
        made.end(entry)
    made.settled.clear()
    return made


def model(number: int, **options: Any) -> Entry:
    return Entry(number, resource="model", **options)


def test_no_more_jobs_of_a_resource_run_than_may_and_others_pass_them() -> None:
    here = desk(4, limits={"model": 2})
    here.submit(*map(model, range(1, 5)), Entry(5), Entry(6))
    assert here.numbers() == [1, 2, 5, 6]
    here.end(here.running[2])
    assert here.numbers() == [1, 2, 6]
    here.end(here.running[0])
    assert here.numbers() == [2, 6, 3]
    assert here.schedule.waits() == [Waits("model", "full", 1, float("inf"))]


def test_a_gate_is_kept_as_long_as_it_says_something() -> None:
    here = desk(2, limits={"model": 2})
    here.submit(*(Entry(number, resource=f"own of {number}") for number in range(1, 5)))
    assert resources_with_gates(here.schedule) == ["model", *(f"own of {n}" for n in (1, 2, 3, 4))]
    here.do(here.schedule.withdrawn(4))
    here.refuse(here.running[0], 10)
    while here.running:
        here.end(here.running[0])
    assert resources_with_gates(here.schedule) == ["model", "own of 1"]
    here.wait(10)
    here.end(here.running[0])
    assert resources_with_gates(here.schedule) == ["model"]
    here.submit(Entry(5, resource="own of 1"), Entry(6, resource="own of 1"))
    assert here.numbers() == [5, 6]
    here.submit(Entry(7, resource="own of 7"))
    here.do(here.schedule.break_off("because"))
    assert "own of 7" not in resources_with_gates(here.schedule)


def test_of_gates_that_nobody_tries_the_last_are_kept_however_many_a_batch_closes() -> None:
    """As a crawler closes one for each host that refuses it."""
    here, many = desk(2), 3 * GATES_UNTRIED
    for number in range(1, many):
        here.submit(Entry(number, resource=f"host {number}", retry=Retry(later=0)))
        here.refuse(here.running[0], 1)
        assert f"host {number}" in resources_with_gates(here.schedule), "closed"
        here.wait(1)
        assert len(resources_with_gates(here.schedule)) <= GATES_UNTRIED
    last, first = f"host {many - 1}", "host 1"
    here.submit(Entry(1001, resource=last), Entry(1002, resource=last), Entry(1003, resource=first))
    assert here.numbers() == [1001, 1003], "of the last resource one job runs first"


def test_a_gate_that_is_closed_opens_for_one_job_first_and_then_for_all() -> None:
    here = desk(4)
    here.submit(*map(model, range(1, 9)))
    first, second, *others = list(here.running)
    here.refuse(first, 10)
    assert here.numbers() == [2, 3, 4]
    for entry in others:
        here.end(entry)
    here.end(second)
    assert here.numbers() == []
    assert here.schedule.next_deadline_s() == here.clock.now_s + 10
    assert here.schedule.waits() == [Waits("model", "closed", 5, here.clock.now_s + 10)]
    here.wait(9.9)
    assert here.numbers() == []
    here.wait(0.1)
    assert here.numbers() == [1], "the one that came back goes first, and it alone"
    assert [waits.why for waits in here.schedule.waits()] == ["trying"]
    here.end(here.running[0])
    assert here.numbers() == [5, 6, 7, 8]
    assert here.settled == [(n, Outcome.RETURNED) for n in (3, 4, 2, 1)]


def test_a_job_that_writes_opens_the_gate_before_its_end() -> None:
    here = desk(4)
    here.submit(*map(model, range(1, 5)))
    for entry in list(here.running):
        here.refuse(entry, 1)
    here.wait(1)
    assert here.numbers() == [1]
    here.do(here.schedule.proved(here.running[0].ticket))
    assert here.numbers() == [1, 2, 3, 4]


def test_a_crash_of_the_one_that_tries_says_nothing_of_the_resource() -> None:
    here = desk(2)
    here.submit(*map(model, range(1, 4)))
    for entry in list(here.running):
        here.refuse(entry, 1)
    here.wait(1)
    here.end(here.running[0], End(Outcome.SPILL_FAILED))
    assert here.numbers() == [2], "the next one tries"


def test_one_that_is_refused_again_closes_the_gate_again_and_uses_up_nothing() -> None:
    here = desk(2)
    here.submit(model(1, retry=Retry(error=0)), model(2))
    tries = []
    for _ in range(5):
        for entry in list(here.running):
            here.refuse(entry, 3)
        here.wait(3)
        tries += here.numbers()
    assert tries == [1, 2, 1, 2, 1]  # by turns
    assert here.running[0].attempt == 1
    here.end(here.running[0])
    assert here.settled == [(1, Outcome.RETURNED)]


def test_one_that_asks_for_ever_holds_up_no_other_one() -> None:
    here = desk(1)
    here.submit(*(model(number) for number in range(1, 6)))
    for _ in range(12):
        (entry,) = here.running
        if entry.job_id == 1:
            here.refuse(entry, 3)
            here.wait(3)
        else:
            here.end(entry)
    assert here.numbers() == [1]
    assert sorted(number for number, _ in here.settled) == [2, 3, 4, 5]


def test_a_longer_pause_is_not_cut_short_by_a_shorter_one() -> None:
    here = desk(2)
    here.submit(model(1), model(2))
    first, second = here.running
    here.refuse(first, 60)
    here.refuse(second, 1)
    here.wait(59)
    assert here.numbers() == []
    here.wait(1)
    assert here.numbers() == [1]


def test_a_job_of_no_resource_waits_by_itself_or_closes_that_of_others() -> None:
    here = desk(2)
    here.submit(Entry(1), Entry(2), model(3))
    first, second = here.running
    here.refuse(first, 5)
    assert here.numbers() == [2, 3]
    here.refuse(second, 5, "model")
    here.end(here.running[0])
    here.submit(model(4), Entry(5))
    assert here.numbers() == [5]
    here.wait(5)
    assert sorted(here.numbers()) == [1, 5], "two workers"


def test_a_number_of_retries_neither_waits_nor_tells_causes_apart() -> None:
    here = desk(1)
    here.submit(Entry(1, 2))
    here.end(here.running[0], RAISED, MEMORY)
    assert here.numbers() == [1]
    here.end(here.running[0], RAISED, OS_ERROR)
    assert here.numbers() == [1]
    here.end(here.running[0], RAISED, OS_ERROR)
    assert here.settled == [(1, Outcome.RAISED)]


def test_what_runs_out_of_memory_runs_again_alone() -> None:
    here = desk(3)
    here.submit(Entry(1, retry=Retry(oom=1, delay=0)), Entry(2), Entry(3), Entry(4), Entry(5))
    here.end(here.running[0], RAISED, MEMORY)
    here.wait(0)
    assert here.numbers() == [2, 3, 4], "taken before its delay was over"
    here.end(here.running[0])
    here.end(here.running[0])
    assert here.numbers() == [4], "the others are let out"
    here.end(here.running[0])
    assert here.numbers() == [1]
    here.submit(Entry(6))
    assert here.numbers() == [1]
    here.end(here.running[0])
    assert here.numbers() == [5, 6]


def test_jobs_of_a_resource_wait_at_its_gate_not_at_workers() -> None:
    here = desk(1, limits={"model": 1})
    for number in range(100, 180):  # brisk ones: others are sent ahead now
        here.submit(Entry(number))
        here.end(here.running[-1])
    here.submit(*map(model, range(1, 5)))
    assert here.numbers() == [1]
    here.submit(Entry(10), Entry(11))
    here.wait(0)
    assert here.numbers() == [1, 10, 11]


def test_a_stream_of_jobs_that_are_sent_ahead_holds_up_none_of_a_resource() -> None:
    """As one thread collects tiny jobs without end, and another asks a service."""
    here = desk(2)
    set_pace_of(here.schedule, 0.0)
    here.submit(*map(Entry, range(1, 9)))
    assert here.numbers() == list(range(1, 9)), "some wait at the workers"
    here.submit(model(100))
    for number in range(101, 160):
        here.submit(Entry(number))
        here.end(here.running[0])
        if 100 in here.numbers():
            break
    assert 100 in here.numbers()
    assert len(here.settled) <= 8, "those that were before it"
    here.submit(Entry(200), Entry(201))
    assert {200, 201} <= set(here.numbers()), "and then others are sent ahead again"


def test_what_waits_can_be_cancelled_killed_and_dropped() -> None:
    here = desk(2)
    here.submit(model(1), model(2), model(3), Entry(4, retry=Retry(error=1, delay=9)))
    here.refuse(here.running[0], 60)
    here.end(here.running[0])
    here.end(here.running[0], RAISED, OS_ERROR)
    assert here.numbers() == []
    assert here.schedule.unsettled
    here.do(here.schedule.withdrawn(3))
    here.do(here.schedule.killed(1))
    here.do(here.schedule.dropped([4]))
    assert here.settled[1:] == [(1, Outcome.CANCELLED), (4, Outcome.KILLED)]
    assert not here.schedule.unsettled


def test_a_job_that_asks_for_later_when_nobody_wants_it_any_more_is_cancelled() -> None:
    here = desk(2)
    here.submit(model(1), Entry(2))
    here.do(here.schedule.stop(cancel=True))
    here.refuse(here.running[0], 3600)
    here.refuse(here.running[0], 3600)
    assert here.settled == [(1, Outcome.CANCELLED), (2, Outcome.CANCELLED)]
    assert not here.schedule.unsettled


def test_a_job_that_is_to_run_alone_waits_for_no_gate_of_anothers() -> None:
    here = desk(2)
    again = Retry(oom=1, delay=0)
    here.submit(model(1, retry=again), Entry(2, retry=again), model(3))
    for entry in list(here.running):
        here.end(entry, RAISED, MEMORY)
    here.refuse(here.running[0], 3600, "model")  # 3, which closes the gate of 1
    here.wait(0)
    assert here.numbers() == [2]


COUNTS = st.fixed_dictionaries({name: st.integers(0, 3) for name in ("crash", "timeout", "oom")})
CAUSES = {
    "crash": (End(Outcome.CRASHED), Remark()),
    "oom": (End(Outcome.CRASHED, out_of_memory=True), Remark()),
    "timeout": (End(Outcome.TIMED_OUT), Remark()),
    "error": (RAISED, OS_ERROR),
    "other": (RAISED, Remark(frozenset({"builtins.ValueError"}))),
}


def test_no_worker_is_started_for_what_waits_until_the_others_are_done() -> None:
    """Memory is short where a job is to run alone; and the jobs behind it go on without it."""
    schedule, _ = make(8)
    long, greedy = Entry(1), Entry(2, retry=Retry(oom=1, delay=0))
    actions = [*schedule.submitted(long), *schedule.submitted(greedy)]
    for number in (1, 2):
        actions += schedule.worker_ready(number)
    schedule.remarked(greedy.ticket, MEMORY)
    actions += [*schedule.ended(greedy.ticket, RAISED), *schedule.ticked(100.0)]
    for number in range(3, 20):
        actions += [*schedule.worker_ready(number), *schedule.submitted(Entry(number))]
    assert [a.worker for a in actions if isinstance(a, StartWorker)] == [1, 2]
    assert len([a for a in actions if isinstance(a, Dispatch)]) == 2
    assert greedy.attempt == 2
    ended = [*schedule.killed(2), *schedule.ticked(100.0)]
    assert len([a for a in ended if isinstance(a, Dispatch)]) == 1
    assert len([a for a in ended if isinstance(a, StartWorker)]) == 6


def test_a_stream_of_jobs_that_are_sent_ahead_holds_up_none_that_is_to_run_alone() -> None:
    here = desk(2)
    here.submit(Entry(1, retry=Retry(oom=1, delay=0)), Entry(2))
    here.end(here.running[0], RAISED, MEMORY)
    set_pace_of(here.schedule, 0.0)
    here.submit(*map(Entry, range(3, 6)))
    here.wait(0)
    for number in range(6, 40):
        here.submit(Entry(number))
        here.end(here.running[0])
        if 1 in here.numbers():
            break
    assert here.numbers() == [1]
    here.submit(Entry(100), Entry(101))
    assert here.numbers() == [1], "nor is anything sent behind it"


def test_no_worker_is_started_beside_a_job_that_runs_alone() -> None:
    schedule, clock = make(8)
    here = Desk(schedule, clock)
    here.submit(Entry(1, retry=Retry(oom=1, delay=0)))
    here.do(schedule.worker_ready(1))
    here.end(here.running[0], RAISED, MEMORY)
    here.wait(0)
    assert (here.numbers(), here.running[0].alone) == ([1], True)
    started = [a for n in range(2, 9) for a in here.do(schedule.submitted(Entry(n)))]
    assert started == []
    ended = here.end(here.running[0])
    assert here.numbers() == [2]
    assert len([a for a in ended if isinstance(a, StartWorker)]) == 6


@pytest.mark.parametrize(
    ("outcome", "error"), [(Outcome.SPILL_FAILED, SpillError), (Outcome.LOST, OutputLostError)]
)
def test_what_the_disk_does_to_an_output_counts_as_the_error_that_it_is(
    outcome: Outcome, error: type[Exception]
) -> None:
    for on in (SpillError, OutputLostError, OSError, CollectorError, Exception, ValueError):
        here = desk(1)
        here.submit(Entry(1, retry=Retry(error=1, on=on, delay=0)))
        here.end(here.running[0], End(outcome))
        assert bool(here.settled) is not issubclass(error, on), on


def test_no_delay_stays_none_however_often_a_job_is_run_again() -> None:
    retry = Retry(crash=5000, delay=0, factor=2.0)
    assert {retry.wait_s(count, 0.9) for count in (1, 2, 1024, 1025, 5000)} == {0.0}
    assert Retry(delay=0.5, max_delay=20, jitter=0).wait_s(5000, 0.9) == 20


@given(
    counts=COUNTS,
    errors=st.integers(0, 3),
    causes=st.lists(st.sampled_from(sorted(CAUSES)), max_size=14),
    chance=st.floats(0, 1),
    jitter=st.floats(0, 1),
)
@settings(deadline=None)
def test_each_cause_has_its_own_count_and_each_delay_its_bounds(
    counts: dict[str, int], errors: int, causes: list[str], chance: float, jitter: float
) -> None:
    retry = Retry(**counts, error=errors, on=OSError, delay=2, max_delay=20, jitter=jitter)
    left = {**counts, "error": errors, "other": 0}
    schedule, clock = make(2, chance=lambda: chance)
    here = Desk(schedule, clock)
    here.submit(Entry(1, retry=retry))
    worker, wait_s = 1, 2.0
    here.do(schedule.worker_ready(worker))
    for cause in causes:
        entry = here.running[0]
        end, remark = CAUSES[cause]
        actions = here.end(entry, end, remark)
        if end.outcome in {Outcome.CRASHED, Outcome.TIMED_OUT}:
            here.do(schedule.worker_gone(worker))
        if not left[cause]:
            assert here.settled == [(1, end.outcome)]
            return
        left[cause] -= 1
        assert any(isinstance(action, RunAgain) for action in actions)
        due_s = schedule.next_deadline_s() - clock.now_s
        assert wait_s * (1 - jitter) - 1e-6 <= due_s <= wait_s * (1 + jitter) + 1e-6
        here.wait(due_s + 1e-6)
        for number in range(worker + 1, worker + 3):
            here.do(schedule.worker_ready(number))
            if here.running:
                worker = here.running[0].worker or 0
                break
        wait_s = min(wait_s * 2, 20.0)
        assert here.numbers() == [1]


@given(
    limit=st.integers(1, 4),
    workers=st.integers(1, 5),
    moves=st.lists(
        st.tuples(st.sampled_from(["submit", "plain", "end", "refuse", "wait"]), st.integers(0, 9)),
        max_size=60,
    ),
)
@settings(deadline=None)
def test_a_gate_lets_through_what_it_may_and_loses_nothing(  # noqa: C901, PLR0912 - one case a move
    limit: int, workers: int, moves: list[tuple[str, int]]
) -> None:
    here = desk(workers, limits={"model": limit})
    closed_until, submitted = 0.0, 0
    for what, number in moves:
        before = set(here.numbers())
        if what in {"submit", "plain"}:
            submitted += 1
            here.submit(model(submitted) if what == "submit" else Entry(submitted))
        elif what == "wait":
            here.wait(number)
        elif here.running:
            entry = here.running[number % len(here.running)]
            if what == "refuse" and entry.resource:
                closed_until = max(closed_until, here.clock.now_s + number)
                here.refuse(entry, number)
            else:
                here.end(entry)
        models = [entry.job_id for entry in here.running if entry.resource]
        assert len(models) <= limit
        if here.clock.now_s < closed_until:
            assert not set(models) - before, "nobody passes a closed gate"
    for _ in range(2 * submitted + 2):
        here.wait(10)
        for entry in list(here.running):
            here.end(entry)
    assert sorted(number for number, _ in here.settled) == list(range(1, submitted + 1))
    assert here.schedule.waits() == []
