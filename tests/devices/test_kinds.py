"""The table of devices, and that nothing else asks for a kind of device by its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import tlkit
from tlkit.devices.kinds import DEVICES, kind_of
from tlkit.devices.select import choose_device

PACKAGE = Path(next(iter(tlkit.__path__)))

TABLES = {"devices/kinds.py", "options/devices.py"}
"""The table, and the name that options need without torch."""


def test_only_the_table_names_cuda() -> None:
    named = re.compile(r"torch\.cuda|torch\.version\.cuda|[\"']cuda[\"':]")
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if named.search(line)
    }
    assert found <= TABLES, found - TABLES


@pytest.mark.parametrize("name", DEVICES)
def test_every_kind_of_device_answers_what_a_run_asks(name: str) -> None:
    kind = DEVICES[name]
    assert torch.device(name).type == kind.name == name
    assert kind.extraction_batch > 0 and kind.largest_batch > 0 and kind.count() >= 0
    if not kind.has(None):
        pytest.skip(f"this machine has no {name}")
    device = choose_device(name)
    assert kind_of(device) is kind
    batch = torch.zeros(2, 3)
    assert torch.equal(kind.from_host(batch).to(device).cpu(), batch)
    with torch.random.fork_rng(kind.random_devices(device)):
        torch.manual_seed(1)
    assert all(value >= 0 for value in kind.measured_use(device).values())
