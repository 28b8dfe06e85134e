"""Hold one sealed output and let it be read, saved and passed on like a file.

Runs in:    any process; every method may be called from any thread.
Owns:       the bytes, or one file in a run directory, or nothing once the file is its user's.
States:     IN MEMORY -> SPILLED (`__fspath__`) -> SAVED (`save`), each -> CLOSED; any later one
            directly too.
Invariants: I1  what is read is exact and complete, or OutputLostError says why not.
            I2  no descriptor is held between reads.
            I3  `on_close` is called once, when the output lets go of the bytes or of its file in
                the run directory, and only in the process that made the output.
            I4  a saved file is its user's: it is never removed.
"""

import collections.abc
import contextlib
import io
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self, TypeVar, final, overload

from collector import interpreter
from collector.closable import Closable
from collector.errors import ClosedError, OutputLostError
from collector.settings import READ_BLOCK_BYTES
from collector.store.output.progress import Mode
from collector.store.output.reader import iterate_lines
from collector.store.output.save import Openable, moved_to, save_as, send_to, target_of
from collector.store.output.sealed import (
    NOTHING,
    Closed,
    Held,
    OpenState,
    Saved,
    SealedState,
    Spilled,
    spill_blocks,
)
from collector.store.output.spill_file import SpillFile, identity_of
from collector.store.output.unopened import Unopened, refuse_index, refuse_mode, refuse_part
from collector.store.rundir.directory import RunDirectory

_T = TypeVar("_T")
_Target = TypeVar("_Target", bound=Openable)


