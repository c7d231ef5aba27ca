"""The files of a search folder, and creating one. Loads neither torch nor Ray."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator

from tlkit.errors import DataError, OutputError
from tlkit.files.atomic import remove_tree
from tlkit.files.json_file import read_whole_json
from tlkit.files.new_run import create_folder, create_numbered_folder
from tlkit.files.run_folder import RunFolder
from tlkit.files.storage import storage_error


class SearchFolder:
    """A search on disk: its files."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.search_file = os.path.join(path, "search.json")  # the options; a folder with this file is a search
        self.space_file = os.path.join(path, "space.toml")  # the search space, in the format of --space
        self.results_lines = os.path.join(path, "results.jsonl")  # one line per started trial
        self.results_table = os.path.join(path, "results.csv")
        self.trials = os.path.join(path, "trials")  # the run folders of the trials
        self.scratch = os.path.join(path, ".ray")  # Ray's files, removed at the end of the search
        self.own = RunFolder(path)  # lock and status.json, which a search has like a run
        self.resume_command = f"tlkit resume {shlex.quote(path)}"

    def trial(self, number: int) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(os.path.join(self.trials, f"{number:04d}"), root=self.path)

    def exists(self) -> bool:
        """Whether this folder is a search."""
        return os.path.isfile(self.search_file)

    def read(self) -> dict[str, object]:
        """The resolved options. Raises MissingInputError or DataError."""
        options = read_whole_json(self.search_file, "given", "resolved")["resolved"]
        if not isinstance(options, dict):
            raise DataError(self.search_file, "is damaged: 'resolved' is not a JSON object")
        return options

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the search. Raises OutputError if another process holds it."""
        with self.own.locked():
            self.own.remove_leftovers()
            remove_tree(self.scratch)
            try:
                yield
            finally:
                remove_tree(self.scratch)


@contextlib.contextmanager
def new_search_folder(out: str | None, default: str) -> Iterator[SearchFolder]:
    """Create the folder of a new search and hold its lock.

    out: the folder; None for `default`, with a number if that exists. The folder is removed if the search fails before
    search.json is written. Raises OutputError as create_run_folder does, and StorageError.
    """
    if out is not None:
        require_unused(SearchFolder(out))
    folder, created = create_folder(out) if out is not None else create_numbered_folder(default)
    search = SearchFolder(os.path.abspath(folder))
    with search.locked():
        require_unused(search)
        try:
            try:
                os.makedirs(search.trials, exist_ok=True)
            except OSError as error:
                raise storage_error(search.trials, error) from error
            yield search
        finally:
            if not search.exists():
                with contextlib.suppress(OSError):
                    search.own.remove(search.space_file)
                    os.rmdir(search.trials)
                    os.unlink(search.own.lock_file)
                    for path in created:
                        os.rmdir(path)


def require_unused(search: SearchFolder) -> None:
    """Raises OutputError for a folder that contains a search or a run."""
    if search.exists():
        hint = f"Resume it with: {search.resume_command}\nOr choose another --out."
        raise OutputError(search.path, "already contains a search", hint)
    if os.path.exists(search.own.options_file):
        problem = "already contains a run; expected a new or empty folder"
        raise OutputError(search.path, problem, "Choose another --out.")
