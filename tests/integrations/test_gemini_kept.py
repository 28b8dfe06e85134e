"""What had come of an answer is kept whatever ends the task outside a job."""

import errno
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector import SpillError, SpillManager
from collector.settings import KIB, MIB
from collector.store.output.output import Output
from tests.integrations.fake_gemini import FakeGemini
from tests.integrations.gemini_calls import run, says
from tests.integrations.gemini_script import Finish, Say
from tests.support.disks import small_disk
from tests.support.processend import end_of_process

PIECE = "0123456789abcdef" * (4 * KIB)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 2 MiB, on which this process has its outputs."""
    with small_disk(Path(tempfile.gettempdir()), 2 * MIB) as mounted:
        monkeypatch.setenv("COLLECTOR_TMPDIR", str(mounted / "root"))
        yield mounted
        end_of_process()


def kept(error: BaseException) -> bytes:
    output = getattr(error, "output", None)
    assert isinstance(output, Output)
    with output:
        assert not output.complete
        return output.read()


@pytest.mark.parametrize("threshold", [KIB, 4 * MIB], ids=["while it grows", "at its beginning"])
def test_a_full_disk_keeps_what_had_come(
    gemini: FakeGemini, video: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, threshold: int
) -> None:
    monkeypatch.setattr(
        "collector.integrations.gemini.task.SpillManager", partial(SpillManager, threshold)
    )
    pieces = 2 * threshold // len(PIECE) + 40
    says(gemini, *[Say(PIECE)] * pieces, Finish())
    with pytest.raises(SpillError) as caught:
        run(video)
    assert caught.value.errno == errno.ENOSPC
    text = kept(caught.value)
    assert len(text) >= MIB
    assert text == (PIECE.encode() * pieces)[: len(text)]
    assert disk.exists()


def test_an_error_that_nobody_foresaw_keeps_what_had_come(
    gemini: FakeGemini, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_usages: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("collector.integrations.gemini.task._count", fail)
    says(gemini, Say("some text"), Finish())
    with pytest.raises(ZeroDivisionError) as caught:
        run(video)
    assert kept(caught.value) == b"some text"
