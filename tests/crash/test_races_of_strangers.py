"""Races R11 to R13, R17, R18: others who clean, swap or share what a run directory lies in.

The numbers are those of docs/decisions/0003. Locks belong to open files, not to processes, so two
sides of a race may be played in one process, one inside the other's step. Where a death or a fork
is part of the race, the processes are real.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import reclaim, root
from collector.store.rundir.cleanup import clean_up
from collector.store.rundir.directory import RunDirectory, process_run_directory
from collector.store.rundir.reclaim import start_sweep
from tests.support.rundirs import NOBODY, is_held, make_orphan, names, needs_root, place


class TestR11AnotherCleanerTakesItAway:
    @pytest.mark.parametrize("what", ["run", "root"])
    def test_open_files_go_on_and_the_next_use_makes_a_new_run(
        self, temp_root: Path, what: str
    ) -> None:
        directory = process_run_directory(temp_root)
        fd, name = directory.create_file("out")
        os.write(fd, b"bytes")
        shutil.rmtree(directory.path if what == "run" else temp_root)
        assert os.pread(fd, 9, 0) == b"bytes"
        os.close(fd)
        with pytest.raises(FileNotFoundError):
            directory.open_file(name)
        assert not directory.is_in_place()
        second = process_run_directory(temp_root)
        assert second.path != directory.path
        assert is_held(second)
        clean_up()
        assert names(temp_root) == []


class TestR12SomethingElseStandsWhereARunIsExpected:
    NAME = "run-0123456789abcdef"

    def link(self, path: Path) -> None:
        path.symlink_to(path.parent.parent / "precious")

    def file(self, path: Path) -> None:
        path.write_text("a file")

    def fifo(self, path: Path) -> None:
        os.mkfifo(path)

    @pytest.mark.parametrize("make", [link, file, fifo])
    def test_it_is_left(
        self, temp_root: Path, make: Callable[[object, Path], None], tmp_path: Path
    ) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "file").write_text("mine")
        make(self, temp_root / self.NAME)
        report = reclaim.reclaim([temp_root])
        assert (report.reclaimed, report.unreadable) == ([], 1)
        assert names(temp_root) == [self.NAME]
        assert names(tmp_path / "precious") == ["file"]

    @pytest.mark.parametrize("step", ["open_fd", "flock", "rename", "scandir", "unlink"])
    def test_it_is_put_there_while_the_sweep_is_under_way(
        self, temp_root: Path, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "precious").mkdir()
        for name in ("lock", "owner.json", "out-0000000000000000.spill"):
            (tmp_path / "precious" / name).write_text("mine")
        run = make_orphan(temp_root)

        def swap() -> None:
            for name in names(temp_root):
                (temp_root / name).rename(tmp_path / "moved")
                (temp_root / name).symlink_to(tmp_path / "precious")

        point = place(monkeypatch, step, before=swap, nth=2 if step == "scandir" else 1)
        reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert len(names(tmp_path / "precious")) == 3
        assert run.parent == temp_root


class TestR13TheRootIsSwappedAfterItWasOpened:
    def test_the_sweep_stays_in_the_old_one(
        self, temp_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        orphan = make_orphan(temp_root)
        victim = tmp_path / "victim"
        precious = make_orphan(victim)
        precious = precious.rename(victim / orphan.name)

        def swap() -> None:
            temp_root.rename(tmp_path / "moved")
            victim.rename(temp_root)

        point = place(monkeypatch, "scandir", after=swap)
        report = reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert len(report.reclaimed) == 1
        assert names(tmp_path / "moved") == []
        assert len(names(temp_root / orphan.name)) == 3

    def test_a_run_that_is_being_made_is_given_up(
        self, temp_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        victim = tmp_path / "victim"
        victim.mkdir(mode=0o700)

        def swap() -> None:
            temp_root.rename(tmp_path / "moved")
            victim.rename(temp_root)

        point = place(monkeypatch, "flock", before=swap)
        directory = RunDirectory.create(temp_root)
        assert point.fired == 1
        assert names(tmp_path / "moved") == []
        assert directory.is_in_place()
        assert names(temp_root) == [directory.path.name]  # in the root that has the name now
        directory.dispose()


class TestR17OtherUsers:
    @needs_root
    def test_nothing_of_others_is_opened_for_deletion(self, temp_root: Path) -> None:
        theirs = make_orphan(temp_root)
        mine = make_orphan(temp_root)
        os.chown(theirs, NOBODY, NOBODY)
        report = reclaim.reclaim([temp_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(mine)]
        assert report.foreign == 1
        assert len(names(theirs)) == 3

    @needs_root
    def test_a_root_of_others_is_refused_whoever_asks(self, temp_root: Path) -> None:
        make_orphan(temp_root)
        os.chown(temp_root, NOBODY, NOBODY)
        with pytest.raises(RunDirectoryError, match=f"user {NOBODY}"):
            reclaim.reclaim([temp_root])
        assert len(names(temp_root)) == 1
        os.chown(temp_root, os.geteuid(), -1)


class TestR18TwoMachinesOnOneDirectory:
    @pytest.fixture(autouse=True)
    def _network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(root, "filesystem_type_of", lambda _: "nfs4")

    def test_nothing_is_swept_at_start(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_orphan(temp_root)
        start_sweep(temp_root)
        for thread in threading.enumerate():
            if thread.name == "collector-sweep":
                thread.join()
        assert len(names(temp_root)) == 1

    def test_gc_leaves_the_runs_of_another_machine(self, temp_root: Path) -> None:
        theirs, mine, nameless = (make_orphan(temp_root) for _ in range(3))
        host = os.uname().nodename
        (theirs / "owner.json").write_text(json.dumps({"host": f"not-{host}"}))
        (mine / "owner.json").write_text(json.dumps({"host": host}))
        (nameless / "owner.json").unlink()
        report = reclaim.reclaim([temp_root])
        assert [run.path for run in report.reclaimed] == [os.fspath(mine)]
        assert report.unknown == 2
