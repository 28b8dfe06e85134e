"""Output.save onto a name that something has, or in a directory that takes no names."""

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.errors import OutputLostError
from collector.integrations.postprocess import finalize_processing
from collector.store.output import publish, rename, target
from collector.store.output.output import Output
from collector.store.output.rename import NameIn
from tests.support.child import in_child
from tests.support.otheruser import lose_privileges
from tests.support.outputs import in_memory, on_disk, put
from tests.support.processend import end_of_process
from tests.support.rundirs import names
from tests.support.sandbox import refuse

Maker = Callable[[bytes], Output]

OTHER_KINDS = {
    "fifo": "a FIFO",
    "socket": "a socket",
    "character device": "a device",
    "block device": "a device",
    "directory": "a directory",
    "full directory": "a directory",
}

each_kind = pytest.mark.parametrize("kind", OTHER_KINDS)
each_way = pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


@pytest.fixture(params=[in_memory, on_disk], ids=["memory", "disk"])
def make(request: pytest.FixtureRequest) -> Maker:
    maker: Maker = request.param
    return maker


@pytest.fixture(params=["without a name", "with a name"])
def aside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways to write a file aside; the second is for file systems without the first."""
    if request.param == "with a name":
        monkeypatch.setattr(publish, "_can_have_no_name", lambda: False)
    return str(request.param)


# -- what is never replaced ----------------------------------------------------------------------


@each_kind
@each_way
def test_only_a_file_or_a_link_is_ever_replaced(
    make: Maker, tmp_path: Path, kind: str, overwrite: bool
) -> None:
    path = tmp_path / "name"
    before = put(kind, path)
    output = make(b"abc")
    with pytest.raises(OSError, match=OTHER_KINDS[kind]) as caught:
        output.save(path, overwrite=overwrite)
    assert caught.value.filename == str(path)
    assert "overwrite" not in str(caught.value)
    assert isinstance(caught.value, IsADirectoryError if path.is_dir() else FileExistsError)
    assert path.lstat().st_ino == before
    assert names(tmp_path) == ["name"]
    assert output.read() == b"abc"


@each_kind
@pytest.mark.parametrize("which", ["text", "record"])
def test_nor_is_it_by_finalize_processing(tmp_path: Path, kind: str, which: str) -> None:
    path = tmp_path / ("talk.txt" if which == "text" else "talk.txt.json")
    before = put(kind, path)
    output = in_memory(b"abc")
    with pytest.raises(OSError, match=OTHER_KINDS[kind]) as caught:
        finalize_processing(
            None, streaming_manager=output, file_path=tmp_path / "talk.mp4", overwrite=True
        )
    assert caught.value.filename == str(path)
    assert path.lstat().st_ino == before
    assert names(tmp_path) == [path.name]


@each_kind
def test_nor_is_what_comes_between_the_look_and_the_step(
    make: Maker, tmp_path: Path, kind: str, aside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. we see a file, 2. somebody puts another kind there, 3. we replace what is there."""
    path = tmp_path / "name"
    path.write_bytes(b"older")
    exchange = rename.exchange
    put_there: list[int] = []

    def meddle(one: NameIn, other: NameIn) -> None:
        if not put_there:
            path.unlink()
            put_there.append(put(kind, path))
        exchange(one, other)

    monkeypatch.setattr(target, "exchange", meddle)
    output = make(b"abc")
    with pytest.raises(OSError, match=OTHER_KINDS[kind]) as caught:
        output.save(path, overwrite=True)
    assert caught.value.filename == str(path)
    assert [path.lstat().st_ino] == put_there
    assert names(tmp_path) == ["name"]
    assert output.read() == b"abc"


@pytest.mark.parametrize("step", ["exchange", "_refuse_kind"])
def test_an_exception_between_two_steps_loses_nothing_that_came_between(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"older")
    exchange = rename.exchange
    put_there: list[int] = []

    def meddle(one: NameIn, other: NameIn) -> None:
        if not put_there:
            path.unlink()
            put_there.append(put("fifo", path))
        exchange(one, other)
        if step == "exchange":
            raise KeyboardInterrupt

    def interrupt(status: os.stat_result) -> None:
        if stat.S_ISFIFO(status.st_mode):
            monkeypatch.setattr(target, "_refuse_kind", refuse_kind)
            raise KeyboardInterrupt

    refuse_kind = target._refuse_kind
    monkeypatch.setattr(target, "exchange", meddle)
    if step == "_refuse_kind":
        monkeypatch.setattr(target, "_refuse_kind", interrupt)
    with pytest.raises(KeyboardInterrupt):
        in_memory(b"abc").save(path, overwrite=True)
    assert put_there[0] in {entry.inode() for entry in os.scandir(tmp_path)}
    if step == "_refuse_kind":
        assert path.is_fifo()
        assert names(tmp_path) == ["name"]


