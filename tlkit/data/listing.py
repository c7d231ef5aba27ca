"""List image files and subfolders, each once, also with symbolic links; count what is left out."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tlkit.data import formats
from tlkit.errors import DataError, MissingInputError
from tlkit.terminal import count

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
            ".pbm", ".pnm", ".heic", ".heif", ".hif")  # fmt: skip

JUNK = re.compile(
    r"\..*"  # hidden: .git, .ipynb_checkpoints, ._photo.jpg, .DS_Store, .Trash-1000
    r"|(eh)?thumbs(_vista)?\.db|desktop\.ini|icon\r|__macosx|network trash folder|temporary items|resource\.frk"
    r"|\$recycle\.?bin|\$winreagent|(?-i:RECYCLER)|system volume information|found\.\d{3}|lost\+found|lost\.dir"
    r"|@eadir|@tmp|[#@]recycle|[#@]snapshot|~snapshot|@recently-snapshot|@sharebin|@transcode|@__thumb"  # NAS
    r"|__pycache__|node_modules|wandb|mlruns|lightning_logs|_gsdata_",  # tools
    re.IGNORECASE,
)
"""Names of files and folders that systems and programs leave behind."""

RUN_FOLDERS, RUN_FILES = ("checkpoints", "trials"), (".lock", "options.json", "search.json")
"""A folder of tlkit's own, a run or a search, has one of these folders and one of these files."""

SHOWN = 10
"""Number of kinds of files that the summary of left-out files lists."""


@dataclass
class LeftOut:
    """Counts of files that are not used.

    suffixes: files that are not images, by lower-case suffix ("" without one). folders: files in junk folders, by the
    folder's name. loose: images outside of the class folders.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    loose: int = 0

    def __str__(self) -> str:
        """12 files (.ppm), 24 in @eaDir; empty if nothing is left out"""
        parts = [f"{count(self.loose, 'image')} outside of the class folders"] if self.loose else []
        for suffix, number in sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0])):
            files = f"{number:,}" if self.suffixes and parts else count(number, "file")
            parts.append(f"{files} ({suffix or 'no suffix'})")
        for name, number in sorted(self.folders.items(), key=lambda item: (-item[1], item[0])):
            parts.append(f"{f'{number:,}' if parts else count(number, 'file')} in {name}")
        more = [f"{len(parts) - SHOWN:,} more kinds"] if len(parts) > SHOWN else []
        return ", ".join(parts[:SHOWN] + more)

    def update(self, other: LeftOut) -> None:
        """Add the counts of another folder."""
        self.suffixes.update(other.suffixes)
        self.folders.update(other.folders)
        self.loose += other.loose

    def add(self, entry: os.DirEntry[str]) -> None:
        """Count a file that is not an image, or the files of a junk folder. Hidden files are not counted."""
        if not is_hidden(entry.name):
            self.suffixes[os.path.splitext(entry.name)[1].lower()] += 1
        elif not entry.name.startswith(".") and is_folder(entry):
            files = sum(not is_folder(one) for folder in folders_below(entry.path) for one in os.scandir(folder))
            self.folders.update({entry.name: files} if files else {})


def require_folder(folder: str) -> None:
    """Raises MissingInputError unless a folder can be listed, DataError for a run folder."""
    try:
        names = os.listdir(folder)
    except NotADirectoryError:
        raise MissingInputError(folder, "is a file; expected a folder of images") from None
    except OSError as error:
        raise MissingInputError(folder, f"cannot be read: {error.strerror}") from error
    if {"options.json", "checkpoints"} <= {*names}:
        hint = f"To continue this run: tlkit resume {shlex.quote(folder)}"
        raise DataError(folder, "is a run folder; expected a folder of images", hint)


def subfolders(folder: str, left_out: LeftOut | None = None) -> list[str]:
    """Names of subfolders in byte order, without junk and tlkit's own folders. left_out: counts files beside them."""
    names = []
    for entry in entries_of(folder, left_out):
        if is_folder(entry):
            names += [] if is_tlkit_folder(entry.path) else [entry.name]
        elif left_out is not None and looks_like_image(entry):
            left_out.loose += 1
        elif left_out is not None:
            left_out.add(entry)
    return names


def is_hidden(name: str) -> bool:
    """Whether a name is never data: .git, .ipynb_checkpoints, Thumbs.db, @eaDir, lost+found."""
    return JUNK.fullmatch(name) is not None


def is_tlkit_folder(folder: str) -> bool:
    """Whether it is a run or a search of tlkit."""
    return any(os.path.isdir(os.path.join(folder, name)) for name in RUN_FOLDERS) and any(
        os.path.isfile(os.path.join(folder, name)) for name in RUN_FILES
    )


def holds_only_runs(folder: str) -> bool:
    """Whether runs of tlkit are below a folder, and no images but theirs."""
    if next(find_images(folder), None) is not None:
        return False
    return any(map(is_tlkit_folder, folders_below(folder)))


def folders_below(folder: str) -> Iterator[str]:
    """A folder and all folders below it that can be listed, hidden ones too; symbolic links are not followed."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(current) as entries:
            waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            yield current


def find_images(
    folder: str, *, root: str | None = None, deep: bool = True, left_out: LeftOut | None = None
) -> Iterator[str]:
    """Yield image files below a folder in byte order: each real file once, without hidden ones.

    Images are recognized by suffix, or else by their first bytes. Symbolic links are followed if they lead out of
    `root` (default: the folder); targets inside are found at their own path, in their own class. For a folder that
    cannot be listed, its own path is yielded, so that the error is reported when images are opened.
    left_out: counts the other files.
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
                    waiting += [(below.path, below, by_link) for below in reversed(entries_of(path, left_out))]
                except MissingInputError:
                    yield path
                continue
            if entry.is_symlink() and has_own_place(path, home):
                continue
            linked = by_link or entry.is_symlink()
            if is_folder(entry):
                if deep and is_new(entry) and not is_tlkit_folder(path):
                    waiting.append((path, None, linked))
            elif not looks_like_image(entry):
                if left_out is not None:
                    left_out.add(entry)
            elif not linked or is_new(entry):
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


def entries_of(folder: str, left_out: LeftOut | None = None) -> list[os.DirEntry[str]]:
    """Entries of a folder in byte order, without hidden ones, which left_out counts. Raises MissingInputError."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise MissingInputError(folder, f"cannot be read: {error.strerror}") from error
    visible = []
    for entry in entries:
        if not is_hidden(entry.name):
            visible.append(entry)
        elif left_out is not None:
            left_out.add(entry)
    return visible


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
            # Unsupported formats count too, so that a photo in one of them is reported and not silently ignored.
            return formats.looks_like_image(file.read(formats.HEAD_BYTES))
    except OSError:
        return False
