"""The file of a log where its disk fails at one step after another."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from collector.errors import SpillError
from collector.process.pool.whereabouts import place_of
from collector.process.worker.capture import Captured
from collector.process.worker.own_log import OwnLog
from collector.process.worker.run_directory import WorkerDirectory
from collector.store.rundir.directory import RunDirectory

NAME = "log-1.spill"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory.create(tmp_path / "root")
    yield directory
    directory.release()


def seen_from_a_worker(run: RunDirectory) -> WorkerDirectory:
    place = place_of(run)
    return WorkerDirectory(place, lambda: place)


def fails(*_arguments: object) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_log_whose_disk_is_lost_says_so_and_is_gone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OwnLog(seen_from_a_worker(run), NAME)
    log.write(b"before")
    monkeypatch.setattr(os, "write", fails)
    monkeypatch.setattr(os, "ftruncate", fails)
    with pytest.raises(SpillError, match="writes to stderr") as said:
        log.write(b"after")
    monkeypatch.undo()
    assert (said.value.errno, said.value.filename) == (errno.EIO, str(run.path / NAME))
    assert not (run.path / NAME).exists()


def test_a_log_whose_disk_does_not_tell_what_room_it_has_is_not_begun(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = seen_from_a_worker(run)
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fstatvfs", fails)
    with pytest.raises(SpillError, match="what the job prints") as said:
        Captured(there, NAME)
    assert (said.value.errno, said.value.filename) == (errno.EIO, str(run.path / NAME))
    assert not (run.path / NAME).exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)
