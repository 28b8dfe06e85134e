"""Say what a chunk is, and show any chunk as plain bytes."""

Chunk = bytes | bytearray | memoryview | str
"""What can be written to an output; a memoryview must be C-contiguous, a str is taken as UTF-8."""

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes: `len` is their number."""


def chunk_buffer(chunk: Chunk) -> Buffer:
    """Show a chunk as a contiguous buffer of bytes; only a str is copied.

    Raises:
        TypeError: It is no chunk, or a memoryview that is not C-contiguous.
        UnicodeEncodeError: A str with lone surrogates.
    """
    match chunk:
        case bytes() | bytearray():
            return chunk
        case str():
            return chunk.encode()
        case memoryview():
            return _plain(chunk)
        case _:
            raise _refusal(chunk)


def _plain(view: memoryview) -> Buffer:
    if not view.c_contiguous:
        raise TypeError(
            "a memoryview must be C-contiguous to be written; write bytes(view) instead"
        )
    return view.cast("B") if view.nbytes else b""  # a shape with a 0 in it cannot be cast


def _refusal(chunk: object) -> TypeError:
    return TypeError(
        "a chunk must be bytes, bytearray, a C-contiguous memoryview or str, "
        f"not {type(chunk).__name__}"
    )
