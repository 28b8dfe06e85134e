"""A control group with a limit of memory, below that of this process, where one may be made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, final

import pytest

from collector.process.pool.out_of_memory import count_files
from tests.support.leaks import wait_until

_OF_VERSION_2: Final = "memory.events"


@final
class Group:
    """A control group.

    Args:
        directory: Where it is.
        counts: The name of the file in which the kernel counts what it has killed.
    """

    def __init__(self, directory: Path, counts: str) -> None:
        self._directory = directory
        self._counts = directory / counts

    def move(self, pid: int) -> None:
        """Have a process, and what it starts from now on, belong to the group."""
        (self._directory / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed in it for their memory."""
        counts = dict(line.split() for line in self._counts.read_text().splitlines())
        return int(counts["oom_kill"])

    @property
    def is_empty(self) -> bool:
        """Whether no process belongs to it."""
        return not (self._directory / "cgroup.procs").read_text()


@contextmanager
def limited(memory_bytes: int) -> Iterator[Group]:
    """Make a group, of the version that counts memory here; skip the test where none can be."""
    files = count_files(
        Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    )
    why = "no hierarchy with the controller of memory is mounted"
    for file in map(Path, files):
        group = file.parent / f"collector-test-{os.urandom(4).hex()}"
        try:
            group.mkdir()
        except OSError as error:
            why = str(error)
            continue
        try:
            try:
                _limit(group, memory_bytes, version_2=file.name == _OF_VERSION_2)
            except OSError as error:
                why = str(error)
                continue
            made = Group(group, file.name)
            yield made
            assert wait_until(lambda: made.is_empty)  # noqa: B023 - it is called at once
            return
        finally:
            group.rmdir()
    pytest.skip(f"no control group with a limit of memory can be made here: {why}")


def _limit(group: Path, memory_bytes: int, *, version_2: bool) -> None:
    if version_2:
        with suppress(OSError):  # it is on already; or the next line says that it is not
            (group.parent / "cgroup.subtree_control").write_text("+memory")
        (group / "memory.max").write_text(str(memory_bytes))
    else:
        (group / "memory.limit_in_bytes").write_text(str(memory_bytes))
    with suppress(OSError):  # no swap is counted here
        if version_2:
            (group / "memory.swap.max").write_text("0")
        else:
            (group / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
