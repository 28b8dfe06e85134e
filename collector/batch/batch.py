"""`Batch`: what a batch directory says, for whoever wants to read it.

Runs in:    any process, also while another one writes; it needs neither a lock nor the right to
            write.
Owns:       the descriptors of the directory.
Invariants: I1  nothing is changed.
            I2  what is told is what was there when it was opened, or later.
"""

import contextlib
import errno
import functools
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, final

from collector.batch import lines
from collector.batch.directory import BatchDirectory, BatchFacts
from collector.batch.history import History
from collector.batch.keeping import is_held
from collector.batch.keys import Keys, key_text
from collector.batch.names import Template
from collector.batch.record import (
    AttemptRecord,
    Record,
    record_of,
    record_with,
    why_of,
    with_output,
)
from collector.batch.states import State, resume_of
from collector.closable import Closable
from collector.errors import BatchError
from collector.store.output.output import Output

_FIRST_FAILURES = 10
_LOOKS = 3
"""So often problems are looked at again of a batch that is written."""


@final
class Batch(Closable):
    """A batch directory, open for reading: who is done, who failed and why, and every output.

    Iterating gives a record for each job, in the order of the inputs. It is a context manager:
    `close` lets go of its descriptors.

    Example:
        >>> from collector import Batch
        >>> with Collector(max_workers=1) as collector:
        ...     jobs = list(collector.collect(str.upper, ["a", "b"], batch="letters"))
        >>> with Batch.open("letters") as batch:
        ...     [(record.input, record.status, record.value()) for record in batch]
        [('a', 'done', 'A'), ('b', 'done', 'B')]
    """

    def __init__(self, directory: BatchDirectory, facts: BatchFacts, history: History) -> None:
        self._directory = directory
        self._facts = facts
        self._history = history
        self._trusted = directory.is_ours_alone()
        self._known_texts: dict[int, tuple[str, str, str]] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a batch directory; also one that another process writes to.

        Raises:
            BatchError: It is none, or cannot be read, or is of a newer version.
        """
        directory = BatchDirectory.open(path)
        try:
            facts = directory.facts()
            if facts is None:
                message = "this is no batch directory: it is empty"
                raise BatchError(errno.ENOENT, message, directory.path)  # noqa: TRY301
            return cls(directory, facts, History(directory))
        except BaseException:
            directory.close()
            raise

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self._directory.path)

    @property
    def runs(self) -> str:
        """What it runs: the name of a function, or the template of a command."""
        return self._facts.what.name

    @property
    def kind(self) -> str:
        """Whether that is a "function" or a "command"."""
        return self._facts.what.kind

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that were given with it, and change results."""
        return self._facts.what.options

    def status(self, failures: int = _FIRST_FAILURES) -> Mapping[str, Any]:
        """Sum the batch up.

        Args:
            failures: So many failures are told at most.

        Returns:
            `done`, `failed`, `interrupted` and `waiting` (numbers of jobs; the last one is the
            number of inputs of the last run less the others, so it is too small if inputs were
            removed or replaced), `bytes` (of the outputs of those that are done), `seconds` and
            `meters` (of all attempts together), and `failures`, each with `key`, `name`, `input`,
            `status` (of the attempt) and `error`.
        """
        table, findings = self._history.table, self._history.findings
        counts = {state.value: number for state, number in table.counts().items()}
        waiting = counts.pop(State.WAITING.value)
        unheard = (findings.inputs or 0) - sum(counts.values())
        told = counts | {State.WAITING.value: max(waiting, unheard)}
        return {
            "done": told["done"],
            "failed": told["failed"],
            "interrupted": told["interrupted"],
            "waiting": told["waiting"],
            "bytes": table.result_bytes(),
            "seconds": round(findings.seconds, 6),
            "meters": dict(findings.meters),
            "failures": list(self._failures(failures)) if told["failed"] else [],
        }

    def __iter__(self) -> Iterator[Record]:
        for row in self._history.table.in_order():
            yield self._record(row)

    def __len__(self) -> int:
        return len(self._history.table)

    def __bool__(self) -> bool:
        return True

    def find(self, key: str) -> Record | None:
        """Return the record of a key, if there is one."""
        try:
            row = self._history.table.find(key) if len(key) == len(f"{0:032}") else None
        except ValueError:  # no hexadecimal digits
            row = None
        return None if row is None else self._record(row)

    def why(self, value: object, *, resume: str = "failed") -> str:
        """Say in a sentence whether an input would run, and the reason.

        Args:
            value: The input, or what `key=` makes of it.
            resume: As in `collect`.

        Raises:
            TypeError: The input has no key text.
            ValueError: There is no such `resume`.
        """
        wanted = resume_of(resume)
        return why_of(self._history, Keys(self.runs).key(key_text(value)), wanted)

    def verify(self) -> list[str]:
        """Look for every byte that the journals promise; returns what is wrong, [] if nothing is.

        Bytes are counted, not compared. What a running process is replacing is looked for again.
        """
        problems = _problems(self._history, None)
        looks = _LOOKS if problems else 0
        while looks:
            with contextlib.closing(History(self._directory)) as now:
                written = _is_written(now)
                problems = _problems(now, problems, written=written)
            looks = looks - 1 if problems and written else 0
        return [problem for found in problems.values() for problem in found]

    def export(self, template: str, *, overwrite: bool = False) -> list[Path]:
        """Copy the output of each job that is done to a name of its own.

        Args:
            template: With the fields `input`, `key`, `seq` and `name`, as of `str.format`; `input`
                is the text of the input.
            overwrite: Replace what is there.

        Returns:
            The paths, in the order of the inputs.

        Raises:
            ValueError: It is no template.
            BatchError: Some could not be copied, and which; all others were.
        """
        saved, failures = [], []
        for record, outcome in self.exported(template, overwrite=overwrite):
            if isinstance(outcome, Path):
                saved.append(outcome)
            else:
                failures.append(f"{record.name or record.key} ({record.input}): {outcome}")
        if failures:
            count = "1 output" if len(failures) == 1 else f"{len(failures)} outputs"
            message = f"{count} could not be exported: {'; '.join(failures)}"
            raise BatchError(errno.EIO, message, self._directory.path)
        return saved

    def exported(
        self, template: str, *, overwrite: bool = False
    ) -> Iterator[tuple[Record, Path | Exception]]:
        """Do what `export` does, one by one; yields what came of each: a path, or the reason."""
        names = Template(template)
        first: dict[str, tuple[str, str]] = {}
        for record in self:
            if record.status != State.DONE.value:
                continue
            try:
                name = names.name(record.input, key=record.key, seq=record.seq, name=record.name)
                path = os.path.abspath(name)
                key, other = first.setdefault(path, (record.key, record.input))
                if key != record.key:
                    raise FileExistsError(errno.EEXIST, f"{other!r} has that name already", name)
                save = functools.partial(Output.save, path=path, overwrite=overwrite)
                yield record, with_output(record, save)
            except (OSError, ValueError) as error:
                yield record, error

    def close(self) -> None:
        """Let go of all descriptors; any number of times.

        Outputs that were asked for before stay readable; a record that is asked for one
        afterwards, or the batch for anything that lies in its files, raises `ClosedError`.
        """
        self._history.close()
        self._directory.close()

    def __repr__(self) -> str:
        return f"<Batch of {self.runs} in {self._directory.path}>"

    def _record(self, row: int) -> Record:
        table = self._history.table
        if table.line(row) is not None:
            return record_of(self._history, row, trusted=self._trusted)
        known = self._texts().get(row, ("", "", ""))
        return record_with(self._history, row, known, (), trusted=self._trusted)

    def _texts(self) -> dict[int, tuple[str, str, str]]:
        """Return key, name and input of the jobs of which no attempt has ended."""
        if self._known_texts is None:
            found: dict[int, tuple[str, str, str]] = {}
            for shard in self._history.shards:
                for event in self._history.events(shard):
                    if isinstance(event, lines.Started | lines.Position):
                        self._learn(found, event)
            self._known_texts = found  # whole: another thread may wait for it
        return self._known_texts

    def _learn(
        self, texts: dict[int, tuple[str, str, str]], event: lines.Started | lines.Position
    ) -> None:
        row = self._history.table.find(event.key)
        if row is not None and self._history.table.line(row) is None:
            _, name, text = texts.get(row, ("", "", ""))
            texts[row] = event.key, event.name or name, event.input or text

    def _failures(self, most: int) -> Iterator[Mapping[str, Any]]:
        table = self._history.table
        told = 0
        for row in table.in_order():
            found = self._history.attempt(row) if table.state(row) is State.FAILED else None
            if found is not None:
                told += 1
                if told > most:
                    return
                ended = found[1]
                yield {
                    "key": ended.key,
                    "name": ended.name,
                    "input": ended.input,
                    "status": ended.status,
                    "error": AttemptRecord(*found, kept=True).error,
                }


