"""Models and weights from files."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.options.declare import option


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """What every command takes that reads weights or models."""

    trust_pickle: str | None = option(
        None,
        "Run the code in this one file of weights, or model: only if you trust whoever made it.",
        metavar="FILE",
        stored=False,
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(TrustOptions):
    """What every command takes that opens a MODEL."""

    weights: str | None = option(
        None, "The backbone's weights file, if MODEL is a checkpoint and the file has moved.", metavar="FILE"
    )
