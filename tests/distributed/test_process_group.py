"""How ranks leave each other, and which of those that fail tells why."""

from __future__ import annotations

import threading

import pytest
import torch.distributed as dist

from tlkit.distributed import process_group
from tlkit.distributed.env import RankInfo
from tlkit.distributed.failures import claim_error_report
from tlkit.distributed.process_group import ProcessGroupWorld


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> list[ProcessGroupWorld]:
    """Two, which have a store in common and no process group."""
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    store = dist.HashStore()
    return [ProcessGroupWorld(RankInfo(rank, 2), store) for rank in range(2)]


def test_the_first_rank_which_may_keep_the_store_leaves_last(ranks: list[ProcessGroupWorld]) -> None:
    first = threading.Thread(target=ranks[0].close)
    first.start()
    first.join(0.1)
    assert first.is_alive()
    ranks[1].close()
    first.join(process_group.DISCONNECT_SECONDS / 2)
    assert not first.is_alive()


def test_it_does_not_wait_for_ever(ranks: list[ProcessGroupWorld], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "DISCONNECT_SECONDS", 0.01)
    ranks[0].close()


def test_after_a_restart_the_first_failure_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert [claim_error_report(), claim_error_report()] == [True, False]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert [claim_error_report(), claim_error_report()] == [True, False]
