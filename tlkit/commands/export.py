"""tlkit export: the model in another format, read back and compared before the command says done."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from tlkit.commands.models import is_exported_folder, open_model
from tlkit.errors import DONE, DataError, OutputError
from tlkit.model.files import LoadedModel
from tlkit.options import ExportOptions
from tlkit.output.exportable import Exportable
from tlkit.output.exporters import EXPORTERS
from tlkit.run_folder import RunFolder
from tlkit.storage import replaced_when_whole, writing
from tlkit.terminal import emit, say

TOLERANCE = 1e-4
"""Of logits; where they are large, of the largest. Rounding stays far below."""

TIE = 1e-6
"""Of the largest logit: two that are no further apart are equal but for rounding, and either may be first."""

BATCH_SIZES = (1, 7, 64)


def export(options: ExportOptions) -> int:
    """Write, read back, compare. Prints the path; returns the exit status."""
    exporter = EXPORTERS[options.format]
    output = os.path.abspath(options.output or "")
    require_free(output, options)
    model = open_model(options.model, options.weights, options.trust_pickle)
    exportable = as_exportable(model)
    with replaced_when_whole(output) as aside:
        with writing(output):
            exporter.write(exportable, aside)
        difference = compare(model, exporter.read(exportable, aside), output)
    say("export", f"{options.format}, read back and compared: logits differ by {difference:.1g} at most")
    say("open", exporter.how_to_open(exportable, options.output or ""))
    emit(os.fsencode(f"{options.output}\n"))
    return DONE


def require_free(output: str, options: ExportOptions) -> None:
    """Raises OutputError if something is there that must not be replaced, or the folder it goes to is not."""
    if os.path.lexists(output):
        if not options.overwrite:
            raise OutputError(output, "exists already", "Choose another --output, or replace it by --overwrite.")
        if options.format == "timm" and not os.path.isdir(output):
            raise OutputError(output, "is a file, and --format timm writes a folder")
        if os.path.isdir(output) and not (options.format == "timm" and is_exported_folder(output)):
            raise OutputError(output, "is a folder that no export to timm made, and is not replaced")
        if is_of_a_run(output) or os.path.realpath(output) == os.path.realpath(options.model):
            raise OutputError(output, "is a model or checkpoint of a run, and is not replaced")
    folder = os.path.dirname(output)
    if not os.path.isdir(folder):
        raise OutputError(output, f"cannot be created: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(output, "cannot be created: permission denied")


def is_of_a_run(path: str) -> bool:
    """Whether a path is a run's model, or one of its checkpoints."""
    run = RunFolder.containing(path)
    return run is not None and (
        os.path.realpath(path) == os.path.realpath(run.model_file)
        or os.path.dirname(os.path.realpath(path)) == os.path.realpath(run.checkpoints)
    )


def as_exportable(model: LoadedModel) -> Exportable:
    """A model as exporters see it."""
    description = model.description
    return Exportable(
        network=model.network,
        rebuild=description.build,
        from_pixels=model.from_pixels,
        description=description.to_dict(),
        source=description.backbone.source,
        name=description.backbone.name,
        head=description.head,
        classes=description.classes,
        image_size=description.preprocessing.image_size,
    )


@torch.inference_mode()
def compare(model: LoadedModel, reread: Callable[[Tensor], Tensor], output: str) -> float:
    """The largest difference between the logits of both on random images.

    Raises DataError if it is more than rounding, or if an image is another class.
    """
    largest = 0.0
    network = model.from_pixels(model.network)
    height, width = model.preprocessing.image_size
    generator = torch.Generator().manual_seed(0)
    for size in BATCH_SIZES:
        pixels = torch.randint(256, (size, height, width, 3), generator=generator, dtype=torch.uint8)
        expected, found = network(pixels), reread(pixels)
        scale = max(1.0, expected.abs().max().item())
        difference = (expected - found).abs().max().item()
        if not difference <= TOLERANCE * scale:
            raise DataError(output, f"reads back with logits that differ by {difference:.3g}; do not use it")
        chosen = expected.gather(1, found.argmax(dim=1, keepdim=True))  # [B, 1]
        if not (expected.amax(dim=1, keepdim=True) - chosen <= TIE * scale).all():
            raise DataError(output, "reads back with another class for an image; do not use it")
        largest = max(largest, difference)
    return largest
