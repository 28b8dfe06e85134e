"""Have a remote file deleted even if the process that uploaded it is killed.

Runs in:    two processes. `Keeper` is used by the one that uploads; it runs this file as a program
            of its own, which waits until the first is done or dead.
Owns:       one child in a session of its own: who kills a worker's process group, as Ctrl-C in a
            batch does, leaves it alive. It ends within seconds of the uploader's end. What is left
            to be deleted then is done by a child of that one, for which nobody waits.
Invariants: I1  the program imports nothing of collector or the SDK: 0.1 s to start, 15 MiB.
            I2  the key goes through the pipe only, never through arguments, files or messages.
"""

import contextlib
import errno
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final, final

_PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Before each try: a file may come to be a little after its uploader died, see `main`."""

_ANSWER_S: Final = 20.0
"""So long the service may take to answer."""

_failures: Final = contextlib.suppress(OSError, http.client.HTTPException)

_DONE: Final = b"done\n"
_LEFT: Final = b"left\n"
"""The last word of an uploader that lives. The end of its pipe may not come for long: a process
that it has forked meanwhile has the pipe, too."""


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
            import certifi  # the SDK brings it; the program itself has none (I1)

            python = _python()
            self._program = subprocess.Popen(  # noqa: S603 - this interpreter, this file
                [python, "-I", "-S", __file__],
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
    """Return what this file is run by.

    Raises:
        OSError: There is no Python: a frozen program would start itself once more.
    """
    from collector.process.start.bootstrap import check, executable  # noqa: PLC0415 - as I1 says

    if getattr(sys, "frozen", False):
        raise FileNotFoundError(errno.ENOENT, "a frozen program has no Python")
    check()
    return executable()


def main() -> None:
    """Wait for the end of the process at the other end of stdin, and do what it left undone."""
    lines = []
    for line in sys.stdin.buffer:  # until the other end is closed, by whatever, or the last word
        if line == _DONE:
            return
        if line == _LEFT:
            break
        lines.append(line)
    if len(lines) > 1:
        if os.fork():  # an uploader that is not dead waits for this one, and not for the service
            return
        order = json.loads(lines[0])
        left = [f"{order['address']}/files/{line.decode().strip()}" for line in lines[1:]]
        # Whatever goes wrong is tried again. "Not found", too: 1. the uploader sent the last piece,
        # 2. was killed, 3. and this came before the service had made a file of the pieces.
        for pause_s in _PAUSES_S:
            if left:
                time.sleep(pause_s)
            left = [url for url in left if not _deleted(url, order["headers"])]


def _deleted(url: str, headers: dict[str, str]) -> bool:
    request = urllib.request.Request(url, headers=headers, method="DELETE")  # noqa: S310 - the SDK's address
    with _failures, urllib.request.urlopen(request, timeout=_ANSWER_S):  # noqa: S310 - as above
        return True
    return False


if __name__ == "__main__":
    main()
