"""A sample of `make fuzz`, and that it finds what it looks for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests import fuzz as fuzzer
from tests.artifacts import as_model
from tests.fuzz import Target, fuzz, targets
from tests.mutations import mutate_bytes

OWN = ("checkpoint", "resume", "model.pt", "state_dict", "safetensors", "onnx", "torch_export", "segment")


@pytest.mark.parametrize("label", OWN)
def test_mutated_files_are_refused_in_our_words_or_opened(label: str, artifacts: Path, tmp_path: Path) -> None:
    as_model(str(artifacts / "run"))  # all that is imported on the way, once
    target = targets(artifacts)[label]
    found, wrong = fuzz(label, target, range(12), 7, 1, tmp_path, artifacts / "run")
    assert (found.total(), wrong) == (12, [])


def test_crashes_hangs_and_deaths_are_found(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzer, "PATIENCE", 1)

    def open_file(path: str) -> None:
        first = Path(path).read_bytes()[0]
        if first == ord("a"):
            raise ValueError("a crash")
        if first == ord("b"):
            time.sleep(60)
        if first == ord("c"):
            os._exit(3)

    ends = {}
    for letter in "abcd":
        target = Target([letter.encode() * 1000], "file", open_file, (lambda content, chance: content,))
        found, wrong = fuzz(letter, target, range(2), 0, 1, tmp_path, artifacts / "run")
        ends[letter] = (dict(found), len(wrong))
    assert ends == {"a": ({"CRASH": 2}, 2), "b": ({"HANG": 2}, 2), "c": ({"DIED": 2}, 2), "d": ({"opened": 2}, 0)}


def test_a_case_is_a_function_of_its_number() -> None:
    import random

    first, second = (mutate_bytes(bytes(range(256)), random.Random("checkpoint 0 7")) for _ in range(2))
    assert first == second != bytes(range(256))
