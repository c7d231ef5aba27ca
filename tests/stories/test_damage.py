"""A sample of `make test-damage`, and that the whole files are opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.artifacts import KINDS
from tests.damage import accepted


@pytest.mark.parametrize("label", KINDS)
def test_a_cut_or_a_flipped_bit_is_refused(label: str, artifacts: Path) -> None:
    kind = KINDS[label]
    for open_file in kind.ways.values():
        open_file(str(artifacts / kind.name))
    opened, wrong = accepted(kind, artifacts, cuts=8, flips=30, seed=1)
    assert (opened, wrong) == (38 * len(kind.ways), [])
