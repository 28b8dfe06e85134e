"""Races R1 to R4: sweepers among themselves and with the maker or the owner of a run directory.

The numbers are those of docs/decisions/0003. Locks belong to open files, not to processes, so two
sides of a race may be played in one process, one inside the other's step. Where a death or a fork
is part of the race, the processes are real.
"""

import errno
import os
import signal
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import claim, kernel, locks, reclaim
from collector.store.rundir import directory as rundir
from collector.store.rundir.claim import RootEntry, RunState
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.root import open_root
from tests.support.rundirs import a_process, gone, is_held, make_orphan, names, place


class TestR1ASweeperTakesTheDirectoryBetweenItsMakingAndItsLock:
    @pytest.mark.parametrize("step", ["mkdir", "open_fd"])
    def test_the_maker_takes_a_new_name(
        self, temp_root: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reports: list[reclaim.ReclaimReport] = []

        def sweep_now() -> None:
            reports.append(reclaim.reclaim([temp_root]))

        point = place(monkeypatch, step, after=sweep_now, matching="run-")
        directory = RunDirectory.create(temp_root)
        assert point.fired == 1
        (taken,) = reports[0].reclaimed
        assert taken.path != os.fspath(directory.path)
        assert is_held(directory)
        directory.dispose()
        assert names(temp_root) == []

    def test_a_sweeper_that_holds_it_meanwhile_makes_the_maker_take_a_new_name(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entries: list[RootEntry] = []
        temp = open_root(temp_root)

        def hold() -> None:
            (name,) = names(temp_root)
            entries.append(RootEntry(temp, name))
            assert entries[0].examine() is RunState.STALE

        point = place(monkeypatch, "open_fd", after=hold, matching="run-")
        directory = RunDirectory.create(temp_root)
        assert point.fired == 1
        assert entries[0].path != os.fspath(directory.path)
        assert entries[0].remove(claim.new_trash_name()) == []
        entries[0].close()
        temp.close()
        assert names(temp_root) == [directory.path.name]
        directory.dispose()

    def test_from_the_lock_on_the_sweeper_is_refused(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reports: list[reclaim.ReclaimReport] = []
        place(monkeypatch, "flock", after=lambda: reports.append(reclaim.reclaim([temp_root])))
        directory = RunDirectory.create(temp_root)
        assert (reports[0].live, reports[0].reclaimed) == (1, [])
        assert names(temp_root) == [directory.path.name]
        directory.dispose()

    def test_without_the_look_at_the_inode_a_live_run_is_lost(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Show that the tests above can fail."""
        monkeypatch.setattr(locks, "leads_to", lambda *_, **__: True)
        monkeypatch.setattr(rundir, "leads_to", lambda *_, **__: True)
        monkeypatch.setattr(locks.Lease, "take_file_lock", lambda *_: True)
        place(monkeypatch, "open_fd", after=lambda: _sweep(temp_root), matching="run-")
        directory = RunDirectory.create(temp_root)
        assert not directory.path.exists()
        directory.dispose()

    def test_a_maker_gives_up_when_it_is_always_taken_away(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = kernel.mkdir

        def take_away(path: str, mode: int, *, dir_fd: int | None = None) -> None:
            real(path, mode, dir_fd=dir_fd)
            os.rmdir(path, dir_fd=dir_fd)

        monkeypatch.setattr(kernel, "mkdir", take_away)
        with pytest.raises(RunDirectoryError) as caught:
            RunDirectory.create(temp_root)
        assert caught.value.errno == errno.EAGAIN

    @pytest.mark.parametrize("root_too", [False, True])
    def test_a_directory_that_vanishes_before_the_file_lock_is_not_used_nor_made_anew(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch, root_too: bool
    ) -> None:
        """By its path it would be, with its root, in a mode in which nobody trusts that."""
        real = locks.Lease.take_file_lock
        removed: list[str] = []

        def vanish(self: locks.Lease) -> bool:
            if not removed:
                removed.extend(names(temp_root))
                (temp_root / removed[0]).rmdir()
                if root_too:
                    temp_root.rmdir()
            return real(self)

        monkeypatch.setattr(locks.Lease, "take_file_lock", vanish)
        directory = RunDirectory.create(temp_root)
        assert len(removed) == 1
        assert removed != [directory.path.name]
        assert names(temp_root) == [directory.path.name]
        directory.dispose()


def _sweep(temp_root: Path) -> None:
    (temp_root / names(temp_root)[0]).rmdir()


class TestR2TwoSweepers:
    @pytest.mark.parametrize("step", ["flock", "rename", "unlink", "rmdir"])
    def test_the_second_leaves_it_to_the_first(
        self, temp_root: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_orphan(temp_root)
        second: list[reclaim.ReclaimReport] = []

        def sweep_too() -> None:
            second.append(reclaim.reclaim([temp_root]))

        point = place(monkeypatch, step, after=sweep_too)
        first = reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert (len(first.reclaimed), len(second[0].reclaimed)) == (1, 0)
        assert first.failures == second[0].failures == []
        assert names(temp_root) == []

    def test_one_that_comes_after_the_other_has_opened_it_finds_nothing(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_orphan(temp_root)
        second: list[reclaim.ReclaimReport] = []
        place(
            monkeypatch,
            "open_fd",
            after=lambda: second.append(reclaim.reclaim([temp_root])),
            matching="run-",
        )
        first = reclaim.reclaim([temp_root])
        assert (len(first.reclaimed), len(second[0].reclaimed)) == (0, 1)
        assert first.live == first.unknown == 0

    def test_two_real_ones_remove_each_run_once(self, temp_root: Path) -> None:
        for _ in range(80):
            make_orphan(temp_root)
        code = """
say('ready'); wait()
report = reclaim.reclaim([sys.argv[1]])
say(len(report.reclaimed), len(report.failures))
"""
        with a_process(code, temp_root) as one, a_process(code, temp_root) as two:
            both = (one, two)
            assert [other.hear() for other in both] == ["ready", "ready"]
            for other in both:
                other.tell()
            counts = [tuple(map(int, other.hear().split())) for other in both]
        assert sum(reclaimed for reclaimed, _ in counts) == 80
        assert [failures for _, failures in counts] == [0, 0]
        assert names(temp_root) == []


class TestR3ASweeperIsKilled:
    @pytest.mark.parametrize(
        ("step", "nth"), [("rename", 1), ("unlink", 1), ("unlink", 4), ("flock", 1), ("unlink", 6)]
    )
    def test_the_next_sweep_finishes(self, temp_root: Path, step: str, nth: int) -> None:
        make_orphan(temp_root, files=5)
        code = f"after('{step}', kill_me, {nth})\nreclaim.reclaim([sys.argv[1]])"
        with a_process(code, temp_root) as other:
            assert other.end() == -signal.SIGKILL
        assert len(names(temp_root)) == 1
        assert gone(temp_root)


class TestR4TheOwnerDisposesWhileASweeperComes:
    def test_the_sweeper_is_faster(self, temp_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = RunDirectory.create(temp_root)
        reports: list[reclaim.ReclaimReport] = []

        def sweep_now() -> None:
            reports.append(reclaim.reclaim([temp_root]))

        point = place(monkeypatch, "open_fd", before=sweep_now, matching="run-")
        directory.dispose()
        assert point.fired == 1
        assert len(reports[0].reclaimed) == 1
        assert names(temp_root) == []

    @pytest.mark.parametrize("step", ["open_fd", "flock"])
    def test_the_owner_is_faster(
        self, temp_root: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = RunDirectory.create(temp_root)
        point = place(
            monkeypatch,
            step,
            before=directory.dispose if step == "flock" else None,
            after=directory.dispose if step == "open_fd" else None,
            matching="run-" if step == "open_fd" else "",
        )
        report = reclaim.reclaim([temp_root])
        assert point.fired == 1
        assert (report.reclaimed, report.failures, report.unknown) == ([], [], 0)
        assert names(temp_root) == []

    def test_the_sweeper_holds_it_for_a_moment_only_to_look(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = RunDirectory.create(temp_root)
        temp = open_root(temp_root)
        looking = RootEntry(temp, directory.path.name)

        def look() -> None:
            assert looking.examine() is RunState.STALE

        def look_away() -> None:
            looking.close()

        place(monkeypatch, "open_fd", before=look, matching="run-")
        monkeypatch.setattr("collector.store.rundir.directory.time.sleep", lambda _: look_away())
        directory.dispose()
        temp.close()
        assert names(temp_root) == []

    def test_the_parent_and_the_sink_let_go_at_once(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for order in (0, 1):
            parent = RunDirectory.create(temp_root)
            sink = RunDirectory.join(parent.path)
            first, second = (parent, sink) if order else (sink, parent)
            with pytest.MonkeyPatch.context() as patch:
                point = place(patch, "open_fd", before=second.dispose, matching="run-")
                first.dispose()
                assert point.fired == 1
            assert names(temp_root) == []
