"""How the sink begins: what it is told, and what its process runs.

The parent has this alone: the rest of the sink is loaded by the server, while the parent loads what
is its own.

Runs in:    `main` in the sink.
"""

import pickle
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from collector.wire.messages import Farewell

MODULE = "collector.process.sink.main"
"""The rest of the sink, which whatever forks it loads beforehand."""


class SinkArguments(NamedTuple):
    """What the sink is told when it starts."""

    run_directory: str
    run_identity: str
    temp_file_base_name: str
    memory_budget: int
    elsewhere_bytes: int
    farewell: Farewell
    entry: str = ""
    """What names the run directory in the default root, to be removed with it; or nothing."""


def main(descriptors: Sequence[int], arguments: bytes) -> None:
    """Run the sink.

    Args:
        descriptors: The socket to the parent, and the parent's life.
        arguments: A pickled `SinkArguments`.
    """
    import_module(MODULE).run(descriptors, pickle.loads(arguments))
