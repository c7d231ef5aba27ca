"""The one place where images are opened: what is read, how, and what is refused with which code."""

from __future__ import annotations

import errno
import io
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tests.data.decoding import decode_image
from tests.data.layouts import layouts, outcome
from tests.data.odd_images import (
    BAD,
    READABLE,
    RED,
    WHITE,
    encoded,
    flipped,
    gray_tiff,
    many_scans,
    noise,
    pages_tiff,
    pixels,
    rgb_png,
    sixteen_bit,
)  # fmt: skip
from tlkit.data.dark_images import DarkImages
from tlkit.data.decode import ImageInfo, check_file, decode_file
from tlkit.data.decoders import Processes, ThisProcess
from tlkit.data.formats import looks_like_image
from tlkit.data.header import Accepted
from tlkit.data.image_file import IMAGE_ERROR_CODES, ImageError, open_regular
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.tiff import MOST_PAGES

PHOTO = Path(__file__).parents[2] / "sample_data" / "textures" / "val" / "retina" / "retina_00.jpg"


def as_array(path: Path, **options: object) -> np.ndarray:
    return np.asarray(decode_image(str(path), **options))


def check_image(path: str, thorough: bool = False) -> ImageInfo:
    with open_regular(path) as file:
        return check_file(path, file, Accepted(), thorough)


def code_of(action, path: Path | str) -> str:
    with pytest.raises(ImageError) as refused:
        action(str(path))
    assert refused.value.path == str(path)
    assert refused.value.message and str(path) not in refused.value.message
    return refused.value.code


@pytest.mark.parametrize("name", READABLE, ids=lambda name: ascii(name[:30]))
def test_odd_images_are_read_as_rgb(name: str, tmp_path: Path) -> None:
    (tmp_path / "plain.jpg").write_bytes(encoded("JPEG"))
    if name != "plain.jpg":
        READABLE[name](tmp_path / name)
    check_image(str(tmp_path / name))
    image = decode_image(str(tmp_path / name))
    assert image.mode == "RGB"
    with Image.open(tmp_path / name) as plain:
        assert image.size == plain.size


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_with_their_code(name: str, tmp_path: Path) -> None:
    code, write = BAD[name]
    write(tmp_path / name)
    assert code_of(decode_image, tmp_path / name) == code
    assert code in IMAGE_ERROR_CODES


DAMAGED_INSIDE = {"damaged_pixels.png"}
"""What only decoding finds, and the check before a run may let through."""


@pytest.mark.parametrize("name", BAD)
def test_the_cheap_check_finds_the_same(name: str, tmp_path: Path) -> None:
    code, write = BAD[name]
    write(tmp_path / name)
    if name in DAMAGED_INSIDE:
        check_image(str(tmp_path / name))
    else:
        assert code_of(check_image, tmp_path / name) == code


def test_paths_that_cannot_be_files(tmp_path: Path) -> None:
    assert code_of(decode_image, tmp_path / "missing.jpg") == "not_found"
    assert code_of(decode_image, tmp_path / ("n" * 300)) == "not_found"
    (tmp_path / "file").touch()
    assert code_of(decode_image, tmp_path / "file" / "below.jpg") == "not_found"
    for path in ("", "nul\0byte.jpg"):
        with pytest.raises(ImageError) as refused:
            decode_image(path)
        assert refused.value.code == "not_found"
    assert code_of(decode_image, "/dev/zero") == "not_regular_file"


def test_a_socket_is_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        assert code_of(decode_image, "socket.jpg") == "not_regular_file"


def test_a_file_without_permission() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path, other = Path(folder) / "secret.png", Path(folder) / "open.png"
        for file, mode in ((path, 0), (other, 0o644)):
            file.write_bytes(encoded("PNG"))
            file.chmod(mode)
        try:
            os.seteuid(user or 65534)  # root may read everything
            assert code_of(decode_image, path) == "permission_denied"
            assert decode_image(str(other)).size == (40, 30)
        finally:
            os.seteuid(user)


