"""What of a job's prints is kept as its log.

Runs in:    any process; pure.
"""

import enum
from typing import final


@final
class Capture(enum.IntEnum):
    """The first two are what `capture=` says."""

    NOTHING = 0
    PRINTS = 1
    """What it and its subprocesses print, on stdout and stderr."""
    STDERR = 2
    """What they print on stderr; what they print on stdout is output."""
    BY_ITSELF = 3
    """What the function that runs the job gives to `CurrentJob.log`."""
