"""From a collected output to a finished text: exact, and nothing replaced unasked."""

import dataclasses
import datetime as dt
import enum
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import ClosedError, Collector
from collector.integrations.gemini import GeminiResult
from collector.integrations.postprocess import (
    ProcessingStatus,
    collapse_blank_runs,
    finalize_processing,
    normalise_line_ends,
    strip_code_fences,
)
from collector.integrations.postprocess.text_record import TextCount
from collector.settings import MIB
from tests.integrations.finished_texts import files_in, kept, manager_of

NOT_TEXT = b"caf\xe9 \xff\xfe\n\xed\xa0\x80 \0\n"


# -- what is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_threshold", [5 * MIB, 0], ids=["memory", "file"])
@pytest.mark.parametrize(
    "data",
    [b"", b"one\r\ntwo", b"\n", NOT_TEXT, b"x y\n" * 700_000],
    ids=["nothing", "two lines", "an empty line", "no text", "many lines"],
)
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
    count = TextCount()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(places):
        count.add(data[start:end])
        count.add(b"")
    assert count.bytes == len(data)
    assert count.words == len(data.split())
    assert count.lines == len(data.split(b"\n")) - (data.endswith(b"\n") or not data)
    assert count.sha256 == hashlib.sha256(data).hexdigest()


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


def test_a_text_behind_a_link_is_not_replaced_unasked(
    source: Path, tmp_path: Path, behind_a_link: str
) -> None:
    target = os.path.join(behind_a_link, "text")
    (tmp_path / "text").write_bytes(b"another")  # where a path without its ".." leads
    with manager_of(b"new") as manager:
        finalize_processing(None, streaming_manager=manager, file_path=source, output_path=target)
    assert Path(target).read_bytes() == b"new"
    with manager_of(b"newer") as manager, pytest.raises(FileExistsError):
        finalize_processing(None, streaming_manager=manager, file_path=source, output_path=target)
    assert (Path(target).read_bytes(), Path("text").read_bytes()) == (b"new", b"another")


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
