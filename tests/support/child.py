"""Do something in a forked child that this process could not undo: be another user, be confined."""

import os
import pickle
import signal
from collections.abc import Callable
from typing import TypeVar

from tests.support.processend import end_of_process

_T = TypeVar("_T")


def in_child(work: Callable[[], _T]) -> _T:
    """Call `work` in a forked child, which then ends; return or raise what it does there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would have it wait on
            signal.alarm(120)
            os.close(reading)
            with os.fdopen(writing, "wb") as file:
                pickle.dump(_outcome(work), file)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    returned, raised = pickle.loads(data)
    if raised is not None:
        raise raised
    value: _T = returned
    return value


def _outcome(work: Callable[[], _T]) -> tuple[_T | None, BaseException | None]:
    try:
        value = work()
        end_of_process()
    except BaseException as error:  # noqa: BLE001 - handed over, and raised there
        return None, error
    return value, None
