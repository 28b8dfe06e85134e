"""In whatever order the news of deaths comes, each job hears of its one true end."""

import itertools
import math
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from collector import BrokenCollectorError, WorkerCrashError, settings
from collector.process.engine import Exit
from collector.process.pickling import calls
from collector.process.pool import supervised, supervisor
from collector.process.scheduler.decisions import Action, Dispatch, End, Settle, StartWorker
from collector.process.start.bootstrap import NoPythonError
from collector.wire import messages
from collector.wire.outcome import Outcome
from tests.support.fakeengine import ended
from tests.support.supervised import Desk, FakeJob

Act = Callable[[Desk], None]


def worker_dies(desk: Desk) -> None:
    worker = desk.engine.workers[1]
    if not worker.dead:
        worker.die()


def sink_reads_it_out(desk: Desk) -> None:
    worker = desk.engine.workers[1]
    if worker.dead and not worker.read_out and not worker.sink.dead:
        worker.be_read_out()


def one_message_arrives(desk: Desk) -> None:
    desk.sink.arrive()


def sink_dies(desk: Desk) -> None:
    sink = desk.engine.sinks[0]
    if not sink.dead:
        sink.die()


def user_kills_it(desk: Desk) -> None:
    desk.supervisor.note(lambda: desk.schedule.killed(1))


def user_stops(desk: Desk) -> None:
    desk.supervisor.note(lambda: desk.supervisor.stop(cancel=False, kill=False))


NEWS: tuple[Act, ...] = (
    worker_dies,
    sink_reads_it_out,
    one_message_arrives,
    one_message_arrives,
    sink_dies,
    user_kills_it,
)


def with_a_running_and_a_waiting_job(retries: int = 0) -> tuple[Desk, FakeJob, FakeJob]:
    desk = Desk(ahead=True)
    running, waiting = desk.submit(retries), desk.submit(retries)
    desk.round()
    desk.engine.workers[1].say_ready()
    desk.sink.arrive()
    desk.round()
    desk.engine.workers[1].start()
    assert len(desk.engine.workers[1].inbox) == 1
    return desk, running, waiting


def orders(every: int) -> list[tuple[Act, ...]]:
    """Every so many-th order of the news, and the same without its tail: all goes on by itself."""
    whole = set(itertools.permutations(NEWS))
    some = {order[:n] for order in whole for n in (2, 4, 6)}
    return sorted(some, key=lambda order: [act.__name__ for act in order])[::every]


def check(running: FakeJob, waiting: FakeJob, order: tuple[Act, ...]) -> None:
    told = " ".join(act.__name__ for act in order)
    assert waiting.value == 2, told  # it had not started: no death is its end
    if running.error is None:
        assert running.value == 1 or running.cancelled, told
    else:
        assert type(running.error).__name__ in {
            "WorkerCrashError",
            "BrokenCollectorError",
            "JobKilledError",
        }, told
    if sink_dies not in order and user_kills_it not in order:
        assert isinstance(running.error, WorkerCrashError) is (worker_dies in order), told
    if isinstance(running.error, WorkerCrashError):
        # Who died is told, and what was sealed is handed over, whatever came first.
        assert running.error.exitcode == -9, told
        assert running.written, told
    if isinstance(running.error, BrokenCollectorError):
        assert sink_dies in order, told


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "two in a round"])
@pytest.mark.parametrize(
    "every",
    [
        pytest.param(1, marks=pytest.mark.campaign),
        pytest.param(3, marks=pytest.mark.slow),
        11,
    ],
)
def test_every_order_of_deaths_ends_each_job_once_and_truly(every: int, at_once: bool) -> None:
    for order in orders(every):
        desk, running, waiting = with_a_running_and_a_waiting_job()
        for number, act in enumerate(order):
            act(desk)
            if not at_once or number % 2:
                desk.round()
        desk.finish()
        check(running, waiting, order)


