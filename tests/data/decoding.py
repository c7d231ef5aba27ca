"""Images opened by their names, as no command does: what it decodes, it has open."""

from __future__ import annotations

from PIL import Image

from tlkit.data.decode import ImageInfo, decode_file
from tlkit.data.decoders import Decoder
from tlkit.data.header import Accepted
from tlkit.data.image_file import open_regular


def decode_image(path: str, accepted: Accepted | None = None, shortest_side: int | None = None) -> Image.Image:
    """The picture alone; see decode.decode_file."""
    with open_regular(path) as file:
        return decode_file(path, file, accepted or Accepted(), shortest_side).image


def check(decoder: Decoder, path: str, accepted: Accepted, thorough: bool = False) -> ImageInfo:
    """What a decoder says of a file."""
    with open_regular(path) as file:
        return decoder.check_file(path, file, accepted, thorough)
