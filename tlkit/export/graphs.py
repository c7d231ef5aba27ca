"""Export the computation from pixels to logits: ONNX and torch.export."""

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
from tlkit.files.checksum import write_checksummed_archive
from tlkit.files.description import metadata_of
from tlkit.files.onnx_file import checksum_of, read_onnx
from tlkit.files.pt2_file import DESCRIPTION_FILE, describe, read_pt2
from tlkit.files.trusted import load_program
from tlkit.model.files import LoadedModel
from tlkit.versions import is_refused, require_floor
from tlkit.versions import version as installed_version

LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights. An ONNX file is one protobuf message of at most 2 GiB; the graph itself takes a few MB."""

PIXELS, LOGITS, FEATURES = "pixels", "logits", "features"


class Onnx:
    """One .onnx file, with the model's description in its metadata and a checksum."""

    def write(self, model: LoadedModel, path: str) -> None:
        require_extra("--format onnx")
        weights = weight_bytes(model.network)
        if weights > LARGEST_ONNX:
            problem = f"holds at most 2 GB, but the weights of this model take {weights / 1e9:.1f} GB"
            raise UsageError("--format onnx", problem, "Use --format safetensors or torch_export.")
        with only_usage_errors("onnx", model):
            metadata = metadata_of(model.description.to_dict())
            content = as_onnx(model.from_pixels(model.network), model.preprocessing.image_size, LOGITS, metadata)
        with open(path, "wb") as file:
            file.write(content)
            file.write(checksum_of(content))

    def read(self, model: LoadedModel, path: str) -> Callable[[Tensor], Tensor]:
        import onnxruntime

        with quiet():
            session = onnxruntime.InferenceSession(read_onnx(path).content, providers=["CPUExecutionProvider"])
        return lambda pixels: torch.from_numpy(session.run([LOGITS], {PIXELS: pixels.numpy()})[0])

    def how_to_open(self, model: LoadedModel, path: str) -> str:
        height, width = model.preprocessing.image_size
        run = f"run(['{LOGITS}'], {{'{PIXELS}': images}})"
        return f"onnxruntime.InferenceSession({path!r}).{run}  # images: uint8 [B, {height}, {width}, 3]"


class TorchExport:
    """A .pt2 file of torch.export: the graph, its weights and the model's description."""

    def write(self, model: LoadedModel, path: str) -> None:
        with quiet(), only_usage_errors("torch_export", model):
            program = torch.export.export(
                model.from_pixels(model.network),
                (example(model.preprocessing.image_size),),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # has file paths of this machine
        extra = {DESCRIPTION_FILE: describe({**model.description.to_dict(), "tlkit_version": __version__})}
        with quiet(), open(path, "wb") as file:
            write_checksummed_archive(file, lambda stream: torch.export.save(program, stream, extra_files=extra))

    def read(self, model: LoadedModel, path: str) -> Callable[[Tensor], Tensor]:
        own, found = model.network.state_dict(), read_pt2(path)["model_state_dict"]
        if found.keys() != own.keys() or not all(torch.equal(found[key], own[key]) for key in own):
            raise OutputError(path, "was read back with other weights; this version of torch stores them differently")
        with quiet():
            program = load_program(path, trusted=path)  # this process has just written it
            network: Callable[[Tensor], Tensor] = program.module()
        return network

    def how_to_open(self, model: LoadedModel, path: str) -> str:
        height, width = model.preprocessing.image_size
        images = f"images: uint8 [B, {height}, {width}, 3]; loading runs code: only files you trust"
        return f"torch.export.load({path!r}).module()(images)  # {images}"


def as_onnx(network: nn.Module, image_size: tuple[int, int], output: str, metadata: Mapping[str, str]) -> bytes:
    """Convert a network (uint8 [B, H, W, 3] -> output) to ONNX. Raises any exception if torch cannot."""
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
        ClearMetadataAndDocStringPass()(graph)  # has file paths of this machine
        graph.metadata_props.clear()
        graph.metadata_props.update(metadata)
        graph.metadata_props["tlkit_version"] = __version__
        content: bytes = to_proto(graph).SerializeToString()
    return content


def example(image_size: tuple[int, int]) -> Tensor:
    """A batch of two images; torch would treat a batch size of one as constant."""
    return torch.zeros(2, *image_size, 3, dtype=torch.uint8)


def weight_bytes(network: nn.Module) -> int:
    """Total bytes of a network's tensors."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


EXTRA = ("onnx", "onnxruntime", "onnxscript")


def has_extra() -> bool:
    """Whether tlkit[onnx] is installed in versions without known vulnerabilities. Imports none of it."""
    found = {name: installed_version(name) for name in EXTRA}
    return all(text is not None and not is_refused(name, text) for name, text in found.items())


def require_extra(subject: str) -> None:
    """Raises UnavailableError unless tlkit[onnx] is installed. subject: the option that needs it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        if is_memory(error):
            raise
        raise UnavailableError(subject, f"needs {error.name}", "Install it: pip install 'tlkit[onnx]'") from error
    require_floor("onnx")
    onnxruntime.set_default_logger_severity(4)  # only fatal errors


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what libraries print, warn and log; they raise exceptions for what matters."""
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
def only_usage_errors(name: str, model: LoadedModel) -> Iterator[None]:
    """Turn any exception of torch's exporters into a UsageError, except out-of-memory errors."""
    try:
        yield
    except Exception as error:
        if is_memory(error):
            raise
        problem = f"cannot hold {model.description.backbone}: {type(error).__name__}: {first_line(error)[:160]}"
        raise UsageError(f"--format {name}", problem, "Use --format safetensors.") from error
