"""The files of a media task: missing, empty, too large, changing, and what is kept of them."""

import os
import pickle
from pathlib import Path

import pytest

from collector.integrations.gemini import (
    GeminiFileChangedError,
    GeminiFileEmptyError,
    GeminiFileMissingError,
    GeminiFileTooLargeError,
    GeminiFileTypeError,
    GeminiProcessingError,
    GeminiProcessingTimeoutError,
    GeminiRequestError,
    GeminiStatus,
)
from collector.settings import MIB
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import answer_of, run, stages
from tests.integrations.gemini_script import Drop, Refuse, expected_transcript


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GeminiFileMissingError, match="there is no file") as caught:
        run(tmp_path / "none.mp4")
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.filename == str(tmp_path / "none.mp4")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.filename) == (str(caught.value), caught.value.filename)


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "directory.mp4").mkdir()
    with pytest.raises(GeminiFileMissingError, match="is not a file"):
        run(tmp_path / "directory.mp4")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(GeminiFileEmptyError, match="is empty"):
        run(tmp_path / "empty.mp4")


def test_a_file_larger_than_the_service_takes(tmp_path: Path) -> None:
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(2 * 1024 * MIB + 1)
    with pytest.raises(GeminiFileTooLargeError, match="2,147,483,649 bytes"):
        run(tmp_path / "large.mp4")


@pytest.mark.parametrize("name", ["a.xyzzy", "noending", "a.zip", "a.exe", "a.txt.gz"])
def test_a_file_of_no_type_that_a_model_understands(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    statuses: list[GeminiStatus] = []
    with pytest.raises(GeminiFileTypeError, match="tells no type"):
        run(tmp_path / name, on_status=statuses.append)
    assert stages(statuses) == ["failed"]


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("a.MOV", "video/mov"),
        ("a.mp3", "audio/mp3"),
        ("a.jpeg", "image/jpeg"),
        ("a.pdf", "application/pdf"),
        ("a.txt", "text/plain"),
    ],
)
def test_the_type_is_told_by_the_name(
    gemini: FakeGemini, tmp_path: Path, name: str, mime_type: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    answer_of(run(tmp_path / name))
    assert gemini.questions[0].mime_type == mime_type


def test_a_name_that_is_no_text_hinders_no_upload(gemini: FakeGemini, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    path.write_bytes(b"x")
    answer_of(run(path, inline_limit=0))
    (upload,) = gemini.uploads.values()
    assert upload.display_name.encode() == b"caf?.mp4"  # the service refuses half a character


def test_a_file_that_shrinks_while_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    video.write_bytes(b"x" * (20 * MIB))

    def shrink(status: GeminiStatus) -> None:
        if status.stage == "uploading" and status.bytes_done == 8 * MIB:
            os.truncate(video, 9 * MIB)

    with pytest.raises(GeminiFileChangedError, match="cut short"):
        run(video, inline_limit=0, on_status=shrink)
    assert gemini.files == {}


def test_a_file_that_grows_while_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    media = os.urandom(9 * MIB)
    video.write_bytes(media)

    def grow(status: GeminiStatus) -> None:
        if status.stage == "uploading" and status.bytes_done == 8 * MIB:
            with video.open("ab") as file:
                file.write(b"more")

    assert answer_of(run(video, inline_limit=0, on_status=grow)) == expected_transcript(media)


def test_a_file_that_is_rewritten_in_place_while_it_is_sent(
    gemini: FakeGemini, video: Path
) -> None:
    """Half of it would be of the old one: an answer about that would be paid for."""
    video.write_bytes(b"x" * (20 * MIB))
    os.utime(video, (1, 1))

    def rewrite(status: GeminiStatus) -> None:
        if status.stage == "uploading" and status.bytes_done == 8 * MIB:
            with video.open("r+b") as file:
                file.write(b"y" * (20 * MIB))

    with pytest.raises(GeminiFileChangedError, match="rewritten"):
        run(video, inline_limit=0, on_status=rewrite)
    assert gemini.files == {}
    assert gemini.questions == []


def test_a_small_file_that_shrinks_before_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    def shrink(status: GeminiStatus) -> None:
        if status.stage == "reading":
            os.truncate(video, 0)

    with pytest.raises(GeminiFileChangedError, match="cut short"):
        run(video, on_status=shrink)
    assert gemini.calls == []


def test_a_small_file_that_grows_before_it_is_sent(gemini: FakeGemini, video: Path) -> None:
    media = video.read_bytes()

    def grow(status: GeminiStatus) -> None:
        if status.stage == "reading":
            video.write_bytes(media + b"more")

    assert answer_of(run(video, on_status=grow)) == expected_transcript(media)


@pytest.mark.parametrize("inline_limit", [15 * MIB, 0], ids=["inline", "uploaded"])
def test_a_file_that_cannot_be_opened_is_no_trouble_of_the_connection(
    gemini: FakeGemini, video: Path, inline_limit: int
) -> None:
    def take_away(status: GeminiStatus) -> None:
        if status.stage in {"reading", "uploading"}:
            video.unlink()

    with pytest.raises(FileNotFoundError) as caught:
        run(video, inline_limit=inline_limit, on_status=take_away)
    assert caught.value.filename == str(video)
    assert gemini.calls == []


def test_a_file_that_the_service_cannot_process(gemini: FakeGemini, video: Path) -> None:
    gemini.final_state = "FAILED"
    gemini.polls = 1
    with pytest.raises(GeminiProcessingError, match="could not be decoded"):
        run(video, inline_limit=0)
    assert gemini.files == {}


def test_a_file_that_takes_the_service_too_long(gemini: FakeGemini, video: Path) -> None:
    gemini.polls = 1_000_000
    with pytest.raises(GeminiProcessingTimeoutError, match=r"after 0\.2 s") as caught:
        run(video, inline_limit=0, processing_timeout=0.2)
    assert isinstance(caught.value, TimeoutError)
    assert gemini.files == {}


def test_a_remote_file_can_be_kept(gemini: FakeGemini, video: Path) -> None:
    result = run(video, inline_limit=0, delete_remote=False)
    answer_of(result)
    assert list(gemini.files) == [result.remote_file]
    assert "delete" not in gemini.calls


@pytest.mark.parametrize("fault", [Refuse(503), Drop()], ids=["refused", "dropped"])
def test_a_file_of_which_nothing_was_sent_is_not_deleted(
    gemini: FakeGemini, video: Path, caplog: pytest.LogCaptureFixture, fault: Refuse | Drop
) -> None:
    gemini.faults["start"].extend([fault] * 3)
    with pytest.raises(GeminiRequestError, match=r"the upload .* failed 3 times"):
        run(video, inline_limit=0)
    assert gemini.calls == ["start"] * 3
    assert "Gemini keeps the file" not in caplog.text
