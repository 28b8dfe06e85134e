"""From a collected output to a finished text: exact, atomic, in flat memory."""

import contextlib
import dataclasses
import datetime as dt
import enum
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import ClosedError, Collector, Output, SpillError, SpillManager
from collector.integrations.gemini import GeminiResult
from collector.integrations.postprocess import (
    ProcessingStatus,
    collapse_blank_runs,
    finalize_processing,
    normalise_line_ends,
    strip_code_fences,
)
from collector.integrations.text_record import Tally
from tests.support.disks import fill, small_disk

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]
NOT_TEXT = b"caf\xe9 \xff\xfe\n\xed\xa0\x80 \0\n"


@pytest.fixture(params=["without a name", "with a name"])
def aside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways to write a file aside; the second is for file systems without the first."""
    if request.param == "with a name":
        monkeypatch.setattr("collector.integrations.publication._can_have_no_name", lambda: False)
    return str(request.param)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The file that the text is about."""
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"moving pictures")
    return path


def manager_of(data: bytes, memory_threshold: int = 5 * MIB) -> SpillManager:
    manager = SpillManager(memory_threshold=memory_threshold)
    manager.write(data)
    return manager


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


# -- what is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_threshold", [5 * MIB, 0], ids=["memory", "file"])
@pytest.mark.parametrize("data", [b"", b"one\r\ntwo", b"\n", NOT_TEXT, b"x y\n" * 700_000])
def test_without_transforms_the_bytes_are_copied_as_they_are(
    source: Path, data: bytes, memory_threshold: int, aside: str
) -> None:
    manager = manager_of(data, memory_threshold)
    result = finalize_processing({"n": 1}, streaming_manager=manager, file_path=source)

    assert result.output_path == source.with_suffix(".txt")
    assert result.output_path.read_bytes() == data
    assert result.metadata_path == source.with_suffix(".txt.json")
    assert files_in(source.parent) == {"talk.mp4", "talk.txt", "talk.txt.json"}
    record = json.loads(result.metadata_path.read_text("utf-8"))
    assert record == {
        "base_result": {"n": 1},
        "source": str(source),
        "output": str(result.output_path),
        "bytes": len(data),
        "lines": data.count(b"\n") + (not data.endswith(b"\n") and data != b""),
        "words": len(data.split()),
        "sha256": hashlib.sha256(data).hexdigest(),
        "complete": True,
    }
    for name in ("source", "bytes", "lines", "words", "sha256", "complete", "base_result"):
        assert getattr(result, name) == record[name]


def test_the_transforms_are_used_from_the_first_to_the_last(source: Path, aside: str) -> None:
    answer = "```markdown\r\n# Grüße\r\n\n\n\none\rtwo\n```\n\n"
    result = finalize_processing(
        None,
        streaming_manager=manager_of(answer.encode()),
        file_path=source,
        transforms=[strip_code_fences, normalise_line_ends, collapse_blank_runs],
    )
    assert result.output_path.read_bytes() == "# Grüße\n\none\ntwo\n".encode()
    assert (result.lines, result.words) == (4, 4)


def test_a_transform_may_be_any_function_of_lines(source: Path) -> None:
    def number(lines: Iterator[str]) -> list[str]:
        return [f"{index}: {line}" for index, line in enumerate(lines)]

    result = finalize_processing(
        None, streaming_manager=manager_of(b"a\n\nb"), file_path=source, transforms=(number,)
    )
    assert result.output_path.read_text() == "0: a\n1: \n2: b\n"


def test_bytes_that_are_not_utf_8_pass_through_the_transforms(source: Path) -> None:
    result = finalize_processing(
        None, streaming_manager=manager_of(NOT_TEXT), file_path=source, transforms=[iter]
    )
    assert result.output_path.read_bytes() == NOT_TEXT


