"""The bytes that outputs may hold in memory together, and who goes to disk when they are used up.

Runs in:    the sink.
Owns:       nothing; it counts.
Invariants: I1  held + elsewhere <= limit after every `admit`, or the output that asked is no longer
                in memory.
Source:     the largest output spills first: it frees the most bytes for one file
            (docs/decisions/0006-budget.md).
"""

from typing import final

from collector.errors import SpillError
from collector.store.spill import SpillManager


@final
class Budget:
    """Counts what outputs hold in memory: those that grow here, and finished ones in the parent.

    Args:
        limit_bytes: The most that all may hold together.
        elsewhere_bytes: What the parent holds in memory already.
    """

    def __init__(self, limit_bytes: int, elsewhere_bytes: int = 0) -> None:
        self.limit_bytes = limit_bytes
        self.elsewhere_bytes = elsewhere_bytes
        self._members: set[SpillManager] = set()

    @property
    def held_bytes(self) -> int:
        """Bytes that growing outputs hold in memory."""
        return sum(member.held_bytes for member in self._members)

    def join(self, output: SpillManager) -> None:
        """Count an output from now on."""
        self._members.add(output)

    def leave(self, output: SpillManager) -> None:
        """Count it no longer; its bytes are gone, or counted elsewhere."""
        self._members.discard(output)

    def admit(self, output: SpillManager, more_bytes: int) -> None:
        """Make room for bytes that `output` is about to take; at worst it goes to disk itself.

        Raises:
            SpillError: There is no room in memory, and none on disk for `output`.
        """
        if more_bytes <= self.limit_bytes - self.elsewhere_bytes - self.held_bytes:
            return
        for victim in sorted(self._members, key=lambda member: -member.held_bytes):
            if victim is output or not victim.held_bytes:
                break
            try:
                victim.spill()
            except SpillError:
                break  # its bytes stay where they are; only the output that asks may fail for it
            if more_bytes <= self.limit_bytes - self.elsewhere_bytes - self.held_bytes:
                return
        output.spill()
