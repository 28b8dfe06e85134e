"""SpillManager: modes, counting, chunks of every kind, what wrong use is told, the end."""

import array
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector.errors import ClosedError
from collector.settings import MIB
from collector.store.output.output import Output
from collector.store.output.progress import Mode, Progress
from collector.store.output.spill_file import temp_file_count
from collector.store.rundir.directory import RunDirectory
from collector.store.spill import Sealed, SpillManager

pytestmark = pytest.mark.usefixtures("process_ends")


def spill_files(root: Path | None = None) -> list[str]:
    place = root or Path(os.environ["COLLECTOR_TMPDIR"])
    return [path.name for path in place.glob("run-*/*.spill")]


# -- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mode"),
    [
        (0, Mode.MEMORY),
        (1, Mode.MEMORY),
        (5 * MIB - 1, Mode.MEMORY),
        (5 * MIB, Mode.STREAMING),
        (5 * MIB + 1, Mode.STREAMING),
    ],
)
@pytest.mark.parametrize("step", [5 * MIB + 1, 64 * 1024, 999])
def test_the_write_that_reaches_five_mebibytes_goes_to_a_file(
    size: int, mode: Mode, step: int
) -> None:
    data = os.urandom(size)
    with SpillManager() as manager:
        for start in range(0, size, step):
            taken = manager.write(data[start : start + step])
            assert taken == min(step, size - start)
        assert manager.progress.mode is mode
        assert temp_file_count() == (mode is Mode.STREAMING)
        output = manager.finalize()
    assert output.mode is mode
    assert (output.size, output.chunks) == (size, -(-size // step))
    assert output.read() == data
    output.close()
    assert spill_files() == []


def test_a_switch_happens_at_the_exact_byte() -> None:
    with SpillManager(memory_threshold=3) as manager:
        manager.write(b"ab")
        modes = [manager.in_memory]
        assert manager.progress == Progress(Mode.MEMORY, 2, 1, None, threshold_exceeded=False)
        assert manager.held_bytes == 2
        manager.write(b"")
        assert manager.progress.mode is Mode.MEMORY
        manager.write(b"c")
        path = manager.progress.temp_file_path
        assert path is not None
        assert manager.progress == Progress(Mode.STREAMING, 3, 3, path, threshold_exceeded=True)
        assert manager.held_bytes == 0
        modes.append(manager.in_memory)
        assert modes == [True, False]
        assert path.read_bytes() == b"abc"
        manager.write(b"d")
        assert path.read_bytes() == b"abcd"  # nothing of it waits in memory


def test_with_a_threshold_of_nothing_the_first_write_goes_to_a_file_even_if_empty() -> None:
    with SpillManager(memory_threshold=0) as manager:
        assert manager.progress == Progress(Mode.MEMORY, 0, 0, None, threshold_exceeded=False)
        manager.write(b"")
        assert manager.progress.mode is Mode.STREAMING
        assert manager.progress.threshold_exceeded
        assert manager.finalize().read() == b""


def test_spill_goes_to_a_file_early_and_only_once() -> None:
    with SpillManager(memory_threshold=100) as manager:
        manager.write(b"abc")
        manager.spill()
        first = manager.progress
        assert (first.mode, first.bytes_written, first.chunks_processed) == ("streaming", 3, 1)
        assert not first.threshold_exceeded
        manager.spill()
        manager.write(b"d" * 97)
        assert manager.progress.temp_file_path == first.temp_file_path
        assert manager.progress.threshold_exceeded
        assert manager.finalize().read() == b"abc" + b"d" * 97


def test_the_modes_are_strings() -> None:
    modes: list[str] = list(Mode)
    assert modes == ["memory", "streaming"]
    assert f"{Mode.STREAMING}" == "streaming"


def test_progress_is_a_value_that_cannot_be_changed() -> None:
    progress = SpillManager().progress
    with pytest.raises(AttributeError):
        progress.bytes_written = 1  # type: ignore[misc]
    assert {progress} == {SpillManager().progress}


# -- chunks --------------------------------------------------------------------------------------

CHUNKS: list[tuple[Any, bytes]] = [
    (b"", b""),
    (b"bytes", b"bytes"),
    (bytearray(b"array"), b"array"),
    (memoryview(b"view"), b"view"),
    (memoryview(b"0123456789")[2:5], b"234"),
    (memoryview(array.array("H", [1, 2])), array.array("H", [1, 2]).tobytes()),
    (memoryview(bytes(range(6))).cast("B", (2, 3)), bytes(range(6))),
    (memoryview(array.array("H")), b""),
    (np.zeros(2, [("Open", "f8"), ("O", "i4")]), bytes(24)),
    ("", b""),
    ("grüße, 世界 🎬", "grüße, 世界 🎬".encode()),
    (type("MyBytes", (bytes,), {"__len__": lambda _: 2})(b"mine"), b"mine"),
]


@pytest.mark.parametrize("threshold", [1000, 1], ids=["memory", "streaming"])
def test_every_kind_of_chunk_arrives_and_counts_as_one(threshold: int) -> None:
    with SpillManager(memory_threshold=threshold) as manager:
        for chunk, data in CHUNKS:
            assert manager.write(chunk) == len(data)
        output = manager.finalize()
    assert output.read() == b"".join(data for _, data in CHUNKS)
    assert output.chunks == len(CHUNKS)


def test_a_character_may_straddle_two_chunks() -> None:
    euro = "€".encode()
    with SpillManager(memory_threshold=2) as manager:
        manager.write(euro[:1])
        manager.write(euro[1:])
        assert manager.finalize().text() == "€"


@pytest.mark.parametrize("threshold", [1000, 1], ids=["memory", "streaming"])
def test_a_bytearray_that_changes_after_write_arrives_as_it_was(threshold: int) -> None:
    chunk = bytearray(b"before")
    with SpillManager(memory_threshold=threshold) as manager:
        manager.write(chunk)
        chunk[:] = b"after."
        manager.write(memoryview(chunk))
        chunk.extend(b"it is not locked either")
        assert manager.finalize().read() == b"beforeafter."


@pytest.mark.parametrize("chunk", [None, 1, 1.5, ["a"], object()])
def test_a_chunk_of_a_wrong_type_is_refused_by_name(chunk: Any) -> None:
    with SpillManager() as manager:
        with pytest.raises(TypeError) as caught:
            manager.write(chunk)
        assert str(caught.value) == (
            f"a chunk must be bytes, another C-contiguous buffer or str, not {type(chunk).__name__}"
        )
        assert manager.progress.chunks_processed == 0


def test_a_buffer_of_python_objects_is_refused() -> None:
    objects: Any = np.zeros(1, [("Open", "f8"), ("x", [("y", object)])])
    with SpillManager() as manager, pytest.raises(TypeError, match="holds Python objects"):
        manager.write(objects)


@pytest.mark.parametrize("threshold", [1000, 1], ids=["memory", "streaming"])
def test_a_memoryview_with_gaps_is_refused(threshold: int) -> None:
    with SpillManager(memory_threshold=threshold) as manager:
        manager.write(b"abc")
        with pytest.raises(TypeError) as caught:
            manager.write(memoryview(b"0123456789")[::2])
        assert str(caught.value) == (
            "a memoryview must be C-contiguous to be written; write bytes(view) instead"
        )
        assert manager.finalize().read() == b"abc"


def test_a_str_that_is_no_text_is_refused() -> None:
    with SpillManager() as manager:
        with pytest.raises(UnicodeEncodeError):
            manager.write("\ud800")
        assert manager.progress.chunks_processed == 0


def test_joined_chunks_count_as_many_in_both_modes() -> None:
    with SpillManager(memory_threshold=10) as manager:
        assert manager.write_joined(b"abcd", 3) == 4
        assert manager.progress.chunks_processed == 3
        assert manager.write_joined(memoryview(b"efghij"), 2) == 6
        assert manager.progress.mode is Mode.STREAMING
        manager.write_joined(memoryview(b"klm"), 7)
        manager.write_joined(b"", 1)
        output = manager.finalize()
    assert output.read() == b"abcdefghijklm"
    assert output.chunks == 13


# -- arguments -----------------------------------------------------------------------------------


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^memory_threshold must be 0 bytes or more, not -1$"):
        SpillManager(-1)


@pytest.mark.parametrize("threshold", ["5 MB", 5e6, None])
def test_a_threshold_that_is_no_number_of_bytes_is_refused(threshold: Any) -> None:
    with pytest.raises(TypeError, match=r"^memory_threshold must be a whole number of bytes, not "):
        SpillManager(threshold)


def test_other_arguments_of_a_wrong_type_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^on_progress must be callable or None, not 'x'$"):
        SpillManager(on_progress="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^temp_file_base_name must be a str, not 1$"):
        SpillManager(temp_file_base_name=1)  # type: ignore[arg-type]


def test_the_file_has_the_base_name_and_is_private(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with SpillManager(1, temp_file_base_name="answers", temp_root=root) as manager:
        manager.write(b"x")
        path = manager.progress.temp_file_path
        assert path is not None
        assert path.name.startswith("answers-")
        assert path.suffix == ".spill"
        assert path.parent.parent == root
        assert path.stat().st_mode & 0o7777 == 0o600
        assert path.parent.stat().st_mode & 0o7777 == 0o700


def test_a_relative_temp_root_is_meant_from_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    spilled, held = SpillManager(0, temp_root="root"), SpillManager(temp_root="root")
    monkeypatch.chdir(tmp_path / "elsewhere")
    spilled.write(b"abc")
    held.write(b"def")
    with spilled.finalize() as one, held.finalize() as other:
        for path in (one.path, Path(other)):
            assert path is not None
            assert path.parents[1] == tmp_path / "root"


@pytest.mark.parametrize("empty", ["", b""], ids=repr)
def test_an_empty_temp_root_is_not_the_working_directory(empty: Any) -> None:
    with pytest.raises(ValueError, match="temp_root must be a path, not an empty one"):
        SpillManager(temp_root=empty)


def test_a_base_name_cannot_lead_out_of_the_run_directory() -> None:
    with SpillManager(1, temp_file_base_name="../../etc/passwd\0" + "ü" * 300) as manager:
        manager.write(b"x")
        path = manager.progress.temp_file_path
        assert path is not None
        assert [path.name] == spill_files()


# -- on_progress ---------------------------------------------------------------------------------


def test_on_progress_is_called_after_every_write() -> None:
    seen: list[Progress] = []
    with SpillManager(memory_threshold=4, on_progress=seen.append) as manager:
        for chunk in ("ab", b"", bytearray(b"cd"), b"e"):
            manager.write(chunk)
            assert seen[-1] == manager.progress
        manager.finalize().close()
    assert [progress.bytes_written for progress in seen] == [2, 2, 4, 5]
    assert [progress.chunks_processed for progress in seen] == [1, 2, 3, 4]
    assert [progress.mode for progress in seen] == ["memory", "memory", "streaming", "streaming"]
    assert [progress.threshold_exceeded for progress in seen] == [False, False, True, True]
    assert seen[0].temp_file_path is None
    assert seen[2].temp_file_path == seen[3].temp_file_path != None  # noqa: E711


def test_on_progress_is_not_called_for_a_chunk_that_was_refused() -> None:
    seen: list[Progress] = []
    with SpillManager(on_progress=seen.append) as manager, pytest.raises(TypeError):
        manager.write(None)  # type: ignore[arg-type]
    assert seen == []


def test_an_on_progress_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def explode(progress: Progress) -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError("in the callback")

    with SpillManager(memory_threshold=5, on_progress=explode) as manager:
        for _ in range(10):
            manager.write(b"x")
        assert manager.finalize().read() == b"x" * 10
    assert calls == 10
    failures = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message for record in failures] == [
        "on_progress failed; the output is not affected"
    ]
    assert failures[0].exc_info is not None
    assert failures[0].exc_info[0] is ZeroDivisionError


def test_on_progress_may_dispose_of_the_output() -> None:
    manager = SpillManager(2, on_progress=lambda _progress: manager.dispose())
    assert manager.write(b"abc") == 3
    assert spill_files() == []
    with pytest.raises(ClosedError, match="was disposed"):
        manager.write(b"d")


def test_a_keyboard_interrupt_in_on_progress_goes_through_and_the_chunk_counts() -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with SpillManager(on_progress=interrupt) as manager:
        with pytest.raises(KeyboardInterrupt):
            manager.write(b"abc")
        assert manager.finalize().read() == b"abc"


def test_verbose_tells_about_the_switch_and_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="collector")
    paths = []
    for verbose in (False, True):
        with SpillManager(2, verbose=verbose) as manager:
            manager.write(b"abc")
            paths.append(manager.progress.temp_file_path)
            manager.finalize().close()
    mine = [record.message for record in caplog.records if record.name == "collector"]
    assert mine == [
        f"an output of 3 bytes goes on in {paths[1]}",
        "an output of 3 bytes in 1 chunks is finalized",
    ]


# -- the end -------------------------------------------------------------------------------------

ENDS: dict[str, Callable[[SpillManager], object]] = {
    "finalized": SpillManager.finalize,
    "disposed": SpillManager.dispose,
}


@pytest.mark.parametrize("threshold", [1000, 1], ids=["memory", "streaming"])
@pytest.mark.parametrize("how", ENDS)
def test_after_the_end_the_error_says_which_end_it_was(how: str, threshold: int) -> None:
    manager = SpillManager(threshold)
    manager.write(b"abc")
    kept = ENDS[how](manager)
    for wish, use in {
        "write to": lambda: manager.write(b"d"),
        "finalize": manager.finalize,
        "spill": manager.spill,
    }.items():
        with pytest.raises(ClosedError) as caught:
            use()
        assert (
            str(caught.value) == f"cannot {wish} an output that was {how}; make a new SpillManager"
        )
    with pytest.raises(ClosedError, match=how):
        manager.seal()
    with pytest.raises(ClosedError, match=how):
        manager.write_joined(b"d", 1)
    manager.dispose()
    manager.dispose()
    with pytest.raises(ClosedError, match=how):
        manager.write("d")
    assert isinstance(kept, Output) == (how == "finalized")


def test_a_chunk_of_a_wrong_type_is_told_so_also_after_the_end() -> None:
    manager = SpillManager()
    manager.dispose()
    with pytest.raises(TypeError):
        manager.write(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [1000, 1], ids=["memory", "streaming"])
def test_the_output_lives_on_after_dispose(threshold: int) -> None:
    with SpillManager(threshold) as manager:
        manager.write(b"abc")
        output = manager.finalize()
    manager.dispose()
    assert output.read() == b"abc"


def test_dispose_removes_the_file_at_once() -> None:
    manager = SpillManager(1)
    manager.write(b"abc")
    assert len(spill_files()) == temp_file_count() == 1
    manager.dispose()
    assert len(spill_files()) == temp_file_count() == 0


def test_leaving_the_block_disposes_of_what_was_not_finalized() -> None:
    with SpillManager(1) as manager:
        manager.write(b"abc")
        assert len(spill_files()) == 1
    assert spill_files() == []
    with pytest.raises(ClosedError, match="disposed"):
        manager.finalize()


def test_a_manager_that_is_forgotten_leaves_no_file() -> None:
    manager = SpillManager(1)
    manager.write(b"abc")
    del manager
    assert len(spill_files()) == temp_file_count() == 0


def test_progress_stays_after_the_end() -> None:
    manager = SpillManager(2)
    manager.write(b"abc")
    before = manager.progress
    output = manager.finalize()
    assert manager.progress == before
    assert output.path == before.temp_file_path
    other = SpillManager(2)
    other.write(b"abc")
    other.dispose()
    assert other.progress == Progress(Mode.STREAMING, 3, 1, None, threshold_exceeded=True)
    assert other.held_bytes == 0


# -- in a directory of somebody else -------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    made = RunDirectory.create(tmp_path / "root")
    yield made
    made.dispose()


def test_in_a_run_directory_the_file_lies_there(directory: RunDirectory) -> None:
    with SpillManager.in_directory(lambda: directory, memory_threshold=2) as manager:
        manager.write(b"abc")
        path = manager.progress.temp_file_path
        assert path is not None
        assert path.parent == directory.path


def test_sealing_hands_over_the_bytes(directory: RunDirectory) -> None:
    manager = SpillManager.in_directory(lambda: directory, memory_threshold=10)
    manager.write(b"abc")
    manager.write(b"")
    assert manager.seal() == Sealed(data=b"abc", name=None, size=3, chunks=2)
    assert manager.held_bytes == 0


def test_sealing_hands_over_the_file(directory: RunDirectory) -> None:
    manager = SpillManager.in_directory(
        lambda: directory, memory_threshold=2, temp_file_base_name="output"
    )
    manager.write(b"abc")
    sealed = manager.seal()
    assert sealed.data is None
    assert sealed.name is not None
    assert (sealed.size, sealed.chunks) == (3, 1)
    assert temp_file_count() == 0
    manager.dispose()
    del manager
    assert (directory.path / sealed.name).read_bytes() == b"abc"  # nobody removes it but its owner
    output = Output.on_disk(directory, sealed.name, size=sealed.size, chunks=sealed.chunks)
    assert output.read() == b"abc"
    output.close()
    assert spill_files(directory.path.parent) == []


def test_a_file_keeps_its_run_directory(directory: RunDirectory) -> None:
    manager = SpillManager.in_directory(lambda: directory, memory_threshold=1)
    manager.write(b"abc")
    output = manager.finalize()
    directory.release()
    assert output.read() == b"abc"
    output.close()
    assert not directory.path.exists()