@pytest.mark.parametrize("act", NEWS[:2] + NEWS[4:])
def test_a_job_with_a_retry_runs_again_after_any_death(act: Act) -> None:
    desk, running, waiting = with_a_running_and_a_waiting_job(retries=1)
    act(desk)
    desk.round()
    desk.finish()
    if act is not user_kills_it:
        assert (running.value, running.error) == (1, None)
    assert waiting.value == 2


def test_no_worker_is_started_after_the_one_for_whom_no_process_is_to_be_had() -> None:
    desk = Desk(2)
    desk.engine.refuses = NoPythonError("there is no Python")
    job = desk.submit()
    desk.round()
    assert isinstance(job.error, BrokenCollectorError)
    assert "there is no Python" in str(job.error)
    later = desk.submit()
    desk.finish()
    assert isinstance(later.error, BrokenCollectorError)
    assert not desk.engine.workers


def test_workers_that_the_sink_refuses_cost_no_job_and_are_started_again_later() -> None:
    """It had no descriptors for them: else the third or tenth in a row ends the Collector."""
    desk = Desk(2)
    jobs = [desk.submit(), desk.submit()]
    desk.round()
    first, second = desk.engine.workers[1], desk.engine.workers[2]
    first.say_ready()
    desk.sink.report(messages.WorkerDrained(2, "was refused: no descriptors"))
    desk.sink.arrive(2)
    desk.round()
    assert second.killed
    second.die()
    desk.round()
    setbacks = desk.schedule.setbacks
    assert (setbacks.early_deaths, setbacks.failed_starts, setbacks.hindered) == (0, 1, True)
    assert len(desk.engine.workers) == 2, "none is started at once"
    desk.finish()
    assert [job.error for job in jobs] == [None, None]


def test_what_a_sink_had_reported_counts_though_its_death_is_seen_first() -> None:
    desk, running, waiting = with_a_running_and_a_waiting_job()
    desk.engine.workers[1].end("by then")
    desk.sink.die(having_said=1)
    desk.round()
    desk.finish()
    assert (running.value, running.error) == ("by then", None)
    assert waiting.value == 2


def test_a_worker_that_reports_the_end_of_anothers_job_is_killed() -> None:
    desk = Desk(2)
    jobs = [desk.submit(), desk.submit()]
    desk.round()
    honest, liar = desk.engine.workers.values()
    for worker in (honest, liar):
        worker.say_ready()
    desk.sink.arrive(2)
    desk.round()
    honest.start()
    liar.start()
    desk.sink.report(ended(liar.number, honest.exit.begun or 0, Outcome.RETURNED))
    desk.sink.arrive()
    desk.round()
    assert liar.killed
    assert not honest.killed
    assert not any(job.over for job in jobs)
    desk.finish()
    honest_job, liars_job = sorted(jobs, key=lambda job: job.error is not None)
    assert honest_job.value == honest_job.number
    assert isinstance(liars_job.error, WorkerCrashError)


def test_a_collector_gives_up_when_sinks_die_and_nothing_is_done_in_between() -> None:
    desk = Desk()
    job = desk.submit(retries=100)
    for _ in range(settings.SINK_DEATHS_LIMIT):
        desk.round()
        while not desk.engine.living()[-1].running:
            desk.go_on()
        desk.sink.die()
        desk.round()
        desk.go_on()
    assert isinstance(job.error, BrokenCollectorError)
    desk.finish()


def test_a_worker_that_does_not_leave_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "STOP_DEADLINE_S", 0)
    desk = Desk()
    job = desk.submit()
    desk.round()
    worker = desk.engine.workers[1]
    while not job.over:
        desk.go_on()
    user_stops(desk)
    desk.round()
    desk.round()
    assert worker.stopped
    assert worker.killed
    desk.finish()