def test_nor_is_a_fifo_that_comes_and_goes_all_the_time(make: Maker, tmp_path: Path) -> None:
    path, away, file = tmp_path / "name", tmp_path / "fifo", tmp_path / "file"
    os.mkfifo(away)
    fifo = away.lstat().st_ino
    done = threading.Event()

    def swap() -> None:
        """Have the FIFO under the name, then a file, and so on; both by one step."""
        while not done.is_set():
            os.rename(away, path)
            file.write_bytes(b"older")
            rename.exchange(NameIn(-100, str(path)), NameIn(-100, str(file)))
            os.rename(file, away)

    thread = threading.Thread(target=swap)
    thread.start()
    replaced = 0
    try:
        for _ in range(300):
            with contextlib.suppress(FileExistsError):
                make(b"abc").save(path, overwrite=True)
                replaced += 1
    finally:
        done.set()
        thread.join()
    assert away.lstat().st_ino == fifo
    assert stat.S_ISFIFO(away.lstat().st_mode)


@pytest.mark.parametrize("behind", ["file", "directory", "full directory", "nothing", "link"])
def test_a_link_is_replaced_and_what_it_leads_to_is_not_touched(
    make: Maker, tmp_path: Path, behind: str
) -> None:
    path, there = tmp_path / "link", tmp_path / behind
    path.symlink_to(behind)  # "link" leads to itself
    if behind == "file":
        there.write_bytes(b"older")
    elif "directory" in behind:
        put(behind, there)
    before = there.lstat() if behind in names(tmp_path) else None
    output = make(b"abc")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        output.save(path)
    assert output.save(path, overwrite=True) == path
    assert not path.is_symlink()
    assert path.read_bytes() == output.read() == b"abc"
    if before is not None and behind != "link":
        assert (there.lstat().st_ino, there.lstat().st_size) == (before.st_ino, before.st_size)


def test_a_fifo_in_the_place_of_a_saved_file_holds_no_reader_up(
    make: Maker, tmp_path: Path
) -> None:
    output = make(b"")
    output.save(tmp_path / "saved")
    (tmp_path / "saved").unlink()
    os.mkfifo(tmp_path / "saved")
    with pytest.raises(OutputLostError, match="replaced"):
        output.read()


# -- onto itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["itself", "directory link", "hard link", "link"])
def test_it_can_be_saved_onto_itself(make: Maker, tmp_path: Path, alias: str) -> None:
    output = make(b"abc" * 100_000)
    first = output.save(tmp_path / "place" / "name")
    path = first
    match alias:
        case "directory link":
            (tmp_path / "way").symlink_to("place")
            path = tmp_path / "way" / "name"
        case "hard link":
            path = tmp_path / "other"
            os.link(first, path)
        case "link":
            path = tmp_path / "other"
            path.symlink_to(first)
        case _:
            pass
    with pytest.raises(FileExistsError, match="overwrite=True"):
        output.save(path)
    assert output.read() == b"abc" * 100_000
    assert output.save(path, overwrite=True) == path
    assert output.read() == path.read_bytes() == first.read_bytes() == b"abc" * 100_000
    assert names(tmp_path / "place") == ["name"]


# -- directories ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "dangling link", "fifo"])
def test_a_parent_that_is_no_directory_is_not_a_name_that_is_taken(
    make: Maker, tmp_path: Path, kind: str
) -> None:
    parent = tmp_path / "parent"
    match kind:
        case "file":
            parent.touch()
        case "dangling link":
            parent.symlink_to("nowhere")
        case _:
            os.mkfifo(parent)
    output = make(b"abc")
    for path in (parent / "name", parent / "deeper" / "name"):
        with pytest.raises((NotADirectoryError, FileNotFoundError)) as caught:
            output.save(path)
        assert caught.value.filename == str(path)
    assert output.read() == b"abc"
    assert names(tmp_path) == ["parent"]


