"""A worker finds its run directory, also while it is just looking for it."""

import inspect
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Collector, current_job
from collector.process.pool.whereabouts import place_of
from collector.process.queue.channel import Channel
from collector.process.queue.held import Held
from collector.process.start.lineage import Lineage
from collector.process.worker import run_directory
from collector.process.worker.inbox import Inbox
from collector.process.worker.run_directory import WorkerDirectory
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.locks import open_private
from collector.wire.messages import RunDirectoryAt, RunJob, encode
from tests.support.inside import lock_of_directory
from tests.support.interrupted import Interrupted
from tests.support.leaks import wait_until
from tests.support.tiers import each_method


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory.create(tmp_path / "root")
    yield directory
    directory.release()


def test_a_signal_handler_that_needs_it_too_does_not_wait_for_what_it_interrupts(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, found = place_of(run), list[str]()
    there = WorkerDirectory(place, lambda: place)

    def interrupted(path: str) -> int:
        if not found:
            found.append("the handler comes")
            with there.current() as (path_of_handler, _):
                found.append(path_of_handler)
        return open_private(path)

    monkeypatch.setattr(run_directory, "open_private", interrupted)
    with there.current() as (path, _):
        assert found == ["the handler comes", path]


def test_the_answer_to_a_later_question_answers_an_earlier_one() -> None:
    """A handler has asked too, and heard both."""
    read, write = os.pipe()
    held = Held(read)
    inbox = Inbox(held, Lineage("worker", 1, os.getpid(), -1, ()))
    first, second = inbox.ask(), inbox.ask()
    answers = [RunDirectoryAt(number, 0, f"/{number}", "", "") for number in (first, second)]
    os.write(write, b"".join(piece for answer in answers for piece in encode(answer)))
    os.close(write)
    assert inbox.answer(second) == answers[1]
    assert inbox.answer(first) == answers[1]
    held.close()


def answered_at(line: int) -> int:
    """Ask, and once more at a line of that; returns how many lines there are."""
    read, write = os.pipe()
    held = Held(read)
    inbox = Inbox(held, Lineage("worker", 1, os.getpid(), -1, ()))
    numbers = itertools.count(1)

    def ask() -> RunDirectoryAt:
        question = inbox.ask()
        ticket = next(numbers)
        for message in (
            RunJob(ticket, ticket, 1, 0, 0, "", "", b"call", b""),
            RunDirectoryAt(question, 0, f"/{question}", "", ""),
        ):
            os.write(write, b"".join(encode(message)))
        answer = inbox.answer(question)
        assert answer.question >= question
        return answer

    among = inspect.getfile(Inbox), inspect.getfile(Channel), threading.__file__
    made = Interrupted(ask, ask, line, among)
    assert len(made.made) == (2 if 0 < line <= made.lines else 1)
    os.close(write)
    jobs = [inbox.next() for _ in made.made]
    assert [job and job.ticket for job in jobs] == list(range(1, len(jobs) + 1))
    assert inbox.next() is None
    held.close()
    return made.lines


def test_a_signal_handler_may_ask_at_any_line_of_what_asks() -> None:
    lines = answered_at(0)
    assert lines
    for line in range(1, lines + 1):
        answered_at(line)


def fork_while_it_is_looked_for() -> int:
    """Fork while another thread has the lock; returns how the child ends that needs it."""
    job, held, over = current_job(), threading.Event(), threading.Event()

    def look() -> None:
        with lock_of_directory(job):
            held.set()
            over.wait()

    thread = threading.Thread(target=look)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        os._exit(not job.scratch_dir.is_dir())
    ended = list[int]()

    def has_ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        ended.extend([status] if pid else [])
        return bool(pid)

    if not wait_until(has_ended, 20):
        os.kill(child, signal.SIGKILL)
        ended.append(os.waitpid(child, 0)[1])
    over.set()
    thread.join()
    return ended[0]


@each_method
def test_a_forked_child_does_not_wait_for_a_thread_that_is_looking_for_it(method: str) -> None:
    with Collector(1, method) as collector:
        assert collector.submit(fork_while_it_is_looked_for).result() == 0
