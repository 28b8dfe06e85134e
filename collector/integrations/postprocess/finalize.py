"""Turn a collected output into a finished text file with a record beside it, in flat memory.

Runs in:    any process; usually the parent, for each job that `collect` hands over.
Invariants: I1  nothing is under the final names until both files are whole and on the disk.
            I2  the record is named last: where it is, the text that it describes is; also if two
                give their files one name.
            I3  memory held is a block of the source, or the longest line if there are transforms.
"""

import contextlib
import fcntl
import io
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from collector.errors import CollectorError, spill_error
from collector.integrations.on_status import StatusCallback
from collector.integrations.postprocess.text_record import TextCount, as_plain_json, record_bytes
from collector.settings import JOIN_BYTES, PUBLISH_LOOK_S, PUBLISH_WAIT_S
from collector.store.absolute import absolute_path
from collector.store.output.output import Output
from collector.store.output.publish import Publication
from collector.store.output.target import refuse_taken
from collector.store.spill import SpillManager

if TYPE_CHECKING:
    from collector.executor.job import Job

Transform = Callable[[Iterator[str]], Iterable[str]]
"""Takes an iterator of lines without their ends and gives another."""

_HOLD: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW
"""How a file is opened that is only to stay the same one."""

_SHOWN_CHARS: Final = 20
"""So much of a line is told before what is wrong with it."""

ProcessingStage = Literal["finalizing", "writing", "publishing", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class ProcessingStatus:
    """What `finalize_processing` is doing.

    Attributes:
        stage: `finalizing`, `writing`, `publishing`, `done`; else `failed` or `cancelled`.
        bytes_done: Bytes of the new text that have been written.
        bytes_total: Size of the collected output in bytes; at the end, of the new text. None while
            nobody knows.
        message: For people.
    """

    stage: ProcessingStage
    bytes_done: int = 0
    bytes_total: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProcessedResult:
    """A finished text, and what its record says.

    Attributes:
        output_path: The text.
        metadata_path: The record, `<output_path>.json`.
        source: The file that the text is about, as it was given.
        bytes: Size of the text in bytes.
        lines: Lines of the text; a last one without an end counts.
        words: Words of the text: runs of bytes between ASCII white space, as `wc -w` counts.
        sha256: Digest of the text, in hexadecimal.
        complete: False if the text is what a failed job left.
        base_result: What the caller gave.
    """

    output_path: Path
    metadata_path: Path
    source: str
    bytes: int
    lines: int
    words: int
    sha256: str
    complete: bool
    base_result: Any


def finalize_processing(  # noqa: PLR0913 - one keyword for each thing that a user may want
    base_result: Any,
    *,
    streaming_manager: "SpillManager | Output | Job[Any]",
    file_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str] | None = None,
    transforms: Sequence[Transform] = (),
    on_status: Callable[[ProcessingStatus], object] | None = None,
    overwrite: bool = False,
) -> ProcessedResult:
    """Write a collected output to its final place, transformed, with a record beside it.

    Args:
        base_result: What made the output (a dict, a dataclass, ...); goes into the record as JSON.
        streaming_manager: A `SpillManager`, which is finalized, an `Output`, or a finished `Job`.
        file_path: The file that the text is about.
        output_path: Where the text goes; by default `file_path` with the ending `.txt`. Missing
            parents are made.
        transforms: Functions from an iterator of lines (str, without their ends) to another, used
            from the first to the last. Without any the bytes are copied as they are; with some,
            every line ends with one line feed. Bytes that are not UTF-8 pass through unchanged.
        on_status: Called with each `ProcessingStatus`, at most ten times a second while bytes move.
            If it raises, that is logged once and hurts nothing.
        overwrite: Replace an older text and its record.

    Raises:
        FileExistsError: The text or its record is there already, and `overwrite` is False.
        TypeError: `streaming_manager` is text, `base_result` cannot be written as JSON, or a
            transform gives no lines, or one that is no text.
        ValueError: The text would replace `file_path`, or a line has half a character (a lone
            surrogate) that stands for no byte.
        SpillError: The disk refuses the text.
        Exception: Whatever a transform raises, as itself.
            After each of them the output that was collected is still readable; one that was taken
            out of a `SpillManager` is the attribute `output` of the exception, if it takes one. An
            exception that leaves a job leaves that behind.

    Guarantees:
        Under the final names there is nothing, or what was there before, until both files are
        whole; after an exception, a full disk and `kill -9`, too. The record is named last.
    """
    callback = StatusCallback(on_status)
    written = TextCount()
    collected: Output | None = None
    try:
        place = _FinalNames.choose(file_path, output_path, overwrite=overwrite)
        plain_result = as_plain_json(base_result)
        callback.tell(ProcessingStatus("finalizing"))
        collected = _collected(streaming_manager)
        with (
            _begun(place.text) as text,
            _begun(place.record) as record,
            contextlib.closing(_transformed(collected, transforms)) as blocks,
        ):
            for block in blocks:
                text.write(block)
                written.add(block)
                if callback.is_due("writing"):
                    callback.tell(ProcessingStatus("writing", written.bytes, collected.size))
            result = _result(base_result, place, written, complete=collected.complete)
            record.write(_record(result, plain_result))
            callback.tell(ProcessingStatus("publishing", written.bytes, written.bytes))
            _publish(text, record, overwrite=overwrite)
    except BaseException as error:
        if collected is not None and isinstance(streaming_manager, SpillManager):
            with contextlib.suppress(AttributeError):  # frozen, or with an `output` of its own
                error.output = collected  # type: ignore[attr-defined] # nothing is lost by a full disk
        how: ProcessingStage = "failed" if isinstance(error, Exception) else "cancelled"
        callback.tell(ProcessingStatus(how, written.bytes, None, str(error)))
        raise
    if isinstance(streaming_manager, SpillManager):
        collected.close()
    callback.tell(ProcessingStatus("done", written.bytes, written.bytes))
    return result


