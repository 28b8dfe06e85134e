"""Have a remote file deleted even if the process that uploaded it is killed.

Runs in:    the process that uploads.
Owns:       one child in a session of its own, which runs `deletion.py`: who kills a worker's
            process group, as Ctrl-C in a batch does, leaves it alive. It ends within seconds of
            the uploader's end.
Invariants: I1  the key goes through the pipe only, never through arguments, files or messages.
"""

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, final

from collector.process.start.bootstrap import check, executable

_PROGRAM: Final = os.path.join(os.path.dirname(__file__), "deletion.py")

_DONE: Final = b"done\n"
_LEFT: Final = b"left\n"
"""The last words that `deletion.py` knows."""


@final
class Keeper:
    """Watches over remote files from the time before they are uploaded."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        """Prepare to watch; the program starts with the first file.

        Args:
            address: URL of the service with its version; `<address>/files/<name>` is a file.
            headers: What a request needs, the key among them.
        """
        self._order = json.dumps({"address": address, "headers": dict(headers)}).encode() + b"\n"
        self._program: subprocess.Popen[bytes] | None = None

    def watch(self, name: str) -> None:
        """Have this file deleted, too, if this process dies before `dismiss`."""
        # No process, or no Python, is to be had: the service forgets in 48 hours.
        with contextlib.suppress(OSError):
            self._tell(name.encode() + b"\n")

    def dismiss(self, *, done: bool) -> None:
        """Let the program go.

        Args:
            done: Everything that was to be deleted is; otherwise it does that now, by itself.
        """
        if self._program is None:
            return
        with contextlib.suppress(OSError):  # somebody killed it
            self._program.communicate(_DONE if done else _LEFT)
        self._program = None

    def _tell(self, line: bytes) -> None:
        if self._program is None:
            import certifi  # the SDK brings it; the program itself has none

            python = _python()
            self._program = subprocess.Popen(  # noqa: S603 - this interpreter, our file
                [python, "-I", "-S", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"SSL_CERT_FILE": certifi.where(), **os.environ},
                start_new_session=True,
            )
            line = self._order + line
        assert self._program.stdin is not None
        self._program.stdin.write(line)
        self._program.stdin.flush()


def _python() -> str:
    """Return what the program is run by.

    Raises:
        OSError: There is no Python: a frozen program would start itself once more.
    """
    if getattr(sys, "frozen", False):
        raise FileNotFoundError(errno.ENOENT, "a frozen program has no Python")
    check()
    return executable()
