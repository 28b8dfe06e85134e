"""Print what jobs have written: whole blocks, to stdout and stderr.

Runs in:    the parent, in the main thread.
Owns:       nothing: both streams are the program's.
Invariants: I1  a block is never mixed with another one: one thread writes them, each to its end.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import Final, final

from collector.escapes import escaped
from collector.store.output.output import Output

STDOUT: Final = 1
STDERR: Final = 2


class ClosedStdoutError(Exception):
    """Nobody reads stdout any more, as behind `| head`."""


class PrintError(Exception):
    """Stdout takes no more, for another reason: a full disk behind it, for example."""


@final
class Printer:
    """Writes blocks.

    Args:
        tagged: Whether each line begins with the tag of its job and a tab.
    """

    def __init__(self, *, tagged: bool) -> None:
        self._tagged = tagged
        self._stderr_is_gone = False

    def out(self, pieces: Iterable[bytes], tag: str) -> None:
        """Write a block to stdout.

        Raises:
            ClosedStdoutError: Nobody reads it.
            PrintError: It takes no more.
            OutputLostError: What is to be printed is not there any more.
        """
        for piece in self._with_tags(pieces, tag):
            try:
                write_whole(STDOUT, piece)
            except BrokenPipeError as error:
                raise ClosedStdoutError from error
            except OSError as error:
                raise PrintError(f"cannot write to stdout: {error.strerror}") from error

    def err(self, pieces: Iterable[bytes], tag: str) -> bool:
        """Write a block to stderr; False if something there refuses it, as a full disk does.

        Whoever closed it does not want to know.
        """
        if self._stderr_is_gone:
            return True
        for piece in self._with_tags(pieces, tag):
            try:
                write_whole(STDERR, piece)
            except OSError as error:
                self._stderr_is_gone = True
                return error.errno in {errno.EPIPE, errno.EBADF}
        return True

    def _with_tags(self, pieces: Iterable[bytes], tag: str) -> Iterable[bytes]:
        return tagged(pieces, bytes_of(tag) + b"\t") if self._tagged else pieces


def tagged(pieces: Iterable[bytes], tag: bytes) -> Iterable[bytes]:
    """Put a tag before each line, where a line may come in several pieces."""
    begins = True
    for piece in pieces:
        if not piece:
            continue
        head = tag if begins else b""
        begins = piece.endswith(b"\n")
        body = piece[:-1] if begins else piece
        yield head + body.replace(b"\n", b"\n" + tag) + (b"\n" if begins else b"")


def pieces_of(output: Output) -> Iterable[bytes]:
    """Return the bytes of an output, in pieces."""
    return output if output.path is not None else (output.read(),)


def say(text: str) -> None:
    """Say something on stderr, beside what is shown; whoever closed it does not want to know."""
    with contextlib.suppress(OSError):
        write_whole(STDERR, f"collector: {escaped(text)}\n".encode())


def bytes_of(text: str) -> bytes:
    """Return a text as it was among the arguments; as UTF-8 what this locale has no letter for."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(errors="surrogateescape")


def write_whole(fd: int, data: bytes) -> None:
    """Write all of it, also to a descriptor that somebody has made non-blocking.

    Raises:
        OSError: It does not take it.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait_for_room(fd)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise


def _wait_for_room(fd: int) -> None:
    import select  # noqa: PLC0415 - nearly no descriptor is like that

    select.select([], [fd], [])
