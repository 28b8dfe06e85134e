"""A job that is open in the sink: whatever becomes of its bytes, its end is told."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from collector.errors import RunDirectoryError
from collector.process.sink.open_job import OpenJob
from collector.store.budget import Budget
from collector.store.spill import SpillManager
from collector.wire.frames import Stream
from collector.wire.outcome import Outcome

LOSES_BOTH = """
import os, resource, sys
from pathlib import Path
from collector.errors import SpillError
from collector.process.sink.open_job import OpenJob
from collector.store.budget import Budget
from collector.store.rundir.directory import RunDirectory
from collector.store.spill import SpillManager
from collector.wire.frames import Stream
from collector.wire.outcome import Outcome

MIB = 1 << 20
directory = RunDirectory.create(sys.argv[1])
budget = Budget(1 << 40)
def new(most):
    return SpillManager.in_directory(lambda: directory, memory_threshold=most)

job = OpenJob(1, 1, 1 << 40, new, budget)
job.store(Stream.VALUE, bytes(6 * MIB), 1)
(value,) = directory.path.glob("*.spill")
os.truncate(value, 0)
job.store(Stream.OUTPUT, b"abc", 1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
more = bytes(24 * MIB)
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 32 * MIB, hard))
try:
    job.store(Stream.OUTPUT, more, 1)
except MemoryError:
    print("no memory")
said = job.end(Outcome.RETURNED, b"")
print(Outcome(said.outcome).name, said.size, said.data, budget.held_bytes, len(budget._members))
print(list(directory.path.glob("*.spill")))
directory.dispose()
"""


def lines_of(script: str, root: Path) -> list[str]:
    """Run it; what was loaded in another thread has left no memory of that thread's to be used."""
    done = subprocess.run(
        [sys.executable, "-c", script, root],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_job_that_lost_its_value_and_its_buffer_ends_with_a_message(tmp_path: Path) -> None:
    assert lines_of(LOSES_BOTH, tmp_path) == ["no memory", "LOST 0 b'' 0 0", "[]"]


def test_the_file_of_a_value_is_handed_over_by_a_job_that_lost_its_buffer(tmp_path: Path) -> None:
    """Whoever is told of it removes it; nobody else would, before the Collector ends."""
    script = LOSES_BOTH.replace("os.truncate(value, 0)", "").replace(
        'print(list(directory.path.glob("*.spill")))', "print(said.value_name == value.name)"
    )
    assert lines_of(script, tmp_path) == ["no memory", "LOST 0 b'' 0 0", "True"]


def test_a_job_that_is_followed_where_no_file_can_be_made_goes_on_in_memory() -> None:
    """Whoever looks on must not cost the job anything; readers get it at the end."""
    asked: list[str] = []

    def refuse() -> NoReturn:
        asked.append("for a directory")
        raise RunDirectoryError(errno.ENOSPC, "no room", "/")

    def new(most: int) -> SpillManager:
        return SpillManager.in_directory(refuse, memory_threshold=most)

    job = OpenJob(1, 1, 100, new, Budget(1000))
    job.follow()
    assert not asked  # an empty file can be made on a full disk, too
    for chunk in (b"abc", b"def"):
        job.store(Stream.OUTPUT, chunk, 1)
    assert len(asked) == 2
    said = job.end(Outcome.RETURNED, b"")
    assert said is not None
    assert (said.outcome, said.data, said.chunks) == (Outcome.RETURNED, b"abcdef", 2)
