"""A variable of the environment that is another for each job, and takes no memory for it.

Runs in:    the worker.
Owns:       the memory in which its variables lie, as long as the process lives.
Source:     setenv(3) of glibc keeps each text that a variable ever had, 63 bytes of "COLLECTOR_SEQ"
            for each job; putenv(3) takes the memory that it is given.
"""

import ctypes
import os
from typing import Any, final


@final
class Variable:
    """A variable that only we set.

    Args:
        name: Its name.
        most: Bytes of the longest text that it will have.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name.encode()
        self._memory = ctypes.create_string_buffer(len(self._name) + 1 + most + 1)
        # The environment leads there until the very end, when Python has freed what it had.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._memory))
        self._put = ctypes.CDLL(None).putenv

    def set(self, text: str) -> None:
        """Let it have this text, for Python, for C, and for every process that is started."""
        value = text.encode()
        self._memory.value = b"%b=%b" % (self._name, value)
        self._put(self._memory)
        known: Any = os.environ
        known._data[self._name] = value  # noqa: SLF001 - os.environ[name] would call setenv
