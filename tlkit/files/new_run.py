"""Create the folder of a new run, and remove it again if the run fails before it starts."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Iterator, Sequence

from tlkit.errors import OutputError
from tlkit.files.atomic import TEMPORARY_NAME, sync
from tlkit.files.run_folder import RunFolder
from tlkit.files.storage import storage_error
from tlkit.options import FinetuneOptions


def default_run_folder(options: FinetuneOptions) -> str:
    """runs/<data>-<backbone>"""
    return os.path.join("runs", f"{options.data_name()}-{options.backbone.rpartition('/')[2]}")


@contextlib.contextmanager
def create_run_folder(out: str | None, default: str) -> Iterator[RunFolder]:
    """Create a folder for a new run and hold its lock.

    out: the folder of --out, or None for `default` with a number appended if it exists. If the run fails before
    it writes its options, the folder is removed again. Raises OutputError if the folder already contains a run, is
    in use, is not empty, or cannot be created.
    """
    folder, created = create_folder(out) if out is not None else create_numbered_folder(default)
    run = RunFolder(folder)
    other = f"Choose another folder, for example: --out {shlex.quote(free_name(folder))}"
    with run.locked():
        if os.path.exists(run.options_file):
            hint = f"Resume it with: tlkit resume {shlex.quote(folder)}\n{other}"
            raise OutputError(folder, "already contains a run", hint)
        if run.checkpoint_files():
            raise OutputError(folder, "contains checkpoints of another run", other)
        try:
            run.make_checkpoints_folder()
            run.remove_leftovers()
            yield run
        finally:
            if not os.path.exists(run.options_file):
                discard_empty_run(run, created)


def free_name(folder: str) -> str:
    """The first of folder-2, folder-3, ... that does not exist, for advice."""
    numbered = (f"{folder.rstrip('/')}-{number}" for number in itertools.count(2))
    return next(name for name in numbered if not os.path.lexists(name))


def discard_empty_run(run: RunFolder, created: Sequence[str]) -> None:
    """Remove what create_run_folder made, and nothing else. Call while holding the lock."""
    with contextlib.suppress(OSError):
        for file in run.checkpoint_files():  # the folder had none when it was created
            run.remove(file)
        os.rmdir(run.checkpoints)
        os.unlink(run.lock_file)
        for folder in created:
            os.rmdir(folder)


def create_folder(folder: str) -> tuple[str, list[str]]:
    """Create a folder, or accept an empty one or a run folder. Returns it and the newly created folders."""
    try:
        return folder, make_folder(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise OutputError(folder, "is a file; expected a folder to write the run to") from None
    except OSError as error:
        raise storage_error(folder, error) from error
    ours = {"options.json", ".lock", "checkpoints", "split.json", "status.json"}
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise OutputError(folder, f"cannot be read: {error.strerror}") from error
    foreign = [name for name in names if name not in ours and not TEMPORARY_NAME.fullmatch(name)]
    if foreign and not os.path.exists(os.path.join(folder, "options.json")):
        raise OutputError(folder, f"is not empty (it contains {foreign[0]}); expected a new or empty folder")
    return folder, []


def create_numbered_folder(default: str) -> tuple[str, list[str]]:
    """Create the first of default, default-2, ... that does not exist. Returns it and the newly created folders."""
    number = 1
    while True:
        folder = default if number == 1 else f"{default}-{number}"
        try:
            return folder, make_folder(folder)
        except FileExistsError:
            number += 1
        except OSError as error:
            known = storage_error(folder, error)
            known.hint += "\nOr choose another folder with --out."
            raise known from error


def make_folder(folder: str) -> list[str]:
    """Create a folder and missing parents, synced to disk. Returns the created folders, deepest first."""
    missing = [os.path.abspath(folder)]
    while not os.path.lexists(above := os.path.dirname(missing[-1])):
        missing.append(above)
    os.makedirs(folder)
    for created in missing:
        sync(os.path.dirname(created))
    return missing
