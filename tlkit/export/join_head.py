"""Join a backbone's ONNX graph and a trained head into one graph from pixels to logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tlkit import __version__
from tlkit.export.graphs import FEATURES, LOGITS

if TYPE_CHECKING:
    from onnx import GraphProto


def join_head(backbone: bytes, layers: nn.Module, positions: bool, metadata: Mapping[str, str]) -> bytes:
    """A graph from pixels to features [B, D] or [B, P, D] -> the same graph with a head, from pixels to logits [B, C].

    layers: the head without standardization (Head.folded). positions: positive logits are averaged over P.
    Raises ValueError for layers that `can_join` refuses.
    """
    import onnx

    if not can_join(layers):
        raise ValueError("the head has layers without ONNX nodes")
    parts = list(layers) if isinstance(layers, nn.Sequential) else [layers]
    model = onnx.load_model_from_string(backbone)
    head = HeadNodes(model.graph)
    for layer in parts:
        head.append(layer)
    if positions:
        head.average_positions(len(model.graph.output[0].type.tensor_type.shape.dim))
    model.graph.node[-1].output[0] = LOGITS
    del model.graph.output[:]
    classes = len(parts[-1].get_parameter("weight"))
    model.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, ["batch", classes]))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**metadata, "tlkit_version": __version__})
    content: bytes = model.SerializeToString()
    return content


def can_join(layers: nn.Module) -> bool:
    """Whether a head consists of layers that have ONNX nodes here."""
    parts = list(layers) if isinstance(layers, nn.Sequential) else [layers]
    known = all(type(p) is nn.Linear or (type(p) is nn.GELU and p.approximate == "none") for p in parts)
    return known and isinstance(parts[-1], nn.Linear)


class HeadNodes:
    """Appends the nodes of a head to a graph whose output is the features."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.last = FEATURES

    def append(self, layer: nn.Module) -> None:
        """Append a linear layer or a GELU."""
        if isinstance(layer, nn.Linear):
            self.last = self.node("MatMul", self.last, self.constant(layer.weight.detach().T))
            if layer.bias is not None:
                self.last = self.node("Add", self.last, self.constant(layer.bias.detach()))
        else:
            inner = self.node("Erf", self.node("Mul", self.last, self.constant(Tensor([1 / math.sqrt(2)]))))
            scaled = self.node("Mul", self.last, self.constant(Tensor([0.5])))
            self.last = self.node("Mul", scaled, self.node("Add", inner, self.constant(Tensor([1.0]))))

    def average_positions(self, dimensions: int) -> None:
        """As Head.forward does: ReLU, then the mean over positions where features have them."""
        self.last = self.node("Relu", self.last)
        if dimensions == 3:
            self.last = self.node("ReduceMean", self.last, self.constant(torch.tensor([1])), keepdims=0)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        from onnx import helper

        name = f"head_{len(self.graph.node)}"
        self.graph.node.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, values: Tensor) -> str:
        """Store a tensor in the graph; returns its name."""
        from onnx import numpy_helper

        name = f"head_constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(values.contiguous().numpy(), name))
        return name
