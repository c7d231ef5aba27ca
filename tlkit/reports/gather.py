"""Read a run folder and write its report page. Loads no torch."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tlkit.data.bad_images import read_skipped
from tlkit.data.decoders import worker_count
from tlkit.data.digests import hex_digests
from tlkit.data.folder import Sample
from tlkit.data.scan import accepted_by
from tlkit.errors import DataError, UsageError, escape_name, first_line, to_tlkit_error
from tlkit.files.atomic import write_atomically
from tlkit.files.description import text
from tlkit.files.json_file import read_json_lines, read_whole_json
from tlkit.files.run_folder import RunFolder, Split
from tlkit.options import FinetuneOptions
from tlkit.options.declare import flag_of, without_home
from tlkit.reports.facts import Measured, Mistake, ReportData
from tlkit.reports.page import render
from tlkit.reports.thumbnails import thumbnails
from tlkit.reports.val_predictions_file import Validation, read_validation
from tlkit.terminal import log_status
from tlkit.training.evaluation import evaluate_predictions
from tlkit.training.history import EpochRow

SHOWN_MISTAKES = 24

NO_SPLIT = Split(classes=[], train={}, val={}, digests={})


def report(run: RunFolder, on_data: Callable[[ReportData], object] = lambda facts: None) -> None:
    """Write report.html into a run folder. A failure is only a warning. on_data: called with the data of the report."""
    try:
        facts = gather(run)
        on_data(facts)
        write_page(facts, run.report_file, run.root)
        log_status("report", run.report_file)
    except Exception as error:
        log_status(
            "warning",
            f"could not write the report: {to_tlkit_error(error)}; to retry: tlkit report {shlex.quote(run.path)}",
        )


def write_page(facts: ReportData, path: str, inside: str | None = None) -> None:
    """Write the report page. inside: as in write_atomically.

    Raises OutputError or StorageError if it cannot be written, DataError for invalid data.
    """
    with damage_as_data_error(facts.folder):
        content = render(facts).encode()
    write_atomically(path, lambda file: file.write(content), inside)


def gather(run: RunFolder, data: str | None = None) -> ReportData:
    """Read everything that the report needs. data: the image folder of --data. Raises DataError."""
    with damage_as_data_error(run.path):
        stored = run.read_options()
        try:
            options = FinetuneOptions.from_dict(stored["resolved"])
        except (UsageError, TypeError) as error:
            raise DataError(run.options_file, f"contains invalid options: {error}") from error
        root = options.image_root(data or options.data)
        split = NO_SPLIT if not os.path.exists(run.split_file) else run.read_split()
        about = read_whole_json(run.about_file) if os.path.exists(run.about_file) else {}
        status = read_whole_json(run.status_file, "state") if os.path.exists(run.status_file) else {}
        best = EpochRow.from_dict(status["best"]) if status.get("best") else None
        classes, validation, measured = tuple(split["classes"]), read_validation(run, split["classes"]), None
        if validation is not None:
            measured = Measured(
                evaluate_predictions(validation.predictions, classes),
                [len(split["train"].get(name, ())) for name in classes],
                worst_mistakes(validation, split, root, options, is_named=data is not None),
            )
        default = FinetuneOptions(data="").to_dict()
        given = {name: value for name, value in stored["given"].items() if value != default.get(name, value)}
        return ReportData(
            name=os.path.basename(os.path.abspath(run.path)),
            folder=for_shell(run.path),
            data_folder=for_shell(root),
            command=" ".join(["tlkit finetune", for_shell(root), *network_flags(options)]),
            state=text(status.get("state", "unknown")),
            time=time.strftime("%-d %B %Y"),
            metric=options.metric,
            classes=len(classes),
            train_images=sum(map(len, split["train"].values())),
            val_images=sum(map(len, split["val"].values())),
            folds=options.folds or 1,
            history=read_history(run),
            best=best,
            measured=measured,
            data=at_home(about.get("data", "")),
            model=at_home(about.get("model", options.backbone)),
            warnings=[at_home(warning) for warning in about.get("warnings", ())],
            skipped=[(at_home(error.path), error.message) for error in read_skipped(run)],
            given=as_flags(given),
            options=as_flags(options.to_dict()),
            versions={name: str(value) for name, value in about.get("environment", {}).items()},
            notes=notes(validation, measured, best, root),
        )


@contextmanager
def damage_as_data_error(path: str) -> Iterator[None]:
    """Turn errors of reading malformed run files into DataError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"is not a complete run folder ({type(error).__name__}: {first_line(error)[:120]})"
        raise DataError(path, problem) from error


