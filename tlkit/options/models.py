"""Shared options: files of weights and models."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.options.declare import option


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """Options of every command that reads weights or models."""

    trust_pickle: str | None = option(
        None, "Allow this one file to run code when it is opened", group="Model", shown="none", metavar="FILE",
        stored=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelOptions(TrustOptions):
    """Options of every command that opens a MODEL."""

    weights: str | None = option(
        None, "Backbone weights, if the file has moved", group="Model", shown="the recorded path", metavar="FILE"
    )
