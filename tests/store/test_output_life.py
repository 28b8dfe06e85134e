"""Output: its path, its end, and a file that may grow; the same in both modes."""

import copy
import errno
import gc
import json
import os
import pickle
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from collector.errors import ClosedError, OutputLostError, SpillError
from collector.store.output import spill_file
from collector.store.output.output import Output
from collector.store.output.spill_file import cleanup_temp_files, temp_file_count
from collector.store.rundir.directory import RunDirectory
from tests.support.faultyos import FaultyOs
from tests.support.outputs import Maker, files, in_memory, on_disk, open_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("process_ends")


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
    faulty = FaultyOs(monkeypatch, spill_file)
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
        lambda: bytes(output),
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


def test_behind_the_descriptor_of_a_file_that_may_grow_are_the_first_bytes(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "root")
    fd, name = directory.create_file("log")
    os.write(fd, b"abcdef")
    output = Output.on_disk(directory, name, size=6, chunks=0, may_grow=True)
    os.write(fd, b"of somebody who outlived the job")
    with output.open() as reader, output.open() as other:
        assert subprocess.check_output(["cat"], stdin=reader) == b"abcdef"
        assert reader.read() == b""
        other.raw.read(2)
        assert os.fstat(other.fileno()).st_size == 6
        os.write(fd, b"and goes on")
        assert os.read(other.fileno(), 2) == b"cd"
        assert other.read() == b"ef"
        assert other.seek(0) == 0
        assert other.read() == b"abcdef"
    with pytest.raises(ValueError, match="closed"):
        reader.fileno()
    with output.open() as reader:
        os.truncate(directory.path / name, 2)
        with pytest.raises(OutputLostError, match="its file ends at 2 of 6 bytes"):
            reader.fileno()
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
