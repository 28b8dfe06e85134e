"""Output.save: whole under its final name or not there, renamed where that can be done."""

import errno
import io
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.errors import OutputLostError, SpillError
from collector.settings import KIB, MIB
from collector.store import save, spillfile
from collector.store.output import Output
from collector.store.spill import SpillManager, temp_file_count
from tests.support.disks import fill, small_disk
from tests.support.faultyos import FaultyOs
from tests.support.processend import end_of_process

Maker = Callable[[bytes], Output]


@pytest.fixture(autouse=True)
def _process_ends() -> Iterator[None]:
    yield
    end_of_process()


def in_memory(data: bytes) -> Output:
    with SpillManager(len(data) + 1) as manager:
        manager.write(data)
        return manager.finalize()


def on_disk(data: bytes) -> Output:
    with SpillManager(0) as manager:
        manager.write(data)
        return manager.finalize()


@pytest.fixture(params=[in_memory, on_disk], ids=["memory", "disk"])
def make(request: pytest.FixtureRequest) -> Maker:
    maker: Maker = request.param
    return maker


@pytest.fixture
def disk() -> Iterator[Path]:
    # Not below tmp_path: later runs clean up there, and fail on a mount that a killed one left.
    with small_disk(Path(tempfile.gettempdir()), 2 * MIB) as mounted:
        yield mounted


def names(place: Path) -> list[str]:
    return sorted(os.listdir(place))


# -- where it goes -------------------------------------------------------------------------------


def test_it_is_saved_and_reads_from_there(make: Maker, tmp_path: Path) -> None:
    target = tmp_path / "saved.txt"
    output = make(b"abc")
    mode = output.mode
    assert output.save(target) == target
    assert target.read_bytes() == output.read() == b"abc"
    assert (output.path, os.fspath(output), output.mode) == (target, str(target), mode)
    assert temp_file_count() == 0
    target.unlink()
    with pytest.raises(OutputLostError, match="somebody removed"):
        output.read()


@pytest.mark.parametrize("times", [1, 2], ids=["renamed", "copied"])
def test_another_file_under_the_saved_name_is_an_error(
    make: Maker, times: int, tmp_path: Path
) -> None:
    output = make(b"abc")
    for _ in range(times):
        output.save(tmp_path / "saved", overwrite=True)
        assert output.read() == b"abc"
    (tmp_path / "other").write_bytes(b"xyz")
    (tmp_path / "other").rename(tmp_path / "saved")
    with pytest.raises(OutputLostError, match="somebody replaced"):
        output.read()


def test_a_saved_file_stays(make: Maker, tmp_path: Path) -> None:
    with make(b"abc") as output:
        output.save(tmp_path / "closed")
    output = make(b"def")
    output.save(tmp_path / "forgotten")
    del output
    assert (tmp_path / "closed").read_bytes() == b"abc"
    assert (tmp_path / "forgotten").read_bytes() == b"def"
    assert names(tmp_path) == ["closed", "forgotten"]


def test_on_the_same_file_system_it_is_renamed_and_not_copied(tmp_path: Path) -> None:
    output = on_disk(b"abc")
    assert output.path is not None
    before = output.path.stat()
    saved = output.save(tmp_path / "saved")
    assert (saved.stat().st_ino, saved.stat().st_nlink) == (before.st_ino, 1)


