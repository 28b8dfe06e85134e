"""Say where the bytes of an output are, and how far it has come."""

import enum
from pathlib import Path
from typing import NamedTuple, final


@final
class Mode(enum.StrEnum):
    """Where the bytes of an output are kept."""

    MEMORY = "memory"
    """In the memory of the process that collects it."""

    STREAMING = "streaming"
    """In a file of a run directory."""


@final
class Progress(NamedTuple):
    """How far an output has come.

    Attributes:
        mode: Where its bytes are.
        bytes_written: Bytes taken so far.
        chunks_processed: Writes so far, empty ones too.
        temp_file_path: The file in streaming mode, else None.
        threshold_exceeded: Whether so many bytes were taken that they do not stay in memory.
    """

    mode: Mode
    bytes_written: int
    chunks_processed: int
    temp_file_path: Path | None
    threshold_exceeded: bool
