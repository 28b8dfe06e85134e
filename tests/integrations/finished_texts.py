"""What the tests of finished texts look at: outputs to begin with, files that are left."""

from pathlib import Path

from collector import Output, SpillManager
from collector.settings import MIB


def manager_of(data: bytes, memory_threshold: int = 5 * MIB) -> SpillManager:
    manager = SpillManager(memory_threshold=memory_threshold)
    manager.write(data)
    return manager


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def kept(error: BaseException) -> bytes:
    output = error.output  # type: ignore[attr-defined] # set by finalize_processing
    assert isinstance(output, Output)
    with output:
        return output.read()
