"""Heads that are trained beside one another, each without the images of its fold."""

import dataclasses
import math
from collections import Counter

import pytest
import torch

from tlkit.data.batches import FeatureBatches
from tlkit.data.folder import Dataset, Sample
from tlkit.data.splitting import cross_validated
from tlkit.model.head import HEADS, CrossValidatedHead, Head, HeadShape
from tlkit.options import FinetuneOptions
from tlkit.runs.batches import labels_of, labels_of_folds
from tlkit.training.loop import Trainer
from tlkit.training.optimizer import build_optimizer
from tlkit.training.predictions import predict_all
from tlkit.training.state import TrainingState

CPU = torch.device("cpu")
OPTIONS = FinetuneOptions(data="", epochs=3, batch_size=4)


class Trained(torch.nn.Module):
    """A module that can be saved, as TrainingState asks for."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def trainable_state(self) -> dict[str, torch.Tensor]:
        return self.module.state_dict()

    def load_trainable_state(self, state: object) -> None:
        raise NotImplementedError


def dataset_of(sizes: list[int], folds: int = 3, seed: int = 0) -> Dataset:
    samples = [Sample(f"data/{label}/{i}.png", label) for label, size in enumerate(sizes) for i in range(size)]
    classes = tuple(map(str, range(len(sizes))))
    return cross_validated(Dataset("data", classes, samples[::2], samples[1::2], ""), folds, seed)


def heads(kind: str, dataset: Dataset) -> CrossValidatedHead:
    torch.manual_seed(0)
    head = Head(HEADS[kind], HeadShape(6, len(dataset.classes), 8))
    folds = torch.nn.ModuleList(head.kind.layers(head.shape) for _ in range(dataset.fold_count))
    for layers in folds:
        layers.load_state_dict(head.layers.state_dict())
    return CrossValidatedHead(head, folds)


def train(
    module: torch.nn.Module, features: torch.Tensor, labels: torch.Tensor, val: torch.Tensor, **others: int
) -> TrainingState:
    options = dataclasses.replace(OPTIONS, **others)  # type: ignore[arg-type]
    state = TrainingState(Trained(module), build_optimizer(module, torch.nn.Module(), options))
    size = options.images_per_step()
    batches = FeatureBatches([features], labels, size, 0), FeatureBatches([features], val, size, None)
    Trainer(module, state, *batches, options, torch.ones(3), CPU).train()
    return state


@pytest.mark.parametrize("sizes", [[9, 9, 9], [1, 2, 30], [4, 4, 5], [2, 2, 2]])
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_stratified_and_of_equal_size(sizes: list[int], folds: int) -> None:
    dataset = dataset_of(sizes, folds)
    assert dataset.train == dataset.val == dataset.images
    assert sorted(dataset.images) == sorted(Sample(path, label) for path, label in dataset.images)
    assert len(dataset.images) == sum(sizes) == len(dataset.folds)
    for label, size in enumerate(sizes):
        counts = Counter(dataset.folds[path] for path, own in dataset.images if own == label)
        assert set(counts.values()) <= {size // folds, -(-size // folds)}
    totals = Counter(dataset.folds.values())
    assert max(totals.values()) - min(totals.values()) <= 1


def test_folds_depend_on_the_seed_and_survive_split_json() -> None:
    dataset = dataset_of([20, 20, 20])
    assert dataset_of([20, 20, 20]).folds == dataset.folds
    assert dataset_of([20, 20, 20], seed=1).folds != dataset.folds
    again = Dataset.from_split(dataset.to_split(), "data")
    assert (again.train, again.val, again.folds) == (dataset.train, dataset.val, dataset.folds)
    assert dataset_of([20, 20, 20], folds=1).fold_count == 1


def test_each_image_is_validated_once_by_the_fold_that_did_not_train_on_it() -> None:
    dataset = dataset_of([5, 6, 7])
    train_labels, val_labels = labels_of_folds(dataset, dataset.fold_count)
    assert train_labels.shape == val_labels.shape == (18, 4)
    assert torch.equal(train_labels[:, 3], labels_of(dataset.train))  # the head itself trains on every image
    assert torch.equal((val_labels >= 0).sum(1), torch.ones(18, dtype=torch.int64))
    assert torch.equal(train_labels >= 0, val_labels < 0)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_held_out_labels_do_not_reach_their_fold(kind: str) -> None:
    dataset, features = dataset_of([8, 8, 8]), torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    train_labels, val_labels = labels_of_folds(dataset, dataset.fold_count)
    shuffled = train_labels.clone()
    held_out = torch.tensor([dataset.folds[path] == 0 for path, _ in dataset.train])
    shuffled[held_out] = torch.where(shuffled[held_out] >= 0, (shuffled[held_out] + 1) % 3, shuffled[held_out])
    results = []
    for labels in (train_labels, shuffled):
        module = heads(kind, dataset)
        train(module, features, labels, val_labels)
        results.append([{k: v.clone() for k, v in layers.state_dict().items()} for layers in module.folds])
    same = [all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(*results, strict=True)]
    assert same == [True, False, False]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_head_equals_one_that_is_trained_alone(kind: str) -> None:
    dataset, features = dataset_of([8, 8, 8]), torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    module, alone = heads(kind, dataset), heads(kind, dataset).head
    train(module, features, *labels_of_folds(dataset, dataset.fold_count))
    train(alone, features, labels_of(dataset.train), labels_of(dataset.train))
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(module.head.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_figures_are_those_of_the_out_of_fold_predictions() -> None:
    dataset, features = dataset_of([8, 8, 8]), torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    module, (train_labels, val_labels) = heads("linear", dataset), labels_of_folds(dataset, dataset.fold_count)
    state = train(module, features, train_labels, val_labels)
    logits = module(features).detach()
    folds = torch.tensor([dataset.folds[path] for path, _ in dataset.train])
    own, labels = logits[torch.arange(24), :, folds], labels_of(dataset.train)
    val = state.history[-1].val
    assert val["accuracy"] == pytest.approx(float((own.argmax(1) == labels).float().mean()))
    assert val["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(own, labels)), rel=1e-5)
    predictions = predict_all(module, FeatureBatches([features], val_labels, 5, None).epoch(0), 24)
    assert predictions.predicted.tolist() == own.argmax(1).tolist()


def test_the_training_loss_is_the_mean_over_heads() -> None:
    dataset, features = dataset_of([8, 8, 8]), torch.randn(24, 6)
    state = train(
        heads("linear", dataset), features, *labels_of_folds(dataset, dataset.fold_count), epochs=1, batch_size=24
    )
    assert state.history[0].train["loss"] == pytest.approx(math.log(3))  # a linear head starts at zero