def test_a_carriage_return_that_ends_no_line_stays(source: Path) -> None:
    """At the end of an output that ends in the middle of a line, as that of a failed job does."""
    result = finalize_processing(
        None,
        streaming_manager=manager_of(b"one\rtwo\r\nthree\r"),
        file_path=source,
        transforms=[iter],
    )
    assert result.output_path.read_bytes() == b"one\rtwo\nthree\r\n"


def test_parents_are_made_and_the_file_has_the_mode_of_a_new_file(
    source: Path, tmp_path: Path, aside: str
) -> None:
    target = tmp_path / "a" / "b" / f"{'ü' * 120}.md"
    before = os.umask(0o027)
    try:
        result = finalize_processing(
            None, streaming_manager=manager_of(b"x"), file_path=source, output_path=str(target)
        )
    finally:
        os.umask(before)
    assert result.output_path == target
    assert {path.stat().st_mode & 0o777 for path in target.parent.iterdir()} == {0o640}


@dataclasses.dataclass
class Made:
    path: Path
    when: dt.date
    kind: enum.Enum
    _hidden: object = None


def test_what_made_the_output_is_told_in_the_record(source: Path) -> None:
    kind = enum.Enum("kind", "FILM")
    gemini = GeminiResult("gemini-x", "STOP", {"total_token_count": 9}, str(source))
    given: dict[str, Any] = {
        "made": Made(Path("x/y"), dt.date(2026, 1, 2), kind.FILM, object()),
        "gemini": gemini,
        "list": [1, 2.5, None, "ü"],
    }
    result = finalize_processing(given, streaming_manager=manager_of(b"x"), file_path=source)
    told = json.loads(result.metadata_path.read_text("utf-8"))["base_result"]
    assert told == {
        "made": {"path": "x/y", "when": "2026-01-02", "kind": 1},
        "gemini": {
            "model": "gemini-x",
            "finish_reason": "STOP",
            "usage": {"total_token_count": 9},
            "file_path": str(source),
            "remote_file": None,
        },
        "list": [1, 2.5, None, "ü"],
    }


def test_an_output_in_a_result_is_told_and_not_written_out(source: Path) -> None:
    with manager_of(b"text").finalize() as output:
        result = finalize_processing({"output": output}, streaming_manager=output, file_path=source)
        assert output.path is None
    told = json.loads(result.metadata_path.read_text())["base_result"]
    assert told == {"output": {"size": 4, "complete": True}}


def test_a_name_that_is_not_utf_8_is_recorded_so_that_it_can_be_found(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    result = finalize_processing(None, streaming_manager=manager_of(b"x"), file_path=source)
    record = json.loads(result.metadata_path.read_bytes())
    assert os.fsencode(record["output"]) == bytes(tmp_path) + b"/caf\xe9.txt"
    assert Path(record["output"]).read_bytes() == b"x"


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300)))
def test_counting_does_not_depend_on_how_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    data = data.translate(bytes(b" \t\n\r\x0b\x0cab\xc3\0"[byte % 10] for byte in range(256)))
    tally = Tally()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(places):
        tally.add(data[start:end])
        tally.add(b"")
    assert tally.bytes == len(data)
    assert tally.words == len(data.split())
    assert tally.lines == len(data.split(b"\n")) - (data.endswith(b"\n") or not data)
    assert tally.sha256 == hashlib.sha256(data).hexdigest()


# -- what it is given ------------------------------------------------------------------------------


def test_a_manager_is_finalized_and_its_file_is_gone_in_the_end(source: Path) -> None:
    manager = manager_of(b"text", memory_threshold=0)
    spilled = manager.progress.temp_file_path
    assert spilled is not None
    finalize_processing(None, streaming_manager=manager, file_path=source)
    assert not spilled.exists()
    with pytest.raises(ClosedError):
        manager.write(b"more")


def test_an_output_stays_its_owner_s(source: Path) -> None:
    with manager_of(b"text").finalize() as output:
        finalize_processing(None, streaming_manager=output, file_path=source)
        assert output.read() == b"text"


def failing(text: str) -> Iterator[str]:
    yield text
    raise ValueError("half-way")


