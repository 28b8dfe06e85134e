"""A worker finds its run directory, also while it is just looking for it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.process.pool.whereabouts import place_of
from collector.process.queue.held import Held
from collector.process.start.lineage import Lineage
from collector.process.worker import run_directory
from collector.process.worker.inbox import Inbox
from collector.process.worker.run_directory import WorkerDirectory
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.locks import open_private
from collector.wire.messages import RunDirectoryAt, encode


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
