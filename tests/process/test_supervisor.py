"""The supervising thread sleeps when there is nothing to do, whatever it had to wait for before."""

import os
import select
import signal
from pathlib import Path

import pytest

from collector import Collector, settings
from collector.process.queue.channel import Channel
from collector.wire import messages
from tests.support.inside import (
    channel_to_sink,
    channel_to_worker,
    have_done,
    set_pace,
    sink_pid,
    supervisor_held_up,
    waits_for_room,
    worker_pids,
)
from tests.support.jobs import kept_busy, square
from tests.support.leaks import wait_until
from tests.support.tiers import each_method
from tests.support.tree import stopped


def size_of(data: bytes) -> int:
    return len(data)


def has_room(channel: Channel) -> bool:
    return bool(select.select([], [channel.fd], [], 0)[1])


@each_method
def test_room_for_jobs_is_not_waited_for_once_they_are_sent(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "RECALL_AFTER_S", 60)
    with Collector(1, method) as collector:
        assert collector.submit(square, 2).result() == 4
        channel = channel_to_worker(collector)
        (pid,) = worker_pids(collector)
        with stopped(pid):
            set_pace(collector, 0.0)
            jobs = [collector.submit(size_of, bytes(40_000)) for _ in range(2)]
            assert wait_until(lambda: waits_for_room(collector, channel))
        with supervisor_held_up(collector):
            assert wait_until(lambda: has_room(channel))
            jobs.append(collector.submit(size_of, bytes(9_000)))  # with it all goes that waits
        assert [job.result() for job in jobs] == [40_000, 40_000, 9_000]
        assert wait_until(lambda: not waits_for_room(collector, channel))


@each_method
def test_room_for_news_of_the_sink_is_not_waited_for_once_they_are_sent(
    method: str, tmp_path: Path
) -> None:
    with Collector(2, method) as collector, kept_busy(collector, 1, tmp_path):
        channel, sink = channel_to_sink(collector), sink_pid(collector)
        assert sink is not None

        def tell_much() -> None:
            for _ in range(20_000):
                channel.post(messages.MemoryHeld(change=0))

        with stopped(sink):
            have_done(collector, tell_much)
            assert wait_until(lambda: waits_for_room(collector, channel))
            with supervisor_held_up(collector):
                os.kill(sink, signal.SIGCONT)
                assert wait_until(lambda: has_room(channel))
                job = collector.submit(square, 3)  # a second worker: its queue goes to the sink
        assert job.result() == 9
        assert wait_until(lambda: not waits_for_room(collector, channel))
