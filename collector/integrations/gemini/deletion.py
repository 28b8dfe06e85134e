"""Delete the remote files that a process has left which uploaded them: the program of `keeper`.

Runs in:    a process of its own, which waits until the uploader is done or dead. What is left to be
            deleted then is done by a child of it, for which nobody waits.
Invariants: I1  it imports nothing of collector or the SDK, and nothing at all that is not needed to
            wait: 0.01 s to start. Nearly every uploader deletes its files itself.
            I2  the key comes through the pipe, and goes nowhere but to the service.
"""

import os
import sys

_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Before each try: a file may come to be a little after its uploader died, see `_delete`."""

_ANSWER_S = 20.0
"""So long the service may take to answer."""

_DONE = b"done\n"
_LEFT = b"left\n"
"""The last word of an uploader that lives. The end of its pipe may not come for long: a process
that it has forked meanwhile has the pipe, too."""


def main() -> None:
    """Wait for the end of the process at the other end of stdin, and do what it left undone."""
    lines = []
    for line in sys.stdin.buffer:  # until the other end is closed, by whatever, or the last word
        if line == _DONE:
            return
        if line == _LEFT:
            break
        lines.append(line)
    # An uploader that is not dead waits for this process, and not for the service.
    if len(lines) > 1 and not os.fork():
        _delete(lines[0], [line.decode().strip() for line in lines[1:]])


def _delete(order_line: bytes, names: list[str]) -> None:
    """Delete these files, whatever goes wrong at the first try.

    "Not found" is tried again, too: 1. the uploader sent the last piece, 2. was killed, 3. and this
    came before the service had made a file of the pieces.
    """
    import json  # noqa: PLC0415 - as I1 says
    import time  # noqa: PLC0415

    order = json.loads(order_line)
    left = [f"{order['address']}/files/{name}" for name in names]
    for pause_s in _PAUSES_S:
        if left:
            time.sleep(pause_s)
        left = [url for url in left if not _deleted(url, order["headers"])]


def _deleted(url: str, headers: dict[str, str]) -> bool:
    import http.client  # noqa: PLC0415 - as I1 says
    import urllib.error  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    request = urllib.request.Request(url, headers=headers, method="DELETE")  # noqa: S310 - the SDK's address
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S):  # noqa: S310 - as above
            return True
    except (OSError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    main()
