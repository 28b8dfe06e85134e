"""Sweeping an entry of the default root that names a run directory in a `temp_root`."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.store.rundir.directory import RunDirectory
from collector.store.rundir.elsewhere import ELSEWHERE_NAME
from collector.store.rundir.reclaim import list_runs, reclaim, start_sweep
from tests.support.rundirs import make_orphan, names


def make_entry(root: Path, run: Path | str) -> Path:
    """Make the entry of a dead process that names a run directory."""
    entry = make_orphan(root, files=0)
    (entry / ELSEWHERE_NAME).write_text(os.fspath(run))
    return entry


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A root that nobody names but an entry."""
    path = tmp_path / "there"
    path.mkdir(mode=0o700)
    return path


def sweep_at_start(root: Path) -> None:
    start_sweep(root)
    for thread in threading.enumerate():
        if thread.name == "collector-sweep":
            thread.join()


def gc(root: Path) -> None:
    reclaim([root])


each_sweep = pytest.mark.parametrize("sweep", [gc, sweep_at_start])


@each_sweep
def test_what_it_names_goes_with_it(
    temp_root: Path, there: Path, sweep: Callable[[Path], None]
) -> None:
    make_entry(temp_root, make_orphan(there, files=2))
    other = make_orphan(there)
    sweep(temp_root)
    assert names(temp_root) == []
    assert names(there) == [other.name], "nobody has named that one"


def test_both_are_told_once_and_so_they_are_by_a_dry_run(temp_root: Path, there: Path) -> None:
    run = make_orphan(there, files=3, size=100)
    entry = make_entry(temp_root, run)
    for roots in ([temp_root, there], [there, temp_root]):
        said = reclaim(roots, dry_run=True)
        assert sorted(one.path for one in said.reclaimed) == sorted(map(str, (entry, run)))
        assert said.bytes == 300
    done = reclaim([temp_root, there])
    assert sorted(one.path for one in done.reclaimed) == sorted(map(str, (entry, run)))
    assert (done.bytes, names(temp_root), names(there)) == (300, [], [])


def test_both_are_listed(temp_root: Path, there: Path) -> None:
    run = make_orphan(there, files=3, size=100)
    entry = make_entry(temp_root, run)
    listed = {one.path: (one.state, one.bytes) for one in list_runs([temp_root])}
    assert listed == {str(run): ("stale", 300), str(entry): ("stale", 0)}


@each_sweep
def test_a_run_that_somebody_holds_keeps_its_entry(
    temp_root: Path, there: Path, sweep: Callable[[Path], None]
) -> None:
    live = RunDirectory.create(there)
    entry = make_entry(temp_root, live.path)
    sweep(temp_root)
    assert reclaim([temp_root]).live == 1
    assert names(temp_root) == [entry.name]
    assert names(there) == [live.path.name]
    live.dispose()
    assert len(reclaim([temp_root]).reclaimed) == 1


@each_sweep
def test_what_a_sweep_left_that_was_killed_on_the_way_goes_too(
    temp_root: Path, there: Path, sweep: Callable[[Path], None]
) -> None:
    run = make_orphan(there)
    make_entry(temp_root, run)
    run.rename(there / f"trash-{'0' * 32}")
    sweep(temp_root)
    assert names(temp_root) == names(there) == []


@each_sweep
@pytest.mark.parametrize("what", ["gone", "nothing", "no run", "itself", "its neighbour"])
def test_an_entry_with_nothing_behind_it_goes(
    temp_root: Path, there: Path, sweep: Callable[[Path], None], what: str
) -> None:
    entry = make_entry(temp_root, there / f"run-{'0' * 16}")
    neighbour = RunDirectory.create(temp_root)
    said: dict[str, str | Path] = {
        "gone": there / f"run-{'0' * 16}",
        "nothing": "",
        "no run": there / "..",
        "itself": entry,
        "its neighbour": neighbour.path,
    }
    (entry / ELSEWHERE_NAME).write_text(os.fspath(said[what]))
    sweep(temp_root)
    assert names(temp_root) == [neighbour.path.name]
    neighbour.dispose()


def test_a_root_that_is_away_is_forgotten_only_by_who_asks_for_it(
    temp_root: Path, there: Path
) -> None:
    """A disk may not be mounted now."""
    run = make_orphan(there)
    entry = make_entry(temp_root, run)
    away = there.rename(there.with_name("away"))
    sweep_at_start(temp_root)
    assert names(temp_root) == [entry.name]
    away.rename(there)
    sweep_at_start(temp_root)
    assert names(temp_root) == names(there) == []
    make_entry(temp_root, run)
    there.rmdir()
    gc(temp_root)
    assert names(temp_root) == []


@each_sweep
def test_a_root_that_is_not_to_be_trusted_is_left(
    temp_root: Path, there: Path, sweep: Callable[[Path], None]
) -> None:
    run = make_orphan(there)
    entry = make_entry(temp_root, run)
    there.chmod(0o755)
    sweep(temp_root)
    assert reclaim([temp_root]).unreadable == 1
    assert (names(temp_root), names(there)) == ([entry.name], [run.name])
