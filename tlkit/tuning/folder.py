"""What lies where in the folder of a search, and how one is claimed. Loads neither torch nor Ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tlkit.errors import DataError, OutputError
from tlkit.files.atomic import remove, storage_error
from tlkit.files.json_file import read_whole_json
from tlkit.files.run_claim import create_folder, create_numbered_folder
from tlkit.files.run_folder import RunFolder


@dataclass(frozen=True)
class SearchFolder:
    """A search on disk; the properties say what lies where."""

    path: str

    @property
    def search_file(self) -> str:
        """The options of the search: what makes a folder one."""
        return os.path.join(self.path, "search.json")

    @property
    def space_file(self) -> str:
        """What is tried, as --space takes it."""
        return os.path.join(self.path, "space.toml")

    @property
    def results_lines(self) -> str:
        """A line for each trial that was begun."""
        return os.path.join(self.path, "results.jsonl")

    @property
    def results_table(self) -> str:
        return os.path.join(self.path, "results.csv")

    @property
    def trials(self) -> str:
        """The folder of the trials' run folders."""
        return os.path.join(self.path, "trials")

    @property
    def scratch(self) -> str:
        """Where Ray keeps what it wants to while a search lasts."""
        return os.path.join(self.path, ".ray")

    @property
    def own(self) -> RunFolder:
        """Lock and status, which a search has as any run has."""
        return RunFolder(self.path)

    def trial(self, number: int) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(os.path.join(self.trials, f"{number:04d}"))

    def exists(self) -> bool:
        """Whether there is a search here."""
        return os.path.isfile(self.search_file)

    def read(self) -> dict[str, Any]:
        """The options of the search, as resolved. Raises MissingInputError or DataError."""
        options = read_whole_json(self.search_file, "given", "resolved")["resolved"]
        if not isinstance(options, dict):
            raise DataError(self.search_file, "is not whole: resolved holds no options")
        return options

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this search for one process. Raises OutputError if another holds it."""
        with self.own.locked():
            self.own.remove_leftovers()
            remove(self.scratch)
            try:
                yield
            finally:
                remove(self.scratch)


@contextlib.contextmanager
def new_search_folder(out: str | None, default: str) -> Iterator[SearchFolder]:
    """Claim a folder for a new search and hold its lock.

    out: the folder asked for, or None for `default`, numbered when taken. If the search fails before it has written
    its options, nothing of the folder is left. Raises OutputError as new_run_folder does.
    """
    if out is not None:
        require_unused(SearchFolder(out))
    folder, created = create_folder(out) if out is not None else create_numbered_folder(default)
    search = SearchFolder(os.path.abspath(folder))
    with search.locked():
        require_unused(search)
        try:
            make_folder(search.trials)
            yield search
        finally:
            if not search.exists():
                with contextlib.suppress(OSError):
                    remove(search.space_file)
                    os.rmdir(search.trials)
                    os.unlink(search.own.lock_file)
                    for made in created:
                        os.rmdir(made)


def require_unused(search: SearchFolder) -> None:
    """Raises OutputError for a folder that holds a search, or a run."""
    if search.exists():
        hint = f"Go on with `tlkit resume {search.path}`, or choose another --out."
        raise OutputError(search.path, "holds a search already", hint)
    if os.path.exists(search.own.options_file):
        raise OutputError(search.path, "holds a run; expected a new or empty folder", "Choose another --out.")


def make_folder(path: str) -> None:
    """Raises OutputError or StorageError."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
