"""The budget: all outputs together hold no more in memory than was allowed."""

import errno

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from collector.errors import SpillError
from collector.store.budget import Budget
from collector.store.rundir.directory import RunDirectory
from collector.store.spill import SpillManager
from tests.support.jobs import MIB


def output(directory: RunDirectory, budget: Budget) -> SpillManager:
    made = SpillManager.in_directory(lambda: directory, memory_threshold=MIB)
    budget.join(made)
    return made


def put(budget: Budget, target: SpillManager, size: int) -> None:
    budget.admit(target, size)
    target.write(bytes(size))


def test_within_the_limit_nothing_is_moved(directory: RunDirectory) -> None:
    budget = Budget(1000)
    with output(directory, budget) as one, output(directory, budget) as other:
        put(budget, one, 600)
        put(budget, other, 400)
        assert (one.held_bytes, other.held_bytes, budget.held_bytes) == (600, 400, 1000)


def test_the_largest_one_goes_to_disk_first(directory: RunDirectory) -> None:
    budget = Budget(1000)
    with (
        output(directory, budget) as small,
        output(directory, budget) as large,
        output(directory, budget) as asking,
    ):
        put(budget, small, 300)
        put(budget, large, 600)
        put(budget, asking, 200)
        assert (small.held_bytes, large.held_bytes, asking.held_bytes) == (300, 0, 200)


def test_one_that_is_the_largest_itself_goes_itself(directory: RunDirectory) -> None:
    budget = Budget(1000)
    with output(directory, budget) as small, output(directory, budget) as asking:
        put(budget, small, 300)
        put(budget, asking, 600)
        put(budget, asking, 200)
        assert (small.held_bytes, asking.held_bytes) == (300, 0)
        assert asking.progress.bytes_written == 800


def test_what_is_held_elsewhere_counts_and_what_left_does_not(directory: RunDirectory) -> None:
    budget = Budget(1000, elsewhere_bytes=900)
    with output(directory, budget) as one:
        put(budget, one, 100)
        assert one.held_bytes == 100
        put(budget, one, 1)
        assert one.held_bytes == 0
    with output(directory, budget) as left, output(directory, budget) as other:
        put(budget, left, 50)
        budget.leave(left)
        budget.elsewhere_bytes = 0
        put(budget, other, 1000)
        assert other.held_bytes == 1000


def test_a_limit_of_nothing_puts_everything_on_disk(directory: RunDirectory) -> None:
    budget = Budget(0)
    with output(directory, budget) as one:
        put(budget, one, 1)
        assert one.held_bytes == 0


@hypothesis_settings(max_examples=hypothesis_settings().max_examples // 3)
@given(
    limit=st.integers(0, 3000),
    writes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1500)), max_size=25),
)
def test_no_order_of_writes_gets_beyond_the_limit(
    limit: int, writes: list[tuple[int, int]]
) -> None:
    directory = RunDirectory.create(None)
    budget = Budget(limit)
    outputs = [output(directory, budget) for _ in range(4)]
    written = [0] * 4
    for which, size in writes:
        put(budget, outputs[which], size)
        written[which] += size
        assert budget.held_bytes == sum(one.held_bytes for one in outputs)
        assert budget.held_bytes <= limit
    for one, size in zip(outputs, written, strict=True):
        with one.finalize() as sealed:
            assert sealed.read() == bytes(size)
        one.dispose()
    directory.release()


def test_a_disk_that_refuses_the_victim_costs_the_one_that_asks(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(1000)
    with output(directory, budget) as large, output(directory, budget) as asking:
        put(budget, large, 900)
        fired = []

        def full(_manager: SpillManager) -> None:
            fired.append(1)
            raise SpillError(errno.ENOSPC, "no space", "x")

        monkeypatch.setattr(SpillManager, "spill", full)
        with pytest.raises(SpillError):
            put(budget, asking, 200)
        assert len(fired) == 2  # first the victim, then the one that asked
        assert (large.held_bytes, asking.held_bytes) == (900, 0)
