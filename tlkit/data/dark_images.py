"""Warn of 16-bit images that use a part of the range only, so that they look almost black."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.errors import escape_name
from tlkit.terminal import count

DARK = 1 << 14
"""If no value of 16-bit images reaches a quarter of the range, they probably have fewer bits."""


@dataclass
class DarkImages:
    """16-bit images that use a part of the range only. number, example: of such images; peak: their largest value."""

    number: int = 0
    example: str = ""
    peak: int = 0

    def add(self, path: str, peak: int | None) -> None:
        """Count an image if it is dark. peak: see decode.Decoded."""
        if peak and peak < DARK:
            self.number += 1
            self.example, self.peak = self.example or path, max(self.peak, peak)

    def warnings(self) -> list[str]:
        """A warning about these images, if there are any."""
        if not self.number:
            return []
        white = (1 << self.peak.bit_length()) - 1
        images = f"{count(self.number, 'image')} of 16 bits ({escape_name(self.example)})"
        return [
            f"{images} with values of at most {self.peak:,}, which looks almost black: "
            f"if white is {white:,}, not 65,535, train with --integer-range 0,{white}"
        ]
