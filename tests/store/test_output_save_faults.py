"""Output.save where something goes wrong: whole under its final name or not there."""

import errno
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from collector.errors import OutputLostError, SpillError
from collector.settings import KIB, MIB
from collector.store.output import digest, publish, rename, spill_file, target
from collector.store.output.publish import Publication
from collector.store.output.spill_file import temp_file_count
from tests.support.disks import fill
from tests.support.faultyos import FaultyOs
from tests.support.outputs import Maker, files, on_disk
from tests.support.rundirs import names

pytestmark = pytest.mark.usefixtures("process_ends")


# -- what can go wrong ---------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_there_and_the_output_as_it_was(make: Maker, disk: Path) -> None:
    data = os.urandom(MIB)
    output = make(data)
    path = output.path
    fill(disk, spare_bytes=300 * KIB)
    with pytest.raises(SpillError) as caught:
        output.save(disk / "sub" / "saved")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(disk / "sub" / "saved")
    assert names(disk / "sub") == []
    assert (output.path, output.read()) == (path, data)
    (disk / "ballast").unlink()
    assert output.save(disk / "sub" / "saved").read_bytes() == data


def test_a_full_disk_spares_what_was_to_be_overwritten(make: Maker, disk: Path) -> None:
    (disk / "saved").write_bytes(b"mine")
    fill(disk, spare_bytes=64 * KIB)
    with pytest.raises(SpillError):
        make(bytes(MIB)).save(disk / "saved", overwrite=True)
    assert (disk / "saved").read_bytes() == b"mine"
    assert names(disk) == ["ballast", "saved"]


@pytest.mark.parametrize(
    ("module", "call", "error"),
    [
        (publish, "fsync", errno.EIO),
        (publish, "link", errno.ENOSPC),
        (spill_file, "fstat", errno.EIO),  # which file it is
    ],
    ids=["fsync", "link", "fstat"],
)
def test_an_error_at_any_step_of_a_copy_leaves_nothing(
    make: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    call: str,
    error: int,
) -> None:
    output = make(b"abc")
    output.save(tmp_path / "first")
    with monkeypatch.context() as patch:
        faulty = FaultyOs(patch, module)
        faulty.fail(call, error=error)
        with pytest.raises(OSError, match=os.strerror(error)):
            output.save(tmp_path / "second")
        assert faulty.fired == 1
    assert names(tmp_path) == ["first"]
    assert (output.path, output.read()) == (tmp_path / "first", b"abc")


def test_where_ctypes_cannot_be_loaded_it_is_saved_all_the_same(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has none, or the system no descriptor for it: nobody can ask how inodes are numbered.

    So the file is known by its bytes, and replaced as where two names cannot be exchanged.
    """
    (tmp_path / "saved").write_bytes(b"older")
    output = make(b"abc")
    for load in (digest._type_of_filesystem, rename._renameat2):
        load.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ctypes", None)
        output.save(tmp_path / "saved", overwrite=True)
        assert digest._type_of_filesystem.cache_info().misses == 1
        assert rename._renameat2.cache_info().misses == 1
    assert names(tmp_path) == ["saved"]
    (tmp_path / "renumbered").write_bytes(b"abc")
    (tmp_path / "renumbered").replace(tmp_path / "saved")
    assert output.read() == b"abc"


def test_a_copy_that_comes_up_short_is_continued(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(100 * KIB)
    output = make(data)
    output.save(tmp_path / "first")
    faulty = FaultyOs(monkeypatch, spill_file)
    faulty.shorten(keep=lambda length: min(length, 999))
    assert output.save(tmp_path / "second").read_bytes() == data
    assert faulty.fired > 100


def test_a_file_truncated_by_others_is_not_saved(tmp_path: Path) -> None:
    output = on_disk(b"abc")
    assert output.path is not None
    os.truncate(output.path, 2)
    with pytest.raises(OutputLostError):
        output.save(tmp_path / "saved")
    assert names(tmp_path) == []


def test_a_file_truncated_during_the_copy_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = on_disk(bytes(3 * MIB))
    first = output.save(tmp_path / "first")

    class Meddling(FaultyOs):
        def write(self, fd: int, data: Any) -> int:
            self.fired += 1
            os.truncate(first, MIB)
            return os.write(fd, data)

    faulty = Meddling(monkeypatch, spill_file)
    with pytest.raises(OutputLostError):
        output.save(tmp_path / "second")
    assert faulty.fired == 1
    assert names(tmp_path) == ["first"]


def test_a_place_that_cannot_be_written_is_an_error(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = make(b"abc")
    with pytest.raises(OSError, match="file"):
        output.save(tmp_path / "file" / "below")
    assert output.read() == b"abc"


# -- file systems without hard links -------------------------------------------------------------


@pytest.fixture
def linkless(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    faulty = FaultyOs(monkeypatch, publish, target)
    faulty.fail("link", times=1000, error=errno.EPERM)
    monkeypatch.setattr("collector.store.output.rename._renameat2", lambda: lambda *_: errno.EINVAL)
    return faulty


def test_without_hard_links_it_is_saved_all_the_same(
    make: Maker, tmp_path: Path, linkless: FaultyOs
) -> None:
    output = make(b"abc")
    saved = output.save(tmp_path / "saved")
    assert linkless.fired >= 1
    assert saved.read_bytes() == output.read() == b"abc"
    assert names(tmp_path) == ["saved"]
    assert temp_file_count() == 0


def test_without_hard_links_a_taken_name_is_refused_too(
    make: Maker, tmp_path: Path, linkless: FaultyOs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Between:  # it is made after the first look
        def open(self, name: str, *args: Any, **kwargs: Any) -> int:
            if name == "taken" and not (tmp_path / "taken").exists():
                (tmp_path / "taken").write_bytes(b"mine")
                linkless.fired += 1000
            return os.open(name, *args, **kwargs)

    monkeypatch.setattr(linkless, "open", Between().open, raising=False)
    output = make(b"abc")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        output.save(tmp_path / "taken")
    assert linkless.fired > 1000
    assert names(tmp_path) == ["taken"]
    assert (tmp_path / "taken").read_bytes() == b"mine"


def test_without_hard_links_a_failed_rename_leaves_nothing(
    make: Maker, tmp_path: Path, linkless: FaultyOs
) -> None:
    output = make(b"abc")
    linkless.fail("rename", error=errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        output.save(tmp_path / "saved")
    assert linkless.calls["rename"] == 1
    assert names(tmp_path) == []
    assert output.read() == b"abc"


@pytest.mark.parametrize(
    ("owner", "step", "overwrite"),
    [
        (os, "link", False),
        (Publication, "move_here", False),
        (Publication, "__exit__", False),
        (target, "exchange", True),
        (target, "discard", True),
        (Publication, "move_here", True),
    ],
)
def test_interrupted_behind_any_step_of_a_rename_it_is_read_where_it_is(
    owner: Any, step: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, fired = tmp_path / "name", getattr(owner, step), False
    if overwrite:
        path.write_bytes(b"older")

    def interrupted(*arguments: Any, **more: Any) -> None:
        nonlocal fired
        real(*arguments, **more)
        if not fired:
            fired = True
            raise KeyboardInterrupt

    output = on_disk(b"abc")
    monkeypatch.setattr(owner, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        output.save(path, overwrite=overwrite)
    assert fired
    assert output.read() == b"abc"
    output.close()
    assert path.read_bytes() == b"abc"
    assert names(tmp_path) == ["name"]
    assert files() == []
