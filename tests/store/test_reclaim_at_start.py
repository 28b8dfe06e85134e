"""The sweep that a program makes in the background when it first needs its root."""

import fcntl
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest

from collector.store.rundir import kernel, reclaim
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import start_sweep
from tests.support.rundirs import make_orphan, names, run_code


def wait_for_sweep() -> None:
    for thread in threading.enumerate():
        if thread.name == "collector-sweep":
            thread.join()


def is_sweeping() -> bool:
    return any(thread.name == "collector-sweep" for thread in threading.enumerate())


class TestTheSweepAtStart:
    def test_it_reclaims_and_says_so_in_one_line(
        self, temp_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "collector")
        for _ in range(3):
            make_orphan(temp_root, files=2, size=50)
        start_sweep(temp_root)
        wait_for_sweep()
        assert names(temp_root) == []
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("collector", "INFO")
        assert "reclaimed 3 run(s)" in record.getMessage()
        assert "300 bytes" in record.getMessage()

    def test_it_is_silent_if_there_was_nothing(
        self, temp_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        live = RunDirectory.create(temp_root)
        caplog.clear()
        caplog.set_level(logging.INFO, "collector")
        (temp_root / "unknown").touch()
        (temp_root / "run-0000000000000000").touch()
        start_sweep(temp_root)
        wait_for_sweep()
        assert caplog.records == []
        live.dispose()

    def test_it_never_raises_whatever_it_meets(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        caplog.set_level(logging.INFO, "collector")
        start_sweep(tmp_path / "missing")
        wait_for_sweep()
        make_orphan(tmp_path / "root")
        fired = 0

        def fail(*_: object, **__: object) -> None:
            nonlocal fired
            fired += 1
            raise ZeroDivisionError

        monkeypatch.setattr(kernel, "rename", fail)
        start_sweep(tmp_path / "root")
        wait_for_sweep()
        assert fired == 1
        assert caplog.records == []
        assert list(recwarn) == []
        shutil.rmtree(tmp_path / "root")

    def test_it_does_not_need_a_thread_to_be_had(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        start_sweep(temp_root)

    def test_nothing_waits_for_it(self, temp_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However much there is to sweep: it stands still here, and everything else goes on."""
        make_orphan(temp_root)
        met, go_on = threading.Event(), threading.Event()
        real = kernel.rename

        def stand_still(*args: object, **kwargs: object) -> None:
            if threading.current_thread().name == "collector-sweep":
                met.set()
                go_on.wait()
            real(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(kernel, "rename", stand_still)
        start_sweep(temp_root)
        assert met.wait(60)
        directory = RunDirectory.create(temp_root)
        fd, name = directory.create_file("out")
        os.close(fd)
        assert directory.remove_file(name)
        directory.dispose()
        assert len(names(temp_root)) == 1
        go_on.set()
        wait_for_sweep()
        assert names(temp_root) == []

    def test_it_leaves_what_its_own_process_is_disposing_of(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise the process could end in the midst of it, and half of its own run stay.

        Nor does it lock that to look at it: dispose would give up, and all of the run stay.
        """
        directory, orphan = RunDirectory.create(temp_root), make_orphan(temp_root).name
        inode, renamed = directory.path.stat().st_ino, set[tuple[str, str]]()
        looked, over = threading.Event(), threading.Event()
        flock, rename, dropped = kernel.flock, kernel.rename, list[int]()

        def slow_flock(fd: int, operation: int) -> None:
            if os.fstat(fd).st_ino != inode:
                pass
            elif threading.current_thread().name == "collector-sweep":
                if operation == fcntl.LOCK_UN:
                    looked.set()
                    over.wait(60)
            elif operation & fcntl.LOCK_EX and not dropped:
                dropped.append(fd)  # its own lock: nothing else keeps the sweep off
                start_sweep(temp_root)
                while is_sweeping() and not looked.wait(0.01):
                    pass
            flock(fd, operation)

        def noted_rename(name: str, *args: object, **kwargs: object) -> None:
            renamed.add((threading.current_thread().name, name))
            rename(name, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(kernel, "flock", slow_flock)
        monkeypatch.setattr(kernel, "rename", noted_rename)
        directory.dispose()
        over.set()
        wait_for_sweep()
        own = threading.current_thread().name, directory.path.name
        assert renamed == {own, ("collector-sweep", orphan)}
        assert names(temp_root) == []

    def test_a_process_that_ends_meanwhile_does_not_wait_and_leaves_a_sweepable_rest(
        self, temp_root: Path
    ) -> None:
        make_orphan(temp_root, files=150)
        code = """
import threading
met, never = threading.Event(), threading.Event()
after('unlink', lambda: (met.set(), never.wait()), 100)
reclaim.start_sweep(sys.argv[1])
met.wait()
"""
        done = run_code(code, temp_root)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(names(temp_root)) == 1
        assert len(reclaim.reclaim([temp_root]).reclaimed) == 1

    def test_it_lets_others_go_first_when_there_is_much(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rests: list[float] = []
        monkeypatch.setattr("collector.store.rundir.reclaim.time.sleep", rests.append)
        make_orphan(temp_root, files=150)
        start_sweep(temp_root)
        wait_for_sweep()
        assert rests == []
        make_orphan(temp_root, files=600)
        start_sweep(temp_root)
        wait_for_sweep()
        assert len(rests) > 10
        assert names(temp_root) == []