def test_a_relative_path_is_named_where_the_working_directory_is_gone(
    make: Maker, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    output = make(b"abc")
    with contextlib.chdir(tmp_path / "gone"):
        (tmp_path / "gone").rmdir()
        with pytest.raises(FileNotFoundError, match="working directory is gone") as caught:
            output.save("name")
        assert caught.value.filename == "name"
        os.chdir(tmp_path)
        (tmp_path / "gone").mkdir()
    assert output.read() == b"abc"


@pytest.mark.parametrize("size", [129, 130, 143, 255])
@each_way
def test_a_name_may_be_as_long_as_names_are(
    make: Maker, tmp_path: Path, size: int, aside: str, overwrite: bool
) -> None:
    path = tmp_path / ("n" * size)
    if overwrite:
        path.write_bytes(b"older")
    assert make(b"abc").save(path, overwrite=overwrite).read_bytes() == b"abc"
    assert names(tmp_path) == [path.name]


def without_privileges(place: Path, mode: int, work: Callable[[], object]) -> object:
    """Let root, for whom the mode of a directory counts, do something in it."""
    if os.geteuid() == 0:
        place.chmod(mode)
    else:
        pytest.skip("needs root, who gives that up")

    def inside() -> object:
        lose_privileges()
        return work()

    try:
        return in_child(inside)
    finally:
        place.chmod(0o700)


@each_way
def test_what_may_not_be_written_is_named_as_it_was_given(
    make: Maker, tmp_path: Path, overwrite: bool, aside: str
) -> None:
    place = tmp_path / "closed"
    place.mkdir()
    (place / "older").write_bytes(b"older")
    path = place / ("older" if overwrite else "new")

    def work() -> tuple[object, ...]:
        output = make(b"abc")
        with pytest.raises(PermissionError) as caught:
            output.save(path, overwrite=overwrite)
        return caught.value.filename, caught.value.filename2, output.read()

    assert without_privileges(place, 0o500, work) == (str(path), None, b"abc")
    assert names(place) == ["older"]


@each_way
def test_a_directory_that_may_be_written_but_not_read_will_do(
    make: Maker, tmp_path: Path, overwrite: bool, aside: str
) -> None:
    place = tmp_path / "box"
    place.mkdir()
    if overwrite:
        (place / "name").write_bytes(b"older")

    def work() -> bytes:
        with pytest.raises(PermissionError):
            names(place)
        return make(b"abc").save(place / "name", overwrite=overwrite).read_bytes()

    assert without_privileges(place, 0o333, work) == b"abc"
    assert names(place) == ["name"]


def test_where_a_sandbox_refuses_links_and_renameat2_nothing_is_replaced_or_left(
    make: Maker, tmp_path: Path, aside: str
) -> None:
    def work() -> bytes:
        refuse("linkat", "renameat2")
        with pytest.raises(PermissionError):  # what Python asks for
            os.link(__file__, tmp_path / "link", follow_symlinks=False)
        output = make(b"abc" * 1_000_000)
        output.save(tmp_path / "first")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            make(b"def").save(tmp_path / "first")
        make(b"def").save(tmp_path / "second").write_bytes(b"older")
        make(b"ghi").save(tmp_path / "second", overwrite=True)
        return output.read()

    assert in_child(work) == (tmp_path / "first").read_bytes() == b"abc" * 1_000_000
    assert (tmp_path / "second").read_bytes() == b"ghi"
    assert names(tmp_path) == ["first", "second"]


# -- append-only and immutable directories -------------------------------------------------------


@pytest.fixture(params=["a", "i"], ids=["append-only", "immutable"])
def flagged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    place = tmp_path / "flagged"
    place.mkdir()
    (place / "older").write_bytes(b"older")
    flag: str = request.param
    if (
        shutil.which("chattr") is None
        or subprocess.run(
            ["chattr", f"+{flag}", place], check=False, stderr=subprocess.DEVNULL
        ).returncode
    ):
        pytest.skip("needs root and a file system whose directories have flags")
    yield place, flag
    subprocess.run(["chattr", f"-{flag}", place], check=True)


def test_nothing_stays_aside_in_a_directory_from_which_nothing_can_be_removed(
    make: Maker, flagged: tuple[Path, str], aside: str
) -> None:
    place, flag = flagged
    output = make(b"abc")
    if (flag, aside) == ("a", "without a name"):
        assert output.save(place / "new").read_bytes() == output.read() == b"abc"
        assert names(place) == ["new", "older"]
        output = make(b"abc")
    else:
        with pytest.raises(PermissionError) as caught:
            output.save(place / "new")
        assert caught.value.filename == str(place / "new")
    before = names(place)
    with pytest.raises(PermissionError, match="append-only" if flag == "a" else None) as caught:
        output.save(place / "older", overwrite=True)
    assert caught.value.filename == str(place / "older")
    assert names(place) == before
    assert (place / "older").read_bytes() == b"older"
    assert output.read() == b"abc"


def test_a_record_that_cannot_be_taken_away_is_named_and_nothing_changes(
    flagged: tuple[Path, str], tmp_path: Path
) -> None:
    place, _ = flagged
    subprocess.run(["chattr", "-a", "-i", place], check=True)
    (place / "older.json").write_bytes(b"{}")
    subprocess.run(["chattr", f"+{flagged[1]}", place], check=True)
    with pytest.raises(OSError, match=r"append-only|not permitted") as caught:
        finalize_processing(
            None,
            streaming_manager=in_memory(b"abc"),
            file_path=tmp_path / "talk.mp4",
            output_path=place / "older",
            overwrite=True,
        )
    assert caught.value.errno == errno.EPERM
    assert caught.value.filename == str(place / ("older.json" if flagged[1] == "a" else "older"))
    assert names(place) == ["older", "older.json"]
    assert (place / "older").read_bytes() == b"older"
