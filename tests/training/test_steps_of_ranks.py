"""Two processes that train together while one of them is short of memory."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.training.test_step import Scarce, batch, network, stepper

STEPS = 4


class Gloo:
    """A world of two processes."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total


def steps_of(rank: int, folder: Path, short_at: int, backward: bool) -> dict[str, Any]:
    """Train on this rank's half of each batch; at one step rank 1 has memory for two samples only."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    scarce = Scarce(2, when=lambda passes: rank == 1 and moving.state.step >= short_at, backward=backward)
    model = nn.Sequential(nn.Linear(4, 4), scarce, *network())
    moving = stepper(network())
    moving.module, moving.world = model, Gloo(rank)
    moving.state.optimizer = torch.optim.SGD([{"params": [*model.parameters()], "scale": 1.0}], lr=0.0)
    losses = []
    for step in range(STEPS):
        moving.state.step = step
        inputs, labels = batch(16)
        half = slice(rank * 8, rank * 8 + 8)
        losses.append(moving.gradients(inputs[half], labels[half], 16, step)[1])
        moving.update(0.1)
    weights = [parameter.detach().sum().item() for parameter in model.parameters()]
    return {"losses": losses, "micro_batch": moving.state.micro_batch, "weights": weights, "sizes": scarce.seen}


def in_two_processes(folder: Path, short_at: int, backward: bool = False) -> list[dict[str, Any]]:
    """What each rank has to tell."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    folder.mkdir()
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            try:
                torch.manual_seed(5)
                (folder / str(rank)).write_text(json.dumps(steps_of(rank, folder, short_at, backward)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return [json.loads((folder / str(rank)).read_text()) for rank in range(2)]


def test_all_ranks_go_on_together_when_one_is_short(tmp_path: Path) -> None:
    never = in_two_processes(tmp_path / "never", STEPS)
    assert never[0]["sizes"] == [8] * STEPS and never[0]["micro_batch"] is None
    for short_at, backward in ((0, False), (2, True)):
        found = in_two_processes(tmp_path / f"{short_at}{backward}", short_at, backward)
        assert [rank["micro_batch"] for rank in found] == [2, 2]
        assert found[0]["losses"] == found[1]["losses"] and found[0]["weights"] == found[1]["weights"]
        torch.testing.assert_close(torch.tensor(found[0]["losses"]), torch.tensor(never[0]["losses"]))
        assert found[0]["sizes"][-4:] == [2, 2, 2, 2]
