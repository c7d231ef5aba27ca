"""Lines are written whole, a terminal obeys no data, and what is printed by others never counts as data."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.conftest import command
from tlkit import terminal
from tlkit.errors import StorageError
from tlkit.terminal import escape_control_chars, output_for_data_alone, print_error, write_lines, write_stdout


@contextlib.contextmanager
def standard(descriptor: int, replacement: int) -> Iterator[None]:
    """Another file in the place of a standard stream."""
    kept = os.dup(descriptor)
    os.dup2(replacement, descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def test_lines_are_written_whole_in_pieces_that_a_pipe_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    monkeypatch.setattr(terminal, "write_unbroken", lambda descriptor, piece: pieces.append(bytes(piece)))
    lines = [b"x" * length + b"\n" for length in (0, 1, 4000, 95, 1, 4095, 4096, 10, 9000, 3, 4090)]
    for content in (b"".join(lines), b"".join(lines) + b"no end", b"", b"\n"):
        pieces.clear()
        write_lines(1, content)
        assert b"".join(pieces) == content
        assert all(piece.endswith(b"\n") for piece in pieces[:-1])
        assert all(len(piece) <= select.PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)
        lengths = [(len(piece), len(after.split(b"\n")[0]) + 1) for piece, after in pairwise(pieces[:-1])]
        assert all(length + following > select.PIPE_BUF for length, following in lengths), "smaller than need be"


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    content = b"".join(b"%09d\n" % number for number in range(100_000)) + b"x" * 200_000 + b"\n"
    writer = threading.Thread(target=lambda: (write_lines(writing, content), os.close(writing)))
    writer.start()
    with open(reading, "rb") as file:
        assert file.read() == content
    writer.join()


def test_signals_are_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    write_stdout("")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("text", ["plain\té 猫\n\n", "", "\n"])
def test_what_does_no_harm_stays(text: str) -> None:
    assert escape_control_chars(text) == text


def test_what_steers_a_terminal_is_shown() -> None:
    steering = "a\x1b[31mb\rc\x07d\x9be\u202ef\x00g\udce9h\n"
    assert escape_control_chars(steering) == r"a\x1b[31mb\rc\x07d\x9be\u202ef\x00g\udce9h" + "\n"


def test_talk_never_steers_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    print_error("class \x1b]0;title\x07", "two\nlines")
    assert capfd.readouterr().err == "class \\x1b]0;title\\x07\ntwo\nlines\n"


def test_talk_that_nobody_hears_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with standard(2, writing):
        print_error("hello")
    os.close(writing)


def test_data_steer_a_terminal_only_if_it_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    data = b"na\x1b[1mme\tlabel\n" + b"caf\xe9\n"
    write_stdout(data)
    assert capfd.readouterr().out.encode("utf-8", "surrogateescape") == data.replace(b"\xe9", "\ufffd".encode())
    primary, secondary = pty.openpty()
    with standard(1, secondary):
        write_stdout(data)
    assert os.read(primary, 1000) == b"na\\x1b[1mme\tlabel\r\ncaf\\xe9\r\n"
    os.close(primary)
    os.close(secondary)


def test_only_data_reach_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)
    with output_for_data_alone():
        os.write(1, b"descriptor\n")
        libc.puts(b"C")
        libc.fflush(None)
        subprocess.run(["echo", "child"], check=True)
        write_stdout("data\n")
    write_stdout("more\n")
    captured = capfd.readouterr()
    assert captured.out == "data\nmore\n"
    assert captured.err == "descriptor\nC\nchild\n"


def test_what_cannot_be_written_is_told() -> None:
    with (
        open("/dev/full", "wb") as full,
        standard(1, full.fileno()),
        pytest.raises(StorageError, match="No space left"),
    ):
        write_stdout("data\n")


@pytest.mark.parametrize("word", ["--help", "--version", "predict --help"])
def test_help_that_cannot_be_shown(word: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    left = subprocess.run(command(*word.split()), stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (left.returncode, left.stderr) == (-signal.SIGPIPE, b"")
    with open("/dev/full", "wb") as full:
        result = subprocess.run(command(*word.split()), stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 74
    assert result.stderr.endswith(b"output: cannot be written: No space left on device\n")


def test_talk_that_nobody_hears_changes_no_exit_status() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert subprocess.run(command("summary", "no-such-thing"), stderr=writing).returncode not in (1, 120)
    os.close(writing)
    assert sys.stderr is not None
