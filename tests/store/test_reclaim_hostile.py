"""Sweeping a root that others have prepared or go on changing: nothing outside it is touched."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from collector.store.rundir import reclaim
from collector.store.rundir.reclaim import list_runs
from tests.support.rundirs import (
    BECOME,
    bound,
    immutable,
    make_orphan,
    mounted,
    names,
    needs_root,
    run_code,
)


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
        depth = 1100
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
