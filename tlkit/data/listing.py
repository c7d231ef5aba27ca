"""What a folder holds: the image files and folders in it, each once, however links may run."""

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
    """Names of the folders in a folder, hidden ones left out, in byte order."""
    return [entry.name for entry in entries_of(folder) if is_folder(entry)]


def is_hidden(name: str) -> bool:
    """Names that are never meant as data: .git, .ipynb_checkpoints, ._x.jpg, Thumbs.db."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def find_images(folder: str, *, root: str | None = None, deep: bool = True) -> Iterator[str]:
    """Image files below a folder in byte order: each real file and each real folder once, hidden ones never.

    A file counts by its suffix, or else by its first bytes. Symbolic links are followed where they lead out of `root`
    (default: the folder): what lies inside is found in its own place, under its own class. A folder that cannot be
    listed is given itself, to be reported where images are opened.
    """
    home = os.path.realpath(root or folder)
    seen = {identity(os.stat(home)), identity(os.stat(folder))}

    def walk(current: str, by_link: bool) -> Iterator[str]:
        try:
            entries = entries_of(current)
        except MissingInputError:
            yield current
            return
        for entry in entries:
            if entry.is_symlink() and has_own_place(entry.path, home):
                continue
            linked = by_link or entry.is_symlink()
            if is_folder(entry):
                if deep and is_new(entry):
                    yield from walk(entry.path, linked)
            elif looks_like_image(entry) and (not linked or is_new(entry)):
                yield entry.path

    def is_new(entry: os.DirEntry[str]) -> bool:
        try:
            found = identity(entry.stat())
        except OSError:  # a link that leads nowhere is found, and reported, where images are opened
            return True
        new = found not in seen
        seen.add(found)
        return new

    return walk(folder, by_link=False)


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, hidden names left out, in byte order. Raises MissingInputError."""
    try:
        with os.scandir(folder) as listing:
            return sorted((e for e in listing if not is_hidden(e.name)), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise MissingInputError(folder, f"cannot be read: {error.strerror}") from error


def identity(status: os.stat_result) -> tuple[int, int]:
    """What tells one file or folder from all others, whatever its names."""
    return status.st_dev, status.st_ino


def has_own_place(link: str, home: str) -> bool:
    """Whether a link leads to what is found below `home` (a real path) anyway."""
    target = os.path.realpath(link)
    inside = os.path.join(home, "")
    if target != home and not target.startswith(inside):
        return False
    return os.path.exists(target) and not any(map(is_hidden, target.removeprefix(inside).split(os.sep)))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; links that lead in a circle are none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def looks_like_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is meant as an image: named like one, or beginning like one."""
    if entry.name.lower().endswith(SUFFIXES):
        return True
    try:
        if not entry.is_file():
            return False
        with open(entry.path, "rb") as file:
            # Formats that are not accepted count too: whoever put a HEIC photo there should hear why it is not used.
            return image_format(file.read(SIGNATURE_BYTES), ACCEPTED + NOT_ACCEPTED) is not None
    except OSError:
        return False
