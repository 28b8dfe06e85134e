"""A temp root that is a symbolic link: followed once if it is to be trusted, and judged there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import Collector, SpillManager
from collector.errors import RunDirectoryError
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs, reclaim
from collector.store.rundir.root import open_root
from tests.support.child import in_child
from tests.support.otheruser import become
from tests.support.processend import end_of_process
from tests.support.rundirs import NOBODY
from tests.support.tiers import each_method


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


def test_a_root_behind_a_link_is_where_the_kernel_finds_it(
    tmp_path: Path, behind_a_link: str
) -> None:
    (tmp_path / "root").mkdir(mode=0o700)  # where a path without its ".." leads
    name = os.path.join(behind_a_link, "root")
    os.mkdir(name, 0o700)
    with Collector(1, progress=False, temp_root=name) as collector:
        with collector.submit(range, 3).output() as output:
            assert output.read() == b""
        (run,) = os.listdir(name)
        assert [os.path.basename(item.path) for item in list_runs([name])] == [run]
    assert os.listdir(name) == os.listdir("root") == []


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A directory that can be a root."""
    directory = tmp_path / "real"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def link(tmp_path: Path, real: Path) -> Path:
    """A link of one's own to it."""
    path = tmp_path / "link"
    path.symlink_to("real")
    return path


def give(path: Path, user: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving something to another user needs root")
    os.chown(path, user, user, follow_symlinks=False)


def write_much(size: int) -> Iterator[bytes]:
    yield b"x" * size


@each_method
def test_a_collector_works_in_the_directory_that_the_link_leads_to(
    method: str, link: Path, real: Path, tmp_path: Path
) -> None:
    with Collector(1, method, temp_root=link, memory_threshold=0, progress=False) as collector:
        output = collector.submit(write_much, 1000).output()
        assert output.path is not None
        assert output.path.parent.parent == real
        assert output.save(tmp_path / "saved").read_bytes() == b"x" * 1000
    assert os.listdir(real) == []
    assert link.is_symlink()


def test_a_spill_manager_does_too(link: Path, real: Path) -> None:
    with SpillManager(0, temp_root=link) as manager:
        manager.write(b"abc")
        with manager.finalize() as output:
            assert output.path is not None
            assert output.path.parent.parent == real


def test_so_does_the_variable(link: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_TMPDIR", os.fspath(link))
    directory = RunDirectory.create()
    assert directory.path.parent == real
    assert [run.path for run in list_runs()] == [os.fspath(directory.path)]
    directory.dispose()


def test_it_is_followed_at_the_start_and_not_again(link: Path, real: Path, tmp_path: Path) -> None:
    directory = RunDirectory.create(link)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    link.unlink()
    link.symlink_to("elsewhere")
    joined = RunDirectory.join(directory.path)
    fd, name = joined.create_file("out")
    os.close(fd)
    assert (real / directory.path.name / name).exists()
    joined.release()
    directory.dispose()
    assert os.listdir(real) == os.listdir(elsewhere) == []


def test_what_a_dead_run_left_is_reclaimed_by_the_name_of_the_link(link: Path, real: Path) -> None:
    program = (
        "import os, sys; from collector.store.rundir.directory import RunDirectory;"
        "RunDirectory.create(sys.argv[1]); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, link], check=True)
    assert len(os.listdir(real)) == 1
    assert [run.path for run in list_runs([link])] == [str(path) for path in real.iterdir()]
    assert len(reclaim([link, real]).reclaimed) == 1
    assert os.listdir(real) == []


@pytest.mark.parametrize("leads_to", ["real/", "./real/.", "sub/../real", "{tmp}/real", "second"])
def test_every_way_of_writing_a_link_will_do(leads_to: str, tmp_path: Path, real: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "second").symlink_to("sub/third")
    (tmp_path / "sub" / "third").symlink_to("../real")
    link = tmp_path / "first"
    link.symlink_to(leads_to.format(tmp=tmp_path))
    root = open_root(link)
    assert Path(root.path) == real
    root.close()


def test_a_link_is_meant_from_where_it_really_lies(tmp_path: Path) -> None:
    deep = tmp_path / "deep" / "down"
    deep.mkdir(parents=True)
    (tmp_path / "deep" / "real").mkdir(mode=0o700)
    (deep / "link").symlink_to("../real")
    (tmp_path / "short").symlink_to("deep/down")  # by this way ".." is not what it seems
    root = open_root(tmp_path / "short" / "link")
    assert Path(root.path) == tmp_path / "deep" / "real"
    root.close()


def test_a_missing_root_is_made_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    directory = RunDirectory.create(tmp_path / "link")
    assert directory.path.parent == tmp_path / "new"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    directory.dispose()


def test_a_link_of_roots_is_followed_by_another_user(tmp_path: Path, real: Path) -> None:
    give(real, NOBODY)
    (tmp_path / "link").symlink_to("real")

    def work() -> str:
        become(NOBODY)
        root = open_root(tmp_path / "link")
        root.close()
        return root.path

    assert in_child(work) == os.fspath(real)


@pytest.mark.parametrize("at", ["first", "second"])
def test_a_link_of_another_users_is_refused(tmp_path: Path, real: Path, at: str) -> None:
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to("real")
    give(tmp_path / at, NOBODY)
    with pytest.raises(RunDirectoryError, match=f"link of user {NOBODY}") as caught:
        RunDirectory.create(tmp_path / "first")
    assert caught.value.filename == os.fspath(tmp_path / "first")
    assert os.listdir(real) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("file", "not a directory"),
        ("fifo", "not a directory"),
        ("open to all", "0777"),
        ("another user's", f"user {NOBODY}"),
        ("circle", "not a directory"),
        ("missing parent", "No such file"),
    ],
)
def test_what_it_leads_to_is_judged_as_ever(tmp_path: Path, kind: str, said: str) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to("nowhere/real" if kind == "missing parent" else "real")
    match kind:
        case "file":
            real.touch()
        case "fifo":
            os.mkfifo(real)
        case "circle":
            real.symlink_to("link")
        case "open to all":
            real.mkdir()
            real.chmod(0o777)
        case "another user's":
            real.mkdir(mode=0o700)
            give(real, NOBODY)
        case _:
            pass
    with pytest.raises(RunDirectoryError, match=said) as caught:
        RunDirectory.create(link)
    assert caught.value.filename == os.fspath(link)
    assert not real.is_dir() or os.listdir(real) == []


def test_a_link_that_is_changed_while_it_is_judged_is_not_followed(
    tmp_path: Path, link: Path, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. our link is opened, 2. another user puts a link there, 3. the one that is open is read."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    fired = 0
    read = os.readlink

    def meddle(path: str, *, dir_fd: int) -> str:
        nonlocal fired
        fired += 1
        link.unlink()
        link.symlink_to("elsewhere")
        give(link, NOBODY)
        return read(path, dir_fd=dir_fd)

    monkeypatch.setattr("collector.store.rundir.kernel.readlink", meddle)
    root = open_root(link)
    assert (fired, Path(root.path)) == (1, real)
    root.close()
