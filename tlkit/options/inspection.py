"""The options of commands that look and change nothing; and of cache, which only clears what can be made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.options.data import DataOptions
from tlkit.options.declare import Options, argument, option
from tlkit.options.models import ModelOptions


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DataOptions, Options):
    """tlkit check"""

    format: Literal["text", "json"] = option("text", "For people, or for programs.")
    quick: bool = option(False, "Look at the header and the end of each image only, instead of decoding it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_data_options()


@dataclass(frozen=True, kw_only=True)
class BackbonesOptions(Options):
    """tlkit backbones"""

    pattern: str | None = argument("Part of a name, with * and ? as in a shell.", default=None)
    sizes: bool = option(False, "Also parameters and input size (builds each model: slow for many).")


@dataclass(frozen=True, kw_only=True)
class SummaryOptions(ModelOptions, Options):
    """tlkit summary"""

    model: str = argument("Backbone name, or a run folder, checkpoint, model.pt or export.", metavar="NAME_OR_MODEL")
    depth: int = option(2, "How deep modules are listed.", minimum=1)
    image_size: int | None = option(None, "Side of the square input in pixels, for a NAME.", minimum=16, maximum=4096)


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """tlkit cache"""

    clear: bool = option(False, "Remove all that is kept; it is computed again when it is needed.")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """tlkit doctor"""