def test_a_job_that_failed_is_recorded_as_incomplete(source: Path) -> None:
    with Collector(max_workers=1) as collector:
        job = collector.submit(failing, "as far as it came")
        result = finalize_processing(None, streaming_manager=job, file_path=source)
    assert result.output_path.read_text() == "as far as it came"
    assert not result.complete
    assert json.loads(result.metadata_path.read_text())["complete"] is False
    job.output().close()


@pytest.mark.parametrize("text", ["the text", b"the text", None, ["the", "text"]], ids=repr)
def test_the_text_itself_is_refused(source: Path, text: Any) -> None:
    with pytest.raises(TypeError, match="takes a SpillManager, an Output or a finished Job"):
        finalize_processing(None, streaming_manager=text, file_path=source)
    assert files_in(source.parent) == {"talk.mp4"}


# -- what is there already -------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["talk.txt", "talk.txt.json"])
def test_nothing_is_replaced_unasked(source: Path, taken: str) -> None:
    (source.parent / taken).write_text("older")
    with manager_of(b"text") as manager:
        with pytest.raises(FileExistsError) as caught:
            finalize_processing(None, streaming_manager=manager, file_path=source)
        assert caught.value.filename == str(source.parent / taken)
        manager.write(b"it is still open")
    assert files_in(source.parent) == {"talk.mp4", taken}
    assert (source.parent / taken).read_text() == "older"


