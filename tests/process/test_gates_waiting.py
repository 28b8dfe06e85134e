"""Jobs that wait at a gate, or until they may run alone, and what becomes of them meanwhile."""

import tracemalloc
from collections.abc import Callable

import pytest

from collector.process.scheduler.decisions import End, Entry, StopWorker
from collector.process.scheduler.lines import Lines
from collector.process.scheduler.retries import Later, Remark, Retry
from collector.wire.outcome import Outcome
from tests.process.test_gates import MEMORY, OS_ERROR, RAISED, Desk, desk, model
from tests.support.inside import resources_with_gates

MANY = 20_000


def held_bytes(make: Callable[[int], Entry]) -> tuple[Desk, int]:
    here = desk(1)
    here.submit(make(1))
    here.refuse(here.running[0], 60)
    tracemalloc.start()
    try:
        here.submit(*map(make, range(2, MANY)))
        return here, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_waiting_at_a_gate_takes_hardly_more_memory_than_waiting_in_line() -> None:
    """An entry of a dict, so that a job is cancelled without a look at each gate."""
    here, at_gate = held_bytes(model)
    _, in_line = held_bytes(Entry)
    assert [waits.jobs for waits in here.schedule.waits()] == [MANY - 1]
    assert at_gate < in_line + 50 * MANY


def test_time_that_passes_at_a_closed_gate_looks_at_no_job() -> None:
    here = desk(2)
    here.submit(model(1), *map(model, range(2, 1000)))
    for entry in list(here.running):
        here.refuse(entry, 60)
    line = here.schedule.waits()[0]
    assert line.jobs == 999
    due_s = here.schedule.next_deadline_s()
    assert due_s == here.clock.now_s + 60, "one wake-up for all"
    assert list(here.schedule.ticked(due_s - 0.001)) == []


def test_a_remark_of_another_attempt_is_not_believed() -> None:
    here = desk(1)
    here.submit(model(1), model(2))
    first = here.running[0]
    ticket = first.ticket
    here.end(first)
    here.schedule.remarked(ticket, Remark(frozenset({"x"}), Later(60, "")))
    assert here.numbers() == [2]


class Number(int):
    """A number of a job that counts how often it was compared with others."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        Number.compared += 1
        return int(self) < int(other)

    __hash__ = int.__hash__


def test_what_waits_to_run_alone_is_not_gone_through_each_time_that_it_is_asked_for() -> None:
    lines = Lines()
    for number in reversed(range(1, 1000)):
        lines.put_back(Entry(Number(number), alone=True, resource="model" if number % 2 else ""))
    Number.compared = 0
    assert lines.ready == 1
    assert not lines.ahead()
    assert lines.take_first(running=1) is None
    taken = lines.take_first(running=0)
    assert taken is not None
    assert taken.job_id == 1, "the first of all, whatever its resource is"
    assert Number.compared < 50


def test_nothing_is_kept_of_a_resource_whose_jobs_have_run_alone() -> None:
    here, again = desk(3), Retry(oom=1, delay=0)
    here.submit(*(Entry(n, resource=f"own of {n}", retry=again) for n in range(1, 4)))
    for entry in list(here.running):
        here.end(entry, RAISED, MEMORY)
    here.wait(0)
    assert here.numbers() == [1]
    here.do(here.schedule.withdrawn(3))
    assert resources_with_gates(here.schedule) == ["own of 1", "own of 2"]
    here.end(here.running[0])
    assert here.numbers() == [2]
    here.end(here.running[0])
    assert resources_with_gates(here.schedule) == []


def test_what_waits_at_a_gate_alone_keeps_a_collector_that_was_shut_down_from_its_end() -> None:
    here = desk(1)
    here.submit(model(1))
    here.refuse(here.running[0], 60)
    stopped = here.do(here.schedule.stop())
    assert (stopped, here.schedule.unsettled) == ([], True)
    here.wait(60)
    assert here.numbers() == [1]
    assert here.end(here.running[0])[-1] == StopWorker(1)
    assert not here.schedule.unsettled


def test_a_later_attempt_that_asks_for_later_when_nobody_wants_it_fails_with_that() -> None:
    """Its first one has run: it is not cancelled, as one that asks at its first attempt is."""
    here = desk(1)
    here.submit(Entry(1, retry=Retry(error=1, delay=0)))
    here.end(here.running[0], RAISED, OS_ERROR)
    here.wait(0)
    here.do(here.schedule.stop(cancel=True))
    here.refuse(here.running[0], 3600)
    assert here.settled == [(1, Outcome.RAISED)]


def test_what_has_run_out_of_memory_runs_alone_whatever_becomes_of_it_next() -> None:
    here = desk(2)
    here.submit(Entry(1, retry=Retry(oom=1, error=1, delay=0)), Entry(2), Entry(3))
    for said in (MEMORY, OS_ERROR):
        here.end(here.running[0], RAISED, said)
        here.wait(0)
        while 1 not in here.numbers():
            here.end(here.running[0])
        assert here.numbers() == [1]
        here.submit(*(Entry(number) for number in range(4, 6)))
        assert here.numbers() == [1]


def test_a_worker_that_dies_after_its_job_has_asked_for_later_has_crashed() -> None:
    here = desk(1)
    here.submit(Entry(1, retry=Retry(crash=0)))
    here.end(here.running[0], End(Outcome.CRASHED), Remark(frozenset({"x"}), Later(60, "")))
    assert (here.settled, here.later) == ([(1, Outcome.CRASHED)], [])
