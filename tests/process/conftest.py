"""What the tests of the processes share: a run directory, and the parent of a sink by hand."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from collector.store.rundir.directory import RunDirectory
from tests.support.handsink import HandParent


@pytest.fixture
def directory() -> Iterator[RunDirectory]:
    """A run directory."""
    made = RunDirectory.create(None)
    yield made
    made.release()


@pytest.fixture
def parent(directory: RunDirectory) -> Iterator[HandParent]:
    """The parent of a sink that runs in a thread."""
    with closing(HandParent(directory)) as made:
        yield made
