"""From a collected output to a finished text when something goes wrong: whole, or not there."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector import SpillError, SpillManager
from collector.integrations.postprocess import ProcessingStatus, finalize_processing
from collector.settings import MIB
from tests.integrations.finished_texts import files_in, kept, manager_of
from tests.support.disks import fill, small_disk
from tests.support.killpoints import in_child
from tests.support.tree import ROOT


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


def killed_at(target: Path, event: str, turn: int, *, overwrite: bool) -> None:
    """Write a text, and be killed before the call of that turn: for a child that is forked."""
    turns = iter(range(turn, -1, -1))
    # in linkat the name stands alone
    ours = (os.fspath(target.parent), target.name, ".collector-")

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        is_ours = name == event and any(one in str(arguments) for one in ours)
        if is_ours and next(turns) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    manager = SpillManager()
    manager.write(b"whole text\n" * 1000)
    sys.addaudithook(hook)
    finalize_processing(
        "new",
        streaming_manager=manager,
        file_path="talk.mp4",
        output_path=target,
        transforms=[iter],
        overwrite=overwrite,
    )


@pytest.mark.slow
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
        killed_by, _ = in_child(partial(killed_at, target, event, turn, overwrite=overwrite))
        texts = {b"": None, b"older text": "old", whole: "new"}
        text = target.read_bytes() if target.exists() else b""
        assert text in texts
        if record.exists():
            assert json.loads(record.read_text())["base_result"] == texts[text]
        if aside == "without a name" and not overwrite:
            assert files_in(place) <= {"talk.txt", "talk.txt.json"}
        if not killed_by:
            assert (text, record.exists()) == (whole, True)
            break
        assert killed_by == signal.SIGKILL
        killed += 1
    else:
        pytest.fail("it was killed a hundred times")
    happens = {
        ("without a name", False): {"open", "os.link"},
        ("without a name", True): {"open", "os.link", "os.rename", "os.remove"},
        ("with a name", False): {"open", "os.link", "os.remove"},
        ("with a name", True): {"open", "os.link", "os.rename", "os.remove"},
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