def _is_written(history: History) -> bool:
    """Tell whether a process writes into one of the shards."""
    left = history.findings.left
    return any(is_held(one) for n, one in enumerate(history.shards) if n not in left)


def _problems(
    history: History, among: Collection[str] | None, *, written: bool = False
) -> dict[str, list[str]]:
    """Say what is wrong, by the keys of the jobs; "" is the journals'.

    Args:
        history: Of the batch.
        among: Only of these jobs.
        written: A process writes: what it is about to replace is there until then.
    """
    table, findings = history.table, history.findings
    found = {"": [f"a line counts as not there: {line}" for line in findings.bad_lines]}
    if findings.bad > len(findings.bad_lines):
        found[""].append(f"so do {findings.bad - len(findings.bad_lines)} more lines")
    rows = table.in_order()
    if among is not None:
        rows = [row for key in among if key and (row := table.find(key)) is not None]
        rows.sort(key=table.seq)
    for row in rows:
        for number, (shard, ended, kept) in enumerate(history.kept(row)):
            about_to = written and history.begun(ended.key, ended.attempt) is not None
            looks = (kept or not number) and not about_to
            reason = history.missing_of(shard, ended) if looks else ""
            if reason:
                who = ended.name or ended.input
                found.setdefault(ended.key, []).append(
                    f"job {who} (key {ended.key}), attempt {ended.attempt}: {reason}"
                )
    return {key: problems for key, problems in found.items() if problems}
