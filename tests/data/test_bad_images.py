"""The list of images that a run leaves out, written and read back."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tlkit.data.bad_images import read_skipped, write_skipped
from tlkit.data.image_file import ImageError
from tlkit.files.run_folder import RunFolder


def test_skipped_images_of_any_name_are_read_back(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    bad = [ImageError(os.fsdecode(name), "empty_file", "is empty") for name in (b"a.jpg", b"caf\xe9.jpg", b"\xc3\xa9")]
    write_skipped(run, bad)
    rows = [json.loads(line) for line in Path(run.skipped_file).read_bytes().decode("utf-8").splitlines()]
    assert [row.get("path") for row in rows] == ["a.jpg", None, "\u00e9"]
    assert rows[1]["path_bytes"] == "Y2Fm6S5qcGc="
    assert [(e.path, e.code, e.message) for e in read_skipped(run)] == [(e.path, e.code, e.message) for e in bad]
