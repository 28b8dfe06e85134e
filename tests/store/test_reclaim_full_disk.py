"""The roots that are looked at when the temp directory is full: dead runs may have filled it."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from collector.errors import RunDirectoryError
from collector.store.rundir import root
from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.reclaim import list_runs, live_runs, reclaim
from tests.support.disks import fill, free
from tests.support.rundirs import make_orphan, names

ROOT_NAME = f"collector-{os.geteuid()}"


@pytest.fixture
def full(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temp directory: a disk that a run has filled, which was killed."""
    monkeypatch.setenv("TMPDIR", os.fspath(disk))
    monkeypatch.setattr("tempfile.tempdir", None)  # it is found anew
    orphan = make_orphan(disk / ROOT_NAME)
    fill(disk).rename(orphan / "ballast")
    assert not free(disk)
    return disk


class TestAFullTempDirectory:
    def test_what_fills_it_is_found_and_reclaimed(
        self, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`tempfile` passes over a directory that takes no file."""
        monkeypatch.setattr(
            "tempfile._candidate_tempdir_list", lambda: [os.fspath(full), os.fspath(tmp_path)]
        )
        passed_over = make_orphan(tmp_path / ROOT_NAME)
        assert tempfile.gettempdir() == os.fspath(tmp_path)
        assert {Path(run.path).parent for run in list_runs()} == {
            full / ROOT_NAME,
            passed_over.parent,
        }
        assert len(reclaim().reclaimed) == 2
        assert names(full / ROOT_NAME) == names(passed_over.parent) == []
        assert free(full)

    def test_it_is_reclaimed_also_where_no_other_takes_a_file(
        self, full: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [os.fspath(full)])
        monkeypatch.delenv("COLLECTOR_TMPDIR")
        with pytest.raises(RunDirectoryError, match="No usable temporary directory") as caught:
            RunDirectory.create()
        assert caught.value.errno == errno.ENOENT
        assert len(reclaim().reclaimed) == 1
        assert free(full)
        RunDirectory.create().dispose()

    def test_a_run_that_was_made_in_another_one_meanwhile_is_found_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in ("TMPDIR", "COLLECTOR_TMPDIR"):
            monkeypatch.delenv(variable)
        places = [tmp_path / "first", tmp_path / "second"]
        for place in places:
            place.mkdir()
        monkeypatch.setattr(root, "_SYSTEM_PLACES", tuple(map(os.fspath, places)))
        live = RunDirectory.create(places[1] / ROOT_NAME)
        monkeypatch.setattr("tempfile.tempdir", os.fspath(places[0]))
        assert live_runs() == [os.fspath(live.path)]
        live.dispose()