def test_the_second_time_it_is_copied(make: Maker, tmp_path: Path) -> None:
    output = make(b"abc")
    first = output.save(tmp_path / "first")
    second = output.save(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes() == b"abc"
    assert first.stat().st_ino != second.stat().st_ino
    assert output.path == second
    first.unlink()
    assert output.read() == b"abc"


def test_missing_parents_are_made(make: Maker, tmp_path: Path) -> None:
    target = make(b"abc").save(tmp_path / "a" / "b" / "c.txt")
    assert target.read_bytes() == b"abc"


def test_a_relative_path_is_meant_from_here(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = make(b"abc")
    assert output.save("saved") == tmp_path / "saved"
    monkeypatch.chdir("/")
    assert output.read() == b"abc"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_path_is_refused(make: Maker, overwrite: bool) -> None:
    output = make(b"abc")
    with pytest.raises(ValueError, match=r"save\(\) takes a path, not an empty one"):
        output.save("", overwrite=overwrite)
    assert output.read() == b"abc"


@pytest.mark.parametrize("ending", ["/", "/."])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["nothing", "file", "directory"])
def test_a_path_that_ends_like_a_directorys_makes_no_file(
    make: Maker, tmp_path: Path, ending: str, overwrite: bool, kind: str
) -> None:
    target = tmp_path / "new"
    if kind == "file":
        target.write_bytes(b"was there")
    elif kind == "directory":
        target.mkdir()
    output = make(b"abc")
    with pytest.raises(IsADirectoryError) as caught:
        output.save(f"{target}{ending}", overwrite=overwrite)
    assert caught.value.filename == f"{target}{ending}"
    assert target.exists() == (kind != "nothing")
    assert kind != "file" or target.read_bytes() == b"was there"
    assert output.read() == b"abc"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_file_has_the_mode_of_any_new_file(make: Maker, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        saved = make(b"abc").save(tmp_path / "saved")
        (tmp_path / "control").touch()
        assert saved.stat().st_mode == (tmp_path / "control").stat().st_mode
    finally:
        assert os.umask(before) == umask


def test_the_mode_is_right_where_there_is_no_proc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, mode: str) -> io.BytesIO:
        raise FileNotFoundError(path)

    monkeypatch.setattr(save, "open", refuse, raising=False)
    before = os.umask(0o027)
    try:
        assert on_disk(b"abc").save(tmp_path / "saved").stat().st_mode & 0o777 == 0o640
    finally:
        assert os.umask(before) == 0o027


def test_onto_another_file_system_it_is_copied(make: Maker, disk: Path) -> None:
    data = os.urandom(MIB + 1)
    output = make(data)
    with output:
        saved = output.save(disk / "saved")
        assert saved.read_bytes() == output.read() == data
        assert names(disk) == ["saved"]
        assert temp_file_count() == 0


def test_every_kind_of_path_will_do(make: Maker, tmp_path: Path) -> None:
    class Named:
        def __fspath__(self) -> str:
            return str(tmp_path / "named")

    make(b"abc").save(Named())
    make(b"abc").save(str(tmp_path / "text"))
    make(b"abc").save(tmp_path / ("ü" * 120))
    make(b"abc").save(tmp_path / ("n" * 255))
    make(b"abc").save(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    assert len(names(tmp_path)) == 5
    with pytest.raises(OSError, match="File name too long"):
        make(b"abc").save(tmp_path / ("n" * 256))


# -- what is in the way --------------------------------------------------------------------------


def test_a_taken_name_is_refused_and_the_output_stays(make: Maker, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.write_bytes(b"mine")
    output = make(b"abc")
    path = output.path
    with pytest.raises(FileExistsError) as caught:
        output.save(target)
    assert caught.value.errno == errno.EEXIST
    assert caught.value.filename == str(target)
    assert "pass overwrite=True" in str(caught.value)
    assert target.read_bytes() == b"mine"
    assert (output.path, output.read()) == (path, b"abc")
    assert names(tmp_path) == ["taken"]
    output.save(target, overwrite=True)
    assert target.read_bytes() == b"abc"
    assert names(tmp_path) == ["taken"]


def test_a_taken_name_is_told_before_anything_is_copied(make: Maker, disk: Path) -> None:
    (disk / "taken").write_bytes(b"mine")
    fill(disk)
    with pytest.raises(FileExistsError):
        make(bytes(MIB)).save(disk / "taken")


def test_a_dangling_link_is_a_taken_name_too(make: Maker, tmp_path: Path) -> None:
    target = tmp_path / "link"
    target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        make(b"abc").save(target)
    make(b"abc").save(target, overwrite=True)
    assert names(tmp_path) == ["link"]
    assert not target.is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_is_never_replaced(make: Maker, tmp_path: Path, overwrite: bool) -> None:
    output = make(b"abc")
    (tmp_path / "directory").mkdir()
    with pytest.raises((FileExistsError, IsADirectoryError)):
        output.save(tmp_path / "directory", overwrite=overwrite)
    assert output.read() == b"abc"
    assert names(tmp_path) == ["directory"]


def test_a_path_made_of_bytes_is_a_path(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "t\xe4ken").touch()
    output = make(b"abc")
    (entry,) = os.scandir(os.fsencode(tmp_path))  # what it gives has a path of bytes
    output.save(entry, overwrite=True)  # type: ignore[arg-type]  # all the same, nothing is lost
    assert (output.path, output.read()) == (tmp_path / "t\xe4ken", b"abc")


@pytest.mark.parametrize("overwrite", [False, True])
def test_its_own_temporary_file_is_no_place_to_save_it(tmp_path: Path, overwrite: bool) -> None:
    output = on_disk(b"abc")
    own = os.fspath(output)
    (tmp_path / "link").symlink_to(Path(own).parent)
    for path in (own, tmp_path / "link" / Path(own).name):
        with pytest.raises(OSError, match="own temporary file" if overwrite else "is taken"):
            output.save(path, overwrite=overwrite)
        assert (output.path, output.read()) == (Path(own), b"abc")
    (tmp_path / "else").mkdir()
    target = tmp_path / "else" / Path(own).name
    os.link(own, target)
    output.save(target, overwrite=True)
    assert (output.path, output.read()) == (target, b"abc")


def test_of_many_that_save_to_one_name_one_wins(make: Maker, tmp_path: Path) -> None:
    outputs = [make(bytes([number]) * 100) for number in range(20)]
    start = threading.Barrier(len(outputs))
    won: list[Output] = []
    lost: list[Output] = []

    def work(output: Output) -> None:
        start.wait()
        try:
            output.save(tmp_path / "one")
            won.append(output)
        except FileExistsError:
            lost.append(output)

    threads = [threading.Thread(target=work, args=(output,)) for output in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 19)
    assert (tmp_path / "one").read_bytes() == won[0].read()
    assert sorted(output.read()[0] for output in won + lost) == list(range(20))
    assert names(tmp_path) == ["one"]


def test_one_output_may_be_saved_by_many_at_once(make: Maker, tmp_path: Path) -> None:
    output = make(b"abc" * KIB)
    start = threading.Barrier(10)

    def work(number: int) -> None:
        start.wait()
        output.save(tmp_path / str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"abc" * KIB] * 10


def test_it_can_be_read_while_it_is_saved(make: Maker, tmp_path: Path) -> None:
    data = os.urandom(10 * KIB)
    output = make(data)
    start = threading.Barrier(5)
    found: list[bool] = []

    def work() -> None:
        start.wait()
        found.extend(output.read() == data == bytes(output.view()) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    for number in range(50):
        before = output.path
        output.save(tmp_path / str(number))
        if number:
            assert before is not None
            before.unlink()  # the one before: only the newest is left
    for thread in threads:
        thread.join()
    assert found == [True] * 800


def test_a_reader_that_comes_between_two_steps_of_a_rename_waits_for_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = on_disk(b"abc")
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(output.read()))
    asked = threading.Event()

    class Watched:
        lock = output._lock

        def __enter__(self) -> None:
            if threading.current_thread() is thread:
                asked.set()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    class Between(FaultyOs):
        def unlink(self, *args: Any, **kwargs: Any) -> None:
            os.unlink(*args, **kwargs)
            thread.start()  # the old name is gone, and the output does not know the new one yet
            self.fired += asked.wait(60)

    monkeypatch.setattr(output, "_lock", Watched())
    faulty = Between(monkeypatch, save)
    output.save(tmp_path / "saved")
    thread.join()
    assert faulty.fired == 1
    assert read == [b"abc"]


# -- what can go wrong ---------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_there_and_the_output_as_it_was(make: Maker, disk: Path) -> None:
    data = os.urandom(MIB)
    output = make(data)
    path = output.path
    fill(disk, spare_bytes=300 * KIB)
    with pytest.raises(SpillError) as caught:
        output.save(disk / "sub" / "saved")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(disk / "sub" / "saved")
    assert names(disk / "sub") == []
    assert (output.path, output.read()) == (path, data)
    (disk / "ballast").unlink()
    assert output.save(disk / "sub" / "saved").read_bytes() == data


def test_a_full_disk_spares_what_was_to_be_overwritten(make: Maker, disk: Path) -> None:
    (disk / "saved").write_bytes(b"mine")
    fill(disk, spare_bytes=64 * KIB)
    with pytest.raises(SpillError):
        make(bytes(MIB)).save(disk / "saved", overwrite=True)
    assert (disk / "saved").read_bytes() == b"mine"
    assert names(disk) == ["ballast", "saved"]


@pytest.mark.parametrize("call", ["fsync", "close", "link"])
def test_an_error_at_any_step_of_a_copy_leaves_nothing(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    output = make(b"abc")
    output.save(tmp_path / "first")
    with monkeypatch.context() as patch:
        faulty = FaultyOs(patch, save)
        faulty.fail(call, error=errno.EIO, done=call == "close")
        with pytest.raises(OSError, match="Input/output error"):
            output.save(tmp_path / "second")
        assert faulty.fired == 1
    assert names(tmp_path) == ["first"]
    assert (output.path, output.read()) == (tmp_path / "first", b"abc")


def test_a_copy_that_comes_up_short_is_continued(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(100 * KIB)
    output = make(data)
    output.save(tmp_path / "first")
    faulty = FaultyOs(monkeypatch, spillfile)
    faulty.shorten(keep=lambda length: min(length, 999))
    assert output.save(tmp_path / "second").read_bytes() == data
    assert faulty.fired > 100


def test_a_file_truncated_by_others_is_not_saved(tmp_path: Path) -> None:
    output = on_disk(b"abc")
    assert output.path is not None
    os.truncate(output.path, 2)
    with pytest.raises(OutputLostError):
        output.save(tmp_path / "saved")
    assert names(tmp_path) == []


def test_a_file_truncated_during_the_copy_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = on_disk(bytes(3 * MIB))
    first = output.save(tmp_path / "first")

    class Meddling(FaultyOs):
        def write(self, fd: int, data: Any) -> int:
            self.fired += 1
            os.truncate(first, MIB)
            return os.write(fd, data)

    faulty = Meddling(monkeypatch, spillfile)
    with pytest.raises(OutputLostError):
        output.save(tmp_path / "second")
    assert faulty.fired == 1
    assert names(tmp_path) == ["first"]


def test_a_place_that_cannot_be_written_is_an_error(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = make(b"abc")
    with pytest.raises(OSError, match="file"):
        output.save(tmp_path / "file" / "below")
    assert output.read() == b"abc"


# -- file systems without hard links -------------------------------------------------------------


@pytest.fixture
def linkless(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    faulty = FaultyOs(monkeypatch, save)
    faulty.fail("link", times=1000, error=errno.EPERM)
    return faulty


def test_without_hard_links_it_is_saved_all_the_same(
    make: Maker, tmp_path: Path, linkless: FaultyOs
) -> None:
    output = make(b"abc")
    saved = output.save(tmp_path / "saved")
    assert linkless.fired == 1
    assert saved.read_bytes() == output.read() == b"abc"
    assert names(tmp_path) == ["saved"]
    assert temp_file_count() == 0


def test_without_hard_links_a_taken_name_is_refused_too(
    make: Maker, tmp_path: Path, linkless: FaultyOs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_bytes(b"mine")
    monkeypatch.setattr(linkless, "path", _Blind(), raising=False)  # it is made after the look
    output = make(b"abc")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        output.save(tmp_path / "taken")
    assert linkless.fired == 1
    assert names(tmp_path) == ["taken"]
    assert (tmp_path / "taken").read_bytes() == b"mine"


class _Blind:
    def lexists(self, path: str) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(os.path, name)


def test_without_hard_links_a_failed_rename_leaves_nothing(
    make: Maker, tmp_path: Path, linkless: FaultyOs
) -> None:
    output = make(b"abc")
    linkless.fail("replace", error=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        output.save(tmp_path / "saved")
    assert linkless.fired == 2
    assert names(tmp_path) == []
    assert output.read() == b"abc"


# -- what is no path -----------------------------------------------------------------------------


class Bucket:
    """A remote file, as fsspec and universal_pathlib have it."""

    def __init__(self, taken: bool = False) -> None:
        self.taken = taken
        self.content = b""

    def exists(self) -> bool:
        return self.taken

    def open(self, mode: str) -> io.BytesIO:
        assert mode == "wb"
        bucket = self

        class Upload(io.BytesIO):
            def close(self) -> None:
                bucket.content = self.getvalue()
                super().close()

        return Upload()


def test_it_is_written_to_anything_that_opens(make: Maker) -> None:
    data = os.urandom(2 * MIB + 5)
    bucket = Bucket()
    output = make(data)
    path = output.path
    assert output.save(bucket) is bucket
    assert bucket.content == data
    assert (output.path, output.read()) == (path, data)


def test_what_exists_elsewhere_is_refused_too(make: Maker) -> None:
    bucket = Bucket(taken=True)
    with pytest.raises(FileExistsError):
        make(b"abc").save(bucket)
    assert bucket.content == b""
    make(b"abc").save(bucket, overwrite=True)
    assert bucket.content == b"abc"


class BrokenBucket(Bucket):
    """Takes `room` bytes, then fails or, if `quiet`, pretends to have written."""

    def __init__(self, room: int, *, quiet: bool) -> None:
        super().__init__()
        self.room = room
        self.quiet = quiet
        self.unlinked = 0

    def open(self, mode: str) -> io.BytesIO:
        bucket = self

        class Upload(io.BytesIO):
            def write(self, data: Any) -> int:
                if self.tell() + len(data) <= bucket.room:
                    return super().write(data)
                if bucket.quiet:
                    return 0
                raise ConnectionResetError("gone")

        return Upload()

    def unlink(self) -> None:
        self.unlinked += 1


@pytest.mark.parametrize("quiet", [False, True])
def test_half_an_upload_is_removed(make: Maker, quiet: bool) -> None:
    bucket = BrokenBucket(MIB, quiet=quiet)
    output = make(bytes(3 * MIB))
    with pytest.raises(OSError, match="only part" if quiet else "gone"):
        output.save(bucket)
    assert bucket.unlinked == 1
    assert output.size == len(output.read())


def test_a_target_that_does_not_open_keeps_what_it_has(make: Maker) -> None:
    class Shut(BrokenBucket):
        def open(self, mode: str) -> io.BytesIO:
            raise PermissionError("shut")

    bucket = Shut(0, quiet=False)
    with pytest.raises(PermissionError):
        make(b"abc").save(bucket, overwrite=True)
    assert bucket.unlinked == 0


def test_what_is_no_path_and_does_not_open_is_refused(make: Maker) -> None:
    with pytest.raises(TypeError, match=r"save\(\) takes a path"):
        make(b"abc").save(7)  # type: ignore[call-overload]


# -- forks ---------------------------------------------------------------------------------------


def test_a_forked_child_saves_a_copy(make: Maker, tmp_path: Path) -> None:
    output = make(b"abc")
    pid = os.fork()
    if pid == 0:
        try:
            output.save(tmp_path / "saved")
            output.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "saved").read_bytes() == b"abc"
    assert output.read() == b"abc"


def test_a_child_forked_while_another_thread_saves_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = in_memory(b"abc")
    saving, forked = threading.Event(), threading.Event()

    class Held(FaultyOs):
        def fsync(self, fd: int) -> None:
            self.fired += 1
            saving.set()
            forked.wait()
            os.fsync(fd)

    faulty = Held(monkeypatch, save)
    thread = threading.Thread(target=output.save, args=(tmp_path / "saved",))
    thread.start()
    saving.wait()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would have it wait on
        signal.alarm(60)
        try:
            with output:
                assert Path(output).read_bytes() == b"abc"
            end_of_process()
            os._exit(7)
        finally:
            os._exit(1)
    forked.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    thread.join()
    assert faulty.fired == 1
    assert (output.path, output.read()) == (tmp_path / "saved", b"abc")
