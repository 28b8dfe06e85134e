"""Reclaim what dead runs have left in the roots that are ours, and list what is there.

Runs in:    any process: at its start in a background thread, and in `collector gc`.
Invariants: I1  a sweep at start-up delays nothing, raises nothing, and says nothing unless it
                reclaimed something.
            I2  with `dry_run` nothing is changed, and the report is the same.
            I3  what an entry names goes before it: nobody else may know of that root.
Source:     design of the steps: docs/decisions/0003.
"""

import contextlib
import dataclasses
import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, final

from collector.errors import RunDirectoryError
from collector.logger import PackageLogger
from collector.store.rundir import kernel
from collector.store.rundir.claim import (
    RUN_NAME,
    TRASH_NAME,
    RootEntry,
    RunState,
    made_here,
    new_trash_name,
)
from collector.store.rundir.contents import Contents, Tick, nothing
from collector.store.rundir.root import PathName, Root, on_network, open_known_roots, open_root

_logger = PackageLogger()

_BRISK_ENTRIES: Final = 200
_REST_EVERY_ENTRIES: Final = 25
_REST_S: Final = 0.01
"""A sweep at start-up removes the first 200 files at full speed, in some ms: most crashes leave no
more. Then it works a twentieth of the time, so that 100,000 files do not slow the start-up down. If
the process ends before, the next sweep finds less to do."""


@dataclass(frozen=True, slots=True)
class ReclaimedRun:
    """A run directory that was removed.

    Attributes:
        path: Where it was.
        pid: Process that had made it, if that is known.
        age_s: Seconds since it was made.
        files: Number of files of outputs and jobs in it.
        bytes: Sum of their sizes.
    """

    path: str
    pid: int | None
    age_s: float
    files: int
    bytes: int


@dataclass(slots=True)
class ReclaimReport:
    """What a sweep did, and what it left.

    Attributes:
        reclaimed: The run directories that were removed (with `dry_run`: that would be).
        live: Number of run directories in use.
        unknown: Number of entries whose name is none of ours, or whose life no lock can tell.
        foreign: Number of entries of another user, or in another mount.
        unreadable: Number of entries that cannot be opened as a directory.
        bytes: Bytes that were freed.
        dry_run: True if nothing was removed.
        failures: What was ours and could not be removed; not part of the JSON form.
    """

    reclaimed: list[ReclaimedRun] = field(default_factory=list)
    live: int = 0
    unknown: int = 0
    foreign: int = 0
    unreadable: int = 0
    bytes: int = 0
    dry_run: bool = False
    failures: list[OSError] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return what `collector gc --json` prints."""
        facts = dataclasses.asdict(self)
        del facts["failures"]
        return facts


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run directory that is there.

    Attributes:
        path: Where it is.
        state: "live" if a process holds it, else "stale".
        pid: Process that made it, if that is known.
        age_s: Seconds since it was made.
        files: Number of files of outputs and jobs in it.
        bytes: Sum of their sizes.
        command: Command line of that process, if it is known.
    """

    path: str
    state: str
    pid: int | None
    age_s: float
    files: int
    bytes: int
    command: str | None

    def as_json(self) -> dict[str, Any]:
        """Return what `collector ls --json` prints for this run."""
        return dataclasses.asdict(self)


def reclaim(roots: Iterable[PathName] | None = None, dry_run: bool = False) -> ReclaimReport:
    """Remove every run directory whose processes are all dead.

    Args:
        roots: Temp roots to look at; None for all that are ours: `$COLLECTOR_TMPDIR`, the default
            one, and the private ones that replaced it.
        dry_run: Remove nothing, but report the same.

    Raises:
        RunDirectoryError: A root that was named is missing or cannot be trusted.
        ValueError: The name of a root is empty.

    Guarantees:
        Any number of processes may do this at once, and each may be killed at any point.
    """
    return reclaim_watched(roots, dry_run=dry_run, tick=nothing)


