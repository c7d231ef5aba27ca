"""Exports that hold the computation itself, from pixels to logits: ONNX and torch.export."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from tlkit import __version__
from tlkit.errors import OutputError, UnavailableError, UsageError, first_line, is_memory
from tlkit.export.exporter import Exportable
from tlkit.files.checksum import write_checksummed_archive
from tlkit.files.onnx_file import checksum_of, read_onnx
from tlkit.files.pt2_file import DESCRIPTION_FILE, describe, read_pt2
from tlkit.files.trusted import load_program
from tlkit.versions import is_refused, require_floor
from tlkit.versions import version as installed_version

LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights. An ONNX file is one protobuf message, which ends at 2 GiB; the graph beside them takes a few MB."""


PIXELS, LOGITS, FEATURES = "pixels", "logits", "features"


class Onnx:
    """One file for onnxruntime and others, with its description and checksum in the metadata."""

    def write(self, model: Exportable, path: str) -> None:
        require_extra("--format onnx")
        weights = weight_bytes(model.network)
        if weights > LARGEST_ONNX:
            problem = f"holds 2 GB at most in one file, and this model's weights are {weights / 1e9:.1f} GB"
            raise UsageError("--format onnx", problem, "Use --format safetensors or torch_export.")
        with only_usage_errors("onnx", model):
            content = as_onnx(model.from_pixels(model.network), model.image_size, LOGITS, model.metadata())
        with open(path, "wb") as file:
            file.write(content)
            file.write(checksum_of(content))

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        import onnxruntime

        with quiet():
            session = onnxruntime.InferenceSession(read_onnx(path).content, providers=["CPUExecutionProvider"])
        return lambda pixels: torch.from_numpy(session.run([LOGITS], {PIXELS: pixels.numpy()})[0])

    def how_to_open(self, model: Exportable, path: str) -> str:
        height, width = model.image_size
        run = f"run(['{LOGITS}'], {{'{PIXELS}': images}})"
        return f"onnxruntime.InferenceSession({path!r}).{run}  # images: uint8 [B, {height}, {width}, 3]"


class TorchExport:
    """torch's own export: the graph and its weights, with the model's description beside them."""

    def write(self, model: Exportable, path: str) -> None:
        with quiet(), only_usage_errors("torch_export", model):
            program = torch.export.export(
                model.from_pixels(model.network),
                (example(model.image_size),),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # where on this machine each line of code lies
        extra = {DESCRIPTION_FILE: describe({**model.description, "tlkit_version": __version__})}
        with quiet(), open(path, "wb") as file:
            write_checksummed_archive(file, lambda stream: torch.export.save(program, stream, extra_files=extra))

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        own, found = model.network.state_dict(), read_pt2(path)["model_state_dict"]
        if found.keys() != own.keys() or not all(torch.equal(found[key], own[key]) for key in own):
            raise OutputError(path, "reads back with other weights; this version of torch writes them in another way")
        with quiet():
            program = load_program(path, trusted=path)  # which this very process has just written
            network: Callable[[Tensor], Tensor] = program.module()
        return network

    def how_to_open(self, model: Exportable, path: str) -> str:
        height, width = model.image_size
        images = f"images: uint8 [B, {height}, {width}, 3]; loading runs code: only files you trust"
        return f"torch.export.load({path!r}).module()(images)  # {images}"


def as_onnx(network: nn.Module, image_size: tuple[int, int], output: str, metadata: Mapping[str, str]) -> bytes:
    """A network from pixels, uint8 [B, H, W, 3], to one output, as ONNX. Raises anything if it cannot be that."""
    from onnx_ir import to_proto
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with quiet():
        program = torch.onnx.export(
            network,
            (example(image_size),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[PIXELS],
            output_names=[output],
            external_data=False,
            verbose=False,
        )
        assert program is not None
        graph = program.model
        ClearMetadataAndDocStringPass()(graph)  # where on this machine each line of code lies
        graph.metadata_props.clear()
        graph.metadata_props.update(metadata)
        graph.metadata_props["tlkit_version"] = __version__
        content: bytes = to_proto(graph).SerializeToString()
    return content


def example(image_size: tuple[int, int]) -> Tensor:
    """Two images: a batch of one would be taken for a size that never changes."""
    return torch.zeros(2, *image_size, 3, dtype=torch.uint8)


def weight_bytes(network: nn.Module) -> int:
    """How large the tensors of a network are together."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


EXTRA = ("onnx", "onnxruntime", "onnxscript")


def has_extra() -> bool:
    """Whether what writes and runs ONNX is installed, and safe. Imports none of it."""
    found = {name: installed_version(name) for name in EXTRA}
    return all(text is not None and not is_refused(name, text) for name, text in found.items())


def require_extra(subject: str) -> None:
    """Raises UnavailableError unless what writes and runs ONNX is installed. subject: what asks for it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            subject, f"needs {error.name}, which is not installed; get it by: pip install 'tlkit[onnx]'"
        ) from error
    require_floor("onnx")
    onnxruntime.set_default_logger_severity(4)  # nothing but fatal errors


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries print, warn and log from people: what matters comes as an exception."""
    logged = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logged)


@contextlib.contextmanager
def only_usage_errors(name: str, model: Exportable) -> Iterator[None]:
    """Exporters of torch raise anything for a network that they cannot follow; memory at its end stays what it is."""
    try:
        yield
    except Exception as error:
        if is_memory(error):
            raise
        problem = f"cannot hold {model.source}/{model.name}: {type(error).__name__}: {first_line(error)[:160]}"
        raise UsageError(f"--format {name}", problem, "Use --format safetensors.") from error
