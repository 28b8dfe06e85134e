"""Say what a chunk is, and show any chunk as plain bytes."""

import contextlib
from pickle import PickleBuffer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    Chunk = ReadableBuffer | str
else:  # before Python 3.12 there is no type of all buffers that `typing.get_type_hints` could give
    Chunk = bytes | bytearray | memoryview | str
"""What can be written to an output: a C-contiguous buffer, or a str, which is taken as UTF-8."""

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes: `len` is their number."""


def chunk_buffer(chunk: Chunk) -> Buffer:
    """Show a chunk as a contiguous buffer of bytes; only a str, and what has no format, is copied.

    Raises:
        TypeError: It is no chunk, or a buffer that is not C-contiguous or holds Python objects.
        UnicodeEncodeError: A str with lone surrogates.
    """
    if type(chunk) is bytes or type(chunk) is bytearray:  # a subclass may have a len() of its own
        return chunk
    if isinstance(chunk, str):
        return str.encode(chunk)  # as above: an encode()
    try:
        view = memoryview(chunk)
    except TypeError:
        raise TypeError(
            f"a chunk must be bytes, another C-contiguous buffer or str, not {type(chunk).__name__}"
        ) from None
    except (BufferError, ValueError) as error:
        return _unformatted(chunk, error)
    # The names of its fields stand between colons: Open is none of these objects.
    if not view.c_contiguous or "O" in "".join(view.format.split(":")[::2]):
        raise _refusal(view, type(chunk).__name__)
    # As `view.cast("B")`, but for every format; a shape with a 0 in it is none for either.
    return PickleBuffer(view).raw() if view.nbytes else b""


def _unformatted(chunk: Chunk, error: Exception) -> bytes:
    """Return the bytes of a buffer that cannot tell its format: numpy has no format of times."""
    if not getattr(getattr(chunk, "dtype", None), "hasobject", False):  # as numpy's texts have
        with contextlib.suppress(TypeError):
            return b"".join((chunk,))  # type: ignore[arg-type]
    raise TypeError(
        f"the bytes of this {type(chunk).__name__} are not to be had ({error}); "
        "write a bytes object that is made of it instead"
    ) from error


def _refusal(view: memoryview, name: str) -> TypeError:
    if not view.c_contiguous:
        return TypeError(f"a {name} must be C-contiguous to be written; write bytes(view) instead")
    return TypeError(f"this {name} holds Python objects, not bytes; pickle it instead")
