"""Files that describe a run: options, split, about, status."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field

from tlkit.data.bad_images import write_skipped
from tlkit.data.folder import Dataset
from tlkit.data.scan import describe
from tlkit.errors import LostRankError, ResourceError, StorageError, TlkitError, to_tlkit_error
from tlkit.files.artifact import digest
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interrupted
from tlkit.monitoring.monitor import Monitor
from tlkit.monitoring.run_monitor import run_monitor
from tlkit.options import FinetuneOptions
from tlkit.runs.checkpoints import Checkpoint, write_checkpoint
from tlkit.runs.environment import present_environment
from tlkit.runs.plan import content_digests, split_digest
from tlkit.runs.setup import TrainingSetup
from tlkit.terminal import compact, log_status, write_stdout
from tlkit.training.loop import NonFiniteLossError
from tlkit.training.state import TrainingState


class Record:
    """Receives the steps of preparing a run. The methods of this base class do nothing: other ranks write no files."""

    def of(self, setup: TrainingSetup) -> AbstractContextManager[None]:
        """The block in which the run is prepared and trained."""
        return nullcontext()

    def write_options(self, setup: TrainingSetup) -> None:
        """Called when all options are resolved, before features are computed."""

    def write_dataset(self, setup: TrainingSetup, dataset: Dataset) -> None:
        """Called when all images have been read. dataset: the readable ones."""


NO_RECORD = Record()


@dataclass
class RunRecord(Record):
    """Writes the run folder, on rank 0.

    cli_options: as typed. initial_checkpoints: content of the checkpoints of a new run that continues another, by file.
    monitor, model_summary: available inside the block of `of`. origin: entries of all checkpoints, after write_dataset.
    """

    run: RunFolder
    cli_options: Mapping[str, object]
    initial_checkpoints: Mapping[str, Checkpoint]
    monitor: Monitor = field(default_factory=Monitor, init=False)
    model_summary: str = field(default="", init=False)
    origin: Mapping[str, object] = field(init=False)

    @contextmanager
    def of(self, setup: TrainingSetup) -> Iterator[None]:
        """Make the folder a run that can be resumed; write into status.json how the block ends."""
        run, state = self.run, setup.state
        self.model_summary = log_model(setup)
        if not os.path.exists(run.options_file):
            for file, checkpoint in self.initial_checkpoints.items():
                write_checkpoint(run, file, checkpoint.to_dict())
            self._write_options_file(setup)
        with (
            recorded_in_status(run, setup.options, state),
            run_monitor(run, setup.options, setup.dataset.classes) as self.monitor,
        ):
            run.write_status("running", **state.where())
            if state.history:
                run.write_history([row.to_dict() for row in state.history])
            yield

    def write_options(self, setup: TrainingSetup) -> None:
        """Options that a resume changes are written later: it may still be refused."""
        if setup.is_new:
            self._write_options_file(setup)

    def write_dataset(self, setup: TrainingSetup, dataset: Dataset) -> None:
        """Write which image is where and which are skipped; for a new run, a summary of the dataset too."""
        self._write_options_file(setup)
        environment = present_environment(setup.devices.first, setup.options.engine, setup.world.size)
        if not os.path.exists(self.run.about_file):
            about: dict[str, object] = {
                "data": describe(dataset),
                "warnings": list(dataset.warnings),
                "model": self.model_summary,
            }
            if dataset.table:
                about["table"] = {"path": setup.options.data, "sha256": dataset.table}
            self.run.write_json(self.run.about_file, {**about, "environment": environment})
        digests = content_digests(dataset)
        self.run.write_json(self.run.split_file, {**dataset.to_split(), "digests": digests})
        if dataset.skipped:
            write_skipped(self.run, dataset.skipped)
        self.origin = {
            **setup.description.to_dict(),
            "options": setup.options.to_portable_dict(),
            "environment": environment,
            "split_sha256": split_digest(dataset),
            "data_sha256": digest(digests),
        }

    def _write_options_file(self, setup: TrainingSetup) -> None:
        options = {"given": dict(self.cli_options), "resolved": setup.options.to_dict()}
        self.run.write_json(self.run.options_file, options)


def log_model(setup: TrainingSetup) -> str:
    """Log the backbone and the head. Returns a one-line summary of the backbone."""
    description, backbone = setup.description, setup.classifier.backbone
    head = sum(parameter.numel() for parameter in setup.classifier.head.parameters())
    unfrozen = description.trainable - head
    height, width = description.preprocessing.image_size
    summary = (
        f"{description.backbone} at {width}x{height} px, weights: {description.weights}, "
        f"{compact(backbone.own_parameters() - unfrozen)} parameters frozen"
    )
    log_status("backbone", summary)
    more = f", and {compact(unfrozen)} of the backbone" if unfrozen else ""
    log_status("head", f"{setup.options.head}, {compact(head)} parameters to train{more}")
    return summary


def print_model_path(run: RunFolder, where: Mapping[str, object]) -> None:
    """Print the path of the finished model. where: for status.json, which gets the exit code of a failure.

    Raises StorageError.
    """
    try:
        write_stdout(os.fsencode(f"{run.model_file}\n"))
    except StorageError as error:
        with suppress(TlkitError):
            run.write_status("finished", exit_code=error.exit_code, error=str(error), **where)
        raise


@contextmanager
def recorded_in_status(run: RunFolder, options: FinetuneOptions, state: TrainingState) -> Iterator[None]:
    """Write into status.json how the block fails or is interrupted, then raise the error again."""
    try:
        yield
    except Exception as error:
        known = to_tlkit_error(error)
        out_of_memory = isinstance(known, ResourceError) and not isinstance(known, LostRankError) and known is not error
        if out_of_memory:
            known = ResourceError(
                known.subject,
                f"{known.problem} at --batch-size {options.batch_size}",
                "Start a new run with a smaller --image-size or with --gradient-checkpointing.\n"
                f"Or, on a machine with more memory: tlkit resume {shlex.quote(run.path)}",
            )
        details = {"code": error.code, "files": error.files} if isinstance(error, NonFiniteLossError) else {}
        with suppress(TlkitError):
            run.write_status("failed", exit_code=known.exit_code, error=str(known), **details, **state.where())
        if out_of_memory:
            raise known from error
        raise
    except Interrupted as interrupted:
        with suppress(TlkitError):
            run.write_status("interrupted", exit_code=128 + interrupted.number, **state.where())
        log_status("stopped", f"resume with: tlkit resume {shlex.quote(run.path)}")
        raise
