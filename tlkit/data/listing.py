"""List image files and subfolders, each once, also with symbolic links."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tlkit.data.formats import ACCEPTED, NOT_ACCEPTED, SIGNATURE_BYTES, image_format
from tlkit.errors import MissingInputError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def require_folder(folder: str) -> None:
    """Raises MissingInputError unless a folder can be listed."""
    try:
        os.scandir(folder).close()
    except NotADirectoryError:
        raise MissingInputError(folder, "is a file; expected a folder of images") from None
    except OSError as error:
        raise MissingInputError(folder, f"cannot be read: {error.strerror}") from error


def subfolders(folder: str) -> list[str]:
    """Names of subfolders in byte order, without hidden ones."""
    return [entry.name for entry in entries_of(folder) if is_folder(entry)]


def is_hidden(name: str) -> bool:
    """Whether a name is never data: .git, .ipynb_checkpoints, ._x.jpg, Thumbs.db."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def find_images(folder: str, *, root: str | None = None, deep: bool = True) -> Iterator[str]:
    """Yield image files below a folder in byte order: each real file once, without hidden ones.

    Images are recognized by suffix, or else by their first bytes. Symbolic links are followed if they lead out of
    `root` (default: the folder); targets inside are found at their own path, in their own class. For a folder that
    cannot be listed, its own path is yielded, so that the error is reported when images are opened.
    """
    home = os.path.realpath(root or folder)
    seen = {identity(os.stat(home)), identity(os.stat(folder))}

    def walk() -> Iterator[str]:
        # A list instead of recursion: folders can be nested more deeply than Python allows calls to be.
        waiting: list[tuple[str, os.DirEntry[str] | None, bool]] = [(folder, None, False)]
        while waiting:
            path, entry, by_link = waiting.pop()
            if entry is None:  # a folder to list
                try:
                    waiting += [(below.path, below, by_link) for below in reversed(entries_of(path))]
                except MissingInputError:
                    yield path
                continue
            if entry.is_symlink() and has_own_place(path, home):
                continue
            linked = by_link or entry.is_symlink()
            if is_folder(entry):
                if deep and is_new(entry):
                    waiting.append((path, None, linked))
            elif looks_like_image(entry) and (not linked or is_new(entry)):
                yield path

    def is_new(entry: os.DirEntry[str]) -> bool:
        try:
            found = identity(entry.stat())
        except OSError:  # a broken link is reported when images are opened
            return True
        new = found not in seen
        seen.add(found)
        return new

    return walk()


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """Entries of a folder in byte order, without hidden ones. Raises MissingInputError."""
    try:
        with os.scandir(folder) as listing:
            return sorted((e for e in listing if not is_hidden(e.name)), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise MissingInputError(folder, f"cannot be read: {error.strerror}") from error


def identity(status: os.stat_result) -> tuple[int, int]:
    """Device and inode, which identify a file regardless of its path."""
    return status.st_dev, status.st_ino


def has_own_place(link: str, home: str) -> bool:
    """Whether a link leads to a path below `home` (a real path) that is listed anyway."""
    if not os.path.exists(link):  # also a chain of links that is too long, for which realpath would fail
        return False
    target = os.path.realpath(link)
    inside = os.path.join(home, "")
    if target != home and not target.startswith(inside):
        return False
    return not any(map(is_hidden, target.removeprefix(inside).split(os.sep)))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; False for circular links."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def looks_like_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is an image by its suffix or its first bytes."""
    if entry.name.lower().endswith(SUFFIXES):
        return True
    try:
        if not entry.is_file():
            return False
        with open(entry.path, "rb") as file:
            # Unsupported formats count too, so that a HEIC photo is reported and not silently ignored.
            return image_format(file.read(SIGNATURE_BYTES), ACCEPTED + NOT_ACCEPTED) is not None
    except OSError:
        return False