@dataclass(frozen=True, slots=True)
class _FinalNames:
    """The final names."""

    source: str
    text: Path
    record: Path

    @classmethod
    def choose(
        cls,
        file_path: str | os.PathLike[str],
        output_path: str | os.PathLike[str] | None,
        *,
        overwrite: bool,
    ) -> "_FinalNames":
        source = Path(file_path)
        text = source.with_suffix(".txt") if output_path is None else Path(output_path)
        place = cls(str(source), text, text.with_name(text.name + ".json"))
        if os.path.realpath(source) in {os.path.realpath(text), os.path.realpath(place.record)}:
            message = f"the text would replace {source} itself: give another output_path"
            raise ValueError(message)
        for path in (place.text, place.record):
            with contextlib.suppress(NotADirectoryError):  # said when the text is begun
                refuse_taken(absolute_path(path), overwrite=overwrite)
        return place


def _collected(source: "SpillManager | Output | Job[Any]") -> Output:
    if isinstance(source, SpillManager):
        return source.finalize()
    if isinstance(source, Output):
        return source
    output = getattr(source, "output", None)
    if callable(output):  # a Job; its class is not imported, for it brings the processes along
        found = output()
        if isinstance(found, Output):
            return found
    message = (
        "streaming_manager takes a SpillManager, an Output or a finished Job, "
        f"not {type(source).__name__}: the text itself stays out of memory"
    )
    raise TypeError(message)


def _begun(path: Path) -> Publication:
    try:
        return Publication(path)
    except CollectorError:
        raise
    except OSError as error:
        raise spill_error(error, absolute_path(path)) from error


def _transformed(output: Output, transforms: Sequence[Transform]) -> Generator[bytes, None, None]:
    """Give the new text in blocks."""
    if not transforms:
        yield from output
        return
    with io.TextIOWrapper(output.open(), "utf-8", "surrogateescape", newline="\n") as file:
        lines: Iterable[str] = (line.removesuffix("\r\n").removesuffix("\n") for line in file)
        for transform in transforms:
            lines = _lines_of(transform, iter(lines))
        block = bytearray()
        for number, line in enumerate(lines, 1):
            try:
                block += line.encode("utf-8", "surrogateescape") + b"\n"
            except UnicodeEncodeError as error:
                found = line[max(0, error.start - _SHOWN_CHARS) : error.end]
                message = f"line {number} that the transforms gave has half a character: {found!a}"
                raise ValueError(message) from error
            if len(block) >= JOIN_BYTES:
                yield bytes(block)
                block.clear()
        yield bytes(block)


def _lines_of(transform: Transform, before: Iterator[str]) -> Iterator[str]:
    """Use one transform, and see to it that it gives lines."""
    lines = transform(before)
    gave = f"the transform {getattr(transform, '__name__', repr(transform))} gave"
    if isinstance(lines, (str, bytes)) or not isinstance(lines, Iterable):
        raise TypeError(f"{gave} {type(lines).__name__}, not lines")
    for line in lines:
        if not isinstance(line, str):
            raise TypeError(f"{gave} a line that is {type(line).__name__}, not str")
        yield line


def _result(
    base_result: Any, place: _FinalNames, written: TextCount, *, complete: bool
) -> ProcessedResult:
    return ProcessedResult(
        output_path=place.text,
        metadata_path=place.record,
        source=place.source,
        bytes=written.bytes,
        lines=written.lines,
        words=written.words,
        sha256=written.sha256,
        complete=complete,
        base_result=base_result,
    )


def _record(result: ProcessedResult, plain_result: Any) -> bytes:
    return record_bytes(
        {
            "base_result": plain_result,
            "source": result.source,
            "output": str(result.output_path),
            "bytes": result.bytes,
            "lines": result.lines,
            "words": result.words,
            "sha256": result.sha256,
            "complete": result.complete,
        }
    )


def _publish(text: Publication, record: Publication, *, overwrite: bool) -> None:
    """Name both files, the record last (I1, I2)."""
    text.sync()
    record.sync()
    with _alone_in(os.path.dirname(text.path)):
        # The old record does not describe the new text, so it goes first, if the old text does.
        with record.old_set_aside() if overwrite else contextlib.nullcontext():
            identity = text.publish(overwrite=overwrite)
        held = os.open(text.path, _HOLD)  # no other file gets its number while it is open
        try:
            record.publish(overwrite=overwrite)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # somebody was faster
                found = os.lstat(text.path)
                if (found.st_dev, found.st_ino) == identity[:2]:  # else it is another's
                    os.unlink(text.path)
            raise
        finally:
            os.close(held)


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Let no other call of this module publish there meanwhile (I2), in any process.

    Where the directory cannot be locked, or somebody keeps it locked, it goes on without.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # it cannot be read
        yield
        return
    try:
        deadline = time.monotonic() + PUBLISH_WAIT_S
        while _is_taken(fd) and time.monotonic() < deadline:
            time.sleep(PUBLISH_LOOK_S)
        yield
    finally:
        with contextlib.suppress(OSError):  # it had no lock
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has this file, too
        os.close(fd)


def _is_taken(fd: int) -> bool:
    """Lock a directory; True if another has the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks on this file system
        return False
    return False
