"""Output: what it tells, reading it in every way, its path, its end; the same in both modes."""

import collections.abc
import contextlib
import copy
import errno
import fcntl
import gc
import io
import json
import os
import pickle
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from collector.errors import ClosedError, OutputLostError, SpillError
from collector.settings import KIB, MIB, READ_BLOCK_BYTES
from collector.store import spillfile
from collector.store.output import Output
from collector.store.root import filesystem_type_of
from collector.store.rundir import RunDirectory
from collector.store.spill import Mode, SpillManager, cleanup_temp_files, temp_file_count
from tests.support.faultyos import FaultyOs
from tests.support.processend import end_of_process
from tests.support.rundirs import place

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


def in_a_directory_of_its_own(data: bytes, tmp_path: Path) -> Output:
    """Make what is left of a Collector after its shutdown: an output that alone keeps its run."""
    directory = RunDirectory.create(tmp_path / "root")
    fd, name = directory.create_file("out")
    os.write(fd, data)
    os.close(fd)
    output = Output.on_disk(directory, name, size=len(data), chunks=1)
    directory.release()
    return output


def files() -> list[Path]:
    return list(Path(os.environ["COLLECTOR_TMPDIR"]).glob("run-*/*.spill"))


def open_descriptors() -> int:
    """Descriptors of outputs; a sweep in the background may hold others."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            found += ".spill" in target or "memfd:" in target
    return found


# -- what it tells -------------------------------------------------------------------------------


def test_it_tells_size_chunks_mode_and_path() -> None:
    with in_memory(b"abc") as output:
        assert (output.size, len(output), output.chunks) == (3, 3, 1)
        assert (output.mode, output.path, output.complete) == (Mode.MEMORY, None, True)
        assert repr(output) == "<Output of 3 bytes, in memory>"
    with on_disk(b"abc") as output:
        assert (output.size, len(output), output.chunks) == (3, 3, 1)
        assert (output.mode, output.path, output.complete) == (Mode.STREAMING, files()[0], True)
        assert repr(output) == f"<Output of 3 bytes, {files()[0]}>"


def test_it_tells_that_a_failed_job_left_it() -> None:
    output = Output.in_memory(b"abc", chunks=2, complete=False)
    assert not output.complete
    assert repr(output) == "<Output of 3 bytes, in memory, incomplete>"


def test_an_empty_output_is_true(make: Maker) -> None:
    output = make(b"")
    assert output
    assert (len(output), output.read(), output.text(), list(output)) == (0, b"", "", [])
    assert (list(output.lines()), bytes(output.view())) == ([], b"")
    with output.open() as reader:
        assert reader.read() == b""


# -- reading -------------------------------------------------------------------------------------


def test_it_can_be_read_again_and_again(make: Maker) -> None:
    data = os.urandom(3 * MIB + 17)
    output = make(data)
    for _ in range(2):
        assert output.read() == data
        assert b"".join(iter(output)) == data
        assert output.view() == data
        with output.open() as reader:
            assert reader.read() == data
            assert reader.read() == b""


def test_bytes_in_memory_are_not_copied() -> None:
    output = in_memory(b"abc")
    assert output.read() is output.read()
    data = bytearray(b"abc")
    output = Output.in_memory(data, chunks=1)
    assert output.read() == b"abc"
    view = output.view()
    assert view.readonly
    assert view.obj is data


@pytest.mark.parametrize(
    "size", [1, READ_BLOCK_BYTES - 1, READ_BLOCK_BYTES, READ_BLOCK_BYTES + 1, 2 * READ_BLOCK_BYTES]
)
def test_iterating_gives_blocks_of_at_most_a_mebibyte(make: Maker, size: int) -> None:
    data = os.urandom(size)
    output = make(data)
    blocks = list(output)
    assert [len(block) for block in blocks[:-1]] == [READ_BLOCK_BYTES] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= READ_BLOCK_BYTES
    assert b"".join(blocks) == data
    assert isinstance(output, collections.abc.Iterable)


def test_it_does_not_pass_for_an_open_file() -> None:
    # pandas asks whatever has `read` and `__iter__` for neither its path nor anything else
    assert not hasattr(Output, "__iter__")


def test_readers_are_seekable_and_independent(make: Maker) -> None:
    data = bytes(range(256)) * KIB
    output = make(data)
    first, second = output.open(), output.open()
    assert first.seekable()
    assert first.readable()
    assert not first.writable()
    assert first.read(5) == data[:5]
    assert second.read(3) == data[:3]
    assert first.tell() == 5
    assert first.seek(-7, os.SEEK_END) == len(data) - 7
    assert first.read() == data[-7:]
    assert first.seek(100) == 100
    assert first.seek(10, os.SEEK_CUR) == 110
    assert first.read(2) == data[110:112]
    assert first.seek(len(data) + 10) == len(data) + 10
    assert first.read() == b""
    assert second.read() == data[3:]
    block = bytearray(10)
    second.seek(0)
    assert second.readinto(block) == 10
    assert block == data[:10]
    for reader in (first, second):
        reader.close()
        reader.close()
        assert reader.closed
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)
        with pytest.raises(ValueError, match="closed"):
            reader.fileno()


def test_a_reader_refuses_a_wrong_place_and_goes_on(make: Maker) -> None:
    with make(b"abc").open() as reader:
        raw = cast("io.RawIOBase", reader.raw)
        with pytest.raises(ValueError, match="before the first byte"):
            raw.seek(-1)
        with pytest.raises(ValueError, match="whence must be 0, 1 or 2, not 7"):
            raw.seek(0, 7)
        assert raw.read() == b"abc"


def test_readers_in_many_threads_do_not_disturb_each_other(make: Maker) -> None:
    data = os.urandom(300 * KIB)
    output = make(data)
    readers = [output.open() for _ in range(50)]
    found: list[bool] = []

    def read(reader: io.BufferedReader) -> None:
        with reader:
            parts = list(iter(lambda: reader.read(7777), b""))
        found.append(b"".join(parts) == data == output.read())

    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 50


def test_a_descriptor_can_be_had_in_both_modes(make: Maker) -> None:
    output = make(b"0123456789")
    before = open_descriptors()
    with output.open() as reader:
        reader.seek(4)
        fd = reader.fileno()
        assert fd == reader.fileno()
        assert os.get_inheritable(fd) is False
        assert os.fstat(fd).st_size == 10
        assert os.pread(fd, 10, 0) == b"0123456789"
        told = subprocess.run(["cat"], stdin=reader, capture_output=True, check=True)
        assert told.stdout == b"456789"
        assert open_descriptors() == before + 1
    assert open_descriptors() == before


def test_a_descriptor_and_its_reader_stand_at_the_same_place(make: Maker) -> None:
    with make(b"0123456789").open() as reader:
        for start in (0, 6):  # a program leaves the descriptor at the end, as it found it shared
            reader.seek(start)
            told = subprocess.run(["cat"], stdin=reader, capture_output=True, check=True)
            assert told.stdout == b"0123456789"[start:]
            assert reader.read() == b""
        reader.seek(0)
        os.lseek(reader.fileno(), 8, os.SEEK_SET)
        assert reader.raw.tell() == 8
        assert reader.read() == b"89"
        reader.seek(100)
        assert (reader.read(), reader.tell()) == (b"", 100)


def test_a_descriptor_can_be_had_where_there_is_no_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with in_memory(b"abc").open() as reader:
        assert os.pread(reader.fileno(), 10, 0) == b"abc"
    assert os.listdir(os.environ["TMPDIR"]) in ([], ["c"])


def test_no_descriptor_is_held_between_reads(make: Maker) -> None:
    make(b"first").read()
    before = open_descriptors()
    outputs = [make(b"x" * number) for number in range(1000)]
    for number, output in enumerate(outputs):
        assert output.read() == b"x" * number
        assert list(output.lines()) == (["x" * number] if number else [])
    assert open_descriptors() == before


def test_a_reader_that_is_forgotten_is_closed(make: Maker) -> None:
    output = make(b"abc\ndef")
    before = open_descriptors()
    reader = output.open()
    reader.fileno()
    lines = output.lines()
    next(lines)
    never = output.lines()
    del reader, lines, never
    gc.collect()
    assert open_descriptors() == before


# -- text ----------------------------------------------------------------------------------------


def test_text_is_decoded_and_keeps_its_line_ends(make: Maker) -> None:
    output = make("grüße\r\nwelt\n".encode())
    assert output.text() == "grüße\r\nwelt\n"
    output = make("grüße".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError):
        output.text()
    assert output.text(errors="replace") == "gr\ufffd\ufffde"
    assert output.text("latin-1") == "grüße"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\nb", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\n\n\r\nb\n", ["a", "", "", "b"]),
        ("a\rb\n", ["a\rb"]),
        ("a\r", ["a\r"]),
        ("a\r\r\n", ["a\r"]),
        ("a\x0bb\x0cc\x85d\u2028e\n", ["a\x0bb\x0cc\x85d\u2028e"]),
    ],
)
def test_lines_end_with_a_newline_and_nothing_else(
    make: Maker, data: str, lines: list[str]
) -> None:
    assert list(make(data.encode()).lines()) == lines


@pytest.mark.parametrize("ahead", [8 * KIB, 64 * KIB, MIB])
def test_lines_and_characters_may_straddle_any_border(make: Maker, ahead: int) -> None:
    for shift in range(6):
        expected = ["x" * (ahead - 4 + shift) + "€🎬", "second", "", "a" * ahead, "end"]
        text = "\r\n".join(expected)
        assert list(make(text.encode()).lines()) == expected


def test_lines_of_chunks_that_cut_them_anywhere() -> None:
    text = "erste Zeile €\r\nzweite 🎬\n\r\ndritte"
    data = text.encode()
    for threshold in (1, 10, 1000):
        with SpillManager(threshold) as manager:
            for place in range(len(data)):
                manager.write(data[place : place + 1])
            output = manager.finalize()
        assert list(output.lines()) == ["erste Zeile €", "zweite 🎬", "", "dritte"]


def test_lines_are_read_lazily(make: Maker) -> None:
    output = make(b"good\n" + b"x" * 3 * MIB + b"\n" * MIB + b"\xff\xff\n")
    lines = output.lines()
    assert next(lines) == "good"
    assert len(next(lines)) == 3 * MIB
    assert next(lines) == ""
    with pytest.raises(UnicodeDecodeError):
        list(lines)
    assert list(output.lines(errors="replace"))[-1] == "\ufffd\ufffd"
    assert next(make("ü\n".encode("utf-16")).lines("utf-16")) == "ü"


# -- view ----------------------------------------------------------------------------------------


def test_a_view_is_read_only_and_outlives_the_output(make: Maker) -> None:
    data = os.urandom(2 * MIB)
    output = make(data)
    view = output.view()
    output.close()
    del output
    assert view.readonly
    assert view == data
    with pytest.raises(TypeError):
        view[0] = 1
    assert files() == []


# -- path ----------------------------------------------------------------------------------------


def test_it_is_a_path_in_both_modes(make: Maker) -> None:
    output = make(b"abc\n")
    assert isinstance(output, os.PathLike)
    mode = output.mode
    before = open_descriptors()
    path = os.fspath(output)
    assert open_descriptors() == before
    assert Path(path).read_bytes() == b"abc\n"
    assert output.path == Path(path) == Path(os.fspath(output)) == Path(output)
    assert output.mode is mode
    assert output.read() == b"abc\n"
    told = subprocess.run(["cat", output], capture_output=True, check=True)
    assert told.stdout == b"abc\n"
    with open(output) as file:
        assert file.read() == "abc\n"
    assert temp_file_count() == 1
    output.close()
    assert files() == []


def test_a_path_that_was_asked_for_goes_with_the_last_reference(make: Maker) -> None:
    output = make(b"abc")
    path = Path(output)
    assert path.exists()
    del output
    assert not path.exists()


def test_a_path_lets_the_memory_go() -> None:
    closed: list[int] = []
    output = Output.in_memory(b"abc", chunks=1, on_close=lambda: closed.append(1))
    view = output.view()
    os.fspath(output)
    assert closed == [1]
    output.close()
    assert closed == [1]
    assert bytes(view) == b"abc"


def test_a_path_that_cannot_be_made_leaves_the_output_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = Output.in_memory(b"abc", chunks=1, temp_root=tmp_path / "file")
    with pytest.raises(SpillError):
        os.fspath(output)
    assert (output.path, output.read()) == (None, b"abc")


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_leaves_no_half_a_path(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    output = in_memory(b"0123456789")
    faulty = FaultyOs(monkeypatch, spillfile)
    if at == 1:
        faulty.fail("write")
    else:
        faulty.fail("close", error=errno.EIO, done=True)
    with pytest.raises(SpillError) as caught:
        os.fspath(output)
    assert faulty.fired == 1
    assert caught.value.errno == (errno.ENOSPC if at == 1 else errno.EIO)
    assert (files(), temp_file_count()) == ([], 0)  # at once, not only with the error
    assert (output.path, output.read()) == (None, b"0123456789")


# -- the end -------------------------------------------------------------------------------------


def test_after_close_every_use_says_so(make: Maker) -> None:
    output = make(b"abc")
    output.close()
    output.close()
    uses: list[Callable[[], object]] = [
        output.read,
        output.text,
        output.open,
        output.lines,
        output.view,
        lambda: list(output),
        lambda: os.fspath(output),
        lambda: output.path,
        lambda: output.save("anywhere"),
    ]
    for use in uses:
        with pytest.raises(ClosedError) as caught:
            use()
        assert str(caught.value) == "this output is closed; read or save it before close()"
    assert (output.size, len(output), output.chunks, output.complete) == (3, 3, 1, True)
    assert repr(output) == "<Output of 3 bytes, closed>"
    assert files() == []
    assert not Path("anywhere").exists()


def test_leaving_the_block_closes_it(make: Maker) -> None:
    with make(b"abc") as output:
        assert output.read() == b"abc"
    with pytest.raises(ClosedError):
        output.read()
    assert (files(), temp_file_count()) == ([], 0)


def test_closing_removes_the_file_also_while_an_error_is_held() -> None:
    output = on_disk(b"abc")
    os.truncate(files()[0], 2)
    with pytest.raises(OutputLostError) as caught:
        output.read()
    output.close()
    assert files() == []
    assert caught.tb is not None  # a traceback holds all that lay on the way


def test_open_readers_survive_the_close(make: Maker) -> None:
    output = make(b"abc\ndef\n")
    reader, lines = output.open(), output.lines()
    assert next(lines) == "abc"
    output.close()
    del output
    with reader:
        assert reader.read() == b"abc\ndef\n"
    assert list(lines) == ["def"]


def test_the_file_goes_with_the_last_reference() -> None:
    output = on_disk(b"abc")
    assert len(files()) == temp_file_count() == 1
    other = output
    del output
    assert len(files()) == 1
    del other
    assert len(files()) == temp_file_count() == 0


def test_it_is_called_back_once_when_it_lets_go(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "root")
    closed: list[str] = []

    def outputs(name: str) -> list[Output]:
        fd, file = directory.create_file("x")
        os.close(fd)
        return [
            Output.in_memory(b"", chunks=0, on_close=lambda: closed.append(name)),
            Output.on_disk(directory, file, size=0, chunks=0, on_close=lambda: closed.append(name)),
        ]

    for output in outputs("close"):
        output.close()
        output.close()
    for number, output in enumerate(outputs("save")):
        output.save(tmp_path / str(number))
        output.close()
    kept = outputs("forgotten")
    assert closed == ["close", "close", "save", "save"]
    del output
    kept.clear()
    assert closed[4:] == ["forgotten", "forgotten"]
    directory.dispose()


def test_the_callback_is_not_called_in_a_forked_child() -> None:
    reading, writing = os.pipe()
    output = Output.in_memory(b"abc", chunks=1, on_close=lambda: os.close(writing))
    pid = os.fork()
    if pid == 0:
        output.close()
        os.write(writing, b"still open")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    output.close()
    with open(reading, "rb") as told:
        assert told.read() == b"still open"


def test_outputs_may_be_collected_wherever_a_collection_begins() -> None:
    class Cycle:
        def __init__(self, *outputs: Output) -> None:
            self.outputs = outputs
            self.me = self

    on_disk(b"the run directory is there already").close()
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(100):
            Cycle(on_disk(b"abc"), in_memory(b"def"))
            with on_disk(b"ghi") as output, in_memory(b"jkl") as other:
                assert output.read() + Path(other).read_bytes() == b"ghijkl"
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert (files(), temp_file_count()) == ([], 0)


def test_early_clean_up_loses_outputs_on_disk_only() -> None:
    memory, disk = in_memory(b"abc"), on_disk(b"abc")
    assert temp_file_count() == 1
    assert cleanup_temp_files() == 1
    assert (files(), temp_file_count()) == ([], 0)
    assert memory.read() == b"abc"
    with pytest.raises(OutputLostError):
        disk.read()
    disk.close()


def test_it_says_what_to_do_instead_of_pickling(make: Maker) -> None:
    output = make(b"abc")
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"pass os\.fspath\(output\) or output\.read\(\)"):
            use(output)
    assert json.loads(make(b"[1]").read()) == [1]


# -- a file that may grow ------------------------------------------------------------------------


def test_of_a_file_that_may_grow_the_first_bytes_are_the_output(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "root")
    fd, name = directory.create_file("log")
    os.write(fd, b"abc\ndef\n")
    output = Output.on_disk(directory, name, size=8, chunks=0, may_grow=True)
    for _ in range(2):
        assert (output.size, output.read(), bytes(output.view())) == (8, *[b"abc\ndef\n"] * 2)
        assert list(output.lines()) == ["abc", "def"]
        os.write(fd, b"of somebody who outlived the job")
    path = Path(output)
    assert path.name != name
    assert path.read_bytes() == b"abc\ndef\n"
    assert not (directory.path / name).exists()
    os.close(fd)
    output.close()
    directory.dispose()


def test_a_file_that_may_grow_is_copied_where_it_would_be_renamed(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "root")
    fd, name = directory.create_file("log")
    os.write(fd, b"abc")
    output = Output.on_disk(directory, name, size=3, chunks=0, may_grow=True)
    os.write(fd, b"before")
    saved = output.save(tmp_path / "saved")
    os.write(fd, b"after")
    assert saved.read_bytes() == output.read() == b"abc"
    os.close(fd)
    directory.dispose()


def test_a_file_that_may_grow_may_not_shrink(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "root")
    fd, name = directory.create_file("log")
    os.write(fd, b"abc")
    os.close(fd)
    output = Output.on_disk(directory, name, size=3, chunks=0, may_grow=True)
    os.truncate(directory.path / name, 2)
    with pytest.raises(OutputLostError, match="has 2 bytes where 3 were written"):
        output.read()
    output.close()
    directory.dispose()


# -- other people --------------------------------------------------------------------------------

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


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    output = on_disk(b"abc")
    path = files()[0]
    path.rename(path.parent / "moved")
    path.symlink_to("moved")
    with pytest.raises(OSError, match="symbolic link"):
        output.read()


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
    from collector.store import reader as reader_module

    output = on_disk(b"abc")
    faulty = FaultyOs(monkeypatch, reader_module)
    faulty.fail("readv", error=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        output.read()
    assert faulty.fired == 1
    assert output.read() == b"abc"


def test_too_many_open_files_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    output = on_disk(b"abc")

    def refuse(_self: RunDirectory, name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "open_file", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            output.read()
    assert output.read() == b"abc"


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
