"""Files of one JSON object per line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlkit.errors import DataError, MissingInputError
from tlkit.files.json_file import read_json_lines


def test_lines_are_read_in_order(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"epoch": 1}\n{"epoch": 2, "loss": 0.5}\n')
    assert read_json_lines(str(file), "epoch") == [{"epoch": 1}, {"epoch": 2, "loss": 0.5}]
    with pytest.raises(MissingInputError):
        read_json_lines(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("text", ['{"epoch": 1}\n{"epo', '{"epoch": 1}\n[2]\n', '{"epoch": 1}\n{"loss": 2}\n', "\xff"])
def test_a_damaged_file_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"lines\.jsonl"):
        read_json_lines(str(file), "epoch")