def reclaim_watched(
    roots: Iterable[PathName] | None, *, dry_run: bool, tick: Tick
) -> ReclaimReport:
    """Do what `reclaim` does and call `tick` for each file that was counted or removed."""
    sweep = _Sweep(dry_run=dry_run, tick=tick)
    for root in _open_roots(roots):
        sweep.through(root, local_only=on_network(root))
    return sweep.report


def list_runs(roots: Iterable[PathName] | None = None) -> list[RunInfo]:
    """List every run directory that is ours, oldest first.

    Args:
        roots: As for `reclaim`.

    Raises:
        RunDirectoryError: A root that was named is missing or cannot be trusted.
        ValueError: The name of a root is empty.
    """
    listed = (run for root in _open_roots(roots) for run in _list_root(root))
    # By path, for a run that an entry names may be listed twice.
    runs = {run.path: run for run in listed}.values()
    return sorted(runs, key=lambda run: (-run.age_s, run.path))


def live_runs(roots: Iterable[PathName] | None = None) -> list[str]:
    """Return the paths of the run directories that somebody holds, without counting what is there.

    Args:
        roots: As for `reclaim`.

    Raises:
        RunDirectoryError: A root that was named is missing or cannot be trusted.
        ValueError: The name of a root is empty.
    """
    found = (
        _live_at(root, name, named=True) for root in _open_roots(roots) for name in _names(root)
    )
    return sorted(set(filter(None, found)))


