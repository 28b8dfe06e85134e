"""The loggers that this package writes to itself: whatever handlers do, whoever logs goes on.

A handler or a filter of the user's may raise, and `logging` lets that pass to whoever logs. Here
that may be the thread that ends all jobs, or a `SpillManager` in the midst of a step.

Runs in:    any process, any thread.
Invariants: I1  only in the main thread, and only what is no `Exception`, passes to whoever logs: a
                Ctrl-C, or a program that ends itself.
            I2  no name and no reason in a record steers a terminal: without a handler of the user's
                that is where it goes.
"""

import contextlib
import logging
import os
import sys
import threading
import traceback
from typing import Any, final

from collector.escapes import escaped


@final
class PackageLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that tells of a handler which raises on stderr, as `logging.Handler` does.

    Args:
        name: Of the logger.
    """

    def __init__(self, name: str = "collector") -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """See `logging.Logger.log`."""
        try:
            super().log(level, msg, *map(_told, args), stacklevel=2, **kwargs)
        except BaseException as error:
            # A handler of the user's: that it raised is told, and whoever logs goes on.
            ends = not isinstance(error, Exception)
            if ends and threading.current_thread() is threading.main_thread():
                raise
            if logging.raiseExceptions and sys.stderr is not None:
                with contextlib.suppress(Exception):  # it is closed, or an object of the user's
                    sys.stderr.write(f"--- Logging error ---\n{traceback.format_exc()}")


def _told(fact: object) -> object:
    """Return what a record is to hold of a name or a reason, which others have chosen."""
    if not isinstance(fact, str | os.PathLike | OSError):
        return fact
    text = str(fact)
    return fact if text.isprintable() else escaped(text)
