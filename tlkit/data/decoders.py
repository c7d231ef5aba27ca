"""Decode images in isolated processes, or in this process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BufferedReader
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlkit.data.dark_images import DarkImages
from tlkit.data.decode import ImageInfo, check_file
from tlkit.data.decoder_process import LENGTH, receive, receive_into
from tlkit.data.folder import Sample
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError, file_digest, open_bytes, open_regular
from tlkit.data.view import View
from tlkit.distributed.env import local_ranks
from tlkit.errors import ResourceError
from tlkit.files.python_path import python_arguments
from tlkit.terminal import log_status

Pixels = NDArray[np.uint8]

DECODE_SECONDS = 10.0
"""CPU time limit per image, in seconds."""

PROGRAM = "from tlkit.data.decoder_process import main; main(float(sys.argv.pop(1)), int(sys.argv.pop(1)))"
"""Program of a decoder process."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc: return memory only after large images. Allocating it for every image costs 10 % of decoding.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}

SOCKET_BYTES = 1 << 20
"""Socket buffer size, as far as the system allows it."""

LONGEST_RESPONSE = 64 << 10
"""Bytes. A longer response means that the decoder process is corrupted."""

CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


@dataclass(frozen=True)
class Picture:
    """A preprocessed image, uint8 [H, W, 3]. frames, degraded, peak: see decode.Decoded."""

    pixels: Pixels
    frames: int = 1
    degraded: bool = False
    peak: int | None = None


class Decoder(ABC):
    """Opens images. Thread-safe."""

    has_warned = False

    def warn_if_dark(self, path: str, picture: Picture) -> Picture:
        """The same picture; once, a warning about 16-bit pixels that use a part of the range only."""
        dark = DarkImages()
        dark.add(path, picture.peak)
        if not self.has_warned and dark.number:
            self.has_warned = True
            log_status("warning", *dark.warnings())
        return picture

    def load(self, path: str, view: View) -> Picture:
        """Decode and preprocess an image file. Raises ImageError."""
        with open_regular(path) as file:
            return self.load_open(path, file, view)

    def load_sample(self, sample: Sample, view: View) -> Picture:
        """Decode and preprocess a sample. Raises ImageError."""
        with sample.open() as file:
            return self.load_open(sample.path, file, view)

    def load_bytes(self, name: str, content: bytes, view: View) -> Picture:
        """Decode and preprocess the bytes of an image file. Raises ImageError."""
        with open_bytes(name, content) as file:
            return self.load_open(name, file, view)

    def load_open(self, path: str, file: BufferedReader, view: View) -> Picture:
        """Decode and preprocess an open image file. Raises ImageError."""
        return self.load_file(path, file, view, file_digest(path, file) if view.is_random else b"")

    @abstractmethod
    def check_file(self, path: str, file: BufferedReader, accepted: Accepted, thorough: bool) -> ImageInfo:
        """Check an image; see decode.check_file. Raises ImageError."""

    @abstractmethod
    def load_file(self, path: str, file: BufferedReader, view: View, digest: bytes) -> Picture:
        """Like load, for an open file. digest: from file_digest, for an augmented view."""

    def start(self) -> None:  # noqa: B027 - most have nothing to do
        """Start the process for the first image now."""

    def close(self) -> None:  # noqa: B027
        """End all processes. Also happens when the object is garbage-collected."""


class ThisProcess(Decoder):
    """Decodes in this process: a decoder that crashes or hangs also stops the command."""

    def check_file(self, path: str, file: BufferedReader, accepted: Accepted, thorough: bool) -> ImageInfo:
        return check_file(path, file, accepted, thorough)

    def load_file(self, path: str, file: BufferedReader, view: View, digest: bytes) -> Picture:
        decoded = view(path, file, digest)
        return Picture(np.asarray(decoded.image), decoded.frames, decoded.degraded, decoded.peak)


