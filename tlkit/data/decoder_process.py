"""A process that decodes images and can do nothing else: what a broken or hostile file does to it harms no one.

It takes requests from the socket that is its standard input, each with an open file, until the other end is closed.
It loads neither torch nor numpy, so it is there at once.

A request: the length of a JSON object in 4 bytes, and that object, with the file's descriptor. The answer: length and
object likewise, and after it the pixels, uint8 [H, W, 3], if the request was for a view.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

from tlkit.data.decode import Accepted, check_file
from tlkit.data.image_file import ImageError
from tlkit.data.view import View

LENGTH = struct.Struct("<I")


Answer = tuple[dict[str, Any], bytes]


WAITING_TIMES_COMPUTING = 3
"""How many times longer than it may compute a decoder may take in all: the machine is busy, or a drive does not answer.

Counted by the clock alone, a busy machine would find good images bad.
"""


BYTES_A_PIXEL = 40
"""More than turning upright, transparency and conversion hold together at their worst, which is 24."""


BYTES_BESIDE = 1 << 30


def main(seconds: float) -> None:
    """Answer requests until there are no more. seconds: how long an image may compute."""
    leave_the_terminal()
    with socket.socket(fileno=os.dup(0)) as channel, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            head, descriptors, _, _ = socket.recv_fds(channel, LENGTH.size, 1)
            if len(head) < LENGTH.size:
                return
            request = json.loads(receive(channel, *LENGTH.unpack(head)))
            with os.fdopen(descriptors[0], "rb") as file, limited(seconds, request["max_pixels"]):
                answer, pixels = answer_to(request, file)
            text = json.dumps(answer).encode()
            channel.sendall(LENGTH.pack(len(text)) + text + pixels)


def answer_to(request: dict[str, Any], file: BinaryIO) -> Answer:
    """What there is to say of a file: its facts, a view of it, or why there is none."""
    try:
        if "view" in request:
            view = View.from_dict(request["view"])
            decoded = view("", file, bytes.fromhex(request["digest"]))
            return {"frames": decoded.frames, "degraded": decoded.degraded}, decoded.image.tobytes()
        return asdict(check_file("", file, Accepted(**request["accepted"]), request["thorough"])), b""
    except ImageError as error:
        return {"error": [error.code, error.message]}, b""
    except MemoryError:
        return {"error": ["image_corrupt", "decoding it takes more memory than an image of its size should"]}, b""
    except Exception as error:
        return {"bug": f"{type(error).__name__}: {error}"}, b""


def leave_the_terminal() -> None:
    """Only the other end of the socket ends this process: signals from a terminal are for those who use it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def limited(seconds: float, max_pixels: int) -> Iterator[None]:
    """Inside, the kernel ends this process when its time is up, and refuses it memory that no accepted image needs."""
    bytes_in_all = min(BYTES_BESIDE + BYTES_A_PIXEL * max_pixels, 1 << 62)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = bytes_in_all if hard == resource.RLIM_INFINITY else min(bytes_in_all, hard)
    with contextlib.suppress(ValueError, OSError):  # a system that does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING_TIMES_COMPUTING * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def receive(channel: socket.socket, length: int) -> bytearray:
    """So many bytes. Raises ConnectionResetError if the other end is gone before."""
    content = bytearray(length)
    receive_into(channel, memoryview(content))
    return content


def receive_into(channel: socket.socket, room: memoryview) -> None:
    """Fill room with what comes. Raises ConnectionResetError if the other end is gone before."""
    while len(room):
        count = channel.recv_into(room)
        if not count:
            raise ConnectionResetError
        room = room[count:]