@final
class Output(Unopened, Closable):
    r"""The bytes of a finished output, in memory or in a file.

    It stays readable as long as it is held; its file goes with `close`, with the last reference to
    it, or with the process. It is true even if it is empty: ask `size`. Iterating gives the bytes
    in blocks of at most 1 MiB; `list(output)` asks `len` how many blocks to expect and reserves
    memory for as many as there are bytes, so use `read` instead.

    An output is a path too: `pandas.read_csv(output)` and `["wc", "-c", output]` work, also of one
    in memory, which goes to a file then. Keep the output as long as somebody reads by that path.

    Guarantees:
        What is read is exact. If somebody else removed, truncated or replaced the file, the read
        raises `OutputLostError`; it is never short. What is open already goes on if only the name
        is gone.

    Example:
        >>> def lines(count):
        ...     yield from (f"line {number}\n" for number in range(count))
        >>> with Collector(max_workers=1) as collector:
        ...     output = collector.submit(lines, 2).output()
        >>> output.size, output.read(), list(output.lines())
        (14, b'line 0\nline 1\n', ['line 0', 'line 1'])
        >>> output.save("two.txt", overwrite=True).name
        'two.txt'
    """

    __slots__ = (
        "__weakref__",
        "_chunks",
        "_complete",
        "_lock",
        "_mode",
        "_on_close",
        "_place",
        "_size",
        "_temp_root",
    )

    def __init__(
        self,
        place: SealedState,
        *,
        size: int,
        chunks: int,
        complete: bool,
        temp_root: str | os.PathLike[str] | None,
        on_close: Callable[[], None] | None,
    ) -> None:
        self._place = place
        self._size = size
        self._chunks = chunks
        self._complete = complete
        self._mode = Mode.MEMORY if isinstance(place, Held) else Mode.STREAMING
        self._temp_root = temp_root
        self._lock = threading.RLock()
        self._on_close = (
            None if on_close is None else weakref.finalize(self, _at_home, on_close, os.getpid())
        )

    @classmethod
    def in_memory(
        cls,
        data: bytes | bytearray,
        *,
        chunks: int,
        complete: bool = True,
        temp_root: str | os.PathLike[str] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> Self:
        """Make an output of bytes, which must not change any more.

        Args:
            data: The bytes; they are not copied.
            chunks: In how many chunks they came.
            complete: False for what a failed job left.
            temp_root: Where to make a file if a path is asked for.
            on_close: Called once when the bytes are let go of; possibly by the garbage collector in
                any thread, so it must take no lock.
        """
        return cls(
            Held(data) if data else NOTHING,
            size=len(data),
            chunks=chunks,
            complete=complete,
            temp_root=temp_root,
            on_close=on_close,
        )

    @classmethod
    def on_disk(  # noqa: PLR0913 - a file, and what is known of it
        cls,
        directory: RunDirectory,
        name: str,
        *,
        size: int,
        chunks: int,
        complete: bool = True,
        on_close: Callable[[], None] | None = None,
        may_grow: bool = False,
    ) -> Self:
        """Take over a sealed file of a run directory; it is removed with the output.

        Args:
            directory: Where it lies; it is retained as long.
            name: Its name there.
            size: Bytes that were written to it.
            chunks: As `in_memory`.
            complete: As `in_memory`.
            on_close: As `in_memory`.
            may_grow: Somebody may append to the file: only its first `size` bytes are the output.
        """
        return cls(
            Spilled(SpillFile(directory, name), size, may_grow=may_grow),
            size=size,
            chunks=chunks,
            complete=complete,
            temp_root=None,
            on_close=on_close,
        )

    @classmethod
    def from_file(
        cls,
        file: SpillFile,
        *,
        size: int,
        chunks: int,
        complete: bool = True,
        on_close: Callable[[], None] | None = None,
    ) -> Self:
        """Take over a sealed file of this process; otherwise as `on_disk`."""
        return cls(
            Spilled(file, size),
            size=size,
            chunks=chunks,
            complete=complete,
            temp_root=None,
            on_close=on_close,
        )

    @property
    def size(self) -> int:
        """Bytes; known also when it is closed, as are `chunks`, `complete` and `mode`."""
        return self._size

    @property
    def chunks(self) -> int:
        """In how many chunks it was written, empty ones too."""
        return self._chunks

    @property
    def complete(self) -> bool:
        """False for what a job had written that failed later."""
        return self._complete

    @property
    def mode(self) -> Mode:
        """How it was collected; asking for a path or saving the output does not change it."""
        refuse_mode()
        return self._mode

    @property
    def path(self) -> Path | None:
        """Its file; None as long as it is in memory.

        Raises:
            ClosedError: After `close`.
        """
        return self._open_place().path

    def read(self, size: int | None = None, /) -> bytes:
        """Return all bytes, as often as it is called; bytes in memory are not copied.

        Raises:
            TypeError: A size was given, or `codecs` reads, piece by piece: use `open()`.
            ClosedError: After `close`; so with all that follow.
            OutputLostError: The file is not what it was; so with all that follow.
        """
        refuse_part(size)
        place = self._open_place()
        if isinstance(place, Held) and isinstance(place.data, bytes):
            return place.data
        with self.open() as reader:
            return reader.read(self._size)

    def text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        r"""Return all of it as text; line ends stay as they are.

        Raises:
            UnicodeDecodeError: It is no text in that encoding; `errors="replace"` reads it anyway.
        """
        return self.read().decode(encoding, errors)

    def open(self) -> io.BufferedReader:
        """Open it for reading; any number of readers may be open at once, each with its position.

        A reader passes for a file opened with "rb". It has a `fileno` also if the output is in
        memory, or a log that what the job left behind may still print to: asked for it, the reader
        makes a copy without a name.
        """
        return self._where_it_is(lambda place: place.reader())

    def lines(self, encoding: str = "utf-8", errors: str = "strict") -> Iterator[str]:
        r"""Iterate over its lines, without their ends (`\n` or `\r\n`), reading as it goes.

        Raises:
            UnicodeDecodeError: As `text`, when reading comes to it, which is some lines ahead.
        """
        return iterate_lines(self.open(), encoding, errors)

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[bytes]:
            """Iterate over the bytes in blocks of at most 1 MiB."""

    else:
        # In place of __iter__: whatever has both `read` and `__iter__` is to pandas an open file,
        # and it would ask for neither the path nor for `open`.
        def __getitem__(self, index: int) -> bytes:
            if not isinstance(index, int) or index < 0:
                refuse_index()
            start = index * READ_BLOCK_BYTES
            if not 0 <= start < self._size:
                raise IndexError(index)
            with self.open() as reader:
                reader.seek(start)
                return reader.read(min(READ_BLOCK_BYTES, self._size - start))

    @overload
    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path: ...
    @overload
    def save(self, path: _Target, *, overwrite: bool = False) -> _Target: ...
    def save(
        self, path: str | os.PathLike[str] | Openable, *, overwrite: bool = False
    ) -> Path | Openable:
        """Put it under a name of yours; from then on the output reads from there.

        The first time, an output on disk is renamed if the target lies on the same file system.
        Otherwise, and every further time, it is copied aside and gets its name when it is whole.
        What was in memory is let go of. The file has the group, the mode and the ACL of a new file
        of yours in that directory, and is never removed by us.

        Args:
            path: Missing directories are made. Anything else that has `open("wb")` is written to;
                it need not be atomic then, and the output goes on reading from where it was.
            overwrite: Replace the file or the symbolic link that has that name; a link is not
                followed, and stays if it leads to a device or the like, as /dev/stdout does.

        Returns:
            The absolute path; or what was given, if that is no path.

        Raises:
            FileExistsError: The name is taken, and not `overwrite`; the output is as it was. With
                `overwrite` too, if a FIFO, a socket or a device has it, or a link to one.
            IsADirectoryError: A directory has it, or it ends like a directory's, with a slash.
            SpillError: The disk is full or the like; nothing is left there.
            OSError: As it came from the system; it names `path`.
            ValueError: An empty path.
        """
        if not isinstance(path, str | os.PathLike):
            if not isinstance(path, Openable):
                raise TypeError(f"save() takes a path or what has open('wb'), not {path!r}")
            with self.open() as reader:
                send_to(reader, path, overwrite=overwrite)
            return path
        target = target_of(path)
        publish(self, target, overwrite=overwrite, sync=True)
        return Path(target)

    def view(self) -> memoryview:
        """Show all bytes without a copy: those held in memory, or a read-only mapping of the file.

        The view lives on after `close`. If somebody truncates the file while it is mapped, touching
        the lost part ends the process with SIGBUS, as with every mapping.
        """
        return self._where_it_is(lambda place: place.view())

    def close(self) -> None:
        """Let go of the bytes or remove the file, unless it was saved; any number of times."""
        with self._alone():
            if not isinstance(self._place, Closed):
                self._leave(self._place, Closed())

    def __bytes__(self) -> bytes:
        return self.read()

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True

    def __fspath__(self) -> str:
        """Return the path of its file; of an output in memory, write one first.

        Raises:
            ClosedError: After `close`.
            SpillError: The file cannot be written.
            OutputLostError: The file is not what it was.
        """
        with self._alone():
            place = self._open_place()
            if isinstance(place, Held) or (isinstance(place, Spilled) and place.may_grow):
                # A file that may grow is copied: whoever reads by path reads to its end.
                if isinstance(place, Held):
                    spilled = spill_blocks([place.data], self._size, self._temp_root)
                else:
                    root = place.path.parent.parent
                    spilled = spill_blocks(iter(self), self._size, root)
                self._leave(place, spilled)
                return str(spilled.path)
            os.close(place.open())
            return str(place.path)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Output cannot be pickled; pass os.fspath(output) or output.read() instead"
        )

    def __repr__(self) -> str:
        place = self._place
        where = "closed" if isinstance(place, Closed) else str(place.path or "in memory")
        incomplete = "" if self._complete else ", incomplete"
        return f"<Output of {self._size} bytes, {where}{incomplete}>"

    def _open_place(self) -> OpenState:
        place = self._place
        if isinstance(place, Closed):
            raise ClosedError("this output is closed; read or save it before close()")
        return place

    def _where_it_is(self, use: Callable[[OpenState], _T]) -> _T:
        """Use the place, or the next one if another thread is just saving the output there."""
        with contextlib.suppress(OutputLostError):
            return use(self._open_place())
        with self._alone():
            return use(self._open_place())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads from moving the output meanwhile."""
        _locked.append(self)
        try:
            with self._lock:
                yield
        finally:
            _locked.remove(self)

    def _leave(self, place: SealedState, new: SealedState) -> None:
        """Go on at `new`, and let go of what is held at `place`."""
        self._place = new
        if isinstance(place, Spilled):
            place.file.remove()
        if self._on_close is not None:
            self._on_close()


_locked: Final[list[Output]] = []  # held or waited for, once for each thread


@interpreter.in_forked_child
def _unlock_all() -> None:
    for output in _locked:  # a forked child waits for no thread of its parent
        output._lock = threading.RLock()  # noqa: SLF001 - of this module


def publish(
    output: Output,
    path: str,
    *,
    overwrite: bool,
    mode: int = 0o666,
    sync: bool = False,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Do what `Output.save` does, with another mode, and without waiting for the disk.

    Args:
        output: From then on it reads from there.
        path: Absolute.
        overwrite: As `Output.save`.
        mode: Of the file, less the umask.
        sync: Have what must be copied on the disk before it gets its name.
        ready: As of `save_as`.

    Raises:
        OSError: As `Output.save`.
    """
    with output._alone():  # noqa: SLF001 - of this module, as all here
        place = output._open_place()  # noqa: SLF001
        try:
            saved = save_as(place, path, overwrite=overwrite, mode=mode, sync=sync, ready=ready)
            output._leave(place, saved)  # noqa: SLF001
        except BaseException:  # perhaps of a signal handler, when the file had its name
            moved = moved_to(place, path)
            if moved is not None:
                output._leave(place, moved)  # noqa: SLF001
            raise


def saved_output(path: str, size: int, *, complete: bool) -> Output:
    """Return an output that lies in a file which is not ours to remove.

    Raises:
        OutputLostError: The file is not there, or has another size.
        OSError: As it came from the system.
    """
    place = Saved(path, (), size, None)
    fd = place.open()
    try:
        place.identity = identity_of(fd)
    finally:
        os.close(fd)
    return Output(place, size=size, chunks=1, complete=complete, temp_root=None, on_close=None)


def _at_home(on_close: Callable[[], None], pid: int) -> None:
    if os.getpid() == pid:
        on_close()


collections.abc.Iterable.register(Output)
