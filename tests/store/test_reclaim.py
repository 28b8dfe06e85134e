"""Sweeping a root: what goes, what stays, and what is said about it."""

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import kernel, reclaim
from collector.store.rundir.contents import count_contents
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs
from tests.support.rundirs import NOBODY, a_process, make_orphan, names, needs_root
from tests.support.tiers import everyday_are

CAMPAIGN = (pytest.mark.campaign, pytest.mark.timeout(1800))  # a slow disk takes its time


class TestTheReport:
    @needs_root
    def test_it_is_exactly_what_gc_prints_as_json(self, temp_root: Path) -> None:
        orphan = make_orphan(temp_root, files=3, size=100)
        (orphan / "scratch-0123456789abcdef" / "deep").mkdir(parents=True)
        (orphan / "scratch-0123456789abcdef" / "deep" / "file").write_text("12345")
        live = RunDirectory.create(temp_root)
        (temp_root / "notes.txt").touch()
        (temp_root / "run-0000000000000000").touch()
        foreign = make_orphan(temp_root)
        os.chown(foreign, NOBODY, NOBODY)
        report = reclaim.reclaim([temp_root]).as_json()
        (run,) = report.pop("reclaimed")
        assert report == {
            "live": 1,
            "unknown": 1,
            "foreign": 1,
            "unreadable": 1,
            "bytes": 305,
            "dry_run": False,
        }
        assert run.pop("age_s") >= 0
        assert run == {"path": os.fspath(orphan), "pid": 4194304, "files": 4, "bytes": 305}
        live.dispose()

    def test_a_dry_run_removes_nothing_and_reports_the_same(self, temp_root: Path) -> None:
        for files in (0, 1, 5):
            make_orphan(temp_root, files=files)
        (temp_root / "unknown").touch()
        before = sorted(temp_root.rglob("*"))
        rehearsal = reclaim.reclaim([temp_root], dry_run=True).as_json()
        assert sorted(temp_root.rglob("*")) == before
        real = reclaim.reclaim([temp_root]).as_json()
        assert (rehearsal.pop("dry_run"), real.pop("dry_run")) == (True, False)
        for report in (rehearsal, real):
            for run in report["reclaimed"]:
                del run["age_s"]
        assert rehearsal == real
        assert names(temp_root) == ["unknown"]

    def test_a_listing_tells_live_from_stale(self, temp_root: Path) -> None:
        live = RunDirectory.create(temp_root)
        fd, _ = live.create_file("out")
        os.write(fd, b"12345")
        os.close(fd)
        stale = make_orphan(temp_root, files=2, size=7)
        (temp_root / "unknown").touch()
        listed = {run.path: run.as_json() for run in list_runs([temp_root])}
        assert set(listed) == {os.fspath(live.path), os.fspath(stale)}
        first, second = listed[os.fspath(live.path)], listed[os.fspath(stale)]
        assert set(first) == {"path", "state", "pid", "age_s", "files", "bytes", "command"}
        assert (first["state"], first["pid"], first["files"], first["bytes"]) == (
            "live",
            os.getpid(),
            1,
            5,
        )
        assert (second["state"], second["command"], second["bytes"]) == ("stale", "gone", 14)
        live.dispose()

    def test_looking_takes_no_lock_away_from_anybody(self, temp_root: Path) -> None:
        live = RunDirectory.create(temp_root)
        list_runs([temp_root])
        reclaim.reclaim([temp_root], dry_run=True)
        assert reclaim.reclaim([temp_root]).live == 1
        live.dispose()
        assert names(temp_root) == []

    def test_all_roots_of_ours_are_looked_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
        monkeypatch.setenv("COLLECTOR_TMPDIR", os.fspath(tmp_path / "named"))
        name = f"collector-{os.geteuid()}"
        roots = [tmp_path / "named", tmp_path / name, tmp_path / f"{name}-private"]
        orphans = {os.fspath(make_orphan(root)) for root in roots}
        others = tmp_path / f"{name}-theirs"
        make_orphan(others)
        others.chmod(0o755)
        (tmp_path / f"{name}-link").symlink_to("named")
        (tmp_path / f"{name}-file").touch()
        assert {run.path for run in list_runs()} == orphans
        report = reclaim.reclaim()
        assert {run.path for run in report.reclaimed} == orphans
        assert len(names(others)) == 1

    def test_a_root_is_looked_at_once_however_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
        monkeypatch.setenv("COLLECTOR_TMPDIR", os.fspath(tmp_path / f"collector-{os.geteuid()}"))
        make_orphan(tmp_path / f"collector-{os.geteuid()}")
        assert len(list_runs()) == 1
        shutil.rmtree(tmp_path / f"collector-{os.geteuid()}")

    def test_a_root_that_is_named_twice_is_looked_at_once(
        self, temp_root: Path, tmp_path: Path
    ) -> None:
        make_orphan(temp_root)
        live = RunDirectory.create(temp_root)
        roots = [temp_root, temp_root, tmp_path / "root" / ".." / "root"]
        assert len(list_runs(roots)) == 2
        rehearsal = reclaim.reclaim(roots, dry_run=True)
        report = reclaim.reclaim(roots)
        assert (len(rehearsal.reclaimed), rehearsal.bytes, rehearsal.live) == (1, 10, 1)
        assert (len(report.reclaimed), report.bytes, report.live) == (1, 10, 1)
        live.dispose()

    def test_roots_that_are_not_there_are_nothing_to_do(self) -> None:
        assert reclaim.reclaim().as_json()["reclaimed"] == []
        assert list_runs() == []

    @pytest.mark.parametrize("kind", [str, Path, os.fsencode])
    def test_one_path_is_no_list_of_roots(self, temp_root: Path, kind: Callable[..., Any]) -> None:
        for use in (reclaim.reclaim, list_runs):
            with pytest.raises(TypeError, match="roots must be a list of paths"):
                use(kind(temp_root))

    def test_a_root_without_a_name_is_refused(self) -> None:
        for use in (reclaim.reclaim, list_runs):
            with pytest.raises(ValueError, match="temp_root must be a path, not an empty one"):
                use([""])

    def test_a_named_root_that_cannot_be_used_is_an_error_before_anything_is_touched(
        self, temp_root: Path, tmp_path: Path
    ) -> None:
        make_orphan(temp_root)
        with pytest.raises(RunDirectoryError, match="No such file"):
            reclaim.reclaim([temp_root, tmp_path / "missing"])
        assert len(names(temp_root)) == 1
        assert not (tmp_path / "missing").exists()
        shutil.rmtree(temp_root)


