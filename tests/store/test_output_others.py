"""Output: when others remove, replace or change its file, or the disk refuses to read it."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.errors import ClosedError, OutputLostError
from collector.settings import KIB, MIB
from collector.store.output.output import Output
from collector.store.output.spill_file import cleanup_temp_files
from collector.store.rundir import kernel
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.root import filesystem_type_of
from tests.support.faultyos import FaultyOs
from tests.support.outputs import Maker, files, in_a_directory_of_its_own, in_memory, on_disk
from tests.support.rundirs import place

pytestmark = pytest.mark.usefixtures("process_ends")


READS: dict[str, Callable[[Output], object]] = {
    "read": Output.read,
    "text": Output.text,
    "open": Output.open,
    "lines": Output.lines,
    "view": Output.view,
    "iterate": list,
    "fspath": os.fspath,
    "save": lambda output: output.save(Path(os.environ["TMPDIR"], "saved")),
}


@pytest.mark.parametrize("how", READS)
def test_a_file_that_others_removed_is_an_error(how: str) -> None:
    output = on_disk(b"abc")
    path = files()[0]
    path.unlink()
    with pytest.raises(OutputLostError, match="the output is lost: somebody removed") as caught:
        READS[how](output)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(path)
    assert not Path(os.environ["TMPDIR"], "saved").exists()
    output.close()


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_file_of_another_size_is_an_error(how: str, size: int) -> None:
    output = on_disk(b"abc")
    os.truncate(files()[0], size)
    message = f"the output is lost: its file has {size} bytes where 3 were written"
    with pytest.raises(OutputLostError, match=message) as caught:
        READS[how](output)
    assert caught.value.errno == errno.EIO
    assert not Path(os.environ["TMPDIR"], "saved").exists()


def rename_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"xyz")
    other.rename(path)


def make_it_anew(path: Path) -> None:
    inode = path.stat().st_ino
    path.unlink()
    path.write_bytes(b"xyz")
    status = path.stat()
    kind = filesystem_type_of(status.st_dev)
    if status.st_ino == inode and kind not in {"ext4", "xfs", "btrfs", "f2fs"}:
        pytest.skip(f"{kind} gives the inode out again, and may have no generations")


REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "renamed": rename_another,
    "made anew": make_it_anew,
}


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_another_file_in_its_place_is_an_error(how: str, replace: str) -> None:
    output = on_disk(b"abc")
    REPLACEMENTS[replace](files()[0])
    with pytest.raises(OutputLostError, match="the output is lost: somebody replaced") as caught:
        READS[how](output)
    assert caught.value.errno == errno.ESTALE


@contextlib.contextmanager
def refused(holder: object, name: str, number: int) -> Iterator[None]:
    """Let a call fail that asks for a file's identity."""
    calls = []

    def refuse(*arguments: object) -> int:
        calls.append(arguments)
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, name, refuse)
        yield
    assert calls


def test_where_a_generation_cannot_be_learned_the_inode_tells() -> None:
    early = on_disk(b"abc")
    with refused(fcntl, "ioctl", errno.ENOTTY):
        late = on_disk(b"def")
        assert early.read() == b"abc"
    assert late.read() == b"def"
    for path in files():
        rename_another(path)
    for output in (early, late):
        with pytest.raises(OutputLostError, match="somebody replaced"):
            output.read()


def test_where_no_descriptor_is_to_be_had_the_inode_tells() -> None:
    with refused(RunDirectory, "open_file", errno.EMFILE):
        output = on_disk(b"abc")
    assert output.read() == b"abc"
    rename_another(files()[0])
    with pytest.raises(OutputLostError, match="somebody replaced"):
        output.read()


def put_a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(path.parent, os.O_PATH)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    output = on_disk(b"abc")
    path = files()[0]
    path.rename(path.parent / "moved")
    path.symlink_to("moved")
    with pytest.raises(OutputLostError):
        output.read()


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, put_a_socket])
def test_nor_does_what_is_no_file_hold_a_reader_up(how: str, put: Callable[[Path], None]) -> None:
    output = on_disk(b"abc")
    path = files()[0]
    path.unlink()
    put(path)
    with pytest.raises(OutputLostError):
        READS[how](output)