def test_a_file_without_permission_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert code_of(decode_image, "secret.png") == "permission_denied"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_show_the_same_picture(orientation: int, tmp_path: Path) -> None:
    upright = Image.fromarray(pixels())
    stored = {
        1: lambda image: image,
        2: ImageOps.mirror,
        3: lambda image: image.rotate(180),
        4: ImageOps.flip,
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "turned.png").write_bytes(encoded("PNG", stored, exif=exif))
    np.testing.assert_array_equal(as_array(tmp_path / "turned.png"), pixels())


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(*RED, 255), (*RED, 0), (0, 0, 0, 128)])
    image.save(tmp_path / "alpha.png")
    assert as_array(tmp_path / "alpha.png")[0].tolist() == [list(RED), list(WHITE), [127, 127, 127]]


def test_a_transparent_palette_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "palette.png", transparency=1)
    assert as_array(tmp_path / "palette.png")[0].tolist() == [list(RED), list(WHITE)]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_256_levels(format: str, tmp_path: Path) -> None:
    (tmp_path / "deep").write_bytes(encoded(format, sixteen_bit()))
    expected = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (8, 1))[..., None], 3, axis=2)
    np.testing.assert_array_equal(as_array(tmp_path / "deep"), expected)


def test_cmyk_as_photoshop_stores_it_keeps_its_colours(tmp_path: Path) -> None:
    """Pillow writes CMYK inverted with Adobe's marker, as Photoshop does; red must come back as red."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    (tmp_path / "cmyk.jpg").write_bytes(encoded("JPEG", red, quality=95))
    np.testing.assert_allclose(as_array(tmp_path / "cmyk.jpg")[8, 8], (255, 0, 0), atol=3)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = Image.fromarray(pixels()).convert("L")
    grey.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(as_array(tmp_path / "grey.png"), np.repeat(np.asarray(grey)[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["frames.gif", "frames.webp", "frames.png", "pages.tif"])
def test_of_several_frames_the_first_is_taken(name: str, tmp_path: Path) -> None:
    READABLE[name](tmp_path / name)
    np.testing.assert_allclose(as_array(tmp_path / name).reshape(-1, 3).mean(0), RED, atol=3)


def test_a_flipped_byte_in_the_middle_of_a_jpeg_is_no_error(tmp_path: Path) -> None:
    """JPEG has no checksum: this cannot be found, and must not crash."""
    (tmp_path / "flipped.jpg").write_bytes(flipped(PHOTO.read_bytes(), PHOTO.stat().st_size // 2))
    assert decode_image(str(tmp_path / "flipped.jpg")).size == (112, 112)


@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1999), (640, 480), (300, 4000)])
def test_large_jpegs_are_reduced_but_never_below_what_is_asked(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded("JPEG", Image.fromarray(pixels(*size)), quality=95))
    reduced = decode_image(str(path), shortest_side=200)
    assert min(reduced.size) >= 200
    factor = size[0] / reduced.width
    assert factor == pytest.approx(size[1] / reduced.height, rel=0.02)
    whole = decode_image(str(path)).resize(reduced.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(reduced, float) - np.asarray(whole, float)).mean() < 1.5
    assert factor > 1.9 or min(size) < 400


def test_small_jpegs_are_not_reduced(tmp_path: Path) -> None:
    np.testing.assert_array_equal(as_array(PHOTO, shortest_side=112), as_array(PHOTO))
    np.testing.assert_array_equal(as_array(PHOTO, shortest_side=500), as_array(PHOTO))


def test_images_above_the_limit_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    BAD["bomb_13000.png"][1](path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(decode_image, path) == "image_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_the_limit_can_be_moved() -> None:
    with pytest.raises(ImageError, match=r"112 x 112 pixels; at most 12,543 are accepted"):
        decode_image(str(PHOTO), Accepted(max_pixels=112 * 112 - 1))
    assert decode_image(str(PHOTO), Accepted(max_pixels=112 * 112)).size == (112, 112)


def test_postscript_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    BAD["postscript.jpg"][1](tmp_path / "postscript.jpg")
    assert code_of(decode_image, tmp_path / "postscript.jpg") == "not_an_image"


def test_odd_images_say_nothing(tmp_path: Path) -> None:
    """Pillow's warnings never reach the user."""
    for name in ("palette_alpha.png", "broken_exif.jpg", "broken_profile.jpg", "orientation_99.jpg"):
        READABLE[name](tmp_path / name)
    program = "import sys; from tests.data.decoding import decode_image; [decode_image(p) for p in sys.argv[1:]]"
    paths = [str(path) for path in tmp_path.iterdir()]
    result = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_preview_in_a_cameras_jpeg_is_no_second_frame(tmp_path: Path) -> None:
    READABLE["camera.jpg"](tmp_path / "camera.jpg")
    assert check_image(str(tmp_path / "camera.jpg")).frames == 1
    large = Image.fromarray(pixels(1600, 1200))
    preview = [Image.new("RGB", (20, 20))]
    (tmp_path / "large.jpg").write_bytes(encoded("MPO", large, save_all=True, append_images=preview))
    assert decode_image(str(tmp_path / "large.jpg")).size == (1600, 1200)
    assert decode_image(str(tmp_path / "large.jpg"), shortest_side=200).size == (400, 300)


