"""What lies where in a run folder, its lock, and how a new one is claimed."""

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

from tlkit.errors import OutputError
from tlkit.storage import TEMPORARY_SUFFIX, read_whole_json, write_atomically, write_json_atomically

EPOCH_FILE = re.compile(r"epoch_(\d+)_.*\.pt")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk; the properties say what lies where."""

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
    def model_file(self) -> str:
        return os.path.join(self.path, "model.pt")

    @property
    def checkpoints(self) -> str:
        return os.path.join(self.path, "checkpoints")

    @property
    def last_checkpoint(self) -> str:
        return os.path.join(self.checkpoints, "last.pt")

    @property
    def best_checkpoint(self) -> str:
        return os.path.join(self.checkpoints, "best.pt")

    @property
    def lock_file(self) -> str:
        return os.path.join(self.path, ".lock")

    @classmethod
    def containing(cls, path: str) -> Self | None:
        """The run folder that path is, or lies in; None if it lies in none."""
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
        """The checkpoint files of whole epochs, each with its epoch, oldest first."""
        found = map(EPOCH_FILE.fullmatch, os.listdir(self.checkpoints))
        epochs = {match.string: int(match[1]) for match in found if match}
        return {os.path.join(self.checkpoints, name): epochs[name] for name in sorted(epochs, key=lambda n: epochs[n])}

    def read_options(self) -> dict[str, dict[str, Any]]:
        """Every option as given and as resolved. Raises MissingInputError or DataError."""
        return read_whole_json(self.options_file, "given", "resolved")

    def read_split(self) -> dict[str, Any]:
        """Classes, and which file is in train and in val. Raises MissingInputError or DataError."""
        return read_whole_json(self.split_file, "classes", "train", "val")

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """One line for each epoch."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomically(self.history_file, lambda file: file.write(text.encode()))

    def write_status(self, state: str, **facts: Any) -> None:
        """What scripts poll: state (running, interrupted, failed, finished) and facts about it."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json_atomically(self.status_file, {"state": state, **facts, "time": stamp})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this run for one process. The lock goes with the process, however that ends.

        Raises OutputError if another process holds it or it cannot be written.
        """
        descriptor = self._acquire()
        try:
            yield
        finally:
            os.close(descriptor)

    def _acquire(self) -> int:
        """The descriptor that holds the lock."""
        while True:
            try:
                descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise OutputError(self.path, f"cannot be written: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                raise OutputError(
                    self.path, "is in use by another tlkit process", "Wait for it, or choose another --out."
                ) from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self.lock_file)):
                    return descriptor
            os.close(descriptor)  # a process that gave up its claim removed the file between open and lock

    def remove_leftovers(self) -> None:
        """Remove temporary files of processes that were killed. Call under the lock."""
        for folder in (self.path, self.checkpoints):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if name.endswith(TEMPORARY_SUFFIX):
                    os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def new_run_folder(out: str | None, default: str) -> Iterator[RunFolder]:
    """Claim a folder for a new run and hold its lock.

    out: the folder asked for, or None for `default`, numbered when taken. If the run fails before it has
    written its options, nothing of the folder is left. Raises OutputError if it holds a run already, is in
    use, is not empty, or cannot be created.
    """
    folder, created = claim_folder(out) if out is not None else claim_numbered_folder(default)
    run = RunFolder(folder)
    with run.locked():
        if os.path.exists(run.options_file):
            raise OutputError(
                folder,
                "holds a run already",
                f"Go on with `tlkit resume {folder}`, or choose another --out.",
            )
        try:
            os.makedirs(run.checkpoints, exist_ok=True)
            run.remove_leftovers()
            yield run
        finally:
            if not os.path.exists(run.options_file):
                discard_empty_run(run, created)


def discard_empty_run(run: RunFolder, created: bool) -> None:
    """Remove what claiming made; anything that is not ours makes this stop quietly. Call under the lock."""
    with contextlib.suppress(OSError):
        os.rmdir(run.checkpoints)
        os.unlink(run.lock_file)
        if created:
            os.rmdir(run.path)


def claim_folder(folder: str) -> tuple[str, bool]:
    """Create a folder, or accept one that is empty or ours. Returns it, and whether it is new."""
    try:
        os.makedirs(folder)
        return folder, True
    except FileExistsError:
        if not os.path.isdir(folder):
            raise OutputError(folder, "is a file; expected a folder to write the run to") from None
    except OSError as error:
        raise OutputError(folder, f"cannot be created: {error.strerror}") from error
    ours = {"options.json", ".lock", "checkpoints", "split.json", "status.json"}
    strangers = [
        name for name in sorted(os.listdir(folder)) if name not in ours and not name.endswith(TEMPORARY_SUFFIX)
    ]
    if strangers and not os.path.exists(os.path.join(folder, "options.json")):
        raise OutputError(folder, f"is not empty (it holds {strangers[0]}); expected a new or empty folder")
    return folder, False


def claim_numbered_folder(default: str) -> tuple[str, bool]:
    """The first of default, default-2, default-3 ... that did not exist."""
    number = 1
    while True:
        folder = default if number == 1 else f"{default}-{number}"
        try:
            os.makedirs(folder)
            return folder, True
        except FileExistsError:
            number += 1
        except OSError as error:
            raise OutputError(
                folder, f"cannot be created: {error.strerror}", "Choose another place with --out."
            ) from error