def start_sweep(root: PathName) -> None:
    """Reclaim what dead runs have left in `root`, in the background; returns at once.

    Nothing is swept where other machines may be at work. What cannot be swept is left to the next
    start or to `collector gc`.
    """
    thread = threading.Thread(
        target=_sweep_quietly, args=(root,), name="collector-sweep", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        return  # no thread is to be had (or the interpreter is leaving): the next start sweeps


def _open_roots(roots: Iterable[PathName] | None) -> Iterator[Root]:
    if roots is None:
        yield from open_known_roots()
        return
    if isinstance(roots, str | bytes | os.PathLike):
        raise TypeError(f"roots must be a list of paths, such as [{roots!r}]")
    opened: list[Root] = []
    seen: set[tuple[int, int]] = set()
    try:
        for path in roots:  # all are judged before the first is touched
            opened.append(open_root(path, make=False))  # noqa: PERF401 - closed below, each one
        for root in opened:
            if root.identity not in seen:
                seen.add(root.identity)
                yield root
    finally:
        for root in opened:
            root.close()


def _names(root: Root) -> list[str]:
    with kernel.scandir(root.fd) as entries:
        return sorted(entry.name for entry in entries)


@final
class _Sweep:
    """A sweep through any number of roots, and what it has done.

    Args:
        dry_run: Remove nothing.
        tick: Called for each file that was counted or removed.
        at_start: Of a program, which did not ask for it.
    """

    def __init__(self, *, dry_run: bool = False, tick: Tick, at_start: bool = False) -> None:
        self.report = ReclaimReport(dry_run=dry_run)
        self._tick = tick
        self._at_start = at_start
        self._counted: set[tuple[int, int]] = set()

    def through(self, root: Root, *, local_only: bool) -> None:
        """Remove what is stale in a root, and what that names in others."""
        for name in _names(root):
            self._sweep(root, name, local_only=local_only, may_name=True)

    def _sweep(self, root: Root, name: str, *, local_only: bool, may_name: bool) -> bool:
        """Tell whether nothing of one entry is left, nor of the run that it may name."""
        if self._at_start and name in made_here:
            return False
        with RootEntry(root, name, local_only=local_only) as entry:
            found = entry.examine()
            if found is RunState.STALE:
                named = entry.elsewhere() if may_name else ""
                return self._sweep_named(root, named) and self._reclaim(entry)
            if found is not RunState.GONE:
                self._count(found)
            return found is RunState.GONE

    def _sweep_named(self, root: Root, path: str) -> bool:
        """Do the same for the run that an entry of `root` names, if it does."""
        above, name = os.path.split(path)
        if not RUN_NAME.fullmatch(name):
            return True
        try:
            there = open_root(above, make=False)
        except RunDirectoryError as error:
            # Its disk may only not be mounted: nobody but who asks for it has us forget the run.
            if error.errno == errno.ENOENT and not self._at_start:
                return True
            self._count(RunState.UNREADABLE)
            return False
        with contextlib.closing(there):
            if there.identity == root.identity:
                return True
            local_only = on_network(there)
            if local_only and self._at_start:
                return False
            # The trash too: a sweep that was killed on the way has left the run there.
            names = [one for one in _names(there) if one == name or TRASH_NAME.fullmatch(one)]
            swept = [
                self._sweep(there, one, local_only=local_only, may_name=False) for one in names
            ]
            return all(swept)

    def _reclaim(self, entry: RootEntry) -> bool:
        owner = entry.owner()
        age_s = entry.age_s(owner, time.time())
        report = self.report
        if report.dry_run:
            if entry.identity in self._counted:  # by way of an entry that names it
                return True
            self._counted.add(entry.identity)
            entry.unlock()
            found, failures = entry.contents(self._tick), []
        else:
            found = Contents()
            failures = entry.remove(new_trash_name(), removed=found, tick=self._tick)
        if failures:
            report.failures += failures
            return False
        report.reclaimed.append(
            ReclaimedRun(entry.path, owner.pid, age_s, found.files, found.bytes)
        )
        report.bytes += found.bytes
        self._tick()
        return True

    def _count(self, found: RunState) -> None:
        setattr(self.report, found.value, getattr(self.report, found.value) + 1)


def _list_root(root: Root) -> Iterator[RunInfo]:
    for name in _names(root):
        yield from _list_entry(root, name, named=True)


def _list_entry(root: Root, name: str, *, named: bool) -> Iterator[RunInfo]:
    """List one run, with what an entry names: alone if that lives, but not what that names."""
    with RootEntry(root, name) as entry:
        found = entry.examine()
        entry.unlock()
        if found not in {RunState.STALE, RunState.LIVE}:
            return
        elsewhere = entry.elsewhere() if named else ""
        if not elsewhere or found is RunState.STALE:
            owner = entry.owner()
            contents = entry.contents()
            yield RunInfo(
                path=entry.path,
                state=found.value,
                pid=owner.pid,
                age_s=entry.age_s(owner, time.time()),
                files=contents.files,
                bytes=contents.bytes,
                command=owner.command,
            )
        if not elsewhere:
            return
    above, name = os.path.split(elsewhere)
    with contextlib.suppress(RunDirectoryError):  # gone, or not to be trusted
        there = open_root(above, make=False)
        try:
            yield from _list_entry(there, name, named=False)
        finally:
            there.close()


def _live_at(root: Root, name: str, *, named: bool) -> str:
    """Return the path of a live run, or of the one that it names; empty if it is none."""
    with RootEntry(root, name) as entry:
        if entry.examine() is not RunState.LIVE:
            return ""
        elsewhere = entry.elsewhere() if named else ""
        if not elsewhere:
            return entry.path
    above, name = os.path.split(elsewhere)
    try:
        there = open_root(above, make=False)
    except RunDirectoryError:  # gone, or not to be trusted
        return ""
    try:
        return _live_at(there, name, named=False)
    finally:
        there.close()


class _RestingTick:
    """A tick that lets the rest of the process go first."""

    def __init__(self) -> None:
        self._entries = 0

    def __call__(self) -> None:
        self._entries += 1
        if self._entries > _BRISK_ENTRIES and self._entries % _REST_EVERY_ENTRIES == 0:
            time.sleep(_REST_S)


def _sweep_quietly(path: PathName) -> None:
    try:
        sweep = _Sweep(tick=_RestingTick(), at_start=True)
        root = open_root(path, make=False)
        try:
            if not on_network(root):
                sweep.through(root, local_only=False)
        finally:
            root.close()
        report = sweep.report
        if report.reclaimed:
            _logger.info(
                "reclaimed %d run(s) that killed processes had left in %s: %d bytes",
                len(report.reclaimed),
                os.fspath(root.path),
                report.bytes,
            )
    except Exception:
        # Whatever it was, the next start or `collector gc` meets it again and can say so.
        _logger.debug("the sweep at start-up failed", exc_info=True)
