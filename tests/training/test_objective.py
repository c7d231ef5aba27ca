"""The objective: the only module that knows the loss, and its numpy half agrees with torch's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import tlkit
from tlkit.training.objective import label_tensor, log_probabilities, mean_loss, probabilities, sample_losses

PACKAGE = Path(next(iter(tlkit.__path__)))


def test_only_the_objective_knows_softmax_and_cross_entropy() -> None:
    used = re.compile(r"softmax\(|cross_entropy|CrossEntropy|np\.exp\(")
    found = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if used.search(p.read_text())}
    assert found == {"training/objective.py"}


def test_losses_and_probabilities_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(20, 5, generator=generator) * 30, label_tensor(n % 5 for n in range(20))
    weights = torch.rand(5, generator=generator)
    assert labels.dtype == torch.int64
    assert mean_loss(logits, labels) == F.cross_entropy(logits, labels).item()
    expected = F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=0.1)
    assert torch.equal(sample_losses(logits, labels, weights, 0.1), expected)
    shares = logits.double().softmax(1).numpy()
    np.testing.assert_allclose(probabilities(logits.numpy()), shares, atol=1e-12)
    np.testing.assert_allclose(probabilities(logits[3].numpy()), shares[3], atol=1e-12)
    np.testing.assert_allclose(log_probabilities(logits).exp().numpy(), shares, atol=1e-12)


def test_a_sample_that_fills_up_a_batch_has_no_loss() -> None:
    from tlkit.data.batches import NO_LABEL

    logits = torch.randn(2, 3, requires_grad=True)
    losses = sample_losses(logits, torch.tensor([1, NO_LABEL]))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses[1] == 0 and logits.grad is not None and not logits.grad[1].any()