def test_both_are_replaced_when_asked(source: Path, aside: str) -> None:
    for data in (b"first", b"second and longer"):
        result = finalize_processing(
            data.decode(), streaming_manager=manager_of(data), file_path=source, overwrite=True
        )
        assert result.output_path.read_bytes() == data
        assert json.loads(result.metadata_path.read_text())["base_result"] == data.decode()
    assert files_in(source.parent) == {"talk.mp4", "talk.txt", "talk.txt.json"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_is_too_long_is_told_before_anything_is_done(
    source: Path, overwrite: bool
) -> None:
    target = source.parent / ("n" * 252)  # the record's would have five more bytes
    with manager_of(b"text") as manager:
        with pytest.raises(OSError, match="too long") as caught:
            finalize_processing(
                None,
                streaming_manager=manager,
                file_path=source,
                output_path=target,
                overwrite=overwrite,
            )
        assert caught.value.filename == f"{target}.json"
        manager.write(b"it is still open")


@pytest.mark.parametrize("taken", ["talk.txt", "talk.txt.json"])
def test_who_takes_a_name_meanwhile_keeps_it(source: Path, taken: str, aside: str) -> None:
    def take(lines: Iterator[str]) -> Iterator[str]:
        (source.parent / taken).write_text("somebody else's")
        yield from lines

    with pytest.raises(FileExistsError) as caught:
        finalize_processing(
            None, streaming_manager=manager_of(b"x"), file_path=source, transforms=[take]
        )
    assert files_in(source.parent) == {"talk.mp4", taken}
    assert (source.parent / taken).read_text() == "somebody else's"
    assert caught.value.filename == str(source.parent / taken)
    assert caught.value.errno == errno.EEXIST
    assert kept(caught.value) == b"x"


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("the source")
    with manager_of(b"text") as manager, pytest.raises(ValueError, match="would replace"):
        finalize_processing(None, streaming_manager=manager, file_path=notes, overwrite=True)
    assert notes.read_text() == "the source"


@pytest.mark.parametrize("taken", ["talk.txt", "talk.txt.json"])
def test_a_directory_is_never_replaced(source: Path, taken: str) -> None:
    (source.parent / taken).mkdir()
    with manager_of(b"text") as manager, pytest.raises(IsADirectoryError):
        finalize_processing(None, streaming_manager=manager, file_path=source, overwrite=True)


# -- what goes wrong -------------------------------------------------------------------------------


def kept(error: BaseException) -> bytes:
    output = error.output  # type: ignore[attr-defined] # set by finalize_processing
    assert isinstance(output, Output)
    with output:
        return output.read()


@contextlib.contextmanager
def mounted_over(file: Path, target: Path) -> Iterator[None]:
    """Mount a file over another, as containers do: that can be neither renamed nor removed."""
    subprocess.run(["mount", "--bind", file, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def half_way(error: BaseException) -> Callable[[Iterator[str]], Iterator[str]]:
    def transform(lines: Iterator[str]) -> Iterator[str]:
        for number, line in enumerate(lines):
            if number == 100_000:
                raise error
            yield line

    return transform


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("older", [False, True], ids=["nothing before", "older files"])
def test_after_a_failure_there_is_what_was_there_before(
    source: Path, error: BaseException, older: bool, aside: str
) -> None:
    if older:
        for name in ("talk.txt", "talk.txt.json"):
            (source.parent / name).write_text("older")
    before = files_in(source.parent)
    statuses: list[ProcessingStatus] = []
    with pytest.raises(type(error)) as caught:
        finalize_processing(
            None,
            streaming_manager=manager_of(b"line\n" * 200_000),
            file_path=source,
            transforms=[half_way(error)],
            overwrite=older,
            on_status=statuses.append,
        )
    assert caught.value is error
    assert files_in(source.parent) == before
    assert all(path.read_text() == "older" for path in source.parent.glob("talk.txt*"))
    assert statuses[-1].stage == ("failed" if isinstance(error, Exception) else "cancelled")
    assert kept(error) == b"line\n" * 200_000


@pytest.mark.parametrize("given", ["a string of all lines", None, b"bytes"], ids=repr)
def test_a_transform_that_gives_no_lines_is_said_plainly(source: Path, given: Any) -> None:
    def join(_lines: Iterator[str]) -> Any:
        return given

    with pytest.raises(TypeError, match=rf"join gave {type(given).__name__}") as caught:
        finalize_processing(
            None, streaming_manager=manager_of(b"text"), file_path=source, transforms=[join]
        )
    assert files_in(source.parent) == {"talk.mp4"}
    assert kept(caught.value) == b"text"


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """An error that takes no further attribute."""

    line: int = 1


def test_an_error_that_takes_no_attribute_is_raised_as_itself(source: Path) -> None:
    error = FrozenError()
    with pytest.raises(FrozenError) as caught:
        finalize_processing(
            None,
            streaming_manager=manager_of(b"line\n" * 200_000),
            file_path=source,
            transforms=[half_way(error)],
        )
    assert caught.value is error
    assert files_in(source.parent) == {"talk.mp4"}


@pytest.mark.parametrize("busy", ["talk.txt", "talk.txt.json"])
def test_a_file_that_cannot_be_replaced_keeps_its_other_half(
    source: Path, tmp_path: Path, busy: str, aside: str
) -> None:
    for name in ("talk.txt", "talk.txt.json"):
        (source.parent / name).write_text("older")
    with small_disk(tmp_path.parent, MIB) as disk:  # it skips the test where mounting is refused
        (disk / "older").write_text("older")
        with mounted_over(disk / "older", source.parent / busy):
            with pytest.raises(OSError, match="busy") as caught:
                finalize_processing(
                    None, streaming_manager=manager_of(b"new"), file_path=source, overwrite=True
                )
            assert caught.value.filename == str(source.parent / busy)
            assert kept(caught.value) == b"new"
            assert files_in(source.parent) == {"talk.mp4", "talk.txt", "talk.txt.json"}
            assert {path.read_text() for path in source.parent.glob("talk.txt*")} == {"older"}


def test_a_result_that_is_no_json_is_refused_before_anything_is_done(source: Path) -> None:
    with manager_of(b"text") as manager:
        for result in (object(), {"a": {1, 2}}, float("nan"), {(1, 2): 3}):
            with pytest.raises(TypeError, match="cannot be written as JSON"):
                finalize_processing(result, streaming_manager=manager, file_path=source)
        manager.write(b"it is still open")
    assert files_in(source.parent) == {"talk.mp4"}


@pytest.mark.parametrize("transforms", [(), (iter,)], ids=["copied", "transformed"])
def test_a_full_disk_leaves_nothing_and_the_output_is_kept(
    source: Path, tmp_path: Path, transforms: tuple[Any, ...], aside: str
) -> None:
    data = b"0123456789abcde\n" * (4 * MIB // 16)
    with small_disk(tmp_path, MIB) as disk:
        with pytest.raises(SpillError) as caught:
            finalize_processing(
                None,
                streaming_manager=manager_of(data),
                file_path=source,
                output_path=disk / "talk.txt",
                transforms=transforms,
            )
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(disk / "talk.txt")
        assert files_in(disk) == set()
        assert kept(caught.value) == data


def test_a_disk_that_is_full_for_the_record_leaves_no_text_either(
    source: Path, tmp_path: Path, aside: str
) -> None:
    with small_disk(tmp_path, MIB) as disk:
        ballast = fill(disk, spare_bytes=8192)
        with pytest.raises(SpillError) as caught:
            finalize_processing(
                "x" * 100_000,
                streaming_manager=manager_of(b"short"),
                file_path=source,
                output_path=disk / "talk.txt",
            )
        assert caught.value.filename == str(disk / "talk.txt.json")
        assert files_in(disk) == {ballast.name}
        assert kept(caught.value) == b"short"


def test_a_place_where_nothing_can_be_made_is_said_plainly(source: Path) -> None:
    with manager_of(b"text") as manager, pytest.raises(SpillError) as caught:
        finalize_processing(
            None, streaming_manager=manager, file_path=source, output_path=source / "talk.txt"
        )
    assert caught.value.errno in {errno.ENOTDIR, errno.EEXIST}
    assert kept(caught.value) == b"text"


KILLED = """
import os, signal, sys
from collector import SpillManager
from collector.integrations import publication
from collector.integrations.postprocess import finalize_processing

target, event, turn, named, overwrite = sys.argv[1:]
if named == "with a name":
    publication._can_have_no_name = lambda: False
turns = iter(range(int(turn), -1, -1))

def hook(name, arguments):
    ours = (os.path.dirname(target), os.path.basename(target))  # in linkat the name stands alone
    if name == event and str(arguments).count(ours[0]) + str(arguments).count(ours[1]):
        if next(turns) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

manager = SpillManager()
manager.write(b"whole text\\n" * 1000)
sys.addaudithook(hook)
finalize_processing("new", streaming_manager=manager, file_path="talk.mp4", output_path=target,
                    transforms=[iter], overwrite=overwrite == "True")
"""


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("event", ["open", "os.link", "os.rename", "os.remove"])
def test_a_kill_at_any_step_leaves_no_half_text_and_no_record_without_its_text(
    tmp_path: Path, event: str, overwrite: bool, aside: str
) -> None:
    """The process is killed just before its n-th call of one kind, for every n."""
    whole = b"whole text\n" * 1000
    killed = 0
    for turn in range(100):
        place = tmp_path / str(turn)
        place.mkdir()
        target, record = place / "talk.txt", place / "talk.txt.json"
        if overwrite:
            target.write_bytes(b"older text")
            record.write_text('{"base_result": "old"}')
        done = subprocess.run(
            [sys.executable, "-c", KILLED, target, event, str(turn), aside, str(overwrite)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        texts = {b"": None, b"older text": "old", whole: "new"}
        text = target.read_bytes() if target.exists() else b""
        assert text in texts
        if record.exists():
            assert json.loads(record.read_text())["base_result"] == texts[text]
        if aside == "without a name" and not overwrite:
            assert files_in(place) <= {"talk.txt", "talk.txt.json"}
        if done.returncode == 0:
            assert (text, record.exists()) == (whole, True)
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    else:
        pytest.fail("it was killed a hundred times")
    happens = {
        ("without a name", False): {"open", "os.link"},
        ("without a name", True): {"open", "os.link", "os.rename", "os.remove"},
        ("with a name", False): {"open", "os.link", "os.remove"},
        ("with a name", True): {"open", "os.rename", "os.remove"},
    }
    assert (killed > 0) == (event in happens[aside, overwrite])


BUSY = """
import sys
from collector import SpillManager
from collector.integrations.postprocess import finalize_processing

def never_ending(lines):
    while True:
        for number in range(100_000):
            yield "line"
        print("on its way", flush=True)

manager = SpillManager()
manager.write(b"text")
finalize_processing(None, streaming_manager=manager, file_path="x.mp4", output_path=sys.argv[1],
                    transforms=[never_ending])
"""


def test_a_kill_in_the_middle_of_writing_leaves_nothing_at_all(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, place / "talk.txt"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"on its way\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert files_in(place) == set()


# -- statuses --------------------------------------------------------------------------------------


def test_the_statuses_come_in_order(source: Path) -> None:
    statuses: list[ProcessingStatus] = []
    finalize_processing(
        None, streaming_manager=manager_of(b"text"), file_path=source, on_status=statuses.append
    )
    assert [stage for stage, _ in groupby(status.stage for status in statuses)] == [
        "finalizing",
        "writing",
        "publishing",
        "done",
    ]
    assert statuses[1] == ProcessingStatus("writing", 4, 4)
    assert statuses[-1] == ProcessingStatus("done", 4, 4)


def test_a_status_callback_that_raises_is_told_once_and_hurts_nothing(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_status: ProcessingStatus) -> None:
        raise RuntimeError("the user's own")

    result = finalize_processing(
        None, streaming_manager=manager_of(b"text"), file_path=source, on_status=broken
    )
    assert result.output_path.read_bytes() == b"text"
    assert caplog.text.count("on_status raised") == 1


# -- memory ----------------------------------------------------------------------------------------

TEXT = b"two words and \xc3\xbc " * 8
BLOCK = b"```\n" + (TEXT + b"\r\n\n\n") * 2000
FLAT = """
import hashlib, sys
from collector import SpillManager
from collector.integrations.postprocess import *
from tests.integrations.test_postprocess import BLOCK

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024

def run(blocks, target):
    manager = SpillManager()
    for _ in range(blocks):
        manager.write(BLOCK)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # from here on the peak counts
    before = peak()
    result = finalize_processing(None, streaming_manager=manager, file_path="x.mp4",
                                 output_path=target, transforms=transforms)
    return result, peak() - before

target, blocks, kind = sys.argv[1:]
transforms = [strip_code_fences, normalise_line_ends, collapse_blank_runs]
if kind == "copied":
    transforms = []
run(200, target + ".small")  # what is loaded and allocated once is
result, growth = run(int(blocks), target)
print(result.bytes, result.words, result.sha256, growth)
"""


@pytest.mark.parametrize("kind", ["copied", "transformed"])
@pytest.mark.parametrize(
    "size",
    [300 * MIB, pytest.param(2048 * MIB, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])],
    ids=["300", "2048"],
)
def test_memory_stays_flat_over_a_large_output(tmp_path: Path, size: int, kind: str) -> None:
    blocks = -(-size // len(BLOCK))
    done = subprocess.run(
        [sys.executable, "-c", FLAT, tmp_path / "talk.txt", str(blocks), kind],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    expected = BLOCK if kind == "copied" else (TEXT + b"\n\n") * 2000
    digest = hashlib.sha256()
    for _ in range(blocks - 1):
        digest.update(expected)
    # A fence of the next block is not there, so a blank line is between the two; not at the end.
    digest.update(expected if kind == "copied" else expected[:-1])
    size_bytes, words, sha256, growth = done.stdout.split()
    assert sha256 == digest.hexdigest()
    assert int(size_bytes) == len(expected) * blocks - (kind != "copied")
    assert int(words) == len(expected.split()) * blocks
    assert int(growth) < 10 * MIB
