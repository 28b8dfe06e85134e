"""The roots in which run directories are made: which one, and which are refused."""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError, SpillError
from collector.store.rundir import root
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs
from collector.store.spill import SpillManager
from tests.support.rundirs import (
    BECOME,
    NOBODY,
    advise_anew,
    mode,
    mounted,
    names,
    needs_root,
    run_code,
    working_in,
)

pytestmark = pytest.mark.usefixtures("says_everything_once_more")


class TestRoots:
    def test_the_argument_outranks_the_variable_which_outranks_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLLECTOR_TMPDIR", os.fspath(tmp_path / "named"))
        monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
        with contextlib.ExitStack() as stack:

            def parent(new_root: Path | None) -> Path:
                directory = RunDirectory.create(new_root)
                stack.callback(directory.dispose)
                return directory.path.parent

            assert parent(tmp_path / "given") == tmp_path / "given"
            assert parent(None) == tmp_path / "named"
            monkeypatch.setenv("COLLECTOR_TMPDIR", "")
            assert parent(None) == tmp_path / f"collector-{os.geteuid()}"

    def test_where_nothing_can_be_written_it_is_said_how_to_name_a_root(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a container whose root is read-only."""
        asked = []

        def nothing() -> str:
            asked.append(True)
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in [...]")

        monkeypatch.delenv("COLLECTOR_TMPDIR")
        monkeypatch.setattr("tempfile.gettempdir", nothing)
        with pytest.raises(RunDirectoryError, match="temp_root= or COLLECTOR_TMPDIR") as caught:
            RunDirectory.create(None)
        assert asked
        assert caught.value.errno == errno.ENOENT

    def test_a_relative_root_is_made_absolute_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        with working_in(tmp_path):
            directory = RunDirectory.create("relative")
        with working_in(tmp_path / "elsewhere"):
            assert directory.path.parent == tmp_path / "relative"
            fd, name = directory.create_file("out")
            os.close(fd)
            assert name in names(tmp_path / "relative" / directory.path.name)
            directory.dispose()
        assert names(tmp_path / "relative") == []

    @pytest.mark.parametrize("how", ["given", "named"])
    def test_a_relative_root_in_a_directory_that_is_gone_is_refused_with_its_path(
        self, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.setenv("COLLECTOR_TMPDIR", "relative")
        with working_in(tmp_path / "gone"):
            (tmp_path / "gone").rmdir()
            with pytest.raises(RunDirectoryError, match="the working directory is gone") as caught:
                RunDirectory.create("relative" if how == "given" else None)
        assert caught.value.filename == "relative"
        assert caught.value.errno == errno.ENOENT

    def test_a_missing_root_is_made_but_not_its_parent(self, tmp_path: Path) -> None:
        with pytest.raises(RunDirectoryError, match="first make the directory it") as caught:
            RunDirectory.create(tmp_path / "no" / "root")
        assert caught.value.filename == os.fspath(tmp_path / "no" / "root")
        assert caught.value.errno == errno.ENOENT
        assert names(tmp_path) == []

    def test_an_empty_path_is_not_the_working_directory(self, tmp_path: Path) -> None:
        with working_in(tmp_path), pytest.raises(ValueError, match="temp_root must be a path"):
            RunDirectory.create("")
        assert names(tmp_path) == []

    def untrusted(self, kind: str, path: Path) -> str:
        """Put something at `path` that cannot be a root; part of what is said about it."""
        match kind:
            case "link":
                (path.parent / "target").mkdir(mode=0o700)
                path.symlink_to("target")
            case "fifo":
                os.mkfifo(path)
            case "file":
                path.write_text("mine")
            case "open to all":
                path.mkdir()
                path.chmod(0o777)
                return "0777"
            case "another user's":
                if os.geteuid() != 0:
                    pytest.skip("needs root")
                path.mkdir(mode=0o700)
                os.chown(path, NOBODY, NOBODY)
                return f"user {NOBODY}"
            case _:
                raise ValueError(kind)
        return "not a directory"

    KINDS = ("link", "fifo", "file", "open to all", "another user's")

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "link"])
    def test_an_explicit_root_that_cannot_be_trusted_is_refused_with_its_path(
        self, new_root: Path, kind: str
    ) -> None:
        said = self.untrusted(kind, new_root)
        before = new_root.lstat()
        with pytest.raises(RunDirectoryError, match=said) as caught:
            RunDirectory.create(new_root)
        assert caught.value.filename == os.fspath(new_root)
        with SpillManager(1, temp_root=new_root) as manager:
            with pytest.raises(SpillError, match=said) as spilling:
                manager.write(b"a")
            assert manager.progress.bytes_written == 0
        assert isinstance(spilling.value.__cause__, RunDirectoryError)
        assert spilling.value.filename == os.fspath(new_root)
        assert new_root.lstat().st_mode == before.st_mode
        assert new_root.lstat().st_uid == before.st_uid

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_default_root_that_cannot_be_trusted_is_replaced_with_one_warning(
        self,
        tmp_path: Path,
        kind: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.delenv("COLLECTOR_TMPDIR")
        monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
        name = f"collector-{os.geteuid()}"
        self.untrusted(kind, tmp_path / name)
        first = RunDirectory.create()
        second = RunDirectory.create()
        assert first.path.parent == second.path.parent
        assert first.path.parent.name.startswith(f"{name}-")
        assert mode(first.path.parent) == 0o700
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert os.fspath(first.path.parent) in caplog.text
        first.dispose()
        assert [run.path for run in list_runs()] == [os.fspath(second.path)]
        second.dispose()

    def test_a_default_root_that_is_full_or_read_only_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("COLLECTOR_TMPDIR")
        with mounted(tmp_path / "ro", "size=1m") as read_only:
            monkeypatch.setenv("TMPDIR", os.fspath(read_only))
            monkeypatch.setattr("tempfile.tempdir", os.fspath(read_only))
            subprocess.run(["mount", "-o", "remount,ro", read_only], check=True)
            with pytest.raises(RunDirectoryError) as caught:
                RunDirectory.create()
        assert caught.value.errno == errno.EROFS

    def test_an_explicit_root_on_a_read_only_file_system_is_refused(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "ro", "size=1m,mode=0700") as read_only:
            (read_only / "root").mkdir(mode=0o700)
            subprocess.run(["mount", "-o", "remount,ro", read_only], check=True)
            for path in (read_only / "new", read_only / "root"):
                with pytest.raises(RunDirectoryError) as caught:
                    RunDirectory.create(path)
                assert caught.value.errno == errno.EROFS
                assert os.fspath(path) in str(caught.value)

    @needs_root
    def test_a_root_that_its_owner_may_not_write_is_refused(self) -> None:
        code = (
            BECOME
            + """
become(int(sys.argv[1]))
base = Path(tempfile.mkdtemp(dir='/tmp'))
try:
    (base / 'locked').mkdir(mode=0o500)
    try:
        RunDirectory.create(base / 'locked')
    except OSError as error:
        say(type(error).__name__, error.errno, error.filename == str(base / 'locked'))
finally:
    (base / 'locked').rmdir()
    base.rmdir()
"""
        )
        done = run_code(code, str(NOBODY))
        assert done.stdout == f"RunDirectoryError {errno.EACCES} True\n", done.stderr

    def test_noexec_does_not_matter(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "mnt", "size=1m,noexec,mode=0700") as place:
            directory = RunDirectory.create(place / "root")
            directory.dispose()

    def test_memory_is_warned_of_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with mounted(tmp_path / "mnt", "size=1m,mode=0700") as place:
            for _ in range(3):
                RunDirectory.create(place / "root").dispose()
        assert len(caplog.records) == 1
        assert "tmpfs" in caplog.text
        assert "memory" in caplog.text

    def test_a_disk_is_not_warned_of(
        self, new_root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        RunDirectory.create(new_root).dispose()
        assert caplog.records == []

    def test_a_network_file_system_is_warned_of_once_and_never_swept_at_start(
        self, new_root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        advise_anew()
        monkeypatch.setattr(root, "filesystem_type_of", lambda _: "nfs4")
        for _ in range(2):
            RunDirectory.create(new_root).dispose()
        assert len(caplog.records) == 1
        assert "collector gc" in caplog.text

    def test_the_root_of_a_container_is_on_no_network(
        self, new_root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Podman without root mounts it through FUSE, where overlayfs is not to be had."""
        monkeypatch.setattr(root, "filesystem_type_of", lambda _: "fuse.fuse-overlayfs")
        advise_anew()
        RunDirectory.create(new_root).dispose()
        with contextlib.closing(root.open_root(new_root, make=False)) as opened:
            assert not root.on_network(opened)
        assert caplog.records == []
