"""Making a run directory, and the one that a process has for a root."""

import json
import logging
import os
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import root
from collector.store.rundir.cleanup import clean_up
from collector.store.rundir.directory import RunDirectory, process_run_directory
from collector.store.rundir.scratch import make_scratch_in
from tests.support.rundirs import let_go, mode, names, place, run_code

pytestmark = pytest.mark.usefixtures("says_everything_once_more")


class TestWhatIsMade:
    def test_a_new_run_directory_is_private_and_says_whose_it_is(self, new_root: Path) -> None:
        directory = RunDirectory.create(new_root)
        assert names(new_root) == [directory.path.name]
        assert names(directory.path) == ["lock", "owner.json"]
        assert directory.path.is_absolute()
        assert mode(new_root) == mode(directory.path) == 0o700
        assert mode(directory.path / "lock") == mode(directory.path / "owner.json") == 0o600
        facts = json.loads((directory.path / "owner.json").read_text())
        assert set(facts) == {"pid", "started", "host", "command", "version"}
        assert facts["pid"] == os.getpid()
        directory.dispose()
        assert names(new_root) == []

    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_modes_do_not_depend_on_the_umask(self, new_root: Path, umask: int) -> None:
        code = """
os.umask(int(sys.argv[2], 8))
run = RunDirectory.create(sys.argv[1])
fd, name = run.create_file("out")
os.close(fd)
scratch = make_scratch(run.path)
for path in (run.path.parent, run.path, scratch, *sorted(p for p in run.path.iterdir())):
    say(oct(path.stat().st_mode & 0o7777), path.name)
run.dispose()
"""
        done = run_code(code, new_root, f"{umask:o}")
        found = [line.split() for line in done.stdout.splitlines()]
        assert len(found) == 7, done.stderr
        for octal, name in found:
            private = "0o700" if name.startswith(("root", "run", "scratch")) else "0o600"
            assert octal == private, name

    def test_a_setgid_parent_and_a_default_acl_do_not_open_it(self, tmp_path: Path) -> None:
        parent = tmp_path / "shared"
        parent.mkdir()
        parent.chmod(0o2777)
        # user::rwx, group::rwx, other::rwx by default for everything that is made inside
        entries = [(1, 7, -1), (4, 7, -1), (16, 7, -1), (32, 7, -1)]
        packed = b"".join(struct.pack("<HHi", tag, bits, who) for tag, bits, who in entries[:2])
        packed += struct.pack("<HHi", 32, 7, -1)
        os.setxattr(parent, "system.posix_acl_default", struct.pack("<I", 2) + packed)
        directory = RunDirectory.create(parent / "root")
        fd, name = directory.create_file("out")
        os.close(fd)
        assert mode(parent / "root") == mode(directory.path) == 0o700
        assert mode(directory.path / name) == mode(directory.path / "lock") == 0o600
        directory.dispose()

    def test_files_are_made_opened_and_removed_relative_to_the_directory(
        self, run: RunDirectory
    ) -> None:
        fd, name = run.create_file("answers")
        assert name.startswith("answers-")
        assert name.endswith(".spill")
        assert os.write(fd, b"bytes") == 5
        assert not os.get_inheritable(fd)
        os.close(fd)
        fd = run.open_file(name)
        assert os.read(fd, 10) == b"bytes"
        os.close(fd)
        assert run.remove_file(name)
        assert not run.remove_file(name)

    @pytest.mark.parametrize("base", ["../../x", "a/b", "nul\0", "ü" * 300, "", "\udc80"])
    def test_no_base_name_leads_out_of_the_directory(self, run: RunDirectory, base: str) -> None:
        fd, name = run.create_file(base)
        os.close(fd)
        assert name in names(run.path)
        assert run.remove_file(name)

    def test_a_scratch_directory_goes_with_all_that_is_in_it(self, run: RunDirectory) -> None:
        scratch = run.path / f"scratch-{os.urandom(8).hex()}"
        make_scratch_in(run.fd, scratch.name)
        make_scratch_in(run.fd, scratch.name)
        (scratch / "deep" / "er").mkdir(parents=True)
        (scratch / "deep" / "er" / "file").write_text("x")
        (scratch / "locked").mkdir(mode=0o000)
        assert mode(scratch) == 0o700
        run.remove_scratch(scratch)
        assert names(run.path) == ["lock", "owner.json"]
        run.remove_scratch(scratch)

    def test_a_worker_makes_and_removes_scratch_without_a_lease(self, run: RunDirectory) -> None:
        code = """
scratch = make_scratch(sys.argv[1])
(scratch / "file").write_text("x")
say(scratch, 'filelock' in sys.modules)
remove = scratch_directories.remove_scratch
say(remove(scratch), remove(Path(sys.argv[1], 'lock')))
"""
        first, second = run_code(code, run.path).stdout.splitlines()
        assert first.startswith(f"{run.path}/scratch-")
        assert first.endswith("False")
        assert second == "[] []"
        assert names(run.path) == ["lock", "owner.json"]

    def test_importing_it_loads_neither_filelock_nor_tqdm(self) -> None:
        done = run_code("say([m for m in ('filelock', 'tqdm') if m in sys.modules])")
        assert done.stdout == "[]\n"