class TestOwnerJson:
    """Advice, never proof: whatever lies there, the run is reclaimed and nothing hangs."""

    def missing(self, path: Path) -> None:
        path.unlink()

    def huge(self, path: Path) -> None:
        os.truncate(path, 1 << 30)

    def fifo(self, path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def link(self, path: Path) -> None:
        path.unlink()
        path.symlink_to("/etc/passwd")

    def directory(self, path: Path) -> None:
        path.unlink()
        path.mkdir()
        (path / "file").touch()

    def not_utf8(self, path: Path) -> None:
        path.write_bytes(b'{"pid": 1, "command": "\xff\xfe"}')

    def nested(self, path: Path) -> None:
        path.write_text("[" * 60_000)

    def other_types(self, path: Path) -> None:
        path.write_text('{"pid": "1", "started": [], "host": 3, "command": {}}')

    def no_object(self, path: Path) -> None:
        path.write_text("17")

    def infinite(self, path: Path) -> None:
        path.write_text('{"started": Infinity, "pid": 1e400}')

    def huge_number(self, path: Path) -> None:
        path.write_text('{"started": 1' + "0" * 4000 + "}")

    @pytest.mark.parametrize(
        "spoil",
        [
            missing,
            huge,
            fifo,
            link,
            directory,
            not_utf8,
            nested,
            other_types,
            no_object,
            infinite,
            huge_number,
        ],
    )
    def test_it_is_ignored(self, temp_root: Path, spoil: Callable[[object, Path], None]) -> None:
        run = make_orphan(temp_root)
        spoil(self, run / "owner.json")
        (listed,) = list_runs([temp_root])
        assert (listed.pid, listed.command, listed.state) == (None, None, "stale")
        report = reclaim.reclaim([temp_root])
        assert len(report.reclaimed) == 1
        assert json.loads(json.dumps(report.as_json()))["reclaimed"][0]["pid"] is None
        assert names(temp_root) == []


class TestSizes:
    def test_a_sparse_file_of_100_gb_is_counted_by_its_size_and_goes_at_once(
        self, temp_root: Path
    ) -> None:
        run = make_orphan(temp_root, files=0)
        (run / "big.spill").touch()
        os.truncate(run / "big.spill", 100 * 10**9)
        report = reclaim.reclaim([temp_root])
        assert report.bytes == report.reclaimed[0].bytes == 100 * 10**9

    @pytest.mark.parametrize("files", [1_000, pytest.param(100_000, marks=CAMPAIGN)])
    def test_very_many_files_in_one_run_are_counted_and_removed(
        self, temp_root: Path, files: int
    ) -> None:
        make_orphan(temp_root, files=files, size=1)
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1

        report = reclaim.reclaim_watched([temp_root], dry_run=False, tick=tick)
        assert (report.reclaimed[0].files, report.bytes) == (files, files)
        assert ticks == files + 1
        assert names(temp_root) == []

    @pytest.mark.parametrize("runs", [100, pytest.param(10_000, marks=CAMPAIGN)])
    def test_very_many_runs_are_removed(self, temp_root: Path, runs: int) -> None:
        for _ in range(runs):
            make_orphan(temp_root)
        assert len(reclaim.reclaim([temp_root]).reclaimed) == runs
        assert names(temp_root) == []

    def test_counting_changes_nothing_and_survives_a_change(
        self, temp_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_orphan(temp_root, files=2)
        (run / "a" / "b").mkdir(parents=True)
        (run / "a" / "b" / "file").touch()
        fd = os.open(run, os.O_RDONLY)
        assert count_contents(fd).files == 5
        real = kernel.scandir

        def move_away(path: int) -> object:
            if (run / "a" / "b").exists() and os.readlink(f"/proc/self/fd/{path}").endswith("b"):
                (run / "a" / "b").rename(temp_root / "moved")
            return real(path)

        monkeypatch.setattr(kernel, "scandir", move_away)
        assert count_contents(fd).files >= 4
        assert (temp_root / "moved" / "file").exists()
        os.close(fd)


TMPFILES_LINES = ("d {root} 0700 - - 1s", "d {parent} 0755 - - 1s")


@pytest.mark.skipif(
    shutil.which("systemd-tmpfiles") is None, reason="needs systemd-tmpfiles (Debian: systemd)"
)
class TestSystemdTmpfiles:
    @pytest.mark.parametrize("line", everyday_are(TMPFILES_LINES[:1], of=TMPFILES_LINES))
    def test_it_leaves_a_run_alone_and_would_take_it_without_our_lock(
        self, temp_root: Path, tmp_path: Path, line: str
    ) -> None:
        code = """
run = RunDirectory.create(sys.argv[1])
fd, name = run.create_file('out')
os.write(fd, b'bytes')
os.close(fd)
scratch = make_scratch(run.path)
(scratch / 'file').touch()
joined = RunDirectory.join(run.path)
say(run.path, run.path / name)
wait()
run.dispose(); joined.dispose()
"""
        orphan = make_orphan(temp_root)
        with a_process(code, temp_root) as owner:
            run, spilled = map(Path, owner.hear().split())
            configuration = tmp_path.parent / f"{tmp_path.name}.conf"
            configuration.write_text(line.format(root=temp_root, parent=tmp_path))
            newest = max(path.lstat().st_ctime for path in tmp_path.rglob("*"))
            while time.time() < newest + 1.5:  # the age is what this test is about
                time.sleep(0.1)
            subprocess.run(["systemd-tmpfiles", "--clean", configuration], check=True)
            assert not orphan.exists()  # it did run, and took what nobody held
            assert spilled.read_bytes() == b"bytes"
            assert sorted(path.name[:4] for path in run.iterdir()) == [
                "lock",
                "out-",
                "owne",
                "scra",
            ]
            owner.tell()
            assert owner.end() == 0
        configuration.unlink()
        assert names(temp_root) == []


def test_modes_of_what_was_found_are_never_changed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o755)
    with pytest.raises(RunDirectoryError):
        reclaim.reclaim([root])
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
