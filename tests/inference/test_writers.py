"""Every prediction format: bytes for odd names, read back by the standard library."""

from __future__ import annotations

import base64
import csv
import io
import json
import os

import pytest
from jsonschema import ValidationError

from tests.stories.predicting import VALIDATOR
from tlkit.errors import UsageError
from tlkit.inference.prediction import Prediction
from tlkit.inference.writers import WRITERS, CsvWriter
from tlkit.options import PredictOptions

NAMES = ["plain.jpg", "two words.jpg", "a,b.jpg", 'quote".jpg', "tab\t.jpg", "line\n.jpg", "back\\slash.jpg", "\r.jpg",
         "é.jpg", "\u2028.jpg", os.fsdecode(b"caf\xe9.jpg")]  # fmt: skip


def ok(path: str) -> Prediction:
    return Prediction(3, path, top=(("cat\tdog", 0.75), ("ü", 0.25)))


def test_every_format_can_be_chosen() -> None:
    for name in WRITERS:
        assert PredictOptions(model="m", format=name).format == name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_tsv_is_one_line_and_every_name_can_be_told(name: str) -> None:
    line = WRITERS["tsv"].record(Prediction(0, name, top=(("cat", 0.5),)), ranked=False)
    assert line.count(b"\n") == 1 and line.endswith(b"\tcat\t0.500000\n")
    cell = line.split(b"\t")[0].decode("utf-8", "surrogateescape")
    for escape, plain in ((r"\t", "\t"), (r"\n", "\n"), (r"\r", "\r")):
        cell = cell.replace("\\\\", "\0").replace(escape, plain).replace("\0", "\\\\")
    assert cell.replace("\\\\", "\\") == name


@pytest.mark.parametrize("name", NAMES)
def test_csv_reads_back(name: str) -> None:
    content = WRITERS["csv"].header(True) + WRITERS["csv"].record(ok(name), ranked=True)
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))
    assert rows == [
        ["path", "label", "probability", "rank"],
        [name, "cat\tdog", "0.750000", "1"],
        [name, "ü", "0.250000", "2"],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_jsonl_reads_back(name: str) -> None:
    line = WRITERS["jsonl"].record(ok(name), ranked=True)
    assert line.count(b"\n") == 1
    record = json.loads(line.decode("utf-8"))
    VALIDATOR.validate(record)
    path = record["path"] if "path" in record else os.fsdecode(base64.b64decode(record["path_bytes"]))
    assert path == name
    assert ("path_bytes" in record) == (name == NAMES[-1])
    assert (record["v"], record["i"], record["status"], record["label"]) == (1, 3, "ok", "cat\tdog")
    assert record["top"] == [{"label": "cat\tdog", "probability": 0.75}, {"label": "ü", "probability": 0.25}]


def test_a_failure_is_a_record_in_jsonl_alone() -> None:
    failure = Prediction(7, "b.jpg", error=("image_truncated", "the image is cut short"))
    assert WRITERS["tsv"].record(failure, ranked=False) == b""
    assert WRITERS["csv"].record(failure, ranked=False) == b""
    assert WRITERS["jsonl"].record(failure, ranked=False) == (
        b'{"v":1,"i":7,"path":"b.jpg","status":"error",'
        b'"error":{"code":"image_truncated","message":"the image is cut short"}}\n'
    )


def test_a_success_is_written_as_documented() -> None:
    success = Prediction(0, "a.jpg", top=(("cat", 0.97),))
    assert WRITERS["jsonl"].record(success, ranked=False) == (
        b'{"v":1,"i":0,"path":"a.jpg","status":"ok","label":"cat","probability":0.97,'
        b'"top":[{"label":"cat","probability":0.97}]}\n'
    )


def test_facts_are_told_where_there_are_some() -> None:
    animation = Prediction(0, "a.gif", top=(("cat", 0.5),), frames=3, degraded=True)
    record = json.loads(WRITERS["jsonl"].record(animation, ranked=False))
    VALIDATOR.validate(record)
    assert (record["frames"], record["degraded"]) == (3, True)
    assert not {"frames", "degraded"} & json.loads(WRITERS["jsonl"].record(ok("a.jpg"), ranked=False)).keys()


@pytest.mark.parametrize("label", ["\x1b[31m", "\x7f", "\x9b31m", "\u2028", "\u202e", "é"])
def test_no_line_of_jsonl_steers_a_terminal(label: str) -> None:
    line = WRITERS["jsonl"].record(Prediction(0, f"a{label}é", top=((label, 0.5),)), ranked=False).decode()
    assert line[:-1].isprintable() and line.endswith("\n")
    assert json.loads(line)["label"] == label


def test_a_number_that_is_none_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        WRITERS["jsonl"].record(Prediction(0, "a", top=(("cat", float("nan")),)), ranked=False)


def test_a_class_that_is_not_utf8_can_be_told() -> None:
    top = ((os.fsdecode(b"caf\xe9"), 0.75), ("é", 0.25))
    line = WRITERS["jsonl"].record(Prediction(0, "a", top=top), ranked=True)
    record = json.loads(line.decode("utf-8"))
    VALIDATOR.validate(record)
    assert "label" not in record and base64.b64decode(record["label_bytes"]) == b"caf\xe9"
    assert record["top"] == [{"label_bytes": "Y2Fm6Q==", "probability": 0.75}, {"label": "é", "probability": 0.25}]
    assert WRITERS["tsv"].record(Prediction(0, "a", top=top), ranked=False).startswith(b"a\tcaf\xe9\t")


def test_a_record_has_one_form_of_a_label() -> None:
    record = json.loads(WRITERS["jsonl"].record(ok("a"), ranked=False))
    for wrong in (record | {"label_bytes": "Y2Fm6Q=="}, {k: v for k, v in record.items() if k != "label"}):
        with pytest.raises(ValidationError):
            VALIDATOR.validate(wrong)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_csv_for_spreadsheets_has_no_formulas(name: str) -> None:
    prediction = Prediction(0, name, top=((name, 0.5), ("a=b", 0.25)))
    content = CsvWriter(safe=True).header(True) + CsvWriter(safe=True).record(prediction, ranked=True)
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert rows[1:] == [[f"'{name}", f"'{name}", "0.500000", "1"], [f"'{name}", "a=b", "0.250000", "2"]]
    plain = WRITERS["csv"].record(prediction, ranked=True).decode()
    assert next(csv.reader(io.StringIO(plain, newline=""))) == [name, name, "0.500000", "1"]


def test_the_option_for_spreadsheets_needs_csv() -> None:
    with pytest.raises(UsageError, match="--csv-safe: needs --format csv, but --format is tsv"):
        PredictOptions(model="m", csv_safe=True)
