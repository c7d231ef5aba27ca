"""Paths, JSON files and lock of a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tlkit.errors import DataError, OutputError, TlkitError
from tlkit.files.atomic import TEMPORARY_SUFFIX, remove, storage_error, write_atomically, write_json_atomically
from tlkit.files.inputs import open_input
from tlkit.files.json_file import read_whole_json

EPOCH_FILE = re.compile(r"epoch_(\d+)_.*\.pt")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk; the properties are the paths of its files."""

    path: str

    @property
    def options_file(self) -> str:
        return os.path.join(self.path, "options.json")

    @property
    def split_file(self) -> str:
        return os.path.join(self.path, "split.json")

    @property
    def history_file(self) -> str:
        return os.path.join(self.path, "history.jsonl")

    @property
    def status_file(self) -> str:
        return os.path.join(self.path, "status.json")

    @property
    def skipped_file(self) -> str:
        return os.path.join(self.path, "skipped.jsonl")

    @property
    def about_file(self) -> str:
        """Dataset, warnings, model and versions at the start."""
        return os.path.join(self.path, "about.json")

    @property
    def validation_file(self) -> str:
        """The best epoch's prediction for each validation image."""
        return os.path.join(self.path, "validation.jsonl")

    @property
    def report_file(self) -> str:
        return os.path.join(self.path, "report.html")

    @property
    def model_file(self) -> str:
        return os.path.join(self.path, "model.pt")

    @property
    def onnx_file(self) -> str:
        """The finished model for onnxruntime, made from model.pt."""
        return os.path.join(self.path, "model.onnx")

    @property
    def checkpoints(self) -> str:
        return os.path.join(self.path, "checkpoints")

    @property
    def last_checkpoint(self) -> str:
        return os.path.join(self.checkpoints, "last.pt")

    @property
    def previous_checkpoint(self) -> str:
        """The `last` checkpoint before the newest one was saved in mid-epoch."""
        return os.path.join(self.checkpoints, "previous.pt")

    @property
    def best_checkpoint(self) -> str:
        return os.path.join(self.checkpoints, "best.pt")

    @property
    def lock_file(self) -> str:
        return os.path.join(self.path, ".lock")

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

    def read_split(self) -> dict[str, Any]:
        """Read split.json: classes and the files of train and val. Raises MissingInputError or DataError."""
        split = read_whole_json(self.split_file, "classes", "train", "val")
        classes = split["classes"]
        if not is_list_of_names(classes) or not classes:
            raise DataError(self.split_file, "is incomplete: classes is not a list of names")
        for part in ("train", "val"):
            files = split[part]
            if not isinstance(files, dict) or not all(map(is_list_of_names, files.values())):
                raise DataError(self.split_file, f"is incomplete: {part} does not contain lists of files")
            strange = sorted(files.keys() - set(classes))
            if strange:
                raise DataError(
                    self.split_file, f"has files in {part} for {strange[0]!r}, which is not one of its classes"
                )
        return split

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one line per epoch, unless the file already has this content."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        if read_or_empty(self.history_file) != text:
            write_atomically(self.history_file, lambda file: file.write(text))

    def write_status(self, state: str, exit_code: int | None = None, error: str | None = None, **values: Any) -> None:
        """Write status.json for scripts: state (running, interrupted, failed, finished) and related values."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = {"state": state, "exit_code": exit_code, "error": error, **values, "time": stamp}
        write_json_atomically(self.status_file, status)

    def has_status(self, state: str) -> bool:
        """Whether status.json is valid and has this state."""
        try:
            return bool(read_whole_json(self.status_file, "state")["state"] == state)
        except TlkitError:
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock this run for one process. The kernel releases the lock when the process ends.

        Raises OutputError if another process holds it or it cannot be written.
        """
        descriptor = self._acquire()
        try:
            yield
        finally:
            os.close(descriptor)

    def _acquire(self) -> int:
        """Acquire the lock and return its file descriptor."""
        while True:
            try:
                descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise OutputError(self.path, f"cannot be written: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise OutputError(
                    self.path,
                    "is in use by another tlkit process",
                    "Wait until it has finished, or choose another folder with --out DIR.",
                ) from error
            except OSError as error:
                os.close(descriptor)
                raise OutputError(self.path, f"cannot be locked: {error.strerror}") from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self.lock_file)):
                    return descriptor
            os.close(descriptor)  # another process deleted the file between open and lock

    def make_checkpoints_folder(self) -> None:
        """Raises OutputError or StorageError."""
        try:
            os.makedirs(self.checkpoints, exist_ok=True)
        except OSError as error:
            raise storage_error(self.checkpoints, error) from error

    def remove_leftovers(self) -> None:
        """Remove temporary files of killed processes. Call while holding the lock."""
        for folder in (self.path, self.checkpoints):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if name.endswith(TEMPORARY_SUFFIX):
                    remove(os.path.join(folder, name))


def read_or_empty(path: str) -> bytes:
    """The content of a file; empty if it cannot be read."""
    try:
        with open_input(path) as file:
            return file.read()
    except TlkitError:
        return b""


def is_list_of_names(value: object) -> bool:
    """Whether a value from a JSON file is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
