"""Sweeping a root: what goes, what stays, and what is said about it."""

import json
import logging
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.errors import RunDirectoryError
from collector.store import kernel, reclaim
from collector.store.contents import count_contents
from collector.store.reclaim import list_runs, start_sweep
from collector.store.rundir import RunDirectory
from tests.support.rundirs import (
    BECOME,
    NOBODY,
    a_process,
    bound,
    immutable,
    make_orphan,
    mounted,
    names,
    needs_root,
    run_code,
)

CAMPAIGN = (pytest.mark.campaign, pytest.mark.timeout(1800))  # a slow disk takes its time


@pytest.fixture
def temp_root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """Something outside the root that must be the same afterwards."""
    path = tmp_path / "precious"
    (path / "deep").mkdir(parents=True)
    (path / "file").write_text("mine")
    (path / "deep" / "file").write_text("mine too")
    before = [(entry, entry.lstat()) for entry in (path, *sorted(path.rglob("*")))]
    yield path
    for entry, status in before:
        now = entry.lstat()
        assert (now.st_ino, now.st_mode, now.st_uid) == (
            status.st_ino,
            status.st_mode,
            status.st_uid,
        )
    assert len(list(path.rglob("*"))) == 3


def wait_for_sweep() -> None:
    for thread in threading.enumerate():
        if thread.name == "collector-sweep":
            thread.join()


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


