"""Exports that hold the computation itself, from pixels to logits: ONNX and torch.export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version

import torch
from torch import Tensor

from tlkit.errors import OutputError, UnavailableError, UsageError, first_line, is_memory
from tlkit.files.onnx_file import read_onnx, seal_of
from tlkit.files.pt2_file import DESCRIPTION_FILE, describe, read_pt2
from tlkit.files.seal import write_sealed_archive
from tlkit.files.trusted import load_program
from tlkit.output.exportable import Exportable
from tlkit.versions import require_floor

LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights. An ONNX file is one protobuf message, which ends at 2 GiB; the graph beside them takes a few MB."""

PIXELS, LOGITS = "pixels", "logits"


class Onnx:
    """One file for onnxruntime and others, with its description and seal in the metadata."""

    def write(self, model: Exportable, path: str) -> None:
        require_extra()
        weights = sum(tensor.nbytes for tensor in model.network.state_dict().values())
        if weights > LARGEST_ONNX:
            problem = f"holds 2 GB at most in one file, and this model's weights are {weights / 1e9:.1f} GB"
            raise UsageError("--format onnx", problem, "Use --format safetensors or torch_export.")
        with quiet(), only_usage_errors("onnx", model):
            content = self._content(model)
        with open(path, "wb") as file:
            file.write(content)
            file.write(seal_of(content))

    def _content(self, model: Exportable) -> bytes:
        from onnx_ir import to_proto
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        program = torch.onnx.export(
            model.from_pixels(model.network),
            (example(model),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[PIXELS],
            output_names=[LOGITS],
            external_data=False,
            verbose=False,
        )
        assert program is not None
        graph = program.model
        ClearMetadataAndDocStringPass()(graph)  # where on this machine each line of code lies
        graph.metadata_props.clear()
        graph.metadata_props.update(model.metadata())
        graph.metadata_props["tlkit_version"] = version("tlkit")
        content: bytes = to_proto(graph).SerializeToString()
        return content

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
                (example(model),),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # where on this machine each line of code lies
        extra = {DESCRIPTION_FILE: describe({**model.description, "tlkit_version": version("tlkit")})}
        with quiet(), open(path, "wb") as file:
            write_sealed_archive(file, lambda sealed: torch.export.save(program, sealed, extra_files=extra))

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


def example(model: Exportable) -> Tensor:
    """Two images: a batch of one would be taken for a size that never changes."""
    return torch.zeros(2, *model.image_size, 3, dtype=torch.uint8)


def require_extra() -> None:
    """Raises UnavailableError unless what writes and runs ONNX is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            "--format onnx", f"needs {error.name}, which is not installed; get it by: pip install 'tlkit[onnx]'"
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
