"""What the workers of the batch tests run."""

import os
from pathlib import Path

from collector.integrations.gemini import GeminiStatus


def leave_pid(directory: Path, status: GeminiStatus) -> None:
    """A status callback that tells which process generates."""
    if status.stage == "generating":
        (directory / str(os.getpid())).touch()
