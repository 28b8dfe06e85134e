r"""GNU parallel's log of jobs: a tab-separated file of nine columns, for other tools.

Runs in:    the parent.
Owns:       the file.
Invariants: I1  one line a job, whatever its inputs hold: what would end a line or a column is
                escaped, as `\n`, `\t`, `\r`, `\0` and `\\`. Each is whole, also on a full disk.
"""

import os
from typing import Final, NamedTuple, final

from collector.batch.command.printing import bytes_of
from collector.progress.outlet import cut_short, open_anew

_HEAD: Final = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"})


class Entry(NamedTuple):
    """One job that has ended."""

    seq: int
    start: float
    """Seconds since 1970."""
    seconds: float
    received: int
    exitcode: int
    signal: int
    command: str


@final
class JobLog:
    """Writes the file anew.

    Raises:
        OSError: It cannot be written; so `add`.
    """

    def __init__(self, path: str) -> None:
        self._fd = open_anew(path)
        try:
            self._write(_HEAD)
        except OSError as error:
            self.close()
            raise OSError(error.errno, error.strerror, path) from None

    def add(self, entry: Entry) -> None:
        """Add a line, in one write."""
        self._write(
            f"{entry.seq}\t:\t{entry.start:.3f}\t{entry.seconds:10.3f}\t0\t{entry.received}\t"
            f"{entry.exitcode}\t{entry.signal}\t{entry.command.translate(_ESCAPES)}\n"
        )

    def close(self) -> None:
        """Close the file; any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, text: str) -> None:
        data = bytes_of(text)
        size = len(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            cut_short(self._fd, size - len(data))
            raise
