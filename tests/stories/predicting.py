"""What stories of predict share: ways to run it between other programs, and a strict reader of its records."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from tests.conftest import command
from tlkit.inference.open import open_predictor

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "predictions.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
ODD_NAMES = [b"plain.png", b"two words.png", b"tab\there.png", b"line\nbreak.png", b"caf\xc3\xa9.png", b"caf\xe9.png",
             b"-dash.png", b"\xe2\x80\xa8.png", b"form\x0cfeed.png", b"\xc2\x85.png", b"return\r.png",
             b"back\\slash.png", b"\x1b[31mred.png", b"\xc2\x9b31m.png", b"quote\".png", b"comma,.png"]  # fmt: skip
Result = subprocess.CompletedProcess[bytes]


def predict(*arguments: object, stdin: bytes | None = b"", **how: Any) -> Result:
    """tlkit predict as a process of its own."""
    return subprocess.run(command("predict", *arguments), input=stdin, capture_output=True, timeout=60, **how)


def shell(script: str, folder: Path) -> Result:
    """A script of bash in which tlkit is this tlkit."""
    this = " ".join(map(shlex.quote, command()))
    return subprocess.run(
        ["bash", "-c", f'tlkit() {{ {this} "$@"; }}\nexport -f tlkit\n{script}'],
        capture_output=True,
        cwd=folder,
        timeout=60,
    )


def on_a_terminal(*words: object) -> bytes:
    """What a command writes to a terminal that is its standard output; its errors to a file."""
    primary, secondary = pty.openpty()
    with subprocess.Popen(command(*words), stdin=subprocess.DEVNULL, stdout=secondary, stderr=subprocess.DEVNULL) as p:
        os.close(secondary)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(primary, 4096):
                shown += piece
        assert p.wait(timeout=60) in (0, 3)
    os.close(primary)
    return shown.replace(b"\r\n", b"\n")


@contextlib.contextmanager
def running(*arguments: object, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """tlkit predict as a process of its own with pipes to it; ended with the block, whatever happens."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    with subprocess.Popen(command("predict", *arguments), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(*paths: object) -> bytes:
    return b"".join(os.fsencode(str(path)) + b"\n" for path in paths)


def records_in(content: bytes) -> list[dict[str, Any]]:
    """jsonl as a strict reader takes it: whole lines, valid by the schema, no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert content == b"" or content.endswith(b"\n")
    records = [json.loads(line.decode("utf-8"), parse_constant=refuse) for line in content.split(b"\n")[:-1]]
    for record in records:
        VALIDATOR.validate(record)
    return records


def name_of(record: dict[str, Any]) -> bytes:
    return os.fsencode(record["path"]) if "path" in record else base64.b64decode(record["path_bytes"])


def unescaped(cell: bytes) -> bytes:
    plain = {b"\\\\": b"\\", b"\\t": b"\t", b"\\n": b"\n", b"\\r": b"\r"}
    return re.sub(rb"\\[\\tnr]", lambda match: plain[match[0]], cell)


def without_numbers_for(place: int) -> Callable[..., Any]:
    """open_predictor, of a model that gives NaN for the image at that place among all that it is given."""
    seen = 0

    def opened(*arguments: Any) -> Any:
        model = open_predictor(*arguments)
        logits = model.logits

        def broken(pixels: Any) -> Any:
            nonlocal seen
            scores = logits(pixels).copy()
            scores[np.arange(seen, seen + len(scores)) == place, 0] = np.nan
            seen += len(scores)
            return scores

        object.__setattr__(model, "logits", broken)
        return model

    return opened