@pytest.mark.parametrize("name", ["frames.gif", "frames.webp", "frames.png", "pages.tif"])
def test_frames_are_counted(name: str, tmp_path: Path) -> None:
    READABLE[name](tmp_path / name)
    assert check_image(str(tmp_path / name)).frames >= 2
    with open_regular(str(tmp_path / name)) as file:
        assert decode_file(name, file, Accepted()).frames == check_image(str(tmp_path / name)).frames


@pytest.mark.parametrize("name", BAD)
def test_the_thorough_check_finds_everything(name: str, tmp_path: Path) -> None:
    code, write = BAD[name]
    write(tmp_path / name)
    assert code_of(lambda path: check_image(path, thorough=True), tmp_path / name) == code


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        (
            "F",
            [-1, 0, 0.25, 0.5, 1, 2, float("nan"), float("inf"), float("-inf")],
            [0, 0, 64, 128, 255, 255, 0, 255, 0],
        ),
        ("I", [-(2**31), 0, 1, 2**31 - 1], [0, 0, 255, 255]),
    ],
)
def test_32_bits_are_read_where_their_range_is_given(
    mode: str, values: list[float], expected: list[int], tmp_path: Path
) -> None:
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    image.save(tmp_path / "deep.tif")
    found = as_array(tmp_path / "deep.tif", accepted=Accepted(float_range=(0, 1)))
    assert found[0].tolist() == [[level] * 3 for level in expected]
    turned = as_array(tmp_path / "deep.tif", accepted=Accepted(float_range=(1, 0)))
    finite = [k for k, value in enumerate(values) if abs(value) < 1e9 and value == value]
    assert (turned[0, finite] == 255 - found[0, finite]).mean() > 0.7  # halves round to even on either side


def test_a_range_changes_nothing_for_other_images(tmp_path: Path) -> None:
    for name in ("sixteen_bit.png", "sixteen_bit.tif", "plain.jpg"):
        READABLE[name](tmp_path / name)
        ranged = as_array(tmp_path / name, accepted=Accepted(float_range=(0, 1)))
        np.testing.assert_array_equal(ranged, as_array(tmp_path / name))


@pytest.mark.parametrize(("name", "format"), [("photo.avif", "AVIF"), ("photo.jp2", "JPEG2000")])
def test_more_formats_where_they_are_asked_for(name: str, format: str, tmp_path: Path) -> None:
    BAD[name][1](tmp_path / name)
    found = as_array(tmp_path / name, accepted=Accepted(more_formats=(format,)))
    assert np.abs(found.astype(int) - pixels()).mean() < 10
    (tmp_path / "cut").write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(ImageError) as refused:
        decode_image(str(tmp_path / "cut"), Accepted(more_formats=(format,)))
    assert refused.value.code in ("not_an_image", "image_truncated", "image_corrupt")


