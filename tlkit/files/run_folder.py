"""Paths, JSON files and lock of a run folder.

A run folder may come from somebody else. tlkit writes and deletes only inside of it: links in it are refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NotRequired, Self, TypedDict

from tlkit.errors import FAILING, DataError, OutputError, TlkitError
from tlkit.files.atomic import (
    TEMPORARY_NAME,
    link_atomically,
    linked,
    opened_folder,
    remove,
    write_atomically,
    write_json_atomically,
)
from tlkit.files.inputs import open_input
from tlkit.files.json_file import LARGEST_LIST, read_whole_json
from tlkit.files.storage import storage_error

EPOCH_FILE = re.compile(r"epoch_(\d{4,})_loss_-?\d+\.\d{4}_[a-z0-9_]+_-?\d+\.\d{4}\.pt")

FOLDERS = ("checkpoints", "tensorboard", "wandb", "trials", ".ray")
"""The folders in the folder of a run or search."""

WANDB_LINKS = ("latest-run", "debug")
"""Beginnings of the names of links that W&B itself puts into its folder."""

FILES = (
    "options.json", "split.json", "history.jsonl", "status.json", "skipped.jsonl", "about.json", "validation.jsonl",
    "report.html", "model.pt", "model.onnx", "search.json", "space.toml", "results.jsonl", "results.csv", ".lock",
)  # fmt: skip
"""The files in it."""

CHECKPOINTS = ("last.pt", "best.pt", "previous.pt")


class Split(TypedDict):
    """The content of split.json: class names, and the files of each class in train and val.

    digests: content digests by file; empty in runs of older versions. weights: factors in the training loss by file.
    folds: of a cross-validated run, the fold of each file in train, which has the same files as val.
    """

    classes: list[str]
    train: dict[str, list[str]]
    val: dict[str, list[str]]
    digests: dict[str, str]
    folds: NotRequired[dict[str, list[int]]]
    weights: NotRequired[dict[str, float]]


class RunFolder:
    """A run on disk: its files. root: the folder that writing must not leave; the search of a trial, else the run."""

    def __init__(self, path: str, root: str | None = None) -> None:
        self.path = path
        self.root = root or path
        self.options_file = os.path.join(path, "options.json")
        self.split_file = os.path.join(path, "split.json")
        self.history_file = os.path.join(path, "history.jsonl")
        self.status_file = os.path.join(path, "status.json")
        self.skipped_file = os.path.join(path, "skipped.jsonl")
        self.about_file = os.path.join(path, "about.json")  # dataset, warnings, model and versions at the start
        self.validation_file = os.path.join(path, "validation.jsonl")  # predictions of the best epoch
        self.report_file = os.path.join(path, "report.html")
        self.model_file = os.path.join(path, "model.pt")
        self.onnx_file = os.path.join(path, "model.onnx")  # the same for onnxruntime, made from model.pt
        self.lock_file = os.path.join(path, ".lock")
        self.checkpoints = os.path.join(path, "checkpoints")
        self.last_checkpoint = os.path.join(self.checkpoints, "last.pt")
        self.best_checkpoint = os.path.join(self.checkpoints, "best.pt")
        # The `last` checkpoint before the newest one was saved in mid-epoch.
        self.previous_checkpoint = os.path.join(self.checkpoints, "previous.pt")

    @classmethod
    def containing(cls, path: str) -> Self | None:
        """The run folder at `path` or above it; None if there is none."""
        folder = os.path.abspath(path)
        for _ in range(3):
            if os.path.isfile(os.path.join(folder, "options.json")):
                return cls(folder)
            folder = os.path.dirname(folder)
        return None

    def epoch_checkpoint(self, epoch: int, loss: float, metric: str, value: float) -> str:
        """epoch_0003_loss_0.1234_accuracy_0.9567.pt"""
        return os.path.join(self.checkpoints, f"epoch_{epoch:04d}_loss_{loss:.4f}_{metric}_{value:.4f}.pt")

    def epoch_checkpoints(self) -> dict[str, int]:
        """Checkpoint file -> epoch, for checkpoints of finished epochs, oldest first."""
        found = map(EPOCH_FILE.fullmatch, os.listdir(self.checkpoints))
        epochs = {match.string: int(match[1]) for match in found if match}
        return {os.path.join(self.checkpoints, name): epochs[name] for name in sorted(epochs, key=lambda n: epochs[n])}

    def checkpoint_files(self) -> list[str]:
        """All checkpoints, `last` first."""
        names = os.listdir(self.checkpoints) if os.path.isdir(self.checkpoints) else []
        files = [os.path.join(self.checkpoints, name) for name in sorted(names) if name.endswith(".pt")]
        return sorted(files, key=lambda file: file != self.last_checkpoint)

    def read_options(self) -> dict[str, dict[str, Any]]:
        """Read options.json: `given` and `resolved` options. Raises MissingInputError or DataError."""
        options = read_whole_json(self.options_file, "given", "resolved")
        for name in ("given", "resolved"):
            if not isinstance(options[name], dict):
                raise DataError(self.options_file, f"is incomplete: {name} contains no options")
        return options

    def read_split(self) -> Split:
        """Read split.json. Raises MissingInputError or DataError."""
        split = read_whole_json(self.split_file, "classes", "train", "val", largest=LARGEST_LIST)
        classes = split["classes"]
        if not is_list_of_names(classes) or not classes:
            raise DataError(self.split_file, "is incomplete: classes is not a list of names")
        for part in ("train", "val"):
            files = split[part]
            if not isinstance(files, dict) or not all(map(is_list_of_names, files.values())):
                raise DataError(self.split_file, f"is incomplete: {part} does not contain lists of files")
            if strange := sorted(files.keys() - set(classes)):
                problem = f"has files in {part} for {strange[0]!r}, which is not one of its classes"
                raise DataError(self.split_file, problem)
        digests, weights = split.get("digests", {}), split.get("weights", {})
        if not isinstance(digests, dict) or not is_list_of_names([*digests, *digests.values()]):
            raise DataError(self.split_file, "is damaged: digests does not map names to digests")
        if not isinstance(weights, dict) or not all(isinstance(weight, (int, float)) for weight in weights.values()):
            raise DataError(self.split_file, "is damaged: weights does not map names to numbers")
        found = Split(classes=classes, train=split["train"], val=split["val"], digests=digests, weights=weights)
        if "folds" in split:
            if not are_folds(split["folds"], found["train"]):
                raise DataError(self.split_file, "is incomplete: folds does not have one number for each file of train")
            found["folds"] = split["folds"]
        return found

    # Writing; none of these follows a link out of the root. Each raises UnsafeError for a link, OutputError or
    # StorageError.

    def write(self, path: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write one of the files atomically."""
        write_atomically(path, write, self.root)

    def write_json(self, path: str, value: object) -> None:
        write_json_atomically(path, value, self.root)

    def link(self, source: str, target: str) -> None:
        """Make one checkpoint another name of a second one, atomically."""
        link_atomically(source, target, self.root)

    def remove(self, path: str) -> None:
        """Remove one of the files if it exists; ignore errors."""
        remove(path, self.root)

    def write_history(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write one line per epoch, unless the file already has this content."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        with contextlib.suppress(TlkitError), open_input(self.history_file) as file:
            if file.read(len(text) + 1) == text:
                return
        self.write(self.history_file, lambda file: file.write(text))

    def write_status(self, state: str, exit_code: int | None = None, error: str | None = None, **values: Any) -> None:
        """Write status.json for scripts: state (running, interrupted, failed, finished) and related values."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = {"state": state, "exit_code": exit_code, "error": error, **values, "time": stamp}
        self.write_json(self.status_file, status)

    def has_status(self, state: str, exit_code: int | None = None) -> bool:
        """Whether status.json is valid and has this state, and this exit code if one is given."""
        with contextlib.suppress(TlkitError):
            status = read_whole_json(self.status_file, "state", "exit_code")
            return bool(status["state"] == state and exit_code in (None, status["exit_code"]))
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock this run for one process. The kernel releases the lock when the process ends.

        Raises OutputError if another process holds it or it cannot be written, UnsafeError or DataError if something
        in it is not what tlkit writes there.
        """
        descriptor = self._acquire()
        try:
            self.require_plain()
            yield
        finally:
            os.close(descriptor)

    def _acquire(self) -> int:
        """Acquire the lock and return its file descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            try:
                with opened_folder(self.path, self.root) as folder:
                    descriptor = os.open(".lock", flags, 0o666, dir_fd=folder)
            except OSError as error:
                if os.path.islink(self.lock_file):
                    raise linked(self.lock_file) from error
                if error.errno in FAILING:
                    raise storage_error(self.lock_file, error) from error
                raise OutputError(self.path, f"cannot be written: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if not isinstance(error, BlockingIOError):
                    raise OutputError(self.path, f"cannot be locked: {error.strerror}") from error
                hint = "Wait until it has finished.\nOr choose another folder with --out."
                raise OutputError(self.path, "is in use by another tlkit process", hint) from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(self.lock_file)):
                    return descriptor
            os.close(descriptor)  # another process deleted the file between open and lock

    def require_plain(self) -> None:
        """Raises UnsafeError if a file or folder of a run is a symbolic link, DataError if it is of another kind."""
        files = {os.path.join(self.path, name) for name in FILES}
        folders = [os.path.join(self.path, name) for name in FOLDERS]
        for folder in folders[:3]:
            names = os.listdir(folder) if os.path.isdir(folder) and not os.path.islink(folder) else []
            files |= {os.path.join(folder, name) for name in names if name.endswith(".pt") or "tfevents" in name}
            own = [os.path.join(folder, name) for name in names if not name.startswith(WANDB_LINKS)]
            if links := sorted(filter(os.path.islink, own)):
                raise linked(links[0])
        for path in (*folders, *sorted(files)):
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if stat.S_ISLNK(mode):
                raise linked(path)
            # A folder in the place of a file, or a file in that of a folder, is reported where it is read or written.
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise DataError(path, f"is not {'a regular file' if path in files else 'a folder'}")

    def make_checkpoints_folder(self) -> None:
        """Raises UnsafeError, OutputError or StorageError."""
        try:
            with opened_folder(self.path, self.root) as folder, contextlib.suppress(FileExistsError):
                os.mkdir("checkpoints", dir_fd=folder)
            with opened_folder(self.checkpoints, self.root):
                pass  # refuses a link
        except OSError as error:
            raise storage_error(self.checkpoints, error) from error

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed processes: those of this run's files. Call while holding the lock."""
        for folder, names in ((self.path, FILES), (self.checkpoints, CHECKPOINTS)):
            for match in map(TEMPORARY_NAME.fullmatch, os.listdir(folder) if os.path.isdir(folder) else ()):
                if match and (match[1] in names or (folder == self.checkpoints and match[1].startswith("epoch_"))):
                    self.remove(os.path.join(folder, match.string))


def is_list_of_names(value: object) -> bool:
    """Whether a value from a JSON file is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def are_folds(folds: object, train: Mapping[str, Sequence[str]]) -> bool:
    """Whether a value has the number of a fold for each file of each class."""
    if not isinstance(folds, dict) or folds.keys() != train.keys():
        return False
    numbers = [number for values in folds.values() if isinstance(values, list) for number in values]
    sizes = all(isinstance(folds[name], list) and len(folds[name]) == len(files) for name, files in train.items())
    return sizes and all(type(number) is int and 0 <= number < len(numbers) for number in numbers)
