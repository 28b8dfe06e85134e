"""Remove what a process that was killed has left in its shard, and no line speaks of.

Runs in:    the process that holds the shard's lock; `remove_runs` in one that holds another's.
Invariants: I1  only what has a name of ours is removed: a foreign file stays.
            I2  what a line speaks of stays, unless a later attempt has put another in its place.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final

from collector.batch.history import History
from collector.batch.keeping import removed
from collector.batch.lines import Filed
from collector.batch.shard import FILES_NAME, PLACE, RUN_NAME, Shard
from collector.errors import CollectorError
from collector.store.rundir.locks import DIRECTORY_FLAGS, close_private, open_private
from collector.store.rundir.reclaim import reclaim

_OURS: Final = re.compile(r"([0-9a-f]{32})\.[0-9]+(?:-[0-9a-f]+)?\.(?:out|log|value)")
_PART: Final = re.compile(r"\.collector-[0-9a-f]+\.part")


def remove_leftovers(history: History, shard: Shard) -> bool:
    """Remove them; what cannot be removed stays, and is tried again the next time.

    Returns:
        Whether none stays.
    """
    left = [
        os.path.join(FILES_NAME, place, name)
        for place, names in _files(shard)
        for name in names
        if _PART.fullmatch(name) or _is_left(history, shard, place, name)
    ]
    stay = [name for name in left if not removed(name, shard)]
    return not stay


def remove_runs(history: History) -> None:
    """Remove the run directories of dead processes from the shards that some have not left.

    That needs no lock of theirs: each run directory has its own. Of another split of the inputs
    nobody may ever open the shards again.
    """
    for number, shard in enumerate(history.shards):
        root = os.path.join(shard.path, RUN_NAME)
        if number not in history.findings.left and os.path.isdir(root):
            # Not to be trusted, so that nothing in it is ours; or not to be read just now.
            with contextlib.suppress(CollectorError, OSError):
                reclaim([root])


def _files(shard: Shard) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of files by their directory."""
    with contextlib.suppress(OSError):
        files = open_private(FILES_NAME, DIRECTORY_FLAGS, dir_fd=shard.fd)
        try:
            for place in filter(PLACE.fullmatch, os.listdir(files)):
                fd = open_private(place, DIRECTORY_FLAGS, dir_fd=files)
                try:
                    yield place, os.listdir(fd)
                finally:
                    close_private(fd, locked=False)
        finally:
            close_private(files, locked=False)


def _is_left(history: History, shard: Shard, place: str, name: str) -> bool:
    found = _OURS.fullmatch(name)
    if found is None:
        return False
    row = history.table.find(found[1])
    if row is None:
        return True
    file = os.path.join(place, name)
    return not any(
        kept and one is shard and any(isinstance(p, Filed) and p.name == file for p in places)
        for one, ended, kept in history.kept(row)
        for places in [(ended.out, ended.log, ended.value)]
    )
