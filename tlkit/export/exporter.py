"""The interface of an export format, and the model as exporters see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from tlkit.files.description import metadata_of


@dataclass(frozen=True)
class Exportable:
    """A model as exporters see it.

    network: images [B, 3, H, W] -> logits [B, C]. rebuild: builds the same network with random weights. from_pixels:
    puts the normalization before a network: uint8 [B, H, W, 3] -> logits [B, C]. description: JSON types.
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
        """The metadata by which tlkit opens an exported file again."""
        return metadata_of(self.description)

    def state(self) -> dict[str, Tensor]:
        """The network's state dict; tensors are contiguous and share no memory."""
        state = self.network.state_dict()
        for key, tensor in state.items():
            state[key] = tensor.contiguous().clone()
        return state


class Exporter(Protocol):
    """An export format."""

    def write(self, model: Exportable, path: str) -> None:
        """Write the file or folder. Raises UsageError if the format cannot hold the model."""

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        """Load what was written as another program would: uint8 [B, H, W, 3] -> logits [B, C]"""

    def how_to_open(self, model: Exportable, path: str) -> str:
        """A line of Python that opens it without tlkit."""
