"""What predict leaves behind: whole files, whole lines, data alone, the same bytes everywhere; and how it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import command
from tests.stories.predicting import (
    ODD_NAMES,
    lines_of,
    name_of,
    on_a_terminal,
    predict,
    records_in,
    running,
    shell,
)

# Output to a file


def test_a_file_is_there_when_all_is_written(model: Path, images: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_bytes(b"old\n")
    target.chmod(0o640)
    arguments = [model, images, "--format", "jsonl"]
    with running(*arguments, "-", "-o", target) as process:
        assert process.stdin
        time.sleep(1)
        assert target.read_bytes() == b"old\n"
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    assert target.read_bytes() == predict(*arguments).stdout
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["out.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_file_that_is_interrupted_leaves_nothing(model: Path, picture: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "old.tsv").write_bytes(b"old\n")
    with running(model, picture, "-", "-o", tmp_path / "old.tsv") as process:
        while len(os.listdir(tmp_path)) < 2:  # until it is being written, aside
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(timeout=30) == -number
    assert os.listdir(tmp_path) == ["old.tsv"]
    assert (tmp_path / "old.tsv").read_bytes() == b"old\n"


def test_a_full_disk_under_a_file(model: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "old.tsv").write_bytes(b"old\n")
    result = shell(f"ulimit -f 1; tlkit predict {model} {images} -o old.tsv", tmp_path)
    assert result.returncode == 74
    assert result.stderr.startswith(b"tlkit predict: old.tsv: cannot be written: File too large")
    assert os.listdir(tmp_path) == ["old.tsv"] and (tmp_path / "old.tsv").read_bytes() == b"old\n"


def test_full_behind_standard_output(model: Path, picture: Path, tmp_path: Path) -> None:
    result = shell(f"tlkit predict {model} {picture} > /dev/full", tmp_path)
    assert result.returncode == 74
    assert result.stderr == b"tlkit predict: standard output: cannot be written: No space left on device\n"


@pytest.mark.parametrize("name", ["folder", "pipe", "/dev/null", "nowhere/out.tsv", ""])
def test_what_no_file_can_replace(model: Path, picture: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    result = predict(model, picture, "-o", name, cwd=tmp_path)
    assert result.returncode == 73
    assert result.stderr.startswith(f"tlkit predict: {name or '--output'}: ".encode())
    assert sorted(tmp_path.rglob("*")) == before and Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_by_name(model: Path, picture: Path, name: str) -> None:
    assert predict(model, picture, "-o", name).stdout == predict(model, picture).stdout != b""


# Stopping and going on


def test_a_killed_run_goes_on_where_it_stopped(model: Path, images: Path, tmp_path: Path) -> None:
    """As in docs/predict.md: append, delete an incomplete last line, count lines, resume."""
    inputs = [*sorted(images.rglob("*.png")), *(tmp_path / f"missing_{number}" for number in range(170))] * 10
    random.Random(0).shuffle(inputs)
    (tmp_path / "list").write_bytes(lines_of(*inputs))
    out = tmp_path / "out.jsonl"
    out.touch()
    repair = 'if [ -n "$(tail -c 1 out.jsonl)" ]; then sed -i "\\$d" out.jsonl; fi'
    go_on = 'exec "$@" --format jsonl --resume-from "$(wc -l < out.jsonl)" < list >> out.jsonl'
    kills = torn = 0
    while True:
        words = ["bash", "-c", f"{repair}; {go_on}", "_", *command("predict", model, "--batch-size", 8)]
        with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            before = out.stat().st_size
            while process.poll() is None and out.stat().st_size < before + 20_000 * (kills + 1):
                time.sleep(0.002)
            process.kill()
            status = process.wait()
        if status != -signal.SIGKILL:
            break
        kills += 1
        if kills % 2:  # as a kill in the middle of a write would
            os.truncate(out, out.stat().st_size - random.Random(kills).randrange(1, 60))
            torn += not out.read_bytes().endswith(b"\n")
    assert (status, kills > 2, torn > 0) == (3, True, True)
    records = records_in(out.read_bytes())
    assert [(record["i"], record["path"]) for record in records] == list(enumerate(map(str, inputs)))


def test_going_on_counts_every_kind_of_input(model: Path, images: Path, picture: Path) -> None:
    arguments = [model, images, "-", "missing.png", "--format", "jsonl"]
    whole = predict(*arguments, stdin=lines_of(picture, picture)).stdout.splitlines()
    for done in (1, 31, 33):
        result = predict(*arguments, "--resume-from", done, stdin=lines_of(picture, picture))
        assert result.stdout.splitlines() == whole[done:]
        assert result.returncode == (3 if done < 33 else 0)
    table = predict(model, images, "--format", "csv").stdout.splitlines()
    assert predict(model, images, "--format", "csv", "--resume-from", 10).stdout.splitlines() == table[11:]


@pytest.mark.parametrize("length", [40, 30_000], ids=["short lines", "longer than a pipe takes at once"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_lines(model: Path, tmp_path: Path, number: int, length: int) -> None:
    listing = tmp_path / "list"
    listing.write_bytes(b"".join(b"%07d" % n + b"x" * length + b"\n" for n in range(4_000_000 // length)))
    with listing.open("rb") as file, running(model, "--format", "jsonl", stdin=file) as process:
        assert process.stdout and process.stderr
        content = process.stdout.read(3 * 65536 + 5)
        time.sleep(0.3)  # until the pipe is full and the command in the middle of a write, or waiting for one
        process.send_signal(number)
        time.sleep(0.3)  # a writer that is woken by the reader first would not notice that it was interrupted
        content += process.stdout.read()
        assert process.wait(timeout=30) == -number
        assert process.stderr.read() == b""
    records = records_in(content)
    assert [record["i"] for record in records] == list(range(len(records)))


def test_an_interrupt_does_not_wait_for_a_reader(model: Path, tmp_path: Path) -> None:
    with running(model, "--format", "jsonl") as process:
        assert process.stdin and process.stdout
        os.set_blocking(process.stdin.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(process.stdin.fileno(), (b"missing" * 30 + b"\n") * 1000)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT  # nobody has read a byte yet
        records_in(process.stdout.read())


# What others may see


NOISY = """
import ctypes, os, sys
from tlkit.inference.onnx_predictor import OnnxPredictor
quiet = OnnxPredictor.logits

