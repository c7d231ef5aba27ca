"""A separate process that decodes images, so that a broken or hostile file cannot crash the command.

It reads requests, each with an open file descriptor, from a socket on standard input until the socket is closed.
It loads neither torch nor numpy, so that it starts fast.

Request: length of a JSON object in 4 bytes, the object, and the file descriptor. Response: length and object, followed
by the pixels, uint8 [H, W, 3], if the request was for a view.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

from tlkit.data.decode import check_file
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError
from tlkit.data.view import View

LENGTH = struct.Struct("<I")
Response = tuple[dict[str, Any], bytes]

WALL_TIME_FACTOR = 3
"""Limit of wall-clock time as a multiple of CPU time, for busy machines and slow drives.

With a wall-clock limit alone, good images would fail on a busy machine.
"""

BYTES_PER_PIXEL = 40
"""Upper bound of memory per pixel: orientation, transparency and conversion need at most 24."""

BASE_BYTES = 1 << 30


def main(seconds: float, lifeline: int) -> None:
    """Respond to requests until the socket is closed. seconds: CPU time limit per image.

    lifeline: descriptor of a pipe that the command holds open. The command's death ends this process even inside an
    image.
    """
    ignore_terminal_signals()
    end_with(lifeline)
    with socket.socket(fileno=os.dup(0)) as channel, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            head, descriptors, _, _ = socket.recv_fds(channel, LENGTH.size, 1)
            if len(head) < LENGTH.size:
                return
            request = json.loads(receive(channel, *LENGTH.unpack(head)))
            with os.fdopen(descriptors[0], "rb") as file, limited(seconds, request["max_pixels"]):
                response, pixels = respond(request, file)
            text = json.dumps(response).encode()
            channel.sendall(LENGTH.pack(len(text)) + text + pixels)


def respond(request: dict[str, Any], file: BinaryIO) -> Response:
    """The response to a request: image info, a view, or an error."""
    try:
        if "view" in request:
            view = View.from_dict(request["view"])
            decoded = view("", file, bytes.fromhex(request["digest"]))
            facts = {"frames": decoded.frames, "degraded": decoded.degraded, "peak": decoded.peak}
            return facts, decoded.image.tobytes()
        return asdict(check_file("", file, Accepted(**request["accepted"]), request["thorough"])), b""
    except ImageError as error:
        return {"error": [error.code, error.message]}, b""
    except MemoryError:
        return {"error": ["image_corrupt", "decoding needs more memory than an image of this size should"]}, b""
    except Exception as error:
        return {"bug": f"{type(error).__name__}: {error}"}, b""


def ignore_terminal_signals() -> None:
    """Ignore signals of the terminal: this process ends when its socket is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with(lifeline: int) -> None:
    """Let the kernel end this process when the other end of a pipe is closed; exit if it is closed already.

    PR_SET_PDEATHSIG would not do: it acts when the thread ends that has started this process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # ends the process
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        raise SystemExit


@contextlib.contextmanager
def limited(seconds: float, max_pixels: int) -> Iterator[None]:
    """Limit time and memory by the kernel, which kills the process when the time is over."""
    bytes_in_all = min(BASE_BYTES + BYTES_PER_PIXEL * max_pixels, 1 << 62)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = bytes_in_all if hard == resource.RLIM_INFINITY else min(bytes_in_all, hard)
    with contextlib.suppress(ValueError, OSError):  # the system does not support this limit
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_TIME_FACTOR * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def receive(channel: socket.socket, length: int) -> bytearray:
    """Receive exactly `length` bytes. Raises ConnectionResetError if the socket is closed before."""
    content = bytearray(length)
    receive_into(channel, memoryview(content))
    return content


def receive_into(channel: socket.socket, room: memoryview) -> None:
    """Receive bytes until `room` is full. Raises ConnectionResetError if the socket is closed before."""
    while len(room):
        count = channel.recv_into(room)
        if not count:
            raise ConnectionResetError
        room = room[count:]
