"""A sample of what fuzz_images.py does by the thousand."""

from __future__ import annotations

from tests.data.fuzz_images import damaged_images, fuzz_image, seeds


def test_damaged_images_are_read_or_refused_with_a_code() -> None:
    for data in damaged_images(300, seed=1):
        fuzz_image(data)


def test_there_is_a_seed_of_every_format() -> None:
    starts = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"GIF8", b"II*", b"\0\0\0\x0cjP", b"8BPS")
    for start in starts:
        assert any(seed.startswith(start) for seed in seeds())
    assert any(seed[4:11] == b"ftypavi" for seed in seeds())