def network_flags(options: FinetuneOptions) -> list[str]:
    """The flags of a command for the same backbone and weights."""
    weights = options.weights if options.weights in ("pretrained", "none") else for_shell(options.weights)
    default = FinetuneOptions(data="")
    flags = {"--backbone": shlex.quote(options.backbone)} if options.backbone != default.backbone else {}
    flags |= {"--weights": weights} if options.weights != default.weights else {}
    return [word for flag in flags.items() for word in flag]


def as_flags(options: Mapping[str, object]) -> dict[str, str]:
    """Flags and values as text; the home folder is written as ~."""
    values = {flag_of(name): without_home(value) for name, value in options.items()}
    return {flag: "default" if v is None else str(v) for flag, v in values.items()}


def read_history(run: RunFolder) -> list[EpochRow]:
    """The epochs of history.jsonl; empty if it does not exist. Raises DataError if it is damaged."""
    if not os.path.exists(run.history_file):
        return []
    try:
        return [EpochRow.from_dict(row) for row in read_json_lines(run.history_file)]
    except ValueError as error:
        raise DataError(run.history_file, f"is damaged ({error})") from error


def worst_mistakes(
    validation: Validation, split: Split, root: str, options: FinetuneOptions, is_named: bool
) -> list[Mistake]:
    """The most confident wrong predictions. is_named: whether the user named the image folder."""
    predictions, classes = validation.predictions, split["classes"]
    places = predictions.most_confident_mistakes(SHOWN_MISTAKES)
    names = [validation.names[place] for place in places]
    known = {name for part in (split["train"], split["val"]) for files in part.values() for name in files}
    paths = [os.path.join(root, name) for name in names]
    shown = [
        name in known and (content == split["digests"].get(name) or (is_named and is_below(name)))
        for name, content in zip(names, hex_digests([Sample(path, 0) for path in paths], 1), strict=True)
    ]
    paths = [path if is_own else "" for path, is_own in zip(paths, shown, strict=True)]
    pictures = thumbnails(paths, accepted_by(options), worker_count(options.workers))
    return [
        Mistake(
            at_home(name),
            classes[predictions.labels[place]],
            classes[predictions.predicted[place]],
            float(predictions.confidence[place]),
            picture,
        )
        for place, name, picture in zip(places, names, pictures, strict=True)
    ]


def is_below(name: str) -> bool:
    """Whether a file name, joined to a folder, stays in that folder."""
    return not os.path.isabs(name) and os.pardir not in name.split(os.sep)


def notes(validation: Validation | None, measured: Measured | None, best: EpochRow | None, root: str) -> list[str]:
    """Notes about missing parts of the page and why they are missing."""
    if validation is None or measured is None:
        return ["Figures per class and image are missing: the run has not finished yet."]
    found = []
    if best is None or best.epoch != validation.epoch:
        found.append(f"Figures per class and image are from epoch {validation.epoch}, not from the best epoch.")
    absent = sum(mistake.thumbnail is None for mistake in measured.mistakes)
    if absent:
        where = escape_name(str(without_home(root)))
        found.append(
            f"{absent} of {len(measured.mistakes)} thumbnails are missing: the images cannot be read in {where}, "
            "or are not those of this run. If they have moved, run: tlkit report RUN --data DIR"
        )
    return found


def at_home(text: str) -> str:
    """Replace the user's home folder in a text by ~."""
    home = os.path.expanduser("~")
    return text if home in ("/", "") else text.replace(os.path.join(home, ""), "~/")


def for_shell(path: str) -> str:
    """A path quoted for the shell: relative to the current folder, else to the home folder, else absolute."""
    below = os.path.relpath(path)
    if not below.startswith(os.pardir):
        return shlex.quote(below)
    whole = str(without_home(os.path.abspath(path)))
    if whole == "~":
        return whole
    return f"~/{shlex.quote(whole[2:])}" if whole.startswith("~/") else shlex.quote(whole)
