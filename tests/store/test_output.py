"""Output: what it tells and reading it in every way; the same in both modes."""

import collections.abc
import errno
import gc
import io
import os
import subprocess
import threading
from typing import Any, cast

import pytest

from collector.settings import KIB, MIB, READ_BLOCK_BYTES
from collector.store.output.output import Output
from collector.store.output.progress import Mode
from collector.store.spill import SpillManager
from tests.support.outputs import Maker, files, in_memory, on_disk, open_descriptors

pytestmark = pytest.mark.usefixtures("process_ends")


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


def test_it_makes_bytes_as_others_that_have_some_do(make: Maker) -> None:
    with make(b"abc") as output:
        assert bytes(output) == b"abc"


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


@pytest.mark.parametrize("index", [-1, slice(2), "a", 0.5, None], ids=repr)
def test_a_part_is_to_be_had_of_its_view_and_not_by_index(make: Maker, index: Any) -> None:
    output: Any = make(b"abc")
    with pytest.raises(TypeError, match=r"use view\(\)\[\.\.\.\], or open\(\) and seek"):
        output[index]
    assert output.view()[:2] == b"ab"


def test_what_it_holds_is_not_searched_block_by_block(make: Maker) -> None:
    output = make(b"abc")
    for part in (b"b", b"abc", "b"):
        with pytest.raises(TypeError, match=r"use read\(\), or its lines\(\)"):
            assert part in output
    with pytest.raises(TypeError, match="not reversible"):
        reversed(cast("Any", output))


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
    outputs = {number: make(b"x" * number) for number in range(0, 1000, 10)}
    for number, output in outputs.items():
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
    output = make(b"good\n" + b"x" * 3 * MIB + b"\n" * (MIB // 4) + b"\xff\xff\n")
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


class Shouting(str):
    """A str whose own `encode` says something else."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"OTHER"


def test_a_text_is_what_it_shows() -> None:
    with SpillManager() as manager:
        assert manager.write(Shouting("text")) == 4
        assert manager.finalize().read() == b"text"
