"""What the tests of the store share: outputs of both modes, a small disk, a run directory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.settings import MIB
from collector.store.output import spill_file
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.root import filesystem_type_of
from tests.support.disks import small_disk
from tests.support.faultyos import FaultyOs
from tests.support.outputs import Maker, in_memory, on_disk
from tests.support.processend import end_of_process
from tests.support.rundirs import advise_anew


@pytest.fixture(params=[in_memory, on_disk], ids=["memory", "disk"])
def make(request: pytest.FixtureRequest) -> Maker:
    """Makes outputs of one mode."""
    maker: Maker = request.param
    return maker


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of 2 MiB."""
    # Not below tmp_path: later runs clean up there, and fail on a mount that a killed one left.
    with small_disk(Path(tempfile.gettempdir()), 2 * MIB) as mounted:
        yield mounted
        end_of_process()


@pytest.fixture
def new_root(tmp_path: Path) -> Path:
    """Where a root for run directories may be made."""
    return tmp_path / "root"


@pytest.fixture
def run(new_root: Path) -> Iterator[RunDirectory]:
    """A run directory."""
    directory = RunDirectory.create(new_root)
    yield directory
    directory.dispose()


@pytest.fixture
def says_everything_once_more(tmp_path: Path) -> None:
    """Forget what was said before; what lies in memory here is not what the tests are about."""
    device = tmp_path.stat().st_dev
    advise_anew(*([("type", device)] if filesystem_type_of(device) == "tmpfs" else []))


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """Something outside the root that must be the same afterwards."""
    path = tmp_path / "precious"
    (path / "deep").mkdir(parents=True)
    (path / "file").write_text("mine")
    (path / "deep" / "file").write_text("mine too")
    before = [(entry, entry.lstat()) for entry in (path, *sorted(path.rglob("*")))]
    yield path
    for entry, status in before:
        now = entry.lstat()
        assert (now.st_ino, now.st_mode, now.st_uid) == (
            status.st_ino,
            status.st_mode,
            status.st_uid,
        )
    assert len(list(path.rglob("*"))) == 3


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    """The system calls for files of outputs, which a test may let fail."""
    return FaultyOs(monkeypatch, spill_file)
