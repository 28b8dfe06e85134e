"""The names under which outputs of commands are saved.

Runs in:    any process; pure.
Invariants: I1  no input leads out of the directory that the template names.
"""

import os
from typing import final

from collector.batch.command.template import Finder, Inputs, filled
from collector.batch.names import directory_of, name_below


@final
class SaveName:
    """A file name with the replacement strings of the command.

    Args:
        text: For example "out/{/.}.txt".
        finder: Knows the replacement strings.

    Raises:
        ValueError: It names no file, or the same one for each job.
    """

    def __init__(self, text: str, finder: Finder) -> None:
        self.text = text
        self._parts = finder.parts(text)
        if not text or text.endswith("/"):
            raise ValueError(f"{text!r} names no file")
        if not finder.within(text):
            raise ValueError(f"{text!r} names one file for all jobs: write out/{{/.}}.txt")
        fixed = self._parts[0] if isinstance(self._parts[0], str) else ""
        self._directory = directory_of(fixed)

    def name(self, inputs: Inputs) -> str:
        """Return the name of one job's file.

        Raises:
            ValueError: It leads out of the template's directory, or names no file.
        """
        found = filled(self._parts, inputs)
        if "\0" in found or os.path.basename(found) in {"", os.curdir, os.pardir}:
            raise ValueError(f"{found!r}, of --save {self.text!r}, names no file")
        below = name_below(self._directory, found)
        if below is None:
            raise ValueError(
                f"{found!r}, of --save {self.text!r}, leads out of the template's directory "
                f"{self._directory or os.curdir!r}"
            )
        return below
