"""tlkit export: write a model in another format, read it back, and compare."""

from __future__ import annotations

import os

from tlkit.errors import DONE, OutputError
from tlkit.export.verify import compare
from tlkit.export.weights import EXPORTERS
from tlkit.files.atomic import replaced_when_whole
from tlkit.files.run_folder import RunFolder
from tlkit.files.storage import writing
from tlkit.model.open import is_exported_folder, open_model
from tlkit.options import ExportOptions
from tlkit.terminal import log_status, write_stdout


def export(options: ExportOptions) -> int:
    """Write, read back, compare, print the path. Returns the exit status."""
    exporter = EXPORTERS[options.format]
    output = os.path.abspath(options.output or "")
    require_free(output, options)
    model = open_model(options.model, options.weights, options.trust_pickle)
    with replaced_when_whole(output) as aside:
        with writing(output):
            exporter.write(model, aside)
        difference = compare(model, exporter.read(model, aside), output)
    log_status("export", f"{options.format}, verified: logits differ by at most {difference:.1g}")
    log_status("open", exporter.how_to_open(model, options.output or ""))
    write_stdout(os.fsencode(f"{options.output}\n"))
    return DONE


def require_free(output: str, options: ExportOptions) -> None:
    """Raises OutputError if the output must not be replaced, or its folder does not exist or is read-only."""
    if os.path.lexists(output):
        if not options.overwrite:
            raise OutputError(output, "already exists", "Choose another --output, or add --overwrite to replace it.")
        if options.format == "timm" and not os.path.isdir(output):
            raise OutputError(output, "is a file, but --format timm writes a folder")
        if os.path.isdir(output) and not (options.format == "timm" and is_exported_folder(output)):
            raise OutputError(output, "is a folder other than an export with --format timm; it is not replaced")
        run, target = RunFolder.containing(output), os.path.realpath(output)
        of_a_run = run is not None and (
            target == os.path.realpath(run.model_file) or os.path.dirname(target) == os.path.realpath(run.checkpoints)
        )
        if of_a_run or target == os.path.realpath(options.model):
            raise OutputError(output, "is a model or checkpoint of a run; it is not replaced")
    folder = os.path.dirname(output)
    if not os.path.isdir(folder):
        raise OutputError(output, f"cannot be created: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(output, "cannot be created: permission denied")
