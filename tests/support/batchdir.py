"""Batch directories that are written by hand, without a Collector."""

import pickle
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from collector.batch.directory import What
from collector.batch.lines import Error
from collector.batch.storing import Attempt
from collector.batch.writer import BatchWriter, Options
from collector.store.output.output import Output

COUNT: Final = 300


def writer(
    path: str | Path,
    *,
    what: str = "tests:job",
    source: str = "source",
    options: Options = Options(),  # noqa: B008 - nobody can change it
    inputs: int | None = None,
) -> BatchWriter:
    """Open a directory for a function."""
    return BatchWriter.open(path, What("function", what, source), options, inputs=inputs)


def command(path: str | Path, template: str) -> BatchWriter:
    """Open a directory for a command."""
    return BatchWriter.open(path, What("command", template))


def output(text: str, size: int = 20) -> bytes:
    """Return what the job of an input writes."""
    return (text.encode() * size)[:size]


def ended(data: bytes, log: bytes = b"", value: bytes = b"") -> Attempt:
    """Return an attempt that succeeded."""
    now = time.time()
    return Attempt(
        status="done",
        start=now,
        end=now,
        worker=1,
        output=Output.in_memory(data, chunks=1),
        log=Output.in_memory(log, chunks=1),
        value=value,
    )


def failed(data: bytes, status: str = "error") -> Attempt:
    """Return an attempt that failed."""
    attempt = ended(data)
    attempt.status = status
    attempt.error = Error("ValueError", "no good", "Traceback ...")
    return attempt


def run(
    path: str | Path,
    inputs: Iterable[str],
    *,
    sizes: Mapping[str, int] | None = None,
    source: str = "source",
    options: Options = Options(),  # noqa: B008 - nobody can change it
) -> list[str]:
    """Run a batch whose jobs write their input; return the inputs that were run."""
    done = []
    with writer(path, source=source, options=options) as writing:
        for text in inputs:
            task = writing.task(text, name=f"job-{text}")
            if task.runs:
                done.append(text)
                data = output(text, (sizes or {}).get(text, 20))
                log = f"log of {text}".encode()
                writing.store(task, ended(data, log, pickle.dumps(text.upper())))
                writing.flush()
    return done


def journal(path: Path) -> Path:
    """Return the path of the journal."""
    return path / "shard-0" / "journal.jsonl"
