"""Lists of paths: names of every kind come whole and unchanged, as soon as they can, in little memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tlkit.errors import DataError, MissingInputError
from tlkit.inference import input_paths
from tlkit.inference.input_paths import LONGEST_NAME, read_inputs, read_some, split_names, strip_crlf_and_bom

ODD_NAMES = [b"two words", b"\xe2\x80\xa8line separator", b"form\x0cfeed", b"\xc2\x85next line", b"vertical\x0btab",
             b"\x1cfile separator", b"caf\xe9", b"tab\t", b"-dash", b"trailing space ", b"\x1b[31m", b"\\x",
             b"\r", b""]  # fmt: skip


def names_in(*pieces: bytes, end: bytes) -> list[bytes]:
    """What split_names finds when these pieces come one after the other."""
    reading, writing = os.pipe()

    def write() -> None:
        for piece in pieces:
            os.write(writing, piece)
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return list(split_names(reading, end))
    finally:
        writer.join()
        os.close(reading)


@pytest.mark.parametrize("end", [b"\0", b"\n"])
@pytest.mark.parametrize("last", [True, False], ids=["last one ended", "last one not ended"])
def test_names_come_as_they_are(end: bytes, last: bool) -> None:
    names = [*ODD_NAMES, b"last"]
    if end == b"\0":
        names.insert(3, b"new\nline")
    listed = end.join(names) + end * last
    assert names_in(listed, end=end) == names
    assert names_in(*(listed[i : i + 1] for i in range(len(listed))), end=end) == names


def test_an_empty_list_holds_nothing_and_an_empty_line_is_a_name() -> None:
    assert names_in(end=b"\n") == []
    assert names_in(b"\n", end=b"\n") == [b""]
    assert names_in(b"a\n\nb\n", end=b"\n") == [b"a", b"", b"b"]


def test_a_list_from_windows() -> None:
    def cleaned(names: list[bytes]) -> list[bytes]:
        return list(strip_crlf_and_bom(iter(names)))

    assert cleaned([b"\xef\xbb\xbfa\r", b"b\r", b"\xef\xbb\xbfc\r\r", b"d", b"\r"]) == [
        b"a", b"b", b"\xef\xbb\xbfc\r", b"d", b"",
    ]  # fmt: skip


def test_a_name_is_given_before_the_next_one_comes() -> None:
    reading, writing = os.pipe()
    names = split_names(reading, b"\n")
    for name in (b"first", b"second"):
        os.write(writing, name + b"\n")
        assert next(names) == name  # would wait for ever if it were held back
    os.close(writing)
    assert list(names) == []
    os.close(reading)


@pytest.mark.parametrize(("end", "hint"), [(b"\n", "with -0"), (b"\0", "without -0")])
def test_what_has_no_ends_is_no_list(end: bytes, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_end(descriptor: int) -> bytes:
        return b"x" * 65536

    monkeypatch.setattr(input_paths, "read_some", without_end)
    with pytest.raises(DataError, match=f"{LONGEST_NAME:,} bytes") as caught:
        list(split_names(0, end))
    assert hint in caught.value.hint


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(MissingInputError, match="Is a directory"):
        read_some(folder)
    os.close(folder)


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    threading.Timer(0.1, lambda: (os.write(writing, b"a\nb"), os.close(writing))).start()
    assert list(split_names(reading, b"\n")) == [b"a", b"b"]
    os.close(reading)


def test_lists_folders_and_files_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.jpg", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff" if name.endswith("jpg") else b"text")

    def listed(descriptor: int, end: bytes) -> Iterator[bytes]:
        assert (descriptor, end) == (0, b"\0")
        return iter([b"listed", b"caf\xe9"])

    monkeypatch.setattr(input_paths, "split_names", listed)
    found = list(read_inputs(["-dash.jpg", str(tmp_path), "-", "missing"], null=True, crlf=False))
    assert list(map(os.fsencode, found)) == [
        b"-dash.jpg", os.fsencode(tmp_path / "a.jpg"), os.fsencode(tmp_path / "b.jpg"), b"listed", b"caf\xe9",
        b"missing",
    ]  # fmt: skip