@pytest.mark.parametrize(
    "values",
    [{"more_formats": ("EPS",)}, {"more_formats": ("AVIF", 5)}, {"float_range": (1, 1)},
     {"float_range": (0, float("nan"))},
     {"float_range": (0,)}, {"float_range": ("a", "b")}],
)  # fmt: skip
def test_a_model_file_cannot_let_anything_in(values: dict[str, object]) -> None:
    """Pillow's reader of EPS starts Ghostscript."""
    preprocessing = Preprocessing((8, 8), (8, 8), "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).to_dict()
    assert Preprocessing.from_dict(preprocessing).to_dict() == preprocessing
    with pytest.raises((ValueError, TypeError)):
        Preprocessing.from_dict(preprocessing | values)


def test_memory_that_runs_out_says_nothing_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    for place in ("PIL.Image.open", "PIL.ImageFile.ImageFile.load"):
        with monkeypatch.context() as patch:
            patch.setattr(place, refuse)
            with pytest.raises(MemoryError):
                decode_image(str(PHOTO))


class FailingDrive(io.BytesIO):
    """A file whose first bytes alone can be read."""

    def __init__(self, content: bytes, good: int) -> None:
        super().__init__(content)
        self.good = good

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if self.tell() > self.good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return content


@pytest.mark.parametrize("good", [0, 200, 1000])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("truncated", [False, True])
def test_what_the_system_cannot_read_is_told_as_that(format: str, good: int, truncated: bool) -> None:
    content = encoded(format, noise(100, 80))
    accepted = Accepted(truncated=truncated)
    for read in (
        lambda file: decode_file("a.jpg", file, accepted),
        lambda file: check_file("a.jpg", file, accepted, thorough=True),
    ):
        with pytest.raises(ImageError) as refused:
            read(FailingDrive(content, good))
        assert (refused.value.code, refused.value.message) == ("image_corrupt", "cannot be read (Input/output error)")


# Layouts of pixels


def test_layouts_of_tiff_and_png_show_the_right_pixels_or_are_unsupported() -> None:
    """A sample of what layouts.py does by the thousand."""
    found = Counter(outcome(layout) for layout in layouts(200, seed=1))
    assert found.keys() <= {"right", "unsupported_mode"} and found["right"] > 60, found


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_white_may_be_zero(order: str, bits: int, tmp_path: Path) -> None:
    for photometric in (0, 1):
        (tmp_path / f"{photometric}.tif").write_bytes(gray_tiff(order, photometric, bits))
    np.testing.assert_array_equal(as_array(tmp_path / "0.tif"), 255 - as_array(tmp_path / "1.tif"))
    assert as_array(tmp_path / "1.tif")[0, [0, -1], 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("white_is_100.pgm", [0, 128, 252, 255]), ("white_is_4095.pgm", [0, 128, 249, 255]),
     ("in_words.pgm", [0, 28, 57])],
)  # fmt: skip
def test_a_pgm_says_which_value_is_white(name: str, expected: list[int], tmp_path: Path) -> None:
    READABLE[name](tmp_path / name)
    np.testing.assert_allclose(as_array(tmp_path / name)[0, :, 0], expected, atol=1)


def test_a_palette_of_8_bit_colours_is_not_black(tmp_path: Path) -> None:
    colors = np.arange(256, dtype=np.uint16)[None].repeat(3, axis=0)
    for scale in (1, 257):
        tifffile.imwrite(tmp_path / "p.tif", pixels()[..., 0], photometric="palette", colormap=colors * scale)
        np.testing.assert_array_equal(as_array(tmp_path / "p.tif")[..., 0], pixels()[..., 0])


TWELVE = np.tile(np.linspace(0, 4095, 64), (8, 1)).round().astype(np.uint16)