class TestProcessRunDirectory:
    def test_there_is_one_per_process_and_root(self, new_root: Path, tmp_path: Path) -> None:
        first = process_run_directory(new_root)
        assert process_run_directory(os.fspath(new_root)) is first
        assert process_run_directory(tmp_path / "other") is not first
        clean_up()
        assert names(new_root) == names(tmp_path / "other") == []

    def test_it_is_made_anew_when_somebody_has_removed_it_or_the_whole_root(
        self, new_root: Path
    ) -> None:
        first = process_run_directory(new_root)
        fd, name = first.create_file("out")
        os.write(fd, b"still readable")
        subprocess.run(["rm", "-rf", first.path], check=True)
        second = process_run_directory(new_root)
        assert second.path != first.path
        assert os.pread(fd, 20, 0) == b"still readable"
        assert not first.remove_file(name)
        os.close(fd)
        subprocess.run(["rm", "-rf", new_root], check=True)
        third = process_run_directory(new_root)
        assert third.path.parent == new_root
        assert mode(new_root) == 0o700
        clean_up()
        assert names(new_root) == []

    def test_roots_that_are_gone_or_not_in_use_keep_no_descriptors(self, tmp_path: Path) -> None:
        code = """
import resource, tempfile
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from collector import SpillManager
kept, held = [], []
for number in range(60):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as place:
        manager = SpillManager(0, temp_root=place + "/root")
        manager.write(b"abc")
        output = manager.finalize()
        if number % 15 == 0:
            kept.append(output.open())
say({reader.read() for reader in kept}, len(os.listdir(sys.argv[1])))
for number in range(60):
    with SpillManager(0, temp_root=f"{sys.argv[1]}/{number}") as manager:
        manager.write(b"abc")
        if number % 15 == 0:
            held.append(manager.finalize())
say({output.read() for output in held})
"""
        done = run_code(code, tmp_path)
        assert done.stdout == "{b'abc'} 0\n{b'abc'}\n", done.stderr
        assert {tuple(names(root)) for root in tmp_path.iterdir()} == {()}

    def test_it_sweeps_its_root_once_in_the_background(
        self, new_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "collector")
        dead = RunDirectory.create(new_root)
        let_go(dead)
        process_run_directory(new_root)
        for thread in threading.enumerate():
            if thread.name == "collector-sweep":
                thread.join()
        assert not dead.path.exists()
        assert len(caplog.records) == 1
        dead.dispose()
        clean_up()
        assert names(new_root) == []

    def test_a_second_thread_waits_for_the_first_one_to_make_it(
        self, new_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: list[RunDirectory] = []
        threads = [
            threading.Thread(target=lambda: found.append(process_run_directory(new_root)))
            for _ in range(4)
        ]
        point = place(monkeypatch, "mkdir", before=threads[1].start, matching="run-")
        threads[0].start()
        threads[0].join()
        for thread in threads[2:]:
            thread.start()
        for thread in threads[1:]:
            thread.join()
        assert point.fired == 1
        assert len(set(map(id, found))) == 1
        assert len(found) == 4
        clean_up()

    def test_an_error_says_which_root(self, tmp_path: Path) -> None:
        with pytest.raises(RunDirectoryError) as caught:
            process_run_directory(tmp_path / "a" / "b")
        assert caught.value.filename == os.fspath(tmp_path / "a" / "b")
        assert root.ROOT_VARIABLE == "COLLECTOR_TMPDIR"
