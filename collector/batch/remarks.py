"""What a user is told when a batch is continued: what has changed, and what is not all there.

Runs in:    the process that writes a batch.
Invariants: I1  another function or command is refused; all else is said, and nothing of it run
                again for that.
"""

import errno
import os
from typing import Any, Final

from collector.batch.directory import BatchDirectory, What, refused
from collector.batch.history import History
from collector.errors import BatchError
from collector.logger import PackageLogger

_logger = PackageLogger()
_TOLD: Final = 10
"""So many jobs whose bytes are not all there are named."""


def refuse_others(directory: BatchDirectory) -> None:
    """Write into no directory of another user.

    Raises:
        BatchError: It is one.
    """
    try:
        owner = os.fstat(directory.fd).st_uid
    except OSError as error:
        raise refused(error, directory.path) from error
    if owner != os.geteuid():
        message = f"the batch belongs to user {owner}, not to you ({os.geteuid()})"
        raise BatchError(errno.EPERM, message, directory.path)


def compare(there: What, wanted: What, path: str) -> None:
    """Refuse to run something else in a batch.

    Raises:
        BatchError: It runs something else.
    """
    if (there.kind, there.name) != (wanted.kind, wanted.name):
        message = (
            f"the batch runs the {there.kind} {there.name}, not the {wanted.kind} {wanted.name}: "
            "take another directory"
        )
        raise BatchError(errno.EINVAL, message, path)
    changed: dict[str, tuple[Any, Any]] = {
        name: (there.options.get(name), wanted.options.get(name))
        for name in {*there.options, *wanted.options}
        if there.options.get(name) != wanted.options.get(name)
    }
    for name, (old, new) in sorted(changed.items()):
        _logger.warning(
            "%s: %s was %r when the batch was made, and is %r now; its results stay.",
            path,
            name,
            old,
            new,
        )


def say_what_is_there(history: History, what: What, path: str) -> None:
    """Say which lines and results count as not there, and which are of an older function."""
    findings, table = history.findings, history.table
    for line in findings.bad_lines:
        _logger.warning("%s: a line of the journal counts as not there: %s", path, line)
    if findings.bad > len(findings.bad_lines):
        _logger.warning("%s: so do %d more lines", path, findings.bad - len(findings.bad_lines))
    for row in table.lost_rows(_TOLD):
        found = history.attempt(row)
        name = found[1].name or found[1].key if found else "?"
        _logger.warning("%s: %s counts as not done: %s", path, name, history.missing(row))
    if table.lost() > _TOLD:
        _logger.warning("%s: %d jobs in all count as not done for that", path, table.lost())
    older = frozenset(
        number + 1
        for number, (_, run) in enumerate(findings.runs)
        if run.source and what.source and run.source != what.source
    )
    if older and (count := table.done_in(older)):
        _logger.warning(
            "%s: %s, or what it is bound to, has changed since: %d results are of an older one "
            "(resume='all' runs them again)",
            path,
            what.name,
            count,
        )
