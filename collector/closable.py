"""What is closed at the end of a `with` block."""

from abc import abstractmethod
from typing import Self


class Closable:
    """Something with a `close`, which the end of a `with` block calls."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held; any number of times."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
