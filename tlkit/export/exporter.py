"""A model as exporters see it, and what an exporter is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from tlkit.files.description import metadata_of


@dataclass(frozen=True)
class Exportable:
    """A model as exporters see it.

    network: images [B, 3, H, W] -> logits [B, C]. rebuild: an empty network of the same structure. from_pixels: a
    network with the arithmetic before it: uint8 [B, H, W, 3] -> logits [B, C]. description: plain JSON types; source,
    name and head are also given on their own.
    """

    network: nn.Module
    rebuild: Callable[[], nn.Module]
    from_pixels: Callable[[nn.Module], nn.Module]
    description: Mapping[str, Any]
    source: str
    name: str
    head: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]

    def metadata(self) -> dict[str, str]:
        """By which tlkit knows an exported file again."""
        return metadata_of(self.description)

    def state(self) -> dict[str, Tensor]:
        """The network's state dict, each tensor with memory of its own."""
        state = self.network.state_dict()
        for key, tensor in state.items():
            state[key] = tensor.contiguous().clone()
        return state


class Exporter(Protocol):
    """A format."""

    def write(self, model: Exportable, path: str) -> None:
        """Write the file or folder. Raises UsageError for a model that the format cannot hold."""

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        """What was written, as others would load it: uint8 [B, H, W, 3] -> logits [B, C]"""

    def how_to_open(self, model: Exportable, path: str) -> str:
        """A line of Python for people."""