def test_a_reader_goes_on_when_the_name_is_gone() -> None:
    data = os.urandom(MIB)
    output = on_disk(data)
    with output.open() as reader:
        assert reader.read(10) == data[:10]
        files()[0].unlink()
        assert reader.read() == data[10:]


@pytest.mark.parametrize("left", [0, 100 * KIB])
def test_a_reader_is_never_short_when_the_file_is_truncated(left: int) -> None:
    output = on_disk(b"x\n" * MIB)
    reader, lines = output.open(), output.lines()
    assert reader.read(10) == b"x\n" * 5
    assert next(lines) == "x"
    os.truncate(files()[0], left)
    with reader, pytest.raises(OutputLostError, match=f"of {2 * MIB} bytes") as caught:
        reader.read()
    assert caught.value.errno == errno.EIO
    with pytest.raises(OutputLostError):
        list(lines)


def test_a_reader_does_not_read_what_others_append() -> None:
    output = on_disk(b"abc")
    with output.open() as reader, files()[0].open("ab") as file:
        file.write(b"more")
        file.flush()
        assert reader.read() == b"abc"


def test_an_error_of_the_disk_while_reading_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from collector.store.output import reader as reader_module

    output = on_disk(b"abc")
    faulty = FaultyOs(monkeypatch, reader_module)
    faulty.fail("readv", error=errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as told:
        output.read()
    assert faulty.fired == 1
    assert told.value.filename == os.fspath(files()[0])
    assert output.read() == b"abc"


def test_too_many_open_files_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    output = on_disk(b"abc")

    def refuse(name: str, *_flags: int, **_where: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "open_fd", refuse)
        with pytest.raises(OSError, match="Too many open files") as told:
            output.read()
    assert told.value.filename == os.fspath(output)
    assert output.read() == b"abc"


def test_of_a_saved_file_that_is_gone_no_temporary_place_is_blamed(
    make: Maker, tmp_path: Path
) -> None:
    output = make(b"abc")
    output.save(tmp_path / "saved").unlink()
    with pytest.raises(OutputLostError, match="somebody removed or moved its file") as caught:
        output.read()
    assert "temp_root" not in str(caught.value)
    assert caught.value.filename == os.fspath(tmp_path / "saved")


def test_a_file_that_was_never_there_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "root")
    output = Output.on_disk(directory, "no-such.spill", size=3, chunks=1)
    with pytest.raises(OutputLostError):
        output.read()
    output.close()
    directory.dispose()


def test_a_whole_run_directory_removed_under_us_loses_its_outputs_only() -> None:
    lost, memory = on_disk(b"abc"), in_memory(b"def")
    path = files()[0]
    path.unlink()
    for entry in path.parent.iterdir():
        entry.unlink()
    path.parent.rmdir()
    with pytest.raises(OutputLostError):
        lost.read()
    assert Path(memory).read_bytes() == b"def"
    assert on_disk(b"ghi").read() == b"ghi"


@pytest.mark.parametrize("how", READS)
def test_a_run_directory_that_was_let_go_of_has_lost_its_outputs(how: str, tmp_path: Path) -> None:
    output = in_a_directory_of_its_own(b"abc", tmp_path)
    assert cleanup_temp_files() == 1  # with its last file the directory goes
    with pytest.raises(OutputLostError, match="somebody removed its file") as caught:
        READS[how](output)
    assert caught.value.errno == errno.ENOENT
    output.close()


@pytest.mark.parametrize("end", ["save", "close"])
def test_a_read_that_meets_the_end_of_the_run_directory_goes_on_where_the_output_is(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = in_a_directory_of_its_own(b"abc", tmp_path)
    ends = {"save": lambda: output.save(tmp_path / "saved"), "close": output.close}
    place(monkeypatch, "open_fd", before=ends[end], matching=".spill")
    if end == "save":
        assert output.read() == b"abc"
    else:
        with pytest.raises(ClosedError):
            output.read()
    assert list((tmp_path / "root").iterdir()) == []
