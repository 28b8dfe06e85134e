"""A command of `collector run` for which no descriptor is to be had: nothing is left of it."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from collector import Collector
from collector.batch.command import child
from collector.batch.command.ended import CommandError
from collector.batch.command.template import Finder, Words

ENOUGH = 8
"""So many descriptors a command never needs."""


def descriptors() -> set[int]:
    """Return those of this process."""
    found = map(int, os.listdir("/proc/self/fd"))
    return {fd for fd in found if os.path.exists(f"/proc/self/fd/{fd}")}  # the listing had one too


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let this process have so many descriptors more."""
    used = descriptors()
    limit = 0
    while count >= 0:
        count -= limit not in used
        limit += 1
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit - 1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def what_comes_of_a_command(count: int) -> tuple[str, set[int], bytes]:
    """Run one with so many descriptors; return its error, descriptors that it leaves, children."""
    words = Words(["sleep", "0.01"], Finder())
    child.prepare(child.Plan(words, "/bin/sh", 1.0, None, 0, "", "", 1, 1.0))
    call = child.Call((), 1, "", 1, None)
    before, error = descriptors(), ""
    with room_for(count):
        try:
            child.run(call)
        except (CommandError, OSError) as failure:
            error = str(failure)
    left = descriptors() - before
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as children:
        return error, left, children.read()


def test_a_command_that_no_descriptor_is_to_be_had_for_fails_and_nothing_is_left_of_it() -> None:
    with Collector(1, capture=True) as collector:
        found = list(collector.map(what_comes_of_a_command, range(ENOUGH + 1)))
    errors = [error for error, _, _ in found]
    assert all("Too many open files" in error for error in errors[:5])  # the last one: its pidfd
    assert errors[-1] == ""
    assert all((left, children) == (set(), b"") for _, left, children in found)
