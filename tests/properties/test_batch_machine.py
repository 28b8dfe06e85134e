"""Any sequence of runs, kills, changed inputs and options keeps what a batch directory promises.

Invariants: I1  what a run has stored is there, exact and once, until a later attempt of that job
                has succeeded.
            I2  a run whose inputs are done runs nothing; else exactly what `resume` says.
            I3  what is stored nowhere is never read: each output is one that its job has written.
            I4  after a run that came to its end no file is there that no line speaks of.
            I5  attempts are numbered from 1, without a gap, in the order in which they ended.
            I6  the states add up: each input that ever ended is done or failed.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from collector import Batch
from collector.batch.lines import Filed
from collector.batch.states import Resume
from collector.batch.writer import BatchWriter, Options
from tests.support.batchdir import ended, failed, writer

INPUTS = st.lists(st.sampled_from("abcde"), max_size=6)
SIZES = st.sampled_from([0, 10, 70_000])
OPTIONS = st.builds(
    Options,
    st.sampled_from([Resume.FAILED, Resume.NEW, Resume.ALL]),
    st.booleans(),
    st.booleans(),
    st.just("0"),
)


class BatchMachine(RuleBasedStateMachine):
    """A directory, and what must be in it: by key, the outputs of all attempts that were stored."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="machine-"))
        self.path = self.place / "b"
        self.known: dict[str, list[tuple[bool, bytes]]] = {}
        self.clean = True
        self.count = 0

    @rule(
        inputs=INPUTS,
        options=OPTIONS,
        size=SIZES,
        failing=st.sets(st.sampled_from("abcde")),
        kill_after=st.none() | st.integers(0, 4),
    )
    def run(
        self,
        inputs: list[str],
        options: Options,
        size: int,
        failing: set[str],
        kill_after: int | None,
    ) -> None:
        writing = writer(self.path, options=options)
        try:
            for text in inputs[:kill_after]:
                self._job(writing, options, text, size, fails=text in failing)
        finally:
            self.clean = kill_after is None
            if self.clean:
                writing.close()
            else:
                kill(writing)

    def _job(
        self, writing: BatchWriter, options: Options, text: str, size: int, *, fails: bool
    ) -> None:
        task = writing.task(text)
        so_far = self.known.get(task.key, [])
        done, there = bool(so_far and so_far[-1][0]), bool(so_far)
        wanted = {
            Resume.FAILED: not done,
            Resume.NEW: not there,
            Resume.ALL: True,
        }[options.resume]
        assert task.runs == wanted  # I2
        if task.runs:
            self.count += 1
            data = (f"{text}{self.count} ".encode() * size)[:size]
            writing.store(task, failed(data) if fails else ended(data))
            writing.flush()
            self.known.setdefault(task.key, []).append((not fails, data))

    @rule(cut=st.integers(1, 40))
    def tear_the_end(self, cut: int) -> None:
        """Something that no line of ours is comes behind the last one, as a kill leaves it."""
        journal = self.path / "shard-0" / "journal.jsonl"
        if journal.exists():
            with journal.open("ab") as file:
                file.write(b'{"event":"ended","key":"0123456789abcdef'[:cut])
            self.clean = False

    @rule()
    def move(self) -> None:
        if self.path.exists():
            os.rename(self.path, self.place / "moved")
            os.rename(self.place / "moved", self.path)

    @invariant()
    def is_what_was_stored(self) -> None:
        if not (hasattr(self, "path") and (self.path / "batch.json").exists()):
            return
        files = set()
        with Batch.open(self.path) as batch:
            found = {}
            for record in batch:
                if record.attempts:
                    attempts = [(a.status == "done", a) for a in record.attempts]
                    numbers = [a.number for a in record.attempts]
                    assert numbers == list(range(1, len(numbers) + 1))  # I5
                    known = self.known[record.key]
                    assert [ok for ok, _ in attempts] == [ok for ok, _ in known]
                    for (_, attempt), (_, data) in zip(attempts, known, strict=True):
                        if attempt.kept:
                            assert attempt.output().read() == data  # I1, I3
                            places = attempt.places
                            files |= {p.name for p in places if isinstance(p, Filed)}
                    assert record.output().read() == known[-1][1]
                    assert record.status == ("done" if known[-1][0] else "failed")
                    found[record.key] = True
            assert found.keys() == self.known.keys()
            status = batch.status()
            assert status["done"] + status["failed"] == len(self.known)  # I6
            if self.clean:
                assert batch.verify() == []
        if self.clean:
            there = {
                str(path.relative_to(self.path / "shard-0" / "files"))
                for path in self.path.glob("shard-0/files/*/*")
            }
            assert there == files  # I4

    def teardown(self) -> None:
        with contextlib.suppress(AttributeError):
            shutil.rmtree(self.place)


def kill(writing: BatchWriter) -> None:
    """Let go of everything that the kernel lets go of when a process is killed."""
    writing._lock.drop()
    writing._writing.keeper.close()
    writing.directory.close()


def test_any_sequence_keeps_the_invariants() -> None:
    few = settings(max_examples=10, stateful_step_count=8)
    run_state_machine_as_test(BatchMachine, settings=few)


@pytest.mark.slow
def test_many_long_sequences_keep_the_invariants() -> None:
    many = settings(max_examples=60, stateful_step_count=25)
    run_state_machine_as_test(BatchMachine, settings=many)


@pytest.mark.campaign
def test_very_many_sequences_keep_the_invariants() -> None:
    run_state_machine_as_test(BatchMachine, settings=settings(stateful_step_count=40))
