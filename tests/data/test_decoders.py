"""Decoders in processes of their own: the same pixels, and nothing that a file does to one harms anyone else."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import faults
from tests.data.decoding import check
from tests.data.odd_images import BAD, READABLE, encoded
from tlkit.data import decoders
from tlkit.data.decode import ImageInfo
from tlkit.data.decoders import Decoder, DecoderProcess, Processes, ThisProcess, open_decoder
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError, open_regular
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.view import View
from tlkit.errors import ResourceError

PREPROCESSING = Preprocessing((32, 48), (32, 48), "center", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
VIEW = View(PREPROCESSING)
GOOD = encoded("PNG")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with closing(Processes()) as pool:
        yield pool


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Decoders that go wrong on some sizes, and may compute for a second."""
    monkeypatch.setattr(decoders, "PROGRAM", faults.PROGRAM)
    with closing(Processes(seconds=1)) as pool:
        yield pool


def write(path: Path, size: tuple[int, int] | None = None) -> str:
    path.write_bytes(encoded("PNG", Image.new("RGB", size)) if size else GOOD)
    return str(path)


def code_of(decoder: Decoder, path: str, view: View = VIEW) -> str:
    with pytest.raises(ImageError) as refused:
        decoder.load(path, view)
    assert refused.value.path == path and path not in refused.value.message
    return refused.value.code


def is_running(process: int) -> bool:
    """Whether a process is there, and no zombie that nobody has buried."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(process: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while is_running(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_running(process)


@pytest.mark.parametrize("augment", ["none", "strong"])
def test_pixels_are_those_that_this_process_decodes(augment: str, processes: Processes, tmp_path: Path) -> None:
    view = View(PREPROCESSING, augment=augment, seed=3, epoch=5)
    for name, write_file in READABLE.items():
        write_file(tmp_path / name)
        here, there = (decoder.load(str(tmp_path / name), view) for decoder in (ThisProcess(), processes))
        np.testing.assert_array_equal(here.pixels, there.pixels)
        assert (here.frames, here.degraded) == (there.frames, there.degraded)
        path = str(tmp_path / name)
        assert check(processes, path, Accepted()) == check(ThisProcess(), path, Accepted())


def test_errors_are_those_of_this_process(processes: Processes, tmp_path: Path) -> None:
    for name, (code, write_file) in BAD.items():
        write_file(tmp_path / name)
        path = str(tmp_path / name)
        found = []
        for decoder in (ThisProcess(), processes):
            with pytest.raises(ImageError) as refused:
                decoder.load(path, VIEW)
            found.append((refused.value.code, refused.value.message))
        assert found[0] == found[1] and found[0][0] == code, name


def test_what_a_header_says(processes: Processes, tmp_path: Path) -> None:
    READABLE["frames.gif"](tmp_path / "frames.gif")
    for thorough in (False, True):
        facts = check(processes, str(tmp_path / "frames.gif"), Accepted(), thorough)
        assert facts == ImageInfo("GIF", "P", 40, 30, 2)  # Pillow writes two equal frames as one


@pytest.mark.parametrize("size", faults.CODES)
def test_a_decoder_that_goes_wrong_costs_one_image(size: tuple[int, int], faulty: Processes, tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.png"), write(tmp_path / "bad.png", size)

    def outcome(path: str) -> str:
        try:
            return str(faulty.load(path, VIEW).pixels.shape)
        except ImageError as error:
            return error.code

    found = list(map_in_order(outcome, [good, bad, good, good, bad, good], workers=2, ahead=4))
    shape, code = "(32, 48, 3)", faults.CODES[size]
    assert found == [shape, code, shape, shape, code, shape]


@pytest.mark.parametrize(
    ("size", "waiting", "signal_"), [((13, 1), 1000, signal.SIGPROF), ((13, 2), 3, signal.SIGALRM)]
)
def test_computing_and_waiting_are_counted_apart(
    size: tuple[int, int], waiting: int, signal_: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    longer = f"from tlkit.data import decoder_process; decoder_process.WALL_TIME_FACTOR = {waiting}"
    monkeypatch.setattr(decoders, "PROGRAM", f"{longer}; {faults.PROGRAM}")
    process = DecoderProcess(0.3)
    path = write(tmp_path / "hangs.png", size)
    request = {"accepted": asdict(Accepted()), "thorough": False, "max_pixels": 1000}
    with open_regular(path) as file, pytest.raises(ImageError) as refused:
        process.ask(path, file, request)
    assert refused.value.code == "decode_timeout"
    assert process.process.returncode == -signal_


def test_a_decoder_that_is_killed_is_no_fault_of_the_image(faulty: Processes, tmp_path: Path) -> None:
    killed, good = write(tmp_path / "killed.png", (13, 6)), write(tmp_path / "good.png")
    with pytest.raises(
        ResourceError, match=r"image decoder: the worker process was killed by SIGKILL while decoding .*"
    ):
        faulty.load(killed, VIEW)
    assert ResourceError.exit_code == 71
    assert faulty.load(good, VIEW).pixels.shape == (32, 48, 3)


def test_a_decoder_that_was_killed_while_idle_costs_nothing(tmp_path: Path) -> None:
    good = write(tmp_path / "good.png")
    with closing(Processes()) as pool:
        pool.load(good, VIEW)
        (process,) = pool._all
        os.kill(process.process.pid, signal.SIGKILL)
        assert wait_until_gone(process.process.pid)
        assert pool.load(good, VIEW).pixels.shape == (32, 48, 3)
        assert len(pool._all) == 1 and process not in pool._all


def test_a_decoder_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decoders, "PROGRAM", "import no_such_module")
    with closing(Processes()) as pool, pytest.raises(ResourceError, match="ended with status 1"):
        pool.load(write(tmp_path / "good.png"), VIEW)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with closing(Processes()) as pool, pytest.raises(ResourceError, match="cannot be started: No such file"):
        pool.load(write(tmp_path / "good.png"), VIEW)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_for_the_command_do_not_end_its_decoders(number: signal.Signals, tmp_path: Path) -> None:
    good = write(tmp_path / "good.png")
    with closing(Processes()) as pool:
        pool.load(good, VIEW)
        (process,) = pool._all
        os.kill(process.process.pid, number)
        assert pool.load(good, VIEW).pixels.shape == (32, 48, 3)
        assert os.getsid(process.process.pid) != os.getsid(0)


def test_decoders_end_with_the_pool_and_when_nobody_has_it(tmp_path: Path) -> None:
    for leave in (Processes.close, lambda pool: None):
        pool = Processes()
        pool.load(write(tmp_path / "good.png"), VIEW)
        (process,) = pool._all
        assert is_running(process.process.pid)
        leave(pool)
        del pool
        gc.collect()
        assert not is_running(process.process.pid)


@pytest.mark.parametrize("busy", [False, True])
def test_no_decoder_survives_a_command_that_is_killed(busy: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "image.png", (13, 1) if busy else None)
    program = f"""
