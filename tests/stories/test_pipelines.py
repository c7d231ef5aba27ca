"""predict between other programs: real shells, lists of every kind, slow and leaving readers, failures."""

from __future__ import annotations

import os
import pty
import random
import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import command, write_image
from tests.stories.predicting import (
    ODD_NAMES,
    SCHEMA,
    lines_of,
    name_of,
    predict,
    records_in,
    running,
    shell,
    unescaped,
)
from tlkit.data.image_file import IMAGE_ERROR_CODES

# Through a shell


def test_the_recipe_of_the_readme(model: Path, odd_folder: Path) -> None:
    recipe = f"find . -name '*.png' -print0 | tlkit predict {model} -0 - | cut -f2 | sort | uniq -c"
    result = shell(recipe, odd_folder)
    assert (result.returncode, result.stderr) == (0, b"")
    counted = {label: int(number) for number, label in (line.split() for line in result.stdout.decode().splitlines())}
    records = records_in(predict(model, odd_folder, "--format", "jsonl").stdout)
    assert len(records) == len(ODD_NAMES)
    assert counted == Counter(record["label"] for record in records)


def test_xargs_in_parallel_gives_whole_lines_and_sees_failures(model: Path, ten_inputs: list[Path]) -> None:
    listing = ten_inputs[0].parent  # any folder
    paths = " ".join(shlex.quote(str(path)) for path in ten_inputs)
    script = f"printf '%s\\0' {paths} | xargs -0 -n 3 -P 3 bash -c 'tlkit predict {model} --format jsonl \"$@\"' _"
    result = shell(script, listing)
    assert result.returncode == 123
    assert sorted(record["path"] for record in records_in(result.stdout)) == sorted(map(str, ten_inputs))


def test_head_ends_it_silently(model: Path, picture: Path, tmp_path: Path) -> None:
    script = f"yes {picture} | tlkit predict {model} | head -n 1; echo ${{PIPESTATUS[@]}}"
    result = shell(script, tmp_path)
    assert result.stderr == b""
    first, statuses = result.stdout.decode().splitlines()
    assert first.startswith(f"{picture}\t")
    assert statuses == "141 141 0"


