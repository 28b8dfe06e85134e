"""The supervising thread sleeps when there is nothing to do, whatever it had to wait for before."""

import os
import select
import selectors
import signal
from pathlib import Path

import pytest

from collector import Collector, settings
from collector.process.channel import Channel
from collector.process.pace import Pace
from collector.process.supervisor import Supervisor
from collector.wire import messages
from tests.support.jobs import METHODS, kept_busy, square
from tests.support.leaks import wait_until
from tests.support.tree import sink_pid, stopped, supervisor_held_up, worker_pids

each_method = pytest.mark.parametrize("method", METHODS)


def size_of(data: bytes) -> int:
    return len(data)


def waits_for_room(supervisor: Supervisor, channel: Channel) -> bool:
    known = supervisor._watch._selector.get_map().get(channel.fd)
    return known is not None and bool(known.events & selectors.EVENT_WRITE)


def has_room(channel: Channel) -> bool:
    return bool(select.select([], [channel.fd], [], 0)[1])


@each_method
def test_room_for_jobs_is_not_waited_for_once_they_are_sent(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "RECALL_AFTER_S", 60)
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        supervisor = collector._core.pool._supervisor
        (worker,) = supervisor._workers.values()
        (pid,) = worker_pids(collector)
        with stopped(pid):
            supervisor.note(lambda: setattr(supervisor._scheduler, "_pace", Pace(0.0)))
            jobs = [collector.submit(size_of, bytes(40_000)) for _ in range(2)]
            assert wait_until(lambda: waits_for_room(supervisor, worker.jobs))
        with supervisor_held_up(collector):
            assert wait_until(lambda: has_room(worker.jobs))
            jobs.append(collector.submit(size_of, bytes(9_000)))  # with it all goes that waits
        assert [job.result() for job in jobs] == [40_000, 40_000, 9_000]
        assert wait_until(lambda: not waits_for_room(supervisor, worker.jobs))


@each_method
def test_room_for_news_of_the_sink_is_not_waited_for_once_they_are_sent(
    method: str, tmp_path: Path
) -> None:
    with Collector(2, method) as collector, kept_busy(collector, 1, tmp_path):
        supervisor = collector._core.pool._supervisor
        sink = supervisor._sink
        assert sink is not None

        def tell_much() -> None:
            for _ in range(20_000):
                sink.channel.post(messages.MemoryHeld(change=0))

        with stopped(sink_pid(collector)):
            supervisor.note(tell_much)
            assert wait_until(lambda: waits_for_room(supervisor, sink.channel))
            with supervisor_held_up(collector):
                os.kill(sink.child.pid, signal.SIGCONT)
                assert wait_until(lambda: has_room(sink.channel))
                job = collector.submit(square, 3)  # a second worker: its queue goes to the sink
        assert job.result() == 9
        assert wait_until(lambda: not waits_for_room(supervisor, sink.channel))