import sys, threading
from tests.data import faults
from tests.data.decoding import check
from tlkit.data import decoders
from tlkit.data.header import Accepted
decoders.PROGRAM = faults.PROGRAM
pool = decoders.Processes(seconds=600)
pool.start()
print(pool._idle[0].process.pid, flush=True)
check(pool, {path!r}, Accepted())
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as command:
        assert command.stdout
        decoder = int(command.stdout.readline())
        assert is_running(decoder)
        time.sleep(0.3)
        command.kill()
        assert wait_until_gone(decoder)


def test_nothing_is_loaded_from_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of images may hold a json.py too."""
    for name in ("json", "PIL", "numpy", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with closing(Processes()) as pool:
        assert pool.load(write(tmp_path / "good.png"), VIEW).pixels.shape == (32, 48, 3)
    assert not (tmp_path / "canary").exists()


def peak_bytes(process: DecoderProcess) -> int:
    """The most memory that a process had."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_images_above_the_limit_cost_neither_memory_nor_time(tmp_path: Path) -> None:
    bombs = [name for name, (code, _) in BAD.items() if code == "image_too_large"]
    for name in bombs:
        BAD[name][1](tmp_path / name)
    with closing(Processes(seconds=1)) as pool:
        pool.load(write(tmp_path / "good.png"), VIEW)
        (process,) = pool._all
        before = peak_bytes(process)
        for name in bombs:
            assert code_of(pool, str(tmp_path / name)) == "image_too_large"
        assert peak_bytes(process) - before < 50e6
        assert pool._all == {process}


def test_the_largest_image_that_is_accepted_has_memory_enough(tmp_path: Path) -> None:
    """With transparency and a rotation, which take the most."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("LA", (6400, 10_000))
    (tmp_path / "large.png").write_bytes(encoded("PNG", image, exif=exif, compress_level=1))
    with closing(Processes()) as pool:
        assert pool.load(str(tmp_path / "large.png"), VIEW).pixels.shape == (32, 48, 3)
        assert code_of(pool, str(tmp_path / "large.png"), View(PREPROCESSING, 63_999_999)) == "image_too_large"


def test_an_image_that_is_cut_short_is_read_as_far_as_it_goes_where_that_is_asked_for(
    processes: Processes, tmp_path: Path
) -> None:
    lenient = View(PREPROCESSING, truncated=True)
    for name, (code, write_file) in BAD.items():
        if code != "image_truncated":
            continue
        write_file(tmp_path / name)
        for decoder in (ThisProcess(), processes):
            if name != "half.webp":  # its decoder takes it whole or not at all
                picture = decoder.load(str(tmp_path / name), lenient)
                assert picture.degraded and picture.pixels.shape == (32, 48, 3)
            assert code_of(decoder, str(tmp_path / name)) == "image_truncated"  # and the next is read strictly
    assert not processes.load(write(tmp_path / "good.png"), lenient).degraded


def test_without_workers_this_process_decodes() -> None:
    assert isinstance(open_decoder(0), ThisProcess)
    assert isinstance(open_decoder(1), Processes)