def test_a_reader_that_left_before_the_start(model: Path, picture: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with running(model, stdout=writing) as process:  # which waits for a list that never comes
        os.close(writing)
        assert process.wait(timeout=30) == -signal.SIGPIPE
        assert process.stderr and process.stderr.read() == b""


def test_a_reader_that_leaves_while_no_input_comes(model: Path, picture: Path) -> None:
    with running(model) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(lines_of(picture))
        process.stdin.flush()
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == -signal.SIGPIPE  # stdin is still open
        assert process.stderr.read() == b""


def test_with_output_to_a_file_nobody_has_to_read(model: Path, picture: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(command("predict", model, picture, "-o", tmp_path / "out.tsv"), stdout=writing)
    os.close(writing)
    assert result.returncode == 0
    assert (tmp_path / "out.tsv").read_bytes() == predict(model, picture).stdout


# Lists


@pytest.mark.parametrize("last", [b"\0", b""], ids=["ended", "not ended"])
def test_every_name_is_lossless(model: Path, odd_folder: Path, last: bytes) -> None:
    names = [os.path.join(os.fsencode(odd_folder), name) for name in ODD_NAMES]
    listed = b"\0".join(names) + last
    found = records_in(predict(model, "-0", "-", "--format", "jsonl", stdin=listed).stdout)
    assert list(map(name_of, found)) == names
    table = predict(model, "-0", stdin=listed).stdout.split(b"\n")
    assert [unescaped(line.split(b"\t")[0]) for line in table[:-1]] == names and table[-1] == b""


def test_names_of_lines(model: Path, odd_folder: Path) -> None:
    names = [os.path.join(os.fsencode(odd_folder), name) for name in ODD_NAMES if b"\n" not in name]
    listed = b"\n".join(names)
    assert list(map(name_of, records_in(predict(model, "--format", "jsonl", stdin=listed).stdout))) == names


def test_blank_lines_carriage_returns_and_marks(model: Path, picture: Path) -> None:
    name = os.fsencode(picture)
    listed = b"\xef\xbb\xbf" + name + b"\r\n\r\n" + name + b"\n"
    kept = records_in(predict(model, "--format", "jsonl", stdin=listed).stdout)
    assert [record["status"] for record in kept] == ["error", "error", "ok"]
    assert list(map(name_of, kept)) == [b"\xef\xbb\xbf" + name + b"\r", b"\r", name]
    cleaned = records_in(predict(model, "--crlf", "--format", "jsonl", stdin=listed).stdout)
    assert [record["status"] for record in cleaned] == ["ok", "error", "ok"]
    assert cleaned[1]["error"] == {"code": "not_found", "message": "the path is empty"}


def test_inputs_of_every_kind_in_the_order_given(model: Path, images: Path, picture: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "-dash.png", (200, 40, 40), 1)
    arguments = ["--format", "jsonl", model, images / "blue", "-", "--", "-dash.png", "missing.png"]
    result = predict(*arguments, stdin=lines_of(picture), cwd=tmp_path)
    assert result.returncode == 3
    records = records_in(result.stdout)
    blue = [str(path) for path in sorted((images / "blue").iterdir())]
    assert [record["path"] for record in records] == [*blue, str(picture), "-dash.png", "missing.png"]
    assert [record["i"] for record in records] == list(range(len(records)))


def test_no_input_no_records(model: Path, tmp_path: Path) -> None:
    for form, expected in (("tsv", b""), ("csv", b"path,label,probability\n"), ("jsonl", b"")):
        result = predict(model, "--format", form, "--allow-empty", stdin=b"")
        assert (result.returncode, result.stdout) == (0, expected)
        assert result.stderr == b"tlkit predict: 0 inputs\n"
    assert shell(f"tlkit predict {model} --allow-empty < /dev/null", tmp_path).returncode == 0


def test_no_input_is_an_error_unless_it_is_allowed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "kept.tsv").write_text("earlier\n")
    for words in (
        "< /dev/null",
        "- < /dev/null",
        "-0 - < notes.txt",
        "empty",
        "empty -o kept.tsv",
        "- empty < notes.txt",
    ):
        found = shell(f"tlkit predict {model} {words}", tmp_path)
        assert (found.returncode, found.stdout) == (66, b""), words
        assert b"tlkit predict: inputs: 0 inputs: " in found.stderr and b"--allow-empty" in found.stderr
        assert shell(f"tlkit predict {model} --allow-empty {words}", tmp_path).returncode == 0
    assert (tmp_path / "kept.tsv").read_text() == "", "written by the command that accepts it, not by the one before"


def test_a_closed_standard_input_is_no_empty_list(model: Path, picture: Path, tmp_path: Path) -> None:
    for words in ("- <&-", "<&-", f"{picture} - --allow-empty <&-", "- <&- 2> err"):
        found = shell(f"tlkit predict {model} {words}", tmp_path)
        assert found.returncode == 66, words
        err = found.stderr or (tmp_path / "err").read_bytes()
        assert b"standard input: cannot be read" in err
    assert shell(f"tlkit predict {model} {picture} <&-", tmp_path).returncode == 0
    assert shell(f"tlkit predict {model} - <&- >&- 2>&-", tmp_path).returncode == 66


def test_all_inputs_failed_has_a_status_of_its_own(model: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.csv").write_text("earlier\n")
    found = shell(f"tlkit predict {model} a.jpg b.jpg --format csv -o kept.csv", tmp_path)
    assert found.returncode == 4
    assert (tmp_path / "kept.csv").read_bytes() == b"path,label,probability\n"
    assert b"tlkit predict: kept.csv: was written, but has no prediction: all inputs failed\n" in found.stderr
    assert found.stderr.endswith(b"tlkit predict: inputs: 2 of 2 failed: not_found 2\n")
    assert shell(f"tlkit predict {model} a.jpg --format jsonl", tmp_path).returncode == 4
    assert shell(f"tlkit predict {model} a.jpg {picture}", tmp_path).returncode == 3


def test_a_job_that_is_resumed_at_its_end_is_done(model: Path, picture: Path, tmp_path: Path) -> None:
    found = predict(model, "--format", "jsonl", "--resume-from", "2", stdin=lines_of(picture, picture))
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"tlkit predict: 0 inputs\n")


def test_a_terminal_and_no_path_is_bad_usage(model: Path) -> None:
    primary, secondary = pty.openpty()
    result = subprocess.run(command("predict", model), stdin=secondary, capture_output=True, timeout=60)
    os.close(primary)
    os.close(secondary)
    assert result.returncode == 2
    assert result.stderr.startswith(b"tlkit predict: PATH: is missing;")
    assert result.stderr.endswith(b"Try 'tlkit predict --help'.\n")


# Streaming and memory


def test_a_slow_reader_holds_the_list_back(model: Path, tmp_path: Path) -> None:
    name = b"%s/missing_%%07d.jpg\n" % os.fsencode(tmp_path)
    with running(model, "--format", "jsonl") as process:
        assert process.stdin and process.stdout
        os.set_blocking(process.stdin.fileno(), False)
        written, since = 0, time.monotonic()
        while time.monotonic() - since < 2:  # until nothing more is taken
            try:
                os.write(process.stdin.fileno(), name % written)
            except BlockingIOError:
                time.sleep(0.01)
            else:
                written += 1
                since = time.monotonic()
        # Two pipes and what is read of one at once, 64 KiB each, and the images that are loaded ahead.
        assert written < 3 * 65536 // len(name) + 65536 // 100 + 200
        process.stdin.close()
        records = records_in(process.stdout.read())
    assert [record["path"].encode() + b"\n" for record in records] == [name % number for number in range(written)]


def test_memory_does_not_grow_with_the_list(model: Path, tmp_path: Path) -> None:
    def memory_after(records: int, process: subprocess.Popen[bytes]) -> int:
        assert process.stdin and process.stdout
        listing = b"".join(b"missing_%07d.jpg\n" % number for number in range(records))
        writer = threading.Thread(target=lambda stdin: (stdin.write(listing), stdin.flush()), args=[process.stdin])
        writer.start()
        for _ in range(records):
            process.stdout.readline()
        writer.join()
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with running(model, "--format", "jsonl", cwd=tmp_path) as process:
        first = memory_after(2_000, process)
        assert memory_after(40_000, process) - first < 8e6


# Failures


def test_three_bad_of_ten(model: Path, ten_inputs: list[Path]) -> None:
    records = predict(model, *ten_inputs, "--format", "jsonl", "--summary")
    assert records.returncode == 3
    found = records_in(records.stdout)
    assert [record["path"] for record in found] == list(map(str, ten_inputs))
    assert Counter(r["error"]["code"] for r in found if r["status"] == "error") == {
        "empty_file": 1, "not_an_image": 1, "not_found": 1,
    }  # fmt: skip
    assert records.stderr == (
        b'{"event":"summary","inputs":10,"ok":7,"errors":{"empty_file":1,"not_an_image":1,"not_found":1}}\n'
    )
    table = predict(model, *ten_inputs)
    assert (table.returncode, len(table.stdout.splitlines())) == (3, 7)
    told = table.stderr.decode().splitlines()
    assert told[0] == f"tlkit predict: {ten_inputs[1]}: the file is empty"
    assert told[2] == f"tlkit predict: {ten_inputs[6]}: no such file"
    assert told[3] == "tlkit predict: inputs: 3 of 10 failed: empty_file 1, not_an_image 1, not_found 1"
    good = predict(model, ten_inputs[0], "--summary")
    assert (good.returncode, good.stderr) == (0, b'{"event":"summary","inputs":1,"ok":1,"errors":{}}\n')


def test_many_failures_are_told_in_few_lines(model: Path, ten_inputs: list[Path], tmp_path: Path) -> None:
    missing = [tmp_path / f"missing_{number}.jpg" for number in range(500)]
    result = predict(model, stdin=lines_of(*missing, *ten_inputs))
    told = result.stderr.decode().splitlines()
    assert told[:10] == [f"tlkit predict: {path}: no such file" for path in missing[:10]]
    assert told[10] == "tlkit predict: further not_found errors are counted, not listed; --format jsonl lists all"
    assert len(told) == 10 + 1 + 2 + 1
    assert told[-1] == "tlkit predict: inputs: 503 of 510 failed: not_found 501, empty_file 1, not_an_image 1"


def test_the_schema_knows_the_codes() -> None:
    assert SCHEMA["$defs"]["failure"]["properties"]["error"]["properties"]["code"]["enum"] == list(IMAGE_ERROR_CODES)


# Equality


@pytest.mark.parametrize("options", [["--batch-size", 64], ["--batch-size", 7, "--workers", 3], ["--workers", 0]])
def test_batches_order_and_workers_change_nothing(model: Path, images: Path, options: list[object]) -> None:
    def top(paths: list[Path], *options: object) -> dict[str, dict[str, float]]:
        result = predict(model, "--format", "jsonl", "--top-k", 3, *options, stdin=lines_of(*paths))
        return {r["path"]: {t["label"]: t["probability"] for t in r["top"]} for r in records_in(result.stdout)}

    paths = sorted(images.rglob("*.png"))
    expected = top(paths, "--batch-size", 1, "--workers", 1)
    random.Random(1).shuffle(paths)
    found = top(paths, *options)
    assert len(found) == len(expected) == 30
    for path, probabilities in expected.items():
        assert max(found[path], key=found[path].get) == max(probabilities, key=probabilities.get)  # type: ignore[arg-type]
        assert found[path] == pytest.approx(probabilities, abs=1e-5)