class Processes(Decoder):
    """Decodes in separate processes, one per thread that calls at the same time.

    A process that crashes or hangs fails its image, and is replaced.
    """

    def __init__(self, seconds: float = DECODE_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._idle: list[DecoderProcess] = []
        self._all: set[DecoderProcess] = set()
        self._end = weakref.finalize(self, end_all, self._all)

    def start(self) -> None:
        self._idle.append(self._new())

    def close(self) -> None:
        self._end()

    def check_file(self, path: str, file: BufferedReader, accepted: Accepted, thorough: bool) -> ImageInfo:
        request = {"accepted": asdict(accepted), "thorough": thorough, "max_pixels": accepted.max_pixels}
        with self._borrowed() as process:
            return ImageInfo(**process.ask(path, file, request))

    def load_file(self, path: str, file: BufferedReader, view: View, digest: bytes) -> Picture:
        request = {"view": view.to_dict(), "digest": digest.hex(), "max_pixels": view.max_pixels}
        with self._borrowed() as process:
            response = process.ask(path, file, request)
            pixels = np.empty((*view.preprocessing.image_size, 3), np.uint8)
            process.receive_into(path, pixels)
            return Picture(pixels, **response)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[DecoderProcess]:
        """A process for one image. It is not reused if it was interrupted in the middle of a response."""
        process = self._take_idle() or self._new()
        try:
            yield process
        except ImageError:
            raise
        except BaseException:
            process.end()
            raise
        finally:
            with self._lock:
                if process.ended:
                    self._all.discard(process)
                else:
                    self._idle.append(process)

    def _take_idle(self) -> DecoderProcess | None:
        """An idle process, or None. Processes that were killed while idle are discarded."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_running():
                    return process
                self._all.discard(process)
                process.end()
        return None

    def _new(self) -> DecoderProcess:
        process = DecoderProcess(self.seconds)
        with self._lock:
            self._all.add(process)
        if not self._end.alive:
            process.end()
        return process


def end_all(processes: set[DecoderProcess]) -> None:
    """Kill processes."""
    for process in list(processes):
        process.end()


class DecoderProcess:
    """One process that runs decoder_process.main, and the socket to it.

    It ends when the socket is closed, and at once when this process is killed, because that closes the pipe `lifeline`.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.channel, theirs = socket.socketpair()
        reader, writer = os.pipe()
        self.lifeline = open(writer, "wb")  # noqa: SIM115 - see close
        with theirs, open(reader, "rb"):
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", *python_arguments(PROGRAM, str(seconds), str(reader))],
                    pass_fds=(reader,),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # C libraries print warnings about invalid files
                    env={**os.environ, **ENVIRONMENT},
                    start_new_session=True,
                )
            except OSError as error:
                self.close()
                raise ResourceError("image decoder", f"cannot be started: {error.strerror}") from error

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    def is_running(self) -> bool:
        return self.process.poll() is None

    def ask(self, path: str, file: BufferedReader, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request about an open file. Raises ImageError, or ResourceError if the process was killed."""
        text = json.dumps(request).encode()
        try:
            socket.send_fds(self.channel, [LENGTH.pack(len(text)) + text], [file.fileno()])
            (length,) = LENGTH.unpack(receive(self.channel, LENGTH.size))
            if length > LONGEST_RESPONSE:
                self.end()
                raise ImageError(path, "image_corrupt", f"the decoder crashed (a response of {length:,} bytes)")
            response: dict[str, Any] = json.loads(receive(self.channel, length))
        except OSError:
            raise self.describe_end(path) from None
        if "error" in response:
            raise ImageError(path, *response["error"])
        if "bug" in response:
            raise RuntimeError(f"{path}: {response['bug']}")
        return response

    def receive_into(self, path: str, pixels: Pixels) -> None:
        """Receive the pixels after a response. Raises ImageError or ResourceError."""
        try:
            receive_into(self.channel, pixels.data.cast("B"))
        except OSError:
            raise self.describe_end(path) from None

    def describe_end(self, path: str) -> Exception:
        """The error for a process that ended while it decoded this image."""
        self.close()
        status = self.process.wait()
        if -status in (signal.SIGALRM, signal.SIGPROF):
            return ImageError(path, "decode_timeout", f"decoding takes longer than {self.seconds:g} seconds")
        if -status in CRASHES:
            return ImageError(path, "image_corrupt", f"the decoder crashed ({signal.Signals(-status).name})")
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ResourceError(
            "image decoder",
            f"the worker process {how} while decoding {path}",
            "The kernel kills processes when memory runs out; try fewer, such as --workers 1.",
        )

    def end(self) -> None:
        """Kill the process if it is still running."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Close the socket and the pipe, which ends the process. May be called again."""
        self.channel.close()
        self.lifeline.close()


def open_decoder(workers: int) -> Decoder:
    """A decoder for `workers` threads; 0 decodes in this process."""
    return Processes(DECODE_SECONDS) if workers else ThisProcess()


def worker_count(workers: int | None) -> int:
    """Number of decoder processes: as given, or one per available core divided by the ranks on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // local_ranks()) if workers is None else workers
