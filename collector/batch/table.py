"""What is known of each job of a batch, in few bytes a job.

Runs in:    any process; pure.
Owns:       numbers only; everything else of a job is read from its line when it is asked for.
Invariants: I1  at most 200 bytes a job (`python -m bench --case batch-continue`).
            I2  a row is never removed: its number is good for as long as the table lives.
            I3  of results in several shards one that succeeded counts, whichever is read last, but
                for a failure of a later attempt that was made in the knowledge of it.
            I4  of positions in several shards that of the run counts which began last, likewise.
Source:     columns of numbers in place of objects: an `array` takes 8 bytes where an object of
            Python takes 100.
"""

import itertools
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, final

from collector.batch.states import Event, State, moved

_STATES: Final = tuple(State)
_DONE: Final = _STATES.index(State.DONE)
_STATE_BITS: Final = 0b11
_LOST: Final = 0b100
_MET: Final = 0b1000
_SHARD_BITS: Final = 48
_ATTEMPT_BITS: Final = 32
_ATTEMPT_MASK: Final = 0xFFFFFFFF
_NOWHERE: Final = 2**64 - 1
_ONLY_STATE: Final = bytes(flags & _STATE_BITS for flags in range(256))
_ONLY_LOST: Final = bytes(bool(flags & _LOST) for flags in range(256))
_DONE_AND_NOT_MET: Final = bytes(flags & (_STATE_BITS | _MET) == _DONE for flags in range(256))
_AFTER_FIRST: Final = (
    _STATES.index(moved(State.WAITING, Event.FAILED)),
    _STATES.index(moved(State.WAITING, Event.SUCCEEDED)),
)
"""State after the first attempt, by whether it succeeded."""


class Line(NamedTuple):
    """Where a line is: number of its shard in the order of reading, and offset."""

    shard: int
    at: int


