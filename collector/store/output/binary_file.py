"""What all binary files of ours that take chunks have in common.

Runs in:    any process.
Source:     `io.BufferedIOBase`, which pandas, xml.etree and others ask for by `isinstance`; what it
            says of a file without positions: to read, to seek and to truncate are
            `io.UnsupportedOperation`.
"""

import io
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn, Self

from collector.store.output.chunk import Chunk

_ONLY_GROWS: Final = (
    "it grows at its end, like a pipe; write to a file or an io.BytesIO first, and then that to it"
)


if TYPE_CHECKING:

    class _Base(io.BufferedIOBase, BinaryIO):
        pass

else:
    _Base = io.BufferedIOBase


class BinaryFile(_Base):
    """A binary file that is open for writing at its end, and for nothing else.

    It stands for a text stream too, as `sys.stdout` for example: a str is written as UTF-8, and
    `buffer` is the file itself.
    """

    __slots__ = ()

    mode: Final = "wb"
    encoding: Final = "utf-8"
    errors: Final = "strict"

    @abstractmethod
    def write(self, chunk: Chunk) -> int:
        """Take a chunk; returns the number of its bytes."""

    @property
    def buffer(self) -> Self:
        """The file itself, for those who take it for a text stream and have bytes to write."""
        return self

    def writelines(self, lines: Iterable[Chunk], /) -> None:
        """Write each of them; no line ends are added."""
        for line in lines:
            self.write(line)

    def writable(self) -> bool:
        """Whether it can be written to, as long as it is not closed: yes."""
        return True

    def seek(self, *_where: int) -> NoReturn:
        """Raise: what was written stays as it is.

        Raises:
            UnsupportedOperation: Always; it is an OSError and a ValueError.
        """
        raise io.UnsupportedOperation(f"an output cannot seek: {_ONLY_GROWS}")

    def truncate(self, _size: int | None = None, /) -> NoReturn:
        """Raise, as `seek`."""
        raise io.UnsupportedOperation(f"an output cannot be truncated: {_ONLY_GROWS}")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied: what is written to the copy "
            "would be lost; let the other process return its bytes, and write them here"
        )

    def close(self) -> None:
        """Flush, and end nothing: code that is given a file to write to may close it."""
        if not self.closed:
            self.flush()
