"""Shared options: the backbone, its weights and the new head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.declare import option

DEFAULT_BACKBONE = "timm/vit_small_patch14_dinov2.lvd142m"

HeadName = Literal["linear", "mlp", "stack"]
"""The names of model.head.HEADS, repeated because options load no torch; a test compares the two."""

HEADS_WITH_HIDDEN = ("mlp",)
HEADS_ON_CLASS_OUTPUTS = ("stack",)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A backbone, its weights, and the new head."""

    backbone: str = option(DEFAULT_BACKBONE, "Backbone (see tlkit backbones)", group="Model", metavar="NAME")
    weights: str = option(
        "pretrained", "Backbone weights: downloaded, random, or a file or folder", group="Model",
        metavar="pretrained|none|FILE",
    )  # fmt: skip
    weights_key: str | None = option(
        None, "Which copy of the weights in the file, e.g. teacher", group="Model", shown="the averaged one",
        metavar="NAME",
    )  # fmt: skip
    head: HeadName = option("linear", "New classifier; stack: on top of the pretrained class outputs", group="Model")
    hidden: int | None = option(None, "Width of --head mlp", group="Model", shown="512", minimum=1)
    unfreeze: str | None = option(
        None, "Backbone modules to train too, e.g. layer4, or all", group="Model", shown="none", metavar="NAME,NAME"
    )
    image_size: int | None = option(
        None, "Side of the square input in pixels", group="Model", shown="the backbone's", minimum=16, maximum=4096
    )

    def check_network_options(self) -> None:
        """Raises UsageError for invalid combinations."""
        if self.hidden is not None and self.head not in HEADS_WITH_HIDDEN:
            raise UsageError("--hidden", f"needs --head {' or '.join(HEADS_WITH_HIDDEN)}, but --head is {self.head}")
        if self.head in HEADS_ON_CLASS_OUTPUTS and self.weights == "none":
            raise UsageError(
                f"--head {self.head}", "needs the class outputs of pretrained weights, but --weights is none"
            )


def is_weights_file(weights: str) -> bool:
    """Whether --weights names a file or folder."""
    return weights not in ("pretrained", "none")
