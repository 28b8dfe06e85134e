"""How the commands print: tables, readable numbers, and a reader who goes away early."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, TextIO

from collector.escapes import escaped

DONE: Final = 0
NOT_DONE: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


def print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print columns of equal width, with what could steer a terminal escaped."""
    lines = [head, *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def printable(text: str) -> str:
    """Escape what could steer a terminal: control characters, and bytes that are no UTF-8."""
    return escaped(text)


def explained(error: Exception) -> str:
    """Say an error without its number."""
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}"
    return str(error)


def known(fact: object) -> str:
    """Say what is known, or that it is not."""
    return "?" if fact is None else str(fact)


def age(age_s: float) -> str:
    """Say an age in its largest unit of which there are two."""
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"


def size(size: int) -> str:
    """Say a number of bytes with its unit."""
    scaled = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < 1024:  # noqa: PLR2004 - the step between units
            return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1024
    return f"{scaled:.1f} TiB"


@contextlib.contextmanager
def printing(failed: int = NOT_DONE) -> Iterator[None]:
    """Print a report, whose reader may go away early: that changes nothing of what was done.

    Args:
        failed: The exit status if stdout takes it not for another reason.
    """
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        turn_off(sys.stdout)  # `collector ls | head`: nobody reads on
    except OSError as error:
        turn_off(sys.stdout)
        complain(f"cannot print: {error.strerror}")
        raise SystemExit(failed) from error


def stdout_bytes() -> BinaryIO:
    """Return stdout for bytes.

    Raises:
        OSError: It was closed before we began.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return sys.stdout.buffer


def complain(text: str) -> None:
    """Say on stderr what is not as it should be; whoever closed it does not want to know."""
    if sys.stderr is None:  # print() would take stdout then
        return
    with contextlib.suppress(OSError):
        print(f"collector: {text}", file=sys.stderr)
    flush_stderr()


def flush_stderr() -> None:
    """Have nothing left that Python would write to stderr when it leaves, and fail to."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        turn_off(sys.stderr)


def turn_off(stream: TextIO | None) -> None:
    """Write no more to a stream that fails: Python must not say so again when it leaves."""
    if stream is None:
        return
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
