"""Open an image file, or raise ImageError with a code. Does not decode anything."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader

from tlkit.errors import ResourceError

IMAGE_ERROR_CODES = (
    "not_found",
    "permission_denied",
    "is_directory",
    "not_regular_file",
    "symlink_loop",
    "empty_file",
    "not_an_image",
    "unsupported_format",
    "unsupported_mode",
    "image_truncated",
    "image_corrupt",
    "image_too_large",
    "decode_timeout",
)

OPEN_ERRORS = {
    errno.ENOENT: ("not_found", "no such file"),
    errno.ENOTDIR: ("not_found", "no such file"),
    errno.ENAMETOOLONG: ("not_found", "no such file (the name is too long)"),
    errno.EACCES: ("permission_denied", "permission denied"),
    errno.EPERM: ("permission_denied", "permission denied"),
    errno.ELOOP: ("symlink_loop", "too many levels of symbolic links"),
    errno.ENXIO: ("not_regular_file", "not a regular file"),
}

PROCESS_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ImageError(Exception):
    """An unusable image. code: one of IMAGE_ERROR_CODES; message: text without the path."""

    def __init__(self, path: str, code: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.code = code
        self.message = message


def open_regular(path: str) -> BufferedReader:
    """Open a regular file for reading, without blocking on pipes. Raises ImageError."""
    if not path:
        raise ImageError(path, "not_found", "the path is empty")
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in PROCESS_ERRORS:
            raise ResourceError(path, f"cannot be opened: {error.strerror}") from error
        code, message = OPEN_ERRORS.get(error.errno or 0, ("not_found", f"cannot be opened: {error.strerror}"))
        if code == "not_found" and path.endswith("\r"):
            message += "; the name ends with a carriage return: for a list with Windows line ends, add --crlf"
        raise ImageError(path, code, message) from error
    except ValueError as error:
        raise ImageError(path, "not_found", "the path contains a NUL byte") from error
    with reading(path):
        status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(path, "is_directory", "is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "not_regular_file", "not a regular file")
    raise ImageError(path, "empty_file", "the file is empty")


def open_bytes(name: str, content: bytes) -> BufferedReader:
    """An open file of these bytes, which other processes can read too. Raises ImageError."""
    import tempfile  # not for decoder processes, which must start quickly

    if not content:
        raise ImageError(name, "empty_file", "the file is empty")
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return os.fdopen(os.dup(file.fileno()), "rb")


def file_digest(path: str, file: BufferedReader) -> bytes:
    """The SHA-256 of an open file, rewound to its start. Raises ImageError."""
    import hashlib  # not at module level: decoder processes must start fast

    with reading(path):
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
    return digest


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn read errors of the operating system (such as a failing drive) into ImageError."""
    try:
        yield
    except OSError as error:
        if not is_refusal(error):
            raise
        raise ImageError(path, "image_corrupt", f"cannot be read ({error.strerror})") from error


def is_refusal(error: Exception) -> bool:
    """Whether the operating system raised it. Pillow also raises OSError, without errno, for invalid images."""
    return isinstance(error, OSError) and error.errno is not None
