"""A batch that was opened before a fork takes nothing from the child."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from collector import Batch, ClosedError
from collector.store.rundir.locks import close_private, is_ours, open_private
from tests.support.batchdir import ended, output, writer
from tests.support.child import in_child


@pytest.mark.parametrize("let_go", [Batch.close, None], ids=["closed", "dropped"])
def test_a_batch_that_a_forked_child_lets_go_of_closes_no_file_of_the_child(
    tmp_path: Path, let_go: Callable[[Batch], None] | None
) -> None:
    """Its descriptors were closed at the fork: their numbers are those of other files."""
    with writer(tmp_path / "b") as writing:
        writing.store(writing.task("a"), ended(output("a", 70_000)))
    batches = [Batch.open(tmp_path / "b")]
    (record,) = batches[0]
    assert record.output().read() == output("a", 70_000)
    del record

    def act() -> None:
        own = [open_private(os.fspath(tmp_path), os.O_DIRECTORY) for _ in range(30)]
        if let_go is not None:
            let_go(batches[0])
        batches.clear()
        gc.collect()
        assert all(map(is_ours, own))
        for fd in own:
            close_private(fd)

    in_child(act)
    batches[0].close()


def test_a_forked_child_is_told_to_open_a_batch_itself(tmp_path: Path) -> None:
    """It would read from what has the numbers by then."""
    with writer(tmp_path / "b") as writing:
        writing.store(writing.task("a"), ended(output("a", 70_000)))
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        with pytest.raises(ClosedError, match="before a fork"):
            in_child(record.output)

        def again() -> bytes:
            with Batch.open(tmp_path / "b") as own:
                return b"".join(one.output().read() for one in own)

        assert in_child(again) == output("a", 70_000)
        assert record.output().read() == output("a", 70_000)
