"""What stays below a batch that is over: a summary, a digest of failures, and what to run next.

Runs in:    anywhere: values in, texts out.
"""

from dataclasses import dataclass
from typing import Final, final

from collector import settings
from collector.escapes import escaped
from collector.progress.ends import Ended, Level
from collector.progress.line_texts import (
    end_text,
    for_workflow,
    group_texts,
    line_text,
    said_text,
    seconds_text,
    summary_text,
    tail_texts,
)
from collector.progress.tally import Kept, LeftOut, Tally
from collector.progress.text import size_text


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How lines are written.

    Attributes:
        columns: How wide a line may be; None for as wide as it is.
        colour: Whether a status has a colour.
        folds: Whether it is GitHub Actions that reads: failures are folded, and nothing that a job
            has printed is a command of its.
    """

    columns: int | None = None
    colour: bool = False
    folds: bool = False


_KINDS: Final = (("flaky", Level.RETRY), ("slow", Level.SLOW), ("passed", Level.PASS))


def closing_texts(
    tally: Tally,
    total: int | None,
    elapsed_s: float,
    level: Level,
    missing: str | None,
    style: Style,
) -> list[str]:
    """Return the lines at the end of a batch.

    Args:
        tally: What has come of it.
        total: How many jobs there should have been; None if nobody knows.
        elapsed_s: How long it took.
        level: How much is said; nothing at `NONE`.
        missing: The command that runs what failed or never ran; None if nothing is missing.
        style: How.
    """
    if level is Level.NONE:
        return []
    texts = [summary_text(tally.counts(total), elapsed_s, tally.bytes_total)]
    failed = tally.kept["failed"]
    for ended in failed.first:
        texts += digest_texts(ended, style)
    texts += _further(failed, "failed", style)
    for kind, needed in _KINDS:
        if level.has(needed):
            kept = tally.kept[kind]
            texts += [_end_or_slow(kind, ended, style) for ended in kept.first]
            texts += _further(kept, kind, style)
    if missing is not None:
        texts.append(f"To run what is missing: {escaped(missing)}")
    return texts


def digest_texts(ended: Ended, style: Style) -> list[str]:
    """Return what is told of a job that failed: its line, and the end of what it said."""
    first, tail = end_text(ended, None, colour=style.colour), _tail(ended, style)
    if not style.folds:
        return [first, *tail]
    return group_texts(first.strip(), tail) if tail else [for_workflow(first)]


def _tail(ended: Ended, style: Style) -> list[str]:
    texts = tail_texts(ended.tail, settings.DIGEST_LINES)
    return [for_workflow(text) for text in texts] if style.folds else texts


def _end_or_slow(kind: str, ended: Ended, style: Style) -> str:
    if kind != "slow":
        return end_text(ended, style.columns, colour=style.colour)
    facts = (seconds_text(ended.seconds), size_text(ended.size_bytes))
    return line_text("SLOW", facts, (ended.name, ""), style.columns, colour=style.colour)


def _further(kept: Kept, what: str, style: Style) -> list[str]:
    more = kept.count - len(kept.first)
    return [said_text(LeftOut(more, what), style.columns)] if more else []
