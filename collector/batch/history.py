"""All that the journals of a batch tell: a table of its jobs, and their attempts when asked for.

Runs in:    any process that reads or writes a batch.
Owns:       the open shards.
Invariants: I1  an attempt is read from its line, and no line is believed that belongs to another
                job.
"""

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, final

from collector.batch import lines
from collector.batch.directory import BatchDirectory, refused
from collector.batch.lines import Ended, Saved
from collector.batch.scan import Findings, Scan, missing_of
from collector.batch.shard import JOURNAL_NAME, Shard
from collector.batch.states import State
from collector.batch.table import Line, Table
from collector.errors import BatchError

_KEPT: Final = 50
"""Of so many shards descriptors are held: each has one of its directory, its journal, its packs."""


@final
class History:
    """The journals of all shards, read.

    Args:
        directory: The batch's.

    Raises:
        BatchError: A shard cannot be read.
    """

    def __init__(self, directory: BatchDirectory) -> None:
        self.table = Table()
        self.findings = Findings()
        self.shards: list[Shard] = []
        self._directory = directory
        self._base: BatchDirectory | None = None
        """The directory once more, if not all shards hold descriptors."""
        self.ends: dict[str, int] = {}
        """Where the last whole line of each journal ended when it was read."""
        self._looking = threading.Lock()
        self._looked: dict[str, int] = {}
        """How far each journal was looked through since."""
        self._later: dict[str, Line] = {}
        """Attempts that were found there, of those that have succeeded."""
        self._savers: dict[int, Line] = {}
        """Lines of outputs that have names of the user's, by the hash of the name."""
        self._savers_end: dict[str, int] = {}
        """How far each journal was looked through for them."""
        self._spent: Mapping[str, Mapping[str, float]] | None = None
        try:
            for name in directory.shards():
                self._read(self._open(name))
            self._fail_what_was_run_again()
            self._lose_what_was_replaced()
        except BaseException:
            self.close()
            raise

    def _open(self, name: str) -> Shard:
        keeps = len(self.shards) < _KEPT
        if not keeps and self._base is None:  # it is needed when the writer has closed its own
            self._base = self._directory.again()
        return Shard(self._base or self._directory, name, keeps=keeps)

    def _read(self, shard: Shard) -> None:
        self.shards.append(shard)
        self.ends[shard.name] = 0
        with contextlib.suppress(FileNotFoundError), shard.opened(JOURNAL_NAME) as fd:
            try:
                journal = open(os.dup(fd), "rb", buffering=1 << 20)  # noqa: SIM115 - closed below
            except OSError as error:
                raise refused(error, shard.path) from error
            with journal:
                scan = Scan(self.table, self.findings)
                end = scan.read(len(self.shards) - 1, shard.name, journal, shard)
            self.ends[shard.name] = end

    def _fail_what_was_run_again(self) -> None:
        """Take a job for failed whose success in another shard a later attempt was to replace."""
        for row, line in self.table.doubts():
            chain = self._chain(line)
            if self.table.line(row) in [self._line_of(ended.before) for _, ended in chain]:
                shard, ended = chain[0]
                self.table.ended(
                    row,
                    line,
                    ended.attempt,
                    succeeded=False,
                    size=ended.out.size if ended.out else 0,
                    lost=bool(missing_of(ended, shard)),
                    run=0,
                    is_last=True,
                )

    def _lose_what_was_replaced(self) -> None:
        """Take a result for none whose file another process was replacing when it ended."""
        for key in self.findings.saving:
            row = self.table.find(key)
            done = row is not None and self.table.state(row) is State.DONE
            if row is not None and done and self.missing(row):
                self.table.lose(row)

    def close(self) -> None:
        """Let go of all descriptors; any number of times."""
        for shard in self.shards:
            shard.close()
        if self._base is not None:
            self._base.close()

    def attempt(self, row: int) -> tuple[Shard, Ended] | None:
        """Return the last attempt of a job that has ended, with the shard that it lies in."""
        where = self.table.line(row)
        return None if where is None else self._at(where, None)

    def attempts(self, row: int) -> list[tuple[Shard, Ended]]:
        """Return all attempts of a job that have ended, the last one first."""
        return self._chain(self.table.line(row))

    def _chain(self, where: Line | None) -> list[tuple[Shard, Ended]]:
        """Return an attempt and those before it."""
        found: list[tuple[Shard, Ended]] = []
        while where is not None:
            later = found[-1][1] if found else None
            one = self._at(where, later.key if later else None)
            if one is None or (later and one[1].attempt >= later.attempt):
                break  # a line of another job, or a chain that goes round in a circle
            found.append(one)
            where = self._line_of(one[1].before)
        return found

    def kept(self, row: int) -> list[tuple[Shard, Ended, bool]]:
        """Return all attempts, the last one first, and whether the outputs of each are kept.

        Those of attempts before one that succeeded are not, unless that one says so; and none is
        whose file a later attempt has replaced, or was about to.
        """
        found: list[tuple[Shard, Ended, bool]] = []
        keeps = True
        replaced: set[str] = set()
        for shard, ended in self.attempts(row):
            begun = None if found else self.begun(ended.key, ended.attempt)
            if begun is not None:
                replaced.add(begun.path)
            saved = {ended.out.path} if isinstance(ended.out, Saved) else set()
            found.append((shard, ended, keeps and not saved & replaced))
            replaced |= saved
            keeps = keeps and (ended.status != "done" or ended.keeps)
        return found

    def begun(self, key: str, attempt: int) -> lines.Saving | None:
        """Return the file of the user's that a later attempt of a job was about to write.

        Args:
            key: Of the job.
            attempt: Its last one that has ended, or 0.
        """
        found = self.findings.saving.get(key)
        return found if found is not None and found.attempt > attempt else None

    def missing(self, row: int) -> str:
        """Say what is not there of a job's result; "" if all is."""
        found = self.attempt(row)
        return "" if found is None else self.missing_of(*found)

    def missing_of(self, shard: Shard, ended: Ended) -> str:
        """Say what is not there of the last attempt of a job, or of one that is kept."""
        begun = self.begun(ended.key, ended.attempt)
        if begun is not None and isinstance(ended.out, Saved) and ended.out.path == begun.path:
            who = f"attempt {begun.attempt} was replacing {begun.path} when its process ended"
            return f"its output: {who}"
        return missing_of(ended, shard)

    def events(
        self, shard: Shard, end: int | None = None, word: bytes = b""
    ) -> Iterator[lines.Event]:
        """Read the events of a shard again, without lines that are none.

        Args:
            shard: One of this batch.
            end: Where to stop; None for the end of its journal of now.
            word: Lines without it are passed over, which takes a fraction of reading them.
        """
        for line in shard.lines(0, end):
            try:
                event = lines.decode(line) if word in line else None
            except ValueError:
                continue  # it was told of when the journal was read first
            if event is not None:
                yield event

    def saved_as(self, path: str) -> Ended | lines.Saving | None:
        """Return an attempt whose output has that name of the user's, as the journals have it now.

        Many are asked for where a directory has all names: each journal is read once for all. One
        that is about to have that name, or was when its process ended, counts, too.
        """
        self._know_shards()
        for number, shard in enumerate(self.shards):
            at = self._savers_end.setdefault(shard.name, 0)
            for line in shard.lines(at):
                if not line.endswith(b"\n"):
                    break
                with contextlib.suppress(ValueError):
                    event = lines.decode(line) if b'"sav' in line else None
                    name = None if event is None else name_of(event)
                    if name is not None:
                        self._savers[hash(name)] = Line(number, at)
                at += len(line)
            self._savers_end[shard.name] = at
        where = self._savers.get(hash(path))
        found = None if where is None else self._event(where)
        if found is None or name_of(found) != path:
            return None
        assert isinstance(found, Ended | lines.Saving)
        return found

    def _know_shards(self) -> None:
        """Know of shards that others have begun since, of which nothing was read."""
        known = {shard.name for shard in self.shards}
        with contextlib.suppress(BatchError):
            for name in self._directory.shards():
                if name not in known:
                    self.ends[name] = 0
                    self.shards.append(self._open(name))

    def spent(self, key: str) -> Mapping[str, float]:
        """Return what attempts of a job have counted whose end no line tells, in earlier runs."""
        if self._spent is None:
            found: dict[str, Counter[str]] = {}
            for shard in self.shards if self.findings.has_spent else []:
                for event in self.events(shard, self.ends[shard.name], b"spent"):
                    if isinstance(event, lines.Spent):
                        found.setdefault(event.key, Counter()).update(event.meters)
            self._spent = found
        return self._spent.get(key, {})

    def replaced_by(self, key: str, attempt: int) -> tuple[Shard, Ended] | None:
        """Return a later attempt that has succeeded since the journals were read, if there is one.

        Args:
            key: Of the job.
            attempt: The last one that was known then.
        """
        with self._looking:
            for number, shard in enumerate(self.shards):
                at = self._looked.setdefault(shard.name, self.ends[shard.name])
                for line in shard.lines(at):
                    if not line.endswith(b"\n"):
                        break
                    with contextlib.suppress(ValueError):
                        event = lines.decode(line)
                        if isinstance(event, Ended) and event.status == "done":
                            self._later[event.key] = Line(number, at)
                    at += len(line)
                self._looked[shard.name] = at
            where = self._later.get(key)
        found = None if where is None else self._at(where, key)
        return found if found is not None and found[1].attempt > attempt else None

    def _at(self, where: Line, key: str | None) -> tuple[Shard, Ended] | None:
        event = self._event(where)
        if not isinstance(event, Ended) or key not in {None, event.key}:
            return None
        return self.shards[where.shard], event

    def _event(self, where: Line) -> lines.Event | None:
        line = self.shards[where.shard].line(where.at)
        try:
            return lines.decode(line)
        except ValueError:
            return None

    def _line_of(self, before: lines.Where | None) -> Line | None:
        if before is not None:
            for number, shard in enumerate(self.shards):
                if shard.name == before.shard:
                    return Line(number, before.at)
        return None


def name_of(event: lines.Event) -> str | None:
    """Return the name of the user's that an output has, or is about to have."""
    if isinstance(event, lines.Saving):
        return event.path
    out = event.out if isinstance(event, Ended) else None
    return out.path if isinstance(out, Saved) else None