@final
class Table:
    """The jobs of a batch, by key."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        # Columns, with a number a row in each.
        self._lines = array("Q")
        self._seqs = array("Q")
        self._sizes = array("Q")
        self._attempts = array("Q")
        """Run and attempt in one."""
        self._placed = array("Q")
        self._flags = bytearray()
        self._doubts: dict[int, tuple[int, Line]] = {}
        """By row: a failure of a later attempt than the success that counts, in another shard."""

    def __len__(self) -> int:
        return len(self._flags)

    def find(self, key: str) -> int | None:
        """Return the row of a key, if there is one."""
        return self._rows.get(int(key, 16))

    def row(self, key: str) -> int:
        """Return the row of a key; a new one of a job that waits if there is none."""
        number = int(key, 16)
        found = self._rows.get(number)
        return self._add(number, 0, 0) if found is None else found

    def _add(self, number: int, seq: int, flags: int) -> int:
        row = self._rows[number] = len(self._flags)
        self._lines.append(_NOWHERE)
        self._seqs.append(seq)
        self._sizes.append(0)
        self._attempts.append(0)
        self._placed.append(0)
        self._flags.append(flags)
        return row

    def knows_none_of(self, numbers: Sequence[int]) -> bool:
        """Tell whether these keys are all different, and none has a row."""
        return len(set(numbers)) == len(numbers) and self._rows.keys().isdisjoint(numbers)

    def first(  # noqa: PLR0913, PLR0917 - columns of a million lines
        self,
        numbers: Sequence[int],
        line: Line,
        lengths: Iterable[int],
        attempts: Iterable[int],
        seqs: Iterable[int],
        sizes: Iterable[int],
        run: int,
        succeeded: Iterable[bool],
        placed: int,
    ) -> None:
        """Do what `row`, `place` and `ended` do, at once, for keys that have no row.

        Args:
            numbers: The keys; `knows_none_of` them.
            line: Where the first one is.
            lengths: Bytes of each line but the last one; they lie one behind the other.
            attempts: Their numbers.
            seqs: Positions of the inputs.
            sizes: Bytes of their outputs.
            run: Number of the run.
            succeeded: As for `ended`; all of their bytes are there.
            placed: As for `place`.
        """
        row, many = len(self._flags), len(numbers)
        self._rows.update(zip(numbers, range(row, row + many), strict=True))
        begin = line.shard << _SHARD_BITS | line.at
        self._lines.extend(itertools.accumulate(lengths, initial=begin))
        self._seqs.extend(seqs)
        self._sizes.extend(sizes)
        self._attempts.extend(map((run << _ATTEMPT_BITS).__or__, attempts))
        self._placed.extend(array("Q", [placed]) * many)
        self._flags.extend(map(_AFTER_FIRST.__getitem__, succeeded))

    def state(self, row: int) -> State:
        """Return the state of a job."""
        return _STATES[self._flags[row] & _STATE_BITS]

    def line(self, row: int) -> Line | None:
        """Return the line of its last attempt that has ended."""
        packed = self._lines[row]
        return None if packed == _NOWHERE else Line(packed >> _SHARD_BITS, packed % 2**_SHARD_BITS)

    def attempts(self, row: int) -> int:
        """Return the number of its last attempt that has ended, or 0."""
        return self._attempts[row] & _ATTEMPT_MASK

    def seq(self, row: int) -> int:
        """Return the position of its input."""
        return self._seqs[row]

    def is_lost(self, row: int) -> bool:
        """Whether it has a result that is not all there."""
        return bool(self._flags[row] & _LOST)

    def meet(self, number: int, seq: int) -> tuple[int, State, bool] | None:
        """Do what `row`, `met` and `place` do, at once, for an input that comes now.

        Returns:
            The row of the key, the state of its job, and whether the input stood elsewhere before;
            None if it has come before in this run.
        """
        row = self._rows.get(number)
        if row is None:
            row = self._add(number, seq, _MET)
            return row, State.WAITING, True
        flags = self._flags[row]
        if flags & _MET:
            return None
        self._flags[row] = flags | _MET
        moved_on = self._seqs[row] != seq
        if moved_on:
            self._seqs[row] = seq
        return row, _STATES[flags & _STATE_BITS], moved_on

    def place(self, row: int, seq: int, placed: int) -> None:
        """Its input stood there in a run, which counts if no later one has placed it.

        Args:
            row: Of its job.
            seq: Position of the input.
            placed: When that run began, in microseconds since the epoch.
        """
        if placed >= self._placed[row]:
            self._seqs[row] = seq
            self._placed[row] = placed

    def started(self, row: int) -> None:
        """An attempt has started."""
        self._move(row, Event.STARTED)

    def ended(  # noqa: PLR0913 - what is kept of a line
        self,
        row: int,
        line: Line,
        attempt: int,
        *,
        succeeded: bool,
        size: int,
        lost: bool,
        run: int,
        is_last: bool = False,
    ) -> None:
        """An attempt has ended.

        Args:
            row: Of its job.
            line: Where that is told.
            attempt: Its number.
            succeeded: Whether it has a result that is no failure.
            size: Bytes of its output.
            lost: Whether not all of its bytes are there.
            run: Number of the run.
            is_last: Whether it was made in the knowledge of all others that the table has.
        """
        if not is_last and self._is_outdone(row, line, attempt, succeeded=succeeded, lost=lost):
            return
        self._lines[row] = (line.shard << _SHARD_BITS) | line.at
        self._sizes[row] = size
        self._attempts[row] = run << _ATTEMPT_BITS | attempt
        self._flags[row] &= ~_LOST
        self._move(row, Event.SUCCEEDED if succeeded else Event.FAILED)
        if lost:
            self.lose(row)

    def lose(self, row: int) -> None:
        """The bytes of its last attempt are not all there."""
        self._move(row, Event.LOST)
        self._flags[row] |= _LOST

    def counts(self) -> dict[State, int]:
        """Count the jobs in each state."""
        flags = self._flags.translate(_ONLY_STATE)
        return {state: flags.count(number) for number, state in enumerate(_STATES)}

    def done_and_not_met(self) -> int:
        """Count the jobs that are done and whose input has not come in this run."""
        return self._flags.translate(_DONE_AND_NOT_MET).count(1)

    def lost(self) -> int:
        """Count the jobs whose result is not all there."""
        return self._flags.translate(_ONLY_LOST).count(1)

    def lost_rows(self, most: int) -> list[int]:
        """Return the first jobs whose result is not all there."""
        flags = self._flags.translate(_ONLY_LOST)
        found: list[int] = []
        row = flags.find(1)
        while row >= 0 and len(found) < most:
            found.append(row)
            row = flags.find(1, row + 1)
        return found

    def result_bytes(self) -> int:
        """Sum up the outputs of all jobs that are done."""
        states = self._flags.translate(_ONLY_STATE)
        if states.count(_DONE) == len(states):
            return sum(self._sizes)
        return sum(size for size, state in zip(self._sizes, states, strict=True) if state == _DONE)

    def done_in(self, runs: frozenset[int]) -> int:
        """Count the jobs whose result is of one of these runs."""
        states = self._flags.translate(_ONLY_STATE)
        return sum(
            state == _DONE and run >> _ATTEMPT_BITS in runs
            for run, state in zip(self._attempts, states, strict=True)
        )

    def in_order(self) -> list[int]:
        """Return all rows in the order of their inputs."""
        return sorted(range(len(self)), key=self._seqs.__getitem__)

    def _is_outdone(
        self, row: int, line: Line, attempt: int, *, succeeded: bool, lost: bool
    ) -> bool:
        """Tell whether another shard has a better result of the job (I3)."""
        known = self.line(row)
        if known is None or known.shard == line.shard or self.is_lost(row):
            return False
        if lost:
            return True
        if succeeded != (self.state(row) is State.DONE):
            self._doubt(row, (self.attempts(row), known) if succeeded else (attempt, line))
            return not succeeded
        return attempt < self.attempts(row)

    def _doubt(self, row: int, failure: tuple[int, Line]) -> None:
        if row not in self._doubts or failure > self._doubts[row]:
            self._doubts[row] = failure

    def doubts(self) -> list[tuple[int, Line]]:
        """Return jobs that count as done though a later attempt has failed, with its line."""
        return [
            (row, line)
            for row, (attempt, line) in self._doubts.items()
            if self.state(row) is State.DONE and attempt > self.attempts(row)
        ]

    def _move(self, row: int, event: Event) -> None:
        flags = self._flags[row]
        state = moved(_STATES[flags & _STATE_BITS], event)
        self._flags[row] = (flags & ~_STATE_BITS) | _STATES.index(state)