def noisy(self, pixels):
    print("noise of python")
    os.write(1, b"noise at the descriptor\\n")
    libc = ctypes.CDLL(None)
    libc.printf(b"noise of C\\n")  # held back by C until the process ends
    os.system("echo noise of a child")
    return quiet(self, pixels)

OnnxPredictor.logits = noisy
import tlkit.cli
tlkit.cli.FAST_EXIT_COMMANDS = {loose}
tlkit.cli.main()
"""


@pytest.mark.parametrize("loose", ["('predict',)", "()"], ids=["left at once", "left as the interpreter does"])
def test_standard_output_holds_data_alone(model: Path, picture: Path, loose: str) -> None:
    words = [*command()[:1], "-c", NOISY.replace("{loose}", loose), "predict", model, picture]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # which C heeds too
    result = subprocess.run(list(map(str, words)), capture_output=True, timeout=60, env=buffered)
    assert result.returncode == 0, result.stderr
    assert result.stdout == predict(model, picture).stdout
    for noise in (b"noise of python", b"noise at the descriptor", b"noise of a child"):
        assert noise in result.stderr
    assert (b"noise of C" in result.stderr) == (loose == "()")


BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
ENVIRONMENTS = {
    "C and ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    "strict UTF-8": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict", "HOME": "/nowhere"},
    "odd terminals": {"LANG": "C", "TERM": "dumb", "COLUMNS": "0", "LINES": "0"},
    "colours asked for": {"LANG": "POSIX", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color"},
    "nothing set": {},
}


def test_the_environment_changes_no_byte(model: Path, odd_folder: Path, tmp_path: Path) -> None:
    listed = b"\0".join(os.path.join(os.fsencode(odd_folder), odd) for odd in [*ODD_NAMES, b"missing\xe9\x1b[1m"])
    for form in ("tsv", "jsonl"):
        arguments = [model, "-0", "--format", form, "--top-k", 2]
        expected = predict(*arguments, stdin=listed)
        assert expected.returncode == 3 and len(expected.stdout) > 1000
        for name, variables in ENVIRONMENTS.items():
            found = predict(*arguments, stdin=listed, env=BARE | variables, cwd=tmp_path)
            assert (found.returncode, found.stdout) == (3, expected.stdout), (name, found.stderr)
            assert b"\x1b" not in found.stderr


def test_a_terminal_obeys_no_name(model: Path, odd_folder: Path) -> None:
    for form in ("tsv", "csv", "jsonl"):
        arguments = ["predict", model, odd_folder, "--format", form]
        shown, piped = on_a_terminal(*arguments), predict(*arguments[1:]).stdout
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", shown), form
        assert shown.count(b"\n") == piped.count(b"\n") >= len(ODD_NAMES)
    assert rb"\x1b[31mred.png" in on_a_terminal("predict", model, odd_folder)
    assert b"\x1b[31mred.png" in predict(model, odd_folder).stdout
    records = [
        json.loads(line) for line in on_a_terminal("predict", model, odd_folder, "--format", "jsonl").split(b"\n")[:-1]
    ]
    assert sorted(map(name_of, records)) == sorted(os.path.join(os.fsencode(odd_folder), name) for name in ODD_NAMES)
