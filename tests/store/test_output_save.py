"""Output.save: where it goes, and what is no path; renamed where that can be done."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import pytest

from collector.errors import OutputLostError
from collector.settings import MIB
from collector.store.output import publish
from collector.store.output.spill_file import temp_file_count
from tests.support.outputs import Maker, on_disk
from tests.support.rundirs import names

pytestmark = pytest.mark.usefixtures("process_ends")


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


@pytest.mark.parametrize("relative", [True, False])
def test_a_name_behind_a_link_is_where_the_kernel_finds_it(
    make: Maker, tmp_path: Path, behind_a_link: str, relative: bool
) -> None:
    name = os.path.join(behind_a_link, "new", os.pardir, "saved")
    output = make(b"abc")
    saved = output.save(name if relative else tmp_path / name)
    with open(name, "rb") as file:
        assert file.read() == b"abc" == saved.read_bytes() == output.read()
    assert sorted(os.listdir("real")) == ["below", "new", "saved"]
    assert sorted(os.listdir(tmp_path / "real" / "new")) == []


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
    monkeypatch.setattr(publish, "_can_have_no_name", lambda: False)
    before = os.umask(0o027)
    try:
        assert on_disk(b"abc").save(tmp_path / "saved").stat().st_mode & 0o777 == 0o640
        assert names(tmp_path) == ["saved"]
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


class FullPipe:
    """Opens as a raw file that does not block, and has no room."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.write_end, bytes(4096))

    def open(self, mode: str) -> io.FileIO:
        return io.FileIO(self.write_end, mode)


def test_a_raw_file_that_takes_nothing_now_has_not_taken_it(make: Maker) -> None:
    """Its write says None, as that of many a file that takes all."""
    pipe, output = FullPipe(), make(b"abc")
    with pytest.raises(OSError, match="only part"):
        output.save(pipe)
    os.close(pipe.read_end)


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
