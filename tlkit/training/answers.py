"""Logits -> answers: what a classifier says of each sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlkit.training.evaluation import Answers


def answers_from(logits: Tensor, labels: Tensor) -> Answers:
    """logits [N, C]; labels [N]"""
    scores = logits.detach().double().log_softmax(dim=1)
    best, guesses = scores.max(dim=1)
    losses = -scores.gather(1, labels[:, None])[:, 0]
    return Answers(*(tensor.cpu().numpy() for tensor in (labels, guesses, best.exp(), losses)))


def joined(parts: Iterable[Answers]) -> Answers:
    """The answers of several batches, in order."""
    columns = zip(*((part.labels, part.guesses, part.confidence, part.losses) for part in parts), strict=True)
    return Answers(*(np.concatenate(column) for column in columns))


@torch.no_grad()
def ask(module: nn.Module, batches: Iterable[Sequence[Any]]) -> Answers:
    """What a module answers to all samples of batches, each inputs [B, ...], labels [B], and what else there is."""
    module.eval()
    device = next(module.parameters()).device
    return joined(
        answers_from(module(inputs.to(device)), labels.to(device)) for inputs, labels, *_ in batches if len(labels)
    )
