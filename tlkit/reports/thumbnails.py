"""Thumbnails for reports and experiment trackers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing

from PIL import Image

from tlkit.data.decoders import open_decoder
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.view import View

SIDE = 160


def thumbnails(paths: Sequence[str], accepted: Accepted, workers: int) -> list[bytes | None]:
    """A square JPEG of the center of each image; None for an image that cannot be read."""
    view = View(
        Preprocessing(
            image_size=(SIDE, SIDE),
            resize=(SIDE, SIDE),
            crop_mode="center",
            interpolation="bicubic",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            more_formats=accepted.more_formats,
            float_range=accepted.float_range,
            integer_range=accepted.integer_range,
        ),
        accepted.max_pixels,
    )
    with closing(open_decoder(min(workers, len(paths)))) as decoder:

        def load(path: str) -> bytes | None:
            file = io.BytesIO()
            try:
                Image.fromarray(decoder.load(path, view).pixels).save(file, "JPEG", quality=80)
            except ImageError:
                return None
            return file.getvalue()

        return list(map_in_order(load, paths, workers=workers, ahead=len(paths) + 1))