def write_deep(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    elif values.ndim == 3:
        path.write_bytes(rgb_png(values))
    else:
        Image.fromarray(values).save(path)


def dark_warnings(peak: int) -> list[str]:
    dark = DarkImages()
    dark.add("a.png", peak)
    return dark.warnings()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_16_are_noticed_and_have_a_range(suffix: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / f"camera.{suffix}"
    write_deep(path, TWELVE if channels == 1 else np.stack([TWELVE] * 3, axis=2))
    info = check_image(str(path))
    assert info.peak is not None and 4095 <= info.peak < 4096 + 256
    assert "--integer-range 0,4095" in dark_warnings(info.peak)[0]
    shown = as_array(path, accepted=Accepted(integer_range=(0, 4095)))
    np.testing.assert_allclose(shown, np.repeat(TWELVE[..., None] / 4095 * 255, 3, axis=2), atol=0.51)
    assert as_array(path).max() == 15  # without it, as ever
    turned = as_array(path, accepted=Accepted(integer_range=(4095, 0)))
    np.testing.assert_allclose(turned, 255.0 - shown, atol=1)


@pytest.mark.parametrize("name", ["sixteen_bit.png", "sixteen_bit.tif", "sixteen_bit_rgb.png", "white_is_4095.pgm"])
def test_16_bits_that_are_used_are_not_complained_of(name: str, tmp_path: Path) -> None:
    READABLE[name](tmp_path / name)
    peak = check_image(str(tmp_path / name)).peak
    assert peak is not None and peak >= 65_000 and not dark_warnings(peak)


def test_images_of_8_bits_have_no_peak(tmp_path: Path) -> None:
    for name in ("plain.jpg", "plain.ppm", "alpha.png", "grey.png"):
        READABLE[name](tmp_path / name)
        assert check_image(str(tmp_path / name), thorough=True).peak is None


# Costs


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "PPM", "BMP"])
def test_a_file_far_longer_than_its_pixels_need_is_not_read(format: str, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(encoded(format))
    os.truncate(path, 100 << 30)
    for action in (check_image, decode_image):
        assert code_of(action, path) == "image_too_large"
    os.truncate(path, 1 << 20)  # as phones append a video
    if format != "PNG":  # which is decoded to see whether it is whole
        assert decode_image(str(path)).size == (40, 30)


def test_pages_are_counted_as_far_as_they_matter(tmp_path: Path) -> None:
    for number, expected in ((1, 1), (3, 3), (20_000, MOST_PAGES)):
        (tmp_path / "pages.tif").write_bytes(pages_tiff(number))
        assert check_image(str(tmp_path / "pages.tif")).frames == expected


def test_directories_that_form_a_loop_are_counted_once(tmp_path: Path) -> None:
    content = pages_tiff(2)
    start = int.from_bytes(content[4:8], "little")
    (tmp_path / "loop.tif").write_bytes(content[:-4] + start.to_bytes(4, "little"))
    assert check_image(str(tmp_path / "loop.tif")).frames == 2


@pytest.mark.parametrize("count", [1, 50])
def test_progressive_jpegs_may_have_many_scans(count: int, tmp_path: Path) -> None:
    (tmp_path / "scans.jpg").write_bytes(many_scans(count))
    assert decode_image(str(tmp_path / "scans.jpg")).size == (40, 30)


# HEIF


def test_without_the_extra_the_error_says_how_to_read_heic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("damaged.heic", "burst.heic", "general.hif", "still.hif"):
        BAD[name][1](tmp_path / name)
        with pytest.raises(ImageError, match=r"pip install 'tlkit\[heif\]'") as refused:
            decode_image(str(tmp_path / name))
        assert refused.value.code == "unsupported_format"


@pytest.mark.parametrize("bits", [8, 10])
def test_heic_is_read_with_the_extra(bits: int, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(pixels(64, 48))
    path = str(tmp_path / "photo.heic")
    if bits == 8:
        heif.from_pillow(image).save(path, quality=95)
    else:
        deep = pixels(64, 48).astype("<u2") * 257
        heif.from_bytes("RGB;16", (64, 48), deep.tobytes()).save(path, quality=95)
    for decoder in (ThisProcess(), Processes()):
        with closing(decoder), open_regular(path) as file:
            assert decoder.check_file(path, file, Accepted(), thorough=True).format == "HEIF"
    assert np.abs(as_array(Path(path)).astype(int) - pixels(64, 48)).mean() < 4


# What other files are


@pytest.mark.parametrize(
    ("name", "said"),
    [("pointer.jpg", "Git LFS; to get the image, run git lfs pull"), ("page.jpg", "an HTML page"),
     ("drawing.png", "an SVG drawing"), ("document.jpg", "a PDF document"), ("letter.jpg", "an Office document"),
     ("old_letter.jpg", "an Office document"), ("archive.jpg", "a zip archive"), ("clip.jpg", "a video"),
     ("zeros.jpg", "zero bytes only"), ("photo.cr2", "Canon CR2 (camera raw)"), ("sensor.nef", "camera raw"),
     ("twelve_bits.jpg", "12 bits"), ("jpeg_2000.tif", "JPEG 2000 compression")],
)  # fmt: skip
def test_a_refusal_says_what_the_file_is(name: str, said: str, tmp_path: Path) -> None:
    BAD[name][1](tmp_path / name)
    with pytest.raises(ImageError) as refused:
        decode_image(str(tmp_path / name))
    assert said in refused.value.message


def test_text_that_starts_like_a_bitmap_is_no_image() -> None:
    assert not looks_like_image(b"P1 is the first prize, P2 the second.")
    assert looks_like_image(b"P1\n# made by hand\n2 2\n0 1 1 0\n")
