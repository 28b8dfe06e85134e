"""Which files a Gemini model takes: there, not empty, not too large, of a type that it understands.

Source:     types and sizes of the service's documentation. The table of types is our own where
            Python's depends on files of the machine (`mimetypes.knownfiles`).
"""

import mimetypes
import os
import stat
from dataclasses import dataclass
from typing import Final

from collector.integrations.gemini.errors import (
    GeminiFileEmptyError,
    GeminiFileMissingError,
    GeminiFileTooLargeError,
    GeminiFileTypeError,
)
from collector.settings import GEMINI_FILE_BYTES, MIB

_TYPES: Final = {
    ".aac": "audio/aac",
    ".aiff": "audio/aiff",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mp3",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".3gp": "video/3gpp",
    ".avi": "video/avi",
    ".flv": "video/x-flv",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/mov",
    ".mp4": "video/mp4",
    ".mpeg": "video/mpeg",
    ".mpg": "video/mpg",
    ".webm": "video/webm",
    ".wmv": "video/wmv",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".webp": "image/webp",
    ".md": "text/md",
}
_FAMILIES: Final = ("audio/", "video/", "image/", "text/")
_DOCUMENTS: Final = ("application/pdf", "application/json", "application/rtf")


@dataclass(frozen=True, slots=True)
class Media:
    """A file that the service will take.

    Attributes:
        path: Its path.
        size: Its size in bytes when it was looked at.
        mime_type: Its type.
    """

    path: str
    size: int
    mime_type: str


def check_media(file_path: str | os.PathLike[str]) -> Media:
    """Look at a media file before anything is sent.

    Raises:
        GeminiFileMissingError: It does not exist, or is no regular file.
        GeminiFileEmptyError: It has no bytes.
        GeminiFileTooLargeError: It has more than 2 GiB.
        GeminiFileTypeError: Its name does not tell a type that the models understand.
        OSError: It cannot be looked at.
    """
    path = os.fspath(file_path)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GeminiFileMissingError(f"there is no file {path}", path) from error
    if not stat.S_ISREG(status.st_mode):
        raise GeminiFileMissingError(f"{path} is not a file", path)
    if status.st_size == 0:
        raise GeminiFileEmptyError(f"{path} is empty", path)
    if status.st_size > GEMINI_FILE_BYTES:
        message = (
            f"{path} has {status.st_size:,} bytes; Gemini takes at most "
            f"{GEMINI_FILE_BYTES // MIB:,} MiB: cut or re-encode it"
        )
        raise GeminiFileTooLargeError(message, path)
    return Media(path, status.st_size, _mime_type(path))


def _mime_type(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    known, packed = mimetypes.guess_type(path)
    found = _TYPES.get(ending) or (known if packed is None else None)  # a model unpacks nothing
    if found is None or not (found.startswith(_FAMILIES) or found in _DOCUMENTS):
        message = (
            f"{path}: {ending or 'a name without an ending'} tells no type that Gemini "
            "understands; it takes audio, video, images, text and PDF"
        )
        raise GeminiFileTypeError(message, path)
    return found
