"""Which network is trained, and what of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.declare import option

DEFAULT_BACKBONE = "timm/vit_small_patch14_dinov2.lvd142m"


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A backbone, its weights, and the head to put on."""

    backbone: str = option(
        DEFAULT_BACKBONE,
        "Pretrained model: timm/NAME, torchvision/NAME, or a bare NAME looked up in that order "
        "(see `tlkit backbones`).",
        metavar="NAME",
    )
    weights: str = option(
        "pretrained",
        "pretrained (downloaded), none (random), or a .safetensors or .pth file.",
        metavar="pretrained|none|FILE",
    )
    head: Literal["linear", "mlp", "stack"] = option(
        "linear",
        "New classifier: linear or mlp in place of the backbone's own; stack: a linear layer on its "
        "pretrained class outputs.",
    )
    hidden: int | None = option(None, "Width of --head mlp. Default: 512.", minimum=1)
    unfreeze: str | None = option(
        None,
        "Modules of the backbone to train too: names or prefixes with commas between, or all.",
        metavar="NAMES",
    )
    image_size: int | None = option(
        None, "Side of the square input in pixels. Default: the backbone's own.", minimum=16, maximum=4096
    )

    def check_network_options(self) -> None:
        """Raises UsageError for values that make no sense together."""
        if self.hidden is not None and self.head != "mlp":
            raise UsageError("--hidden", f"needs --head mlp, but --head is {self.head}")
        if self.head == "stack" and self.weights == "none":
            raise UsageError("--head stack", "needs the class outputs of pretrained weights, but --weights is none")


def is_weights_file(weights: str) -> bool:
    """Whether --weights names a file."""
    return weights not in ("pretrained", "none")