def test_a_loop_that_fails_leaves_no_process_and_no_job_without_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, running, waiting = with_a_running_and_a_waiting_job()
    monkeypatch.setattr(desk.schedule, "ticked", 1)
    desk.supervisor.note(lambda: None)
    with pytest.raises(TypeError, match="not callable"):
        desk.supervisor.run()
    assert desk.engine.workers[1].killed
    desk.close()
    assert "the supervising thread failed" in str(running.error)
    assert "the supervising thread failed" in str(waiting.error)


def test_no_job_is_without_an_end_where_a_loop_that_fails_cannot_end_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor one that has just been submitted. A program may have closed our descriptors."""
    desk, running, waiting = with_a_running_and_a_waiting_job()
    submitted, work = desk.work()
    worker = desk.engine.workers[1]

    def fail() -> None:
        worker.killed = True
        raise TypeError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(worker, "kill", fail)
        desk.supervisor.note(fail)
        desk.supervisor.note(work)
        with pytest.raises(TypeError, match="a bug"):
            desk.supervisor.run()
    assert worker.killed
    assert desk.sink.killed  # and whatever else there is is let go
    assert desk.engine.closed
    desk.close()
    for job in (running, waiting, submitted):
        assert "the supervising thread failed" in str(job.error)


def test_what_is_known_of_an_end_is_not_lost_when_a_decision_before_it_brings_another() -> None:
    desk = Desk(2)
    job = desk.submit()
    desk.round()
    worker = desk.engine.workers[1]
    worker.say_ready()
    desk.sink.arrive()
    desk.round()
    worker.start()
    said = ended(1, worker.exit.begun or 0, Outcome.RETURNED, calls.dumps("whole"))
    end = End(Outcome.RETURNED, said)
    # A start that fails decides something itself, in the midst of what is being done.
    desk.engine.refuses = OSError("no process is to be had")
    other, work = desk.work()

    def decide() -> list[Action]:
        decided = [*desk.supervisor.take(work), *desk.schedule.ended(said.ticket, end)]
        assert [type(action) for action in decided] == [StartWorker, Settle, Dispatch]
        return decided

    desk.supervisor.note(decide)
    desk.round()
    assert (job.value, job.error, job.written) == ("whole", None, b"1")
    worker.running = None
    desk.finish()
    assert other.value == other.number


@pytest.mark.parametrize("sees", [True, False])
def test_the_sink_is_told_of_a_death_only_if_it_cannot_see_it(sees: bool) -> None:
    desk, running, waiting = with_a_running_and_a_waiting_job()
    worker = desk.engine.workers[1]
    worker.sink_sees_death = sees
    worker.die()
    desk.round()
    assert [type(m) for m in desk.sink.told] == [messages.WorkerLeft] * (not sees)
    desk.finish()
    assert isinstance(running.error, WorkerCrashError)
    assert waiting.value == 2


def test_another_worker_is_started_after_one_that_died_unheard_before_it_was_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with the pump of a cluster, which takes all workers along: the job waited for ever."""
    monkeypatch.setattr(settings, "START_AGAIN_S", 0.0)
    desk = Desk()
    job = desk.submit()
    desk.round()
    worker = desk.engine.workers[1]
    worker.die()
    worker.exit = Exit(None, 0, "is gone", unheard=True)
    worker.be_read_out()
    desk.finish()
    assert job.value == 1


def test_a_process_that_leaves_is_not_late_for_a_pause_of_the_whole_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it still has to say would be lost with it."""
    desk, _, _ = with_a_running_and_a_waiting_job()
    worker, now_s = desk.engine.workers[1], time.monotonic()
    monkeypatch.setattr(supervised, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: now_s))
    desk.supervisor.note(lambda: desk.supervisor.stop(cancel=False, kill=False))
    while not worker.stopped:
        desk.go_on()
    was_killed = list[bool]()
    for pause_s in [3600, *[1] * math.ceil(settings.STOP_DEADLINE_S)]:
        now_s += pause_s
        desk.round()
        was_killed.append(worker.killed)
    assert was_killed.index(True) == len(was_killed) - 1, "its time runs on"
    desk.finish()