class TestAHostileRoot:
    def test_links_fifos_and_hard_links_inside_a_run_lead_nowhere(
        self, temp_root: Path, precious: Path
    ) -> None:
        run = make_orphan(temp_root)
        (run / "link").symlink_to(precious)
        (run / "file-link").symlink_to(precious / "file")
        (run / "scratch").symlink_to(precious / "deep", target_is_directory=True)
        os.link(precious / "file", run / "hard.spill")
        os.mkfifo(run / "fifo")
        (run / "deep").mkdir()
        (run / "deep" / "link").symlink_to(precious)
        os.link(precious / "deep" / "file", run / "deep" / "hard")
        report = reclaim.reclaim([temp_root])
        assert report.failures == []
        assert report.bytes == 10  # a hard link frees nothing
        assert names(temp_root) == []

    def test_a_lock_file_that_is_none_proves_nothing_and_hangs_nothing(
        self, temp_root: Path, precious: Path
    ) -> None:
        for kind in ("fifo", "link", "directory"):
            run = make_orphan(temp_root)
            (run / "lock").unlink()
            if kind == "fifo":
                os.mkfifo(run / "lock")
            elif kind == "link":
                (run / "lock").symlink_to(precious / "file")
            else:
                (run / "lock").mkdir()
        assert len(reclaim.reclaim([temp_root]).reclaimed) == 3
        assert names(temp_root) == []

    @pytest.mark.parametrize(
        "name",
        [
            b"run-0123456789abcde",
            b"run-0123456789abcdef0",
            b"run-0123456789ABCDEF",
            b"run-0123456789abcdef\n",
            b"run-0123456789abcd\xff\xfe",
            b"run-\xd9\xa1\xd9\xa2\xd9\xa3\xd9\xa4\xd9\xa5\xd9\xa6\xd9\xa7\xd9\xa8",
            b"\x1b[31mred\x1b[0m",
            b"trash-0",
            b"scratch-0123456789abcdef",
            b"x" * 255,
            b"lost+found",
        ],
    )
    def test_other_names_are_counted_and_left(self, temp_root: Path, name: bytes) -> None:
        path = os.path.join(os.fsencode(temp_root), name)
        os.mkdir(path, 0o700)
        report = reclaim.reclaim([temp_root])
        assert (report.reclaimed, report.unknown) == ([], 1)
        assert os.path.isdir(path)
        os.rmdir(path)

    def test_files_of_any_name_inside_a_run_go(self, temp_root: Path) -> None:
        run = os.fsencode(make_orphan(temp_root))
        for name in (b"new\nline", b"\x1b[2J", b"\xff\xfe", b"x" * 255, b"-rf", b" "):
            with open(os.path.join(run, name), "wb"):
                pass
            os.mkdir(os.path.join(run, b"d" + name[:254]))
        assert reclaim.reclaim([temp_root]).failures == []
        assert names(temp_root) == []

    def test_any_depth_goes_without_recursion_and_without_descriptors(
        self, temp_root: Path
    ) -> None:
        run = make_orphan(temp_root)
        depth = 1500
        here = os.open(run, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("a-directory", dir_fd=here)
            deeper = os.open("a-directory", os.O_RDONLY, dir_fd=here)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=deeper))
            os.close(here)
            here = deeper
        os.close(here)
        (listed,) = list_runs([temp_root])
        assert listed.files == depth + 1
        report = reclaim.reclaim([temp_root])
        assert (report.failures, report.reclaimed[0].files) == ([], depth + 1)
        assert names(temp_root) == []

    def test_a_wide_and_deep_tree_goes_whole(self, temp_root: Path) -> None:
        run = make_orphan(temp_root)
        for a in range(5):
            for b in range(5):
                (run / f"{a}" / f"{b}" / "c").mkdir(parents=True)
                (run / f"{a}" / f"{b}" / "c" / "file").touch()
                (run / f"{a}" / f"{b}" / "file").touch()
        assert reclaim.reclaim([temp_root]).reclaimed[0].files == 51
        assert names(temp_root) == []

    @pytest.mark.parametrize("kind", ["another file system", "a bind on the same device"])
    @pytest.mark.parametrize("where", ["mnt", "deep/mnt", "deep/er/mnt"])
    def test_a_mount_inside_a_run_is_not_entered(
        self, temp_root: Path, precious: Path, kind: str, where: str
    ) -> None:
        run = make_orphan(temp_root)
        (run / where).mkdir(parents=True)
        other = kind == "another file system"
        with mounted(run / where, "size=1m") if other else bound(run / where, precious) as place:
            if other:
                (place / "file").touch()
            for _ in range(2):
                report = reclaim.reclaim([temp_root])
                assert report.reclaimed == []
                assert len(report.failures) >= 1
            (trash,) = names(temp_root)
            assert any(path.name == "file" for path in (temp_root / trash).rglob("*"))
        assert len(reclaim.reclaim([temp_root]).reclaimed) == 1
        assert names(temp_root) == []

    def test_a_mount_in_place_of_a_run_is_foreign(self, temp_root: Path, precious: Path) -> None:
        place = temp_root / "run-0123456789abcdef"
        with mounted(place, "size=1m,mode=0700"):
            (place / "file").touch()
            assert reclaim.reclaim([temp_root]).foreign == 1
            assert (place / "file").exists()
        with bound(place, precious):
            for dry_run in (True, False):
                assert reclaim.reclaim([temp_root], dry_run=dry_run).foreign == 1
        assert len(reclaim.reclaim([temp_root]).reclaimed) == 1

    @needs_root
    def test_what_another_real_user_put_there_is_left(self) -> None:
        code = (
            BECOME
            + """
base = Path(tempfile.mkdtemp(dir='/tmp'))
root = base / 'root'
root.mkdir(mode=0o700)
for number in range(3):
    (root / f'run-{number:016x}').mkdir(mode=0o700)
    (root / f'run-{number:016x}' / 'file').touch()
os.chown(base, 65534, 65534)
os.chown(root, 65534, 65534)
os.chown(root / 'run-0000000000000000', 65534, 65534)
os.chown(root / 'run-0000000000000000' / 'file', 65534, 65534)
os.chmod(root / 'run-0000000000000001', 0o777)
child = os.fork()
if child == 0:
    become(65534)
    report = reclaim.reclaim([root])
    say(len(report.reclaimed), report.foreign, len(report.failures), sorted(os.listdir(root)))
    os._exit(0)
os.waitpid(child, 0)
import shutil
shutil.rmtree(base)
"""
        )
        done = run_code(code)
        left = ["run-0000000000000001", "run-0000000000000002"]
        assert done.stdout == f"1 2 0 {left}\n", done.stderr

    @needs_root
    def test_directories_that_a_job_closed_to_itself_go_too(self) -> None:
        code = (
            BECOME
            + """
become(65534)
root = Path(tempfile.mkdtemp(dir='/tmp'))
run = root / 'run-0123456789abcdef'
for mode in (0o000, 0o500, 0o300):
    place = run / 'scratch-0123456789abcdef' / f'{mode}' / 'deep' / 'er'
    place.mkdir(parents=True)
    (place / 'file').touch()
    for path in (place, place.parent, place.parent.parent):
        path.chmod(mode)
report = reclaim.reclaim([root])
say(len(report.reclaimed), report.failures, os.listdir(root))
root.rmdir()
"""
        )
        done = run_code(code)
        assert done.stdout == "1 [] []\n", done.stderr

    def test_an_attacker_who_swaps_a_run_and_a_link_all_the_time_gains_nothing(
        self, temp_root: Path, precious: Path, tmp_path: Path
    ) -> None:
        stop = threading.Event()
        name = "run-0123456789abcdef"
        swaps = 0

        def attack() -> None:
            nonlocal swaps
            (tmp_path / "real").mkdir(mode=0o700)
            (tmp_path / "link").symlink_to(precious)
            while not stop.is_set():
                for what in ("real", "link"):
                    try:
                        os.rename(tmp_path / what, temp_root / name)
                        swaps += 1
                        os.rename(temp_root / name, tmp_path / what)
                    except OSError:
                        (tmp_path / "real").mkdir(mode=0o700, exist_ok=True)

        attacker = threading.Thread(target=attack)
        attacker.start()
        reclaimed = 0
        try:
            for _ in range(1500):
                reclaimed += len(reclaim.reclaim([temp_root]).reclaimed)
        finally:
            stop.set()
            attacker.join()
        assert swaps > 100
        assert reclaimed > 0
        for left in names(temp_root):
            path = temp_root / left
            path.unlink() if path.is_symlink() else shutil.rmtree(path)

    @needs_root
    def test_a_run_in_a_root_that_cannot_be_written_is_named_by_its_path(
        self, temp_root: Path
    ) -> None:
        orphan = make_orphan(temp_root)
        with immutable(temp_root):
            (failure,) = reclaim.reclaim([temp_root]).failures
            assert failure.filename == os.fspath(orphan)
        assert len(reclaim.reclaim([temp_root]).reclaimed) == 1

    def test_one_thing_that_cannot_be_removed_keeps_nothing_else(self, temp_root: Path) -> None:
        run = make_orphan(temp_root, files=50)
        other = make_orphan(temp_root)
        (run / "deep" / "er").mkdir(parents=True)
        for number in range(5):
            (run / "deep" / "er" / str(number)).touch()
        with immutable(run / "deep" / "er" / "3"):
            report = reclaim.reclaim([temp_root])
            assert [os.path.basename(failure.filename) for failure in report.failures][:1] == ["3"]
            assert os.fspath(temp_root) in report.failures[0].filename
            assert [found.path for found in report.reclaimed] == [os.fspath(other)]
            (trash,) = names(temp_root)
            left = [path for path in (temp_root / trash).rglob("*") if not path.is_dir()]
            assert sorted(path.name for path in left) == ["3", "lock", "owner.json"]
            assert list_runs([temp_root])[0].pid == 4194304  # it still says whose it was
        assert len(reclaim.reclaim([temp_root]).reclaimed) == 1
        assert names(temp_root) == []

    def test_without_a_descriptor_to_spare_nothing_is_mistaken_for_dead_or_alive(
        self, temp_root: Path
    ) -> None:
        code = """
import resource
import filelock, json
orphan = sys.argv[1] + '/run-0123456789abcdef'
live = RunDirectory.create(sys.argv[1])
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
while True:
    try:
        taken.append(os.open('/dev/null', os.O_RDONLY))
    except OSError:
        break
outcomes = []
for spare in range(12):
    if not os.path.exists(orphan):
        os.close(taken.pop())
        os.mkdir(orphan, 0o700)
        for name in ('lock', 'out.spill'):
            os.close(os.open(f'{orphan}/{name}', os.O_CREAT | os.O_WRONLY, 0o600))
        taken.append(os.open('/dev/null', os.O_RDONLY))
    try:
        report = reclaim.reclaim([sys.argv[1]])
        outcomes.append(len(report.reclaimed))
        assert report.live <= 1, 'an orphan was taken for live'
    except OSError as error:
        assert error.errno == 24
        outcomes.append('error')
    assert live.is_in_place()
    os.close(taken.pop())
say(outcomes[0], outcomes[-1])
for fd in taken:
    os.close(fd)
reclaim.reclaim([sys.argv[1]])
live.dispose()
say(os.listdir(sys.argv[1]))
"""
        done = run_code(code, temp_root)
        assert done.stdout == "error 1\n[]\n", done.stderr


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

    def test_a_process_that_ends_meanwhile_does_not_wait_and_leaves_a_sweepable_rest(
        self, temp_root: Path
    ) -> None:
        make_orphan(temp_root, files=1_500)
        code = """
import threading
met, never = threading.Event(), threading.Event()
after('unlink', lambda: (met.set(), never.wait()), 1000)
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
        monkeypatch.setattr("collector.store.reclaim.time.sleep", rests.append)
        make_orphan(temp_root, files=200)
        start_sweep(temp_root)
        wait_for_sweep()
        assert rests == []
        make_orphan(temp_root, files=1_500)
        start_sweep(temp_root)
        wait_for_sweep()
        assert len(rests) > 10
        assert names(temp_root) == []


@pytest.mark.skipif(
    shutil.which("systemd-tmpfiles") is None, reason="needs systemd-tmpfiles (Debian: systemd)"
)
class TestSystemdTmpfiles:
    @pytest.mark.parametrize("line", ["d {root} 0700 - - 1s", "d {parent} 0755 - - 1s"])
    def test_it_leaves_a_run_alone_and_would_take_it_without_our_lock(
        self, temp_root: Path, tmp_path: Path, line: str
    ) -> None:
        code = """
run = RunDirectory.create(sys.argv[1])
fd, name = run.create_file('out')
os.write(fd, b'bytes')
os.close(fd)
scratch = run.make_scratch()
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
